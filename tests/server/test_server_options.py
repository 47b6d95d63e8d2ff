"""``POST /api/create`` takes every option of a quantization, under its flag's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import FAMILIES, write_family
from conftest import Run
from example_models import settle, write_chat, write_imatrix
from inprocess import in_process

from mbuild.build.build import build
from mbuild.core.errors import MissingFileError, UsageError
from mbuild.core.names import ModelName
from mbuild.quant.choose.options import OPTIONS
from mbuild.registry.client.access import Access
from mbuild.runtime.process import has_engine
from mbuild.server.create import read_creation
from mbuild.server.shapes import CREATE, check
from mbuild.store import Store

TYPE = "q4_0"

ASKED: dict[str, tuple[list[str], Any]] = {
    "recipe": (["--recipe", "ollama"], "ollama"),
    "imatrix": (["--imatrix", "imatrix.dat"], {"imatrix.dat": "imatrix.dat"}),
    "pure": (["--pure"], True),
    "leave_output_tensor": (["--leave-output-tensor"], True),
    "output_tensor_type": (["--output-tensor-type", "q5_0"], "q5_0"),
    "token_embedding_type": (["--token-embedding-type", "Q5_1"], "q5_1"),
    "tensor_type": (["--tensor-type", "ATTN_V=q8_0", "--tensor-type", "ffn=q5_1"], None),
    "allow_requantize": (["--allow-requantize"], True),
    "override_kv": (["--override-kv", "general.name=str:Mario"], None),
    "include_weights": (["--include-weights", "attn_q"], ["attn_q"]),
    "exclude_weights": (["--exclude-weights", "attn_k"], ["attn_k"]),
    "prune_layers": (["--prune-layers", "1"], "1"),
}
"""Each option on the command line and as the API's field."""

OF_A_MATRIX = ("include_weights", "exclude_weights")
"""The options that have an effect beside an importance matrix only."""

COMPUTED = ("imatrix_from", "imatrix_chunks")
"""The options that run the model; they go together, and have a test of their own."""


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, with a model that can be quantized, and one that is."""
    write_chat(tmp_path / "chat")
    write_imatrix(tmp_path / "imatrix.dat", 2.0)
    settle()
    run = in_process(tmp_path, monkeypatch)
    assert run("-f", "-", "-t", "whole", input="FROM ./chat\n").returncode == 0
    assert run("-f", "-", "-t", "eight", "-q", "q8_0", input="FROM whole\n").returncode == 0
    return run


def created(folder: Path, **fields: Any) -> bytes:
    """The manifest of the model that a request makes."""
    store = Store(folder / "store")
    for field in ("imatrix", "imatrix_from"):
        for name in fields.get(field, ()):
            data = (folder / name).read_bytes()
            fields[field] = {name: str(store.blobs.put(data).digest)}
    creation = read_creation(check(CREATE, {"model": "posted", **fields}), store)
    list(build(creation.build(store, Access.of_operator(())), store))
    return store.manifests.read_bytes(creation.name) or b""


def test_every_option_makes_the_command_lines_model(mbuild: Run, tmp_path: Path) -> None:
    """The same bytes as with the flag, and other bytes than without it."""
    assert {*ASKED, *COMPUTED} == {option.name for option in OPTIONS.values()}
    plain = created(tmp_path, **{"from": "whole"}, quantize=TYPE)
    for name, (flags, value) in ASKED.items():
        base = "eight" if name == "allow_requantize" else "whole"
        lists = {"tensor_type": ["ATTN_V=q8_0", "ffn=q5_1"]}
        lists["override_kv"] = ["general.name=str:Mario"]
        value = lists.get(name, value)
        more: dict[str, Any] = {}
        if name in OF_A_MATRIX:
            matrix, sent = ASKED["imatrix"]
            flags, more = [*matrix, *flags], {"imatrix": dict(sent)}
        done = mbuild("-f", "-", "-t", "x", "-q", TYPE, *flags, input=f"FROM {base}\n")
        assert done.returncode == 0, done.stderr
        expected = Store(tmp_path / "store").manifests.read_bytes(ModelName.parse("x"))
        found = created(tmp_path, **{"from": base}, quantize=TYPE, **more, **{name: value})
        assert found == expected, name
        assert (found == plain) == (name == "recipe"), name  # no exception for this family


@pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")
def test_a_matrix_is_computed_on_an_uploaded_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same model as with the flags; a text that was not sent is refused by its name."""
    write_family(tmp_path / "qwen2", FAMILIES["tied"]._replace(layers=1))
    (tmp_path / "t.txt").write_text("".join(chr(33 + n * n % 61) for n in range(1100)))
    run = in_process(tmp_path, monkeypatch)
    done = run("-f", "-", "-t", "whole", "--pre", "gpt-2", input="FROM ./qwen2\n")
    assert done.returncode == 0, done.stderr
    flags = ("--imatrix-from", "t.txt", "--imatrix-chunks", "1")
    done = run("-f", "-", "-t", "x", "-q", "iq2_xs", *flags, input="FROM whole\n")
    assert done.returncode == 0, done.stderr
    asked = {"imatrix_from": {"t.txt": "t.txt"}, "imatrix_chunks": 1}
    found = created(tmp_path, **{"from": "whole"}, quantize="iq2_xs", **asked)
    assert found == Store(tmp_path / "store").manifests.read_bytes(ModelName.parse("x"))
    text = "# syntax=mbuild/1\nFROM whole\nQUANTIZE q8_0\nCHECK kld < 1 TEXT ./other.txt\n"
    with pytest.raises(MissingFileError, match=r"[.]/other[.]txt: the request has no such file"):
        created(tmp_path, modelfile=text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pure": True}, "'pure' has no effect without 'quantize'"),
        ({"quantize": TYPE, "pure": 1}, "cannot unmarshal number into Go struct field"),
        ({"quantize": TYPE, "output_tensor_type": "q9"}, "unknown tensor type 'q9'"),
        ({"quantize": TYPE, "recipe": "vllm"}, "unknown recipe 'vllm'"),
        ({"quantize": TYPE, "tensor_type": ["x"]}, "malformed tensor type 'x'"),
        ({"quantize": TYPE, "imatrix": {"a": "sha256:1"}}, "invalid digest format"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tiny_store: Store, fields: dict[str, Any], message: str
) -> None:
    """Before anything is built, with the field or the value."""
    with pytest.raises(Exception, match=message):
        read_creation(check(CREATE, {"model": "x", "from": "tiny", **fields}), tiny_store)


def test_one_importance_matrix_is_enough(tiny_store: Store) -> None:
    """A second one is refused; one rule needs no list; what says nothing needs no type."""
    digest = f"sha256:{'0' * 64}"
    body = {"model": "x", "from": "tiny", "quantize": TYPE}
    with pytest.raises(UsageError, match="'imatrix' names 2 files"):
        read_creation(check(CREATE, {**body, "imatrix": {"a": digest, "b": digest}}), tiny_store)
    one = read_creation(check(CREATE, {**body, "tensor_type": "a=q8_0"}), tiny_store)
    many = read_creation(check(CREATE, {**body, "tensor_type": ["a=q8_0"]}), tiny_store)
    assert one.key == many.key
    said = {"pure": False, "tensor_type": [], "imatrix": {}, "recipe": "llama.cpp"}
    plain = read_creation(check(CREATE, {"model": "x", "from": "tiny"}), tiny_store)
    nothing = {"model": "x", "from": "tiny", **said}
    assert read_creation(check(CREATE, nothing), tiny_store).key == plain.key
