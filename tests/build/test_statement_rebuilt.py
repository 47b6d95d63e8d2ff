"""``verify --rebuild`` holds a statement against the model made again; each change is found."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from documents import documented
from example_models import generator, settle
from gguf_files import tiny_gguf
from inprocess import in_process
from programs import need

from mbuild.build.lock import BuildLock
from mbuild.build.provenance.keeping import encoded
from mbuild.build.sources.local import moved
from mbuild.core.digest import Digest
from mbuild.models.provenance.comparing import compare, compare_lock, same_steps
from mbuild.store import Store
from mbuild.store.attached import PROVENANCE, attach, documents, parsed
from mbuild.store.records import DESCRIPTION


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def project(tmp_path: Path, mbuild: Run) -> Path:
    """A quantized model and its lock file, from a GGUF file and a Modelfile in a folder."""
    folder = tmp_path / "project"
    generator().write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    settle()
    assert mbuild("-t", "whole", "--store", "first").returncode == 0
    folder.mkdir()
    options = ("-o", folder / "model.gguf", "--store", "first")
    assert mbuild("export", "whole", *options).returncode == 0
    (folder / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\nPARAMETER stop x\n")
    settle()
    done = mbuild("lock", "-f", "project/Modelfile", "-t", "mario", "-q", "q8_0")
    assert done.returncode == 0, done.stderr
    return folder


def model_of(store: Store) -> Digest:
    (name,) = store.manifests.names()
    return store.manifests.read(name).id


def said(folder: Path) -> dict[str, Any]:
    """The statement in the store."""
    store = Store(folder / "store")
    (document,) = documents(store, model_of(store), PROVENANCE)
    return copy.deepcopy(dict(parsed(document.data)))


def rebuilt(mbuild: Run, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status of a rebuild, and what it compared."""
    done = mbuild("verify", "--rebuild", "mario", "--format", "json", *options)
    assert done.stdout, done.stderr
    (found,) = json.loads(done.stdout)["rebuilt"]
    return done.returncode, found.get("compared", [])


def test_everything_that_can_be_made_again_agrees(project: Path, mbuild: Run) -> None:
    """Digest by digest: manifest, layers, sources, request, lock, steps, and the lock file."""
    status, rows = rebuilt(mbuild)
    assert (status, [row["what"] for row in rows if not row["agrees"]]) == (0, [])
    whats = [row["what"] for row in rows]
    for what in ("manifest", "source Modelfile", "source model.gguf", "request", "lock result"):
        assert what in whats
    assert {"step quantize model", "lock file's model.gguf", "lock file's options"} <= set(whats)
    text = mbuild("verify", "--rebuild", "mario").stdout
    assert f"{len(rows)} of {len(rows)} entries agree" in text
    assert "not shown by building again: when it was built" in text


def flips(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every leaf of a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flips(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from flips(item, (*path, number))
    else:
        yield path


def changed(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy with one bit of one leaf changed."""
    found = copy.deepcopy(value)
    place = found
    for key in path[:-1]:
        place = place[key]
    leaf = place[path[-1]]
    if isinstance(leaf, str):
        place[path[-1]] = chr(ord(leaf[0]) ^ 1) + leaf[1:] if leaf else "x"
    elif isinstance(leaf, bool) or leaf is None:
        place[path[-1]] = not leaf
    else:
        place[path[-1]] = leaf ^ 1
    return found


OUT_OF_REACH = (
    "runDetails",  # who, when
    "machine",
    "status",  # whether the step was cached then
    "names",  # a model is the same under any
    "_type",
    "predicateType",
)
"""What making a model again cannot show; the digest and a signature hold these."""


def test_every_changed_leaf_of_a_statement_is_found(project: Path, tmp_path: Path) -> None:
    """Each value in it, one bit at a time, though the digest was made to fit."""
    value = said(tmp_path)
    again = copy.deepcopy(value)
    store = Store(tmp_path / "store")
    keys = [
        step["key"] for step in value["predicate"]["buildDefinition"]["internalParameters"]["steps"]
    ]
    known = store.cache.get_many(DESCRIPTION, keys)
    same = same_steps(known.get, known.get, store.files.alias)
    assert all(row.agrees for row in compare(value, again, same))
    missed, count = [], 0
    for path in flips(value):
        if not set(OUT_OF_REACH).isdisjoint(path):
            continue
        if path[-1] == "name" and path[0] == "subject":
            continue  # names of models; the digest beside it counts
        count += 1
        if all(row.agrees for row in compare(changed(value, path), again, same)):
            missed.append(path)
    assert count > 80
    assert missed == []


def test_every_changed_byte_of_the_file_is_found(
    project: Path, tmp_path: Path, mbuild: Run
) -> None:
    """Whatever byte of the document changes, its digest tells; no rebuild begins."""
    (path,) = (tmp_path / "store/.mbuild/attached").rglob("provenance-*")
    data = path.read_bytes()
    store = Store(tmp_path / "store")
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(Exception, match="was changed"):
            list(documents(store, model_of(store)))
    done = mbuild("verify", "--rebuild", "mario")
    assert (done.returncode, "was changed" in done.stderr) == (1, True)


def test_a_statement_that_was_made_to_fit_is_found_by_building_again(
    project: Path, tmp_path: Path, mbuild: Run
) -> None:
    """Another source's digest in it, another Modelfile, another key: each is named with both."""
    store = Store(tmp_path / "store")
    value, model = said(tmp_path), model_of(store)
    for path, what in (
        (("resolvedDependencies", 1, "digest", "sha256"), "source model.gguf"),
        (("resolvedDependencies", 0, "digest", "sha256"), "source Modelfile"),
        (("internalParameters", "steps", 0, "key"), "step"),
        (("internalParameters", "lock", "options", "outtype"), "lock options"),
    ):
        forged = changed(value, ("predicate", "buildDefinition", *path))
        for old in (tmp_path / "store/.mbuild/attached").rglob("provenance-*"):
            old.unlink()
        attach(store, model, PROVENANCE, encoded(forged))
        done = mbuild("verify", "--rebuild", "mario")
        assert done.returncode == 1
        assert f"\n  {what}" in done.stdout
        assert "bit for bit the same" in done.stdout  # the model itself is what it was


def test_a_changed_byte_of_the_model_is_found(project: Path, tmp_path: Path, mbuild: Run) -> None:
    """Of each blob and of the manifest: verify ends with 1, or the model is another one."""
    store = tmp_path / "store"
    for blob in sorted((store / "blobs").iterdir()):
        if blob.name.split("-")[1][:12] not in mbuild("show", "mario").stdout:
            continue
        data = blob.read_bytes()
        place = len(data) // 2
        blob.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        done = mbuild("verify", "--dry-run", "mario")
        assert done.returncode == 1, blob.name
        blob.write_bytes(data)
    (manifest,) = (path for path in (store / "manifests").rglob("*") if path.is_file())
    data = manifest.read_bytes()
    manifest.write_bytes(data.replace(b'"layers"', b'"layers" '))
    done = mbuild("provenance", "mario")
    assert (done.returncode, "nothing is known about how" in done.stderr) == (1, True)
    manifest.write_bytes(data)
    assert rebuilt(mbuild)[0] == 0


def unknown(digest: Digest) -> None:
    """No content is known by another digest."""


def test_every_changed_byte_of_the_lock_file_is_found(project: Path, tmp_path: Path) -> None:
    """But in the version that wrote it, which no lock is compared by: it differs, or is no lock."""
    value = said(tmp_path)
    text = (project / "Modelfile.lock").read_text()
    lock = BuildLock.from_text(text, "lock")
    assert all(row.agrees for row in compare_lock(lock, text, value, unknown))
    version = text.index(f'"mbuild": "{lock.mbuild}"')
    free = range(version + len('"mbuild": "'), version + len(f'"mbuild": "{lock.mbuild}'))
    missed = []
    for place in range(len(text)):
        if place in free:
            continue
        other = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        try:
            rows = compare_lock(BuildLock.from_text(other, "lock"), other, value, unknown)
        except Exception:
            continue
        if all(row.agrees for row in rows):
            missed.append((place, text[place - 20 : place + 20]))
    assert missed == []


def test_a_lock_of_another_build_is_not_compared(project: Path, mbuild: Run) -> None:
    """Beside the Modelfile may lie the lock of a later build."""
    text = (project / "Modelfile.lock").read_text()
    value = json.loads(text)
    value["results"]["Q8_0"]["id"] = f"sha256:{'0' * 64}"
    (project / "Modelfile.lock").write_text(json.dumps(value))
    status, rows = rebuilt(mbuild)
    assert (status, [row for row in rows if row["what"].startswith("lock file")]) == (0, [])


# --- where the sources are elsewhere ------------------------------------------------------


def test_sources_outside_of_the_folder_are_supplied(tmp_path: Path, mbuild: Run) -> None:
    """By the last part of their paths; a wrong one is refused with both digests."""
    far = tmp_path / "far"
    far.mkdir()
    tiny_gguf(far / "model.gguf")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Modelfile").write_text(f"FROM {far}/model.gguf\nSYSTEM hi\n")
    settle()
    assert mbuild("-f", "project/Modelfile", "-t", "mario").returncode == 0
    (tmp_path / "here").mkdir()
    shutil.move(far / "model.gguf", tmp_path / "here" / "model.gguf")
    assert mbuild("verify", "--rebuild", "mario").returncode == 1
    status, rows = rebuilt(mbuild, "--source", "here")
    assert (status, all(row["agrees"] for row in rows)) == (0, True)
    tiny_gguf(tmp_path / "here" / "model.gguf", seed=1)
    done = mbuild("verify", "--rebuild", "mario", "--source", "here")
    assert (done.returncode, "changed" in done.stderr) == (1, True)


def test_a_model_from_a_registry_is_made_again_from_its_statement(
    tmp_path: Path, mbuild: Run
) -> None:
    """Another store knows no build of it: the statement has the options, the folder the files."""
    from live_server import serving_here

    generator().write_chat(tmp_path / "work" / "chat")
    (tmp_path / "work" / "Modelfile").write_text("FROM ./chat\nSYSTEM hi\n")
    settle()
    options = ("-q", "q4_K_M", "--pure", "-t", "mario")
    assert mbuild("-f", "work/Modelfile", *options).returncode == 0
    with serving_here(tmp_path / "there", writable=True) as server:
        name = f"127.0.0.1:{server.port}/org/mario:v1"
        assert mbuild("push", "mario", name).returncode == 0
        assert mbuild("pull", name, "-t", "mario", "--store", "other").returncode == 0
    os.rename(tmp_path / "work", tmp_path / "elsewhere")
    other = ("--store", "other")
    done = mbuild("verify", "--rebuild", "mario", *other)
    assert (done.returncode, "no build of mario" in done.stderr) == (1, True)
    status, rows = rebuilt(mbuild, *other, "--source", "elsewhere")
    assert (status, [row for row in rows if not row["agrees"]]) == (0, [])
    (tmp_path / "elsewhere" / "Modelfile").write_text("FROM ./chat\nSYSTEM ho\n")
    done = mbuild("verify", "--rebuild", "mario", *other, "--source", "elsewhere")
    assert (done.returncode, "is not the Modelfile" in done.stderr) == (2, True)


def test_where_a_path_leads_when_all_was_moved(tmp_path: Path) -> None:
    """What is still in the folder stays; what lay elsewhere is looked for by its last part."""
    folder, elsewhere = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    (folder / "x").write_text("")
    assert moved(folder / "x", folder, elsewhere) == folder / "x"
    assert moved(folder / "sub" / "y", folder, elsewhere) == elsewhere / "sub" / "y"
    assert moved(folder / ".." / "c" / "z", folder, elsewhere) == elsewhere / "z"
    assert moved(Path("/data/z"), folder, elsewhere) == elsewhere / "z"


def test_a_key_is_the_same_by_either_digest_of_a_content() -> None:
    """Which of the two digests of a base was known when the model was built changes no step."""
    blake3, sha256 = f"blake3:{'1' * 64}", f"sha256:{'2' * 64}"
    one = {"kind": "x", "fields": {"source": blake3, "other": [f"blake3:{'3' * 64}", "blake3:x"]}}
    two = {"kind": "x", "fields": {"source": sha256, "other": [f"blake3:{'3' * 64}", "blake3:x"]}}
    known = {"a": one, "b": two, "c": {**two, "kind": "y"}}
    names = {Digest.parse_any(blake3): Digest.parse(sha256)}
    same = same_steps(known.get, known.get, names.get)
    assert same("a", "b")
    assert not same("a", "c")
    assert not same("a", "unknown")


def test_the_documented_session(tmp_path: Path) -> None:
    """Each command of docs/provenance.md prints what the page shows."""
    need("openssl")
    (tmp_path / "work").mkdir()
    tiny_gguf(tmp_path / "work" / "model.gguf")
    settle()
    documented("provenance.md", tmp_path)


STAGED = """# syntax=mbuild/1
ARG WHO=nobody
ARG TOKEN
FROM ./chat AS base
INCLUDE ./more
SYSTEM You are ${WHO}.
MESSAGE user ${TOKEN}
FROM base AS small
QUANTIZE q8_0
"""


def test_stages_are_made_again_from_their_statement_alone(tmp_path: Path, mbuild: Run) -> None:
    """Their arguments' values are in it but for secrets, and digests of what they include."""
    from live_server import serving_here

    work = tmp_path / "work"
    generator().write_chat(work / "chat")
    (work / "Modelfile").write_text(STAGED)
    (work / "more").write_text("PARAMETER temperature 0.5\n")
    settle()
    arguments = ("--build-arg", "WHO=Mario", "--build-arg", "TOKEN=hf_abcdefghijklmnop")
    done = mbuild("-f", "work/Modelfile", "--target", "small", "-t", "mario", *arguments)
    assert done.returncode == 0, done.stderr
    request = said(tmp_path)["predicate"]["buildDefinition"]["externalParameters"]["request"]
    assert request["modelfile"]["arguments"] == {"WHO": "Mario"}
    assert request["modelfile"]["withheld"] == ["TOKEN"]
    assert "hf_abc" not in json.dumps(request)
    with serving_here(tmp_path / "there", writable=True) as server:
        name = f"127.0.0.1:{server.port}/org/mario:v1"
        assert mbuild("push", "mario", name).returncode == 0
        assert mbuild("pull", name, "-t", "mario", "--store", "other").returncode == 0
    os.rename(work, tmp_path / "elsewhere")
    again = ("--store", "other", "--source", "elsewhere")
    done = mbuild("verify", "--rebuild", "mario", *again)
    assert done.returncode == 2
    assert "no value of TOKEN" in done.stderr and "--build-arg TOKEN=VALUE" in done.stderr
    secret = ("--build-arg", "TOKEN=hf_abcdefghijklmnop")
    status, rows = rebuilt(mbuild, *again, *secret)
    assert (status, [row for row in rows if not row["agrees"]]) == (0, [])
    status, rows = rebuilt(mbuild, *again, "--build-arg", "TOKEN=another")
    assert status == 1
    done = mbuild("verify", "--rebuild", "mario", *again, *secret, "--build-arg", "WHO=Luigi")
    assert done.returncode == 2 and "--build-arg WHO: no such argument" in done.stderr
    done = mbuild("verify", "--rebuild", "mario", *secret)
    assert done.returncode == 2 and "nothing asks one here" in done.stderr, "the history has it"
    (tmp_path / "elsewhere" / "more").write_text("PARAMETER temperature 0.6\n")
    done = mbuild("verify", "--rebuild", "mario", *again, *secret)
    assert done.returncode == 1 and "more is not the file" in done.stderr
