"""The lines of a build over HTTP: what a file is called makes no difference to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gguf_files import gguf_bytes, tiny_model
from live_server import Server, lines_of, serving_here

from mbuild.core.errors import MbuildError
from mbuild.core.events import Code, StepFinished, Warned
from mbuild.gguf.model import Tensor
from mbuild.gguf.types import GGMLType
from mbuild.server.errors import in_fields, text_of
from mbuild.server.wording import STATUSES, Lines, Wording

VERIFYING = "verifying conversion"


@pytest.fixture
def server(tmp_path: Any) -> Iterator[Server]:
    """A server with an empty store."""
    with serving_here(tmp_path / "store") as server:
        yield server


def statuses(server: Server, **request: Any) -> list[str]:
    """What a build says, without its layers."""
    lines = lines_of(server.create(**request))
    assert "error" not in lines[-1], lines
    texts = [str(line.get("status")) for line in lines if "total" not in line]
    return [text for text in texts if " layer " not in text]


@pytest.mark.parametrize("name", ["m.gguf", "draft x.gguf", "draft .gguf", "a b.gguf"])
def test_a_files_name_changes_no_line(server: Server, name: str) -> None:
    """A model whose file is called like a draft's step is verified like any other."""
    digest = server.upload(gguf_bytes(tiny_model()))
    expected = ["parsing GGUF", VERIFYING, "writing manifest", "success"]
    assert statuses(server, model="new", files={name: digest}) == expected
    assert statuses(server, model="cached", files={name: digest}) == expected


def test_a_quantization_of_an_oddly_named_file(server: Server) -> None:
    """``draft x to F16.gguf`` is quantized with Ollama's words for a model."""
    zeros = Tensor("token_embd.weight", (64, 8), GGMLType.F32, lambda: bytes(64 * 8 * 4))
    tensors = (zeros,)
    digest = server.upload(gguf_bytes(tiny_model(tensors=tensors)))
    name = "draft x to F16.gguf"
    said = statuses(server, model="q", files={name: digest}, quantize="Q8_0")
    assert said == ["parsing GGUF", VERIFYING, "writing manifest", "success"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("give one with --imatrix FILE", "give one with 'imatrix'"),
        ("--tensor-type foo=q4_0 matches no tensor", "'tensor_type' foo=q4_0 matches no tensor"),
        ("--quantize makes the result small", "'quantize' makes the result small"),
        ("--draft-quantize requires a DRAFT", "'draft_quantize' requires a DRAFT"),
        ("use --split SIZE (--keep-split)", "use 'split' ('keep_split')"),
        ("use --outtype bf16", "use mbuild build --outtype bf16"),
        ("mlx_lm.fuse --dequantize x--pure", "mlx_lm.fuse --dequantize x--pure"),
        ("--no-mtp and --mtp cannot be combined", "'no_mtp' and 'mtp' cannot be combined"),
        ("--text-only: --fp8-as-q8 has no effect", "'text_only': 'fp8_as_q8' has no effect"),
    ],
)
def test_options_are_named_as_fields_of_a_request(text: str, said: str) -> None:
    """Whoever asks over HTTP has no command line; what only that has is named with its command."""
    assert in_fields(text) == said
    assert text_of(MbuildError("it failed", hint=text)) == f"it failed ({said})"
    lines = Lines(Wording())
    lines.of(Warned(text))
    assert lines.warnings == [said]


def test_only_a_draft_is_not_verified(server: Server) -> None:
    """The draft's own step is told apart by its role, whatever its file is called."""
    digest, draft = (server.upload(gguf_bytes(tiny_model(seed=seed))) for seed in (0, 1))
    files = {"files": {"draft m.gguf": digest}, "draft_files": {"m.gguf": draft}}
    said = statuses(server, model="d", **files)
    assert said.count("parsing GGUF") == 2
    assert said.count(VERIFYING) == 1


@pytest.mark.parametrize(
    ("kind", "role", "subject", "said"),
    [
        ("convert", "model", "draft model", ["converting model", VERIFYING]),
        ("convert", "draft", "model", ["converting model"]),
        ("import", "model", "adapter", ["parsing GGUF", VERIFYING]),
        ("import", "adapter", "m.gguf", ["parsing GGUF"]),
        ("merge", "model", "draft m.gguf", ["parsing GGUF", VERIFYING]),
        ("convert-adapter", "adapter", "draft model", ["converting adapter"]),
    ],
)
def test_lines_follow_kind_and_role(kind: str, role: str, subject: str, said: list[str]) -> None:
    """A folder ``draft model`` is a model, and a model with an adapter's name is no adapter."""
    lines = Lines(Wording())
    event = StepFinished(1, f"{kind} {subject}", True, 0.0, 0, kind, role, subject)
    assert [line["status"] for line in lines.of(event)] == said


def test_ollamas_words() -> None:
    """The statuses that clients get are these, and no others."""
    assert set(Code) - STATUSES.keys() == {
        Code.COMPILING_QUANTIZERS,
        Code.REUSED_TENSORS,
        Code.NEWLY_QUANTIZED,
        Code.WORKERS,
        Code.TOOK_SHARED,
        Code.MAKING_SOONER,
        Code.WAITING_FOR_MACHINE,
        Code.TAKING_OVER,
        Code.SENDING_SHARED,
        Code.SENT_SHARED,
        Code.CHOSEN_TYPES,
        Code.WAITING_FOR_MACHINE,
        Code.TAKING_OVER,
        Code.TOOK_SHARED,
        Code.MAKING_SOONER,
        Code.SENDING_SHARED,
        Code.SENT_SHARED,
    }
