"""Push to the Hub by the official client: what goes there, and what is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run
from documents import documented
from example_models import write_chat
from hub_stand_in import TOKEN, HubStandIn, hub_stand_in
from inprocess import in_process
from stores import copy_tiny_store

from mbuild.cli.publish import publish
from mbuild.core.digest import Digest
from mbuild.core.errors import UsageError
from mbuild.core.names import ModelName
from mbuild.models.publish import upload
from mbuild.models.publish.card import MARK, CardOrigin, card, is_ours, origin_of
from mbuild.models.publish.content import Published, ggufs, missing, stem_of, text, weights_of
from mbuild.registry.hub.listing import HubFile, Listing, git_oid
from mbuild.registry.reference import ModelReference
from mbuild.store import Store

constants = pytest.importorskip("huggingface_hub.constants")

REPO = "me/chat-GGUF"

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
"""The official client calls httpx in a way that the newest httpx would like to be another."""


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, with a token that may write."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """The Hub; the client sends large files by LFS's own protocol, as it does without hf_xet."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_stand_in() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


@pytest.fixture
def built(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> Run:
    """``chat:q8_0`` and ``chat:q4_0``, built from a repository of the Hub."""
    folder = write_chat(tmp_path / "source")
    hub.put("org/chat", {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})
    (tmp_path / "Modelfile").write_text("FROM hf.co/org/chat\nSYSTEM You are Mario.\n")
    done = mbuild("-q", "q8_0", "-q", "q4_0", "-t", "chat")
    assert done.returncode == 0, done.stderr
    hub.forget()
    return mbuild


def files_of(hub: HubStandIn, name: str = REPO) -> dict[str, bytes]:
    repository = hub.repositories[name]
    return repository.commits[repository.refs["main"]]


def layer(folder: Path, name: str) -> Digest:
    return Store(folder / "store").manifests.read(ModelName.parse(name)).manifest.layers[0].digest


def test_a_model_becomes_a_repository(built: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """Weights under their usual name and byte for byte, texts that Ollama reads, a card."""
    done = built("push", "chat:q8_0", f"hf.co/{REPO}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"pushed hf.co/{REPO}  ")
    files = files_of(hub)
    assert files.keys() == {
        "chat-Q8_0.gguf", "system", "template", "params", "Modelfile", "README.md"
    }  # fmt: skip
    assert Digest.of(files["chat-Q8_0.gguf"]) == layer(tmp_path, "chat:q8_0")
    assert files["system"] == b"You are Mario."
    assert files["Modelfile"] == (tmp_path / "Modelfile").read_bytes()
    readme = files["README.md"].decode()
    commit = hub.repositories["org/chat"].refs["main"]
    assert readme.startswith("---\nbase_model: org/chat\nbase_model_relation: quantized\n")
    assert f"[org/chat](https://huggingface.co/org/chat) at commit `{commit}`" in readme
    assert "| `chat-Q8_0.gguf` |" in readme and "FROM hf.co/org/chat" in readme
    assert f"ollama run hf.co/{REPO}:Q8_0" in readme and "mbuild -t chat -q q8_0" in readme


def test_a_second_push_sends_nothing_and_a_variant_joins(
    built: Run, tmp_path: Path, hub: HubStandIn
) -> None:
    """Only what changed travels; the card lists all variants."""
    assert built("push", "chat:q8_0", f"hf.co/{REPO}").returncode == 0
    hub.forget()
    again = built("push", "chat:q8_0", f"hf.co/{REPO}")
    assert again.returncode == 0 and "all of it was there" in again.stdout
    assert not hub.taken and len(hub.repositories[REPO].commits) == 2
    other = built("push", "chat:q4_0", f"hf.co/{REPO}", "--format", "json")
    assert other.returncode == 0, other.stderr
    sent = [row["name"] for row in json.loads(other.stdout)["files"] if row["send"]]
    assert sorted(sent) == ["README.md", "chat-Q4_0.gguf"]
    assert layer(tmp_path, "chat:q8_0").hex not in hub.taken
    assert hub.taken[layer(tmp_path, "chat:q4_0").hex] == len(files_of(hub)["chat-Q4_0.gguf"])
    readme = files_of(hub)["README.md"].decode()
    assert "`chat-Q4_0.gguf`" in readme and "`chat-Q8_0.gguf`" in readme


def test_a_dry_run_sends_nothing(built: Run, hub: HubStandIn) -> None:
    """It tells each file and the bytes, with and without a repository."""
    done = built("push", "chat:q8_0", f"hf.co/{REPO}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "chat-Q8_0.gguf" in done.stdout
    assert done.stdout.rstrip().endswith(f"to hf.co/{REPO}, which is new")
    assert REPO not in hub.repositories and not hub.taken
    assert built("push", "chat:q8_0", f"hf.co/{REPO}").returncode == 0
    done = built("push", "chat:q8_0", f"hf.co/{REPO}", "--dry-run", "--format", "json")
    value = json.loads(done.stdout)
    assert value["bytes"] == 0 and not value["new"] and value["commit"] is None


def test_what_somebody_wrote_is_left_alone(built: Run, hub: HubStandIn) -> None:
    """A card without our mark stays; a repository that is private can be made so."""
    hub.put(REPO, {"README.md": b"# Mine\n", "other.gguf": b"GGUF"})
    done = built("push", "chat:q8_0", f"hf.co/{REPO}")
    assert done.returncode == 0 and "has a README.md of its own" in done.stderr
    assert files_of(hub)["README.md"] == b"# Mine\n" and "other.gguf" in files_of(hub)
    assert built("push", "chat:q8_0", "hf.co/me/secret", "--private").returncode == 0
    assert hub.repositories["me/secret"].private


def test_refusals(built: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """No token, a tag, a damaged blob: each with what to do, and nothing is sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN")
        done = built("push", "chat:q8_0", f"hf.co/{REPO}")
        assert done.returncode == 1 and "requires a token that may write" in done.stderr
        patch.setenv("HF_TOKEN", "hf_other")
        hub.put(REPO, {})
        done = built("push", "chat:q8_0", f"hf.co/{REPO}")
        assert done.returncode == 1 and "cannot be pushed to" in done.stderr
        assert "hf_other" not in done.stderr
    done = built("push", "chat:q8_0", f"hf.co/{REPO}:v1")
    assert "named after their quantization" in done.stderr
    path = tmp_path / "store/blobs" / layer(tmp_path, "chat:q8_0").filename
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = built("push", "chat:q8_0", f"hf.co/{REPO}")
    assert done.returncode == 1 and "is damaged" in done.stderr
    assert not hub.taken


def test_a_file_that_is_too_large_is_split(tmp_path: Path) -> None:
    """Into shards below the Hub's limit, named as llama.cpp names them."""
    store = Store(copy_tiny_store(tmp_path / "store"))
    stored = store.manifests.read(ModelName.parse("tiny"))
    found = weights_of(store, stored, "me/x", tmp_path, lambda done, total: None, most=100_000)
    assert len(found) > 1
    assert found[0].name.endswith(f"-00001-of-{len(found):05}.gguf")
    assert all(file.size <= 100_000 and file.path and file.path.exists() for file in found)
    (whole,) = weights_of(store, stored, "me/x", tmp_path, lambda done, total: None)
    assert whole.sha256 == stored.manifest.layers[0].digest


@pytest.mark.parametrize("disabled", ["", "1"])
def test_a_hub_without_xet(tmp_path: Path, hub: HubStandIn, disabled: str) -> None:
    """Where hf_xet is installed, a mirror that does not take it is told of, with the way around.

    The client's HTTP library is its own: httpx need not be installed.
    """
    pytest.importorskip("hf_xet")
    copy_tiny_store(tmp_path / "store")
    (tmp_path / "httpx.py").write_text("raise ImportError('no httpx')\n")
    about = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": disabled}
    about |= {"HF_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    store = ["--store", str(tmp_path / "store")]
    command = [sys.executable, "-m", "mbuild", *store, "push", "tiny", f"hf.co/{REPO}"]
    done = subprocess.run(
        command, env={**os.environ, **about}, capture_output=True, text=True, timeout=120
    )
    if disabled:
        assert done.returncode == 0, done.stderr
        assert "chat-F16.gguf" in files_of(hub)
    else:
        assert done.returncode == 1 and "does not take files by hf_xet" in done.stderr
        assert "set HF_HUB_DISABLE_XET=1" in done.stderr


def test_the_documented_session(tmp_path: Path, hub: HubStandIn) -> None:
    """Each command of docs/hub.md prints what the page shows."""
    folder = write_chat(tmp_path / "source")
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    hub.put("org/tiny-chat", files)
    variables = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
    }
    documented("hub.md", tmp_path, variables=variables)


def test_who_is_to_be_named(tmp_path: Path) -> None:
    """A tag has no meaning on the Hub, and is refused before anything is read."""
    store = Store(copy_tiny_store(tmp_path / "store"))
    target = ModelReference.parse("hf.co/me/x:v1")
    with pytest.raises(UsageError, match="not by a tag"):
        publish(store, ModelName.parse("tiny"), target, "text", dry_run=True, private=False)


def test_names_and_what_is_missing() -> None:
    """A variant is called after the repository; a file is there if its content is."""
    assert stem_of("org/Chat-GGUF", "Q4_K_M") == "Chat-Q4_K_M"
    assert stem_of("org/chat-gguf", "") == "chat"
    assert stem_of("org/-GGUF", "F16") == "-GGUF-F16"
    small, large = text("system", "Hi"), Published("a.gguf", 4, Digest("1" * 64))
    remote = {
        "system": HubFile("system", 2, git_oid(b"Hi")),
        "a.gguf": HubFile("a.gguf", 4, "", Digest("1" * 64)),
        "b.gguf": HubFile("b.gguf", 9, ""),
    }
    listing = Listing("me/x", "0" * 40, remote)
    assert missing([small, large], listing) == []
    assert missing([small, large], None) == [small, large]
    assert missing([text("system", "Ho")], listing) == [text("system", "Ho")]
    other = large._replace(name="c.gguf")
    assert ggufs([other], listing) == {"a.gguf": 4, "b.gguf": 9, "c.gguf": 4}


def test_the_card_escapes_what_it_is_given(tmp_path: Path) -> None:
    """A fence is longer than any in the text, YAML's values are quoted where they must be."""
    origin = CardOrigin(modelfile='FROM x\nSYSTEM """```"""\n', command="mbuild -t x")
    made = card("me/x", origin, {"license": "mit: no\n", "base": ""}, {"x-Q8_0.gguf": 5})
    assert '\nlicense: "mit: no\\n"\n' in made and "\n````dockerfile\n" in made
    assert is_ours(made.encode()) and MARK in made and not is_ours(b"# Mine\n")
    store = Store(copy_tiny_store(tmp_path / "store"))
    assert origin_of(store, store.manifests.read(ModelName.parse("tiny"))) == CardOrigin()
    assert upload.README == "README.md"
