"""GGUF files that no program loads are refused, and none that llama.cpp loads."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpoints import Family, write_family
from conftest import Run
from gguf_files import gguf_bytes, tiny_gguf, tiny_model, tiny_shards
from inprocess import in_process
from llama_runs import BPE, SPM, loadable

from mbuild.core.errors import FormatError
from mbuild.core.values import replace
from mbuild.gguf.checks import check_order
from mbuild.gguf.hyperparameters import OF_ARCHITECTURE, WHOLE, check_hyperparameters
from mbuild.gguf.model import KV
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import ValueType
from mbuild.gguf.writer import layout

U32 = ValueType.UINT32


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


def refused(mbuild: Run, folder: Path, *arguments: str, text: str = "FROM ./x.gguf\n") -> str:
    """What a build says that refuses; nothing of it is in the store."""
    (folder / "Modelfile").write_text(text)
    done = mbuild("-t", "m", *arguments)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "  hint: " in done.stderr
    assert mbuild("list").stdout.count("\n") <= 1
    return done.stderr


# Keys and texts.


@pytest.mark.parametrize(
    "key",
    ["llama.block_count\0", "tokenizer.chat_template\0x", "\0", "a\x1b[31m", "a\nb", "a\u202eb"],
)
def test_keys_that_cannot_be_printed_are_refused(
    key: str, mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, escaped: llama.cpp would look up another key, people would see another."""
    with pytest.raises(FormatError, match=r"NUL|printed"):
        layout(tiny_model(metadata={key: 1}))
    odd = tmp_path / "x.gguf"
    placeholder = "k" * len(key.encode())
    data = gguf_bytes(tiny_model(metadata={placeholder: 1}))
    length = struct.pack("<Q", len(placeholder))
    odd.write_bytes(data.replace(length + placeholder.encode(), length + key.encode()))
    said = refused(mbuild, tmp_path)
    assert f"metadata key {key!r} has" in said


TEXTS = ["general.architecture", "general.type", "general.name", "tokenizer.ggml.model"]
TEXTS += ["tokenizer.chat_template", "tokenizer.ggml.pre", "llama.rope.scaling.type"]


@pytest.mark.parametrize("key", TEXTS)
def test_texts_with_a_nul_are_refused(key: str, mbuild: Run, tmp_path: Path) -> None:
    """llama.cpp reads such a text up to the NUL, and other programs all of it."""
    path = tiny_gguf(tmp_path / "x.gguf", metadata={key: "llama?x"})
    path.write_bytes(path.read_bytes().replace(b"llama?x", b"llama\0x"))
    said = refused(mbuild, tmp_path)
    assert key in said and ("NUL" in said or "not a name" in said)
    if key != "general.architecture":
        with pytest.raises(FormatError, match=f"{key} has a NUL"):
            layout(tiny_model(metadata={key: "a\0b"}))


def test_a_nul_that_no_program_reads_is_let_be(tmp_path: Path) -> None:
    """A vocabulary may have such a token, and keys that no program acts on any text."""
    tokens = ["\0", "a\0b", "</s>", "▁a"]
    odd = {"tokenizer.ggml.tokens": tokens, "ollama.system": "a\0b", "mine.x": "\0"}
    with open_gguf(tiny_gguf(tmp_path / "x.gguf", metadata=odd)) as file:
        assert file.get("tokenizer.ggml.tokens") == tokens
        assert file.get("ollama.system") == "a\0b"


# Where tensors lie.


def moved(path: Path, change: Callable[[list[int]], list[int]], room: int = 8192) -> None:
    """Give the tensors of a file other offsets, and the file room for them."""
    with open_gguf(path) as file:
        data, start = path.read_bytes(), file.data_start
        header, entries = bytearray(data[:start]), []
        for tensor in file.tensors:
            name = tensor.name.encode()
            entry = struct.pack("<Q", len(name)) + name
            entries.append(header.index(entry) + len(entry) + 4 + 8 * len(tensor.dims) + 4)
        offsets = change([tensor.offset - start for tensor in file.tensors])
        parts = [
            (new, data[tensor.offset : tensor.offset + tensor.nbytes])
            for new, tensor in zip(offsets, file.tensors, strict=True)
        ]
    for at, offset in zip(entries, offsets, strict=True):
        struct.pack_into("<Q", header, at, offset)
    body = bytearray(max(offsets) + room)
    for offset, content in parts:
        body[offset : offset + len(content)] = content
    path.write_bytes(header + body)


def with_gap(offsets: list[int]) -> list[int]:
    return [offsets[0], *(offset + 64 for offset in offsets[1:])]


def past_a_hole(offsets: list[int]) -> list[int]:
    return [*offsets[:-1], offsets[-1] + 4096]


def not_from_the_start(offsets: list[int]) -> list[int]:
    return [offset + 32 for offset in offsets]


def in_another_order(offsets: list[int]) -> list[int]:
    return [8192 * number for number in range(len(offsets))][::-1]


MOVES = [with_gap, past_a_hole, not_from_the_start, in_another_order]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *(("model", change) for change in MOVES),
        *(("adapter", change) for change in MOVES),
        ("projector", not_from_the_start),  # it has one tensor
    ],
)
def test_a_file_with_gaps_is_not_imported(
    kind: str, change: Callable[[list[int]], list[int]], mbuild: Run, tmp_path: Path
) -> None:
    """ggml wants each tensor where the one before it ends; the error names the first other one."""
    path = tiny_gguf(tmp_path / "x.gguf", kind=kind)
    moved(path, change)
    tiny_gguf(tmp_path / "base.gguf")
    odd = {"adapter": "ADAPTER ./x.gguf\n", "projector": "FROM ./x.gguf\n"}.get(kind)
    text = f"FROM ./base.gguf\n{odd}" if odd else "FROM ./x.gguf\n"
    said = refused(mbuild, tmp_path, text=text)
    assert "x.gguf: tensor '" in said and "where the one before it ends" in said
    assert "gguf-new-metadata" in said


@pytest.mark.parametrize("change", MOVES)
def test_gaps_are_closed_where_the_bytes_are_written_anew(
    change: Callable[[list[int]], list[int]], mbuild: Run, tmp_path: Path
) -> None:
    """Quantizing and merging take the same values from such a file as from the good one."""
    from example_models import write_chat

    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    assert mbuild("-t", "base").returncode == 0
    good = max((tmp_path / "store/blobs").iterdir(), key=lambda path: path.stat().st_size)
    path = tmp_path / "x.gguf"
    path.write_bytes(good.read_bytes())
    quantized = {}
    for step in ("good", "moved"):
        (tmp_path / "Modelfile").write_text("FROM ./x.gguf\n")
        done = mbuild("-t", step, "-q", "q8_0")
        assert done.returncode == 0, done.stderr
        quantized[step] = mbuild("show", step, "--format", "json").stdout
        if step == "good":
            moved(path, lambda offsets: [*offsets[:-1], offsets[-1] + 4096])
    digests = [json.loads(text)["layers"][0]["digest"] for text in quantized.values()]
    assert digests[0] == digests[1]
    shards = tiny_shards(tmp_path, "s", [3, 2])
    moved(shards[0], change)
    (tmp_path / "Modelfile").write_text(f"FROM ./{shards[0].name}\n")
    done = mbuild("-t", "merged")
    assert done.returncode == 0, done.stderr
    digest = json.loads(mbuild("show", "merged", "--format", "json").stdout)["layers"][0]["digest"]
    made = tmp_path / "store/blobs" / digest.replace(":", "-")
    assert made.read_bytes() == gguf_bytes(tiny_model())


# Hyper-parameters.


def array(key: str, items: Sequence[int], element: ValueType = ValueType.INT32) -> KV:
    return KV(key, ValueType.ARRAY, list(items), element)


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "more experts used than there are": {"expert_count": 2, "expert_used_count": 3},
    "experts used and none there": {"expert_used_count": 1},
    "experts and none used": {"expert_count": 4},
    "2^31 experts": {"expert_count": 1 << 31, "expert_used_count": 2},
    "heads that do not divide the width": {"attention.head_count": 3},
    "groups that do not divide the heads": {
        "attention.head_count": 4,
        "attention.head_count_kv": 3,
    },
    "more groups than heads": {"attention.head_count": 4, "attention.head_count_kv": 8},
    "heads that turn in more dimensions than they have": {
        **{"attention.head_count": 4, "rope.dimension_count": 32},
    },
    "no width": {"embedding_length": 0},
    "a width of 2^31": {"embedding_length": 1 << 31},
    "no context": {"context_length": 0},
    "no layers": {"block_count": 0},
    "513 layers": {"block_count": 513},
    "heads without width": {"attention.key_length": 0},
    "heads of one layer": {"attention.head_count": [4]},
    "heads of three layers": {"attention.head_count_kv": [4, 4, 4]},
    "negative heads in an array": {"attention.head_count": [4, -4]},
    "texts for heads": {"attention.head_count": ["4", "4"]},
    "an epsilon that is no number": {"attention.layer_norm_rms_epsilon": float("nan")},
    "a negative epsilon": {"attention.layer_norm_rms_epsilon": -1e-5},
    "an endless base": {"rope.freq_base": float("inf")},
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_hyperparameters_are_refused(case: str, mbuild: Run, tmp_path: Path) -> None:
    """On import, in shards, and before anything is quantized; the error names the key."""
    metadata = {f"llama.{key}": value for key, value in IMPOSSIBLE[case].items()}
    tiny_gguf(tmp_path / "x.gguf", metadata=metadata)
    shard = tiny_shards(tmp_path, "s", [3, 2], metadata=metadata)[0]
    for arguments, text in (
        ((), "FROM ./x.gguf\n"),
        (("-q", "q8_0"), "FROM ./x.gguf\n"),
        ((), f"FROM ./{shard.name}\n"),
    ):
        said = refused(mbuild, tmp_path, *arguments, text=text)
        assert any(key in said for key in metadata)


POSSIBLE: dict[str, dict[str, Any]] = {
    "all experts used": {"expert_count": 4, "expert_used_count": 4},
    "no experts": {"expert_count": 0, "expert_used_count": 0},
    "heads with a width of their own": {"attention.head_count": 3, "attention.key_length": 16},
    "no heads, as in Mamba": {"attention.head_count": 0, "feed_forward_length": 0},
    "heads by layer, none in one": {
        **{"attention.head_count": [4, 4], "attention.head_count_kv": [0, 4]},
    },
    "lengths by layer": {"feed_forward_length": [128, 0]},
    "half of a head turns": {"attention.head_count": 4, "rope.dimension_count": 8},
    "keys that nobody knows": {"mine": "x", "also.mine": -1},
    "the longest context": {"context_length": (1 << 32) - 1},
}


@pytest.mark.parametrize("case", POSSIBLE)
def test_possible_hyperparameters_are_taken(case: str) -> None:
    """What real models have, or what no program looks at."""
    metadata = {f"llama.{key}": value for key, value in POSSIBLE[case].items()}
    check_hyperparameters(tiny_model(metadata=metadata).metadata, "x.gguf")


SAMPLES: dict[ValueType, Any] = {
    **dict.fromkeys((ValueType.UINT8, ValueType.UINT16, ValueType.UINT64), 4),
    **dict.fromkeys((ValueType.INT8, ValueType.INT16, ValueType.INT32, ValueType.INT64), 4),
    ValueType.UINT32: 4,
    ValueType.FLOAT32: 0.5,
    ValueType.FLOAT64: 0.5,
    ValueType.BOOL: True,
    ValueType.STRING: "4",
}


@pytest.mark.parametrize("key", [*OF_ARCHITECTURE, *WHOLE])
def test_every_key_has_one_type(key: str) -> None:
    """Of all scalar types the one that llama.cpp reads is taken, and no other."""
    row = {**OF_ARCHITECTURE, **WHOLE}[key]
    whole = f"llama.{key}" if key in OF_ARCHITECTURE else key
    for type_, value in SAMPLES.items():
        model = tiny_model(metadata={"llama.expert_count": 8, "llama.expert_used_count": 2})
        entries = [kv for kv in model.metadata if kv.key != whole]
        entries.append(KV(whole, type_, value))
        if type_ is row.type:
            check_hyperparameters(entries, "x.gguf")
        else:
            with pytest.raises(FormatError, match=f"x.gguf: {whole} has the type {type_.name}"):
                check_hyperparameters(entries, "x.gguf")


@pytest.mark.parametrize("family", [*BPE, *SPM])
def test_what_is_converted_is_loadable(family: str, mbuild: Run, tmp_path: Path) -> None:
    """No family that mbuild converts raises an alarm."""
    write_family(tmp_path / "model", Family(family, {}))
    (tmp_path / "Modelfile").write_text("FROM ./model\n")
    assert mbuild("-t", "m", "--pre", "gpt-2").returncode == 0
    made = max((tmp_path / "store/blobs").iterdir(), key=lambda path: path.stat().st_size)
    with open_gguf(made) as file:
        check_order("made", file.tensors, file.data_start, file.alignment)
        check_hyperparameters(file.kvs.values(), "made")


# Held against llama.cpp.

WRONG: list[tuple[str, ValueType, Any]] = [
    *(("block_count", type_, 2) for type_ in (ValueType.UINT8, ValueType.INT32, ValueType.UINT64)),
    *(("context_length", type_, 64) for type_ in (ValueType.INT32, ValueType.INT64)),
    ("context_length", ValueType.FLOAT32, 64.0),
    ("embedding_length", ValueType.BOOL, True),
    ("embedding_length", ValueType.STRING, "64"),
    ("feed_forward_length", ValueType.INT32, -1),
    ("attention.head_count", ValueType.STRING, "4"),
    ("attention.head_count", U32, 3),
    ("attention.head_count_kv", ValueType.UINT16, 2),
    ("attention.key_length", ValueType.UINT64, 16),
    ("attention.layer_norm_rms_epsilon", ValueType.FLOAT64, 1e-5),
    ("rope.dimension_count", U32, 1000),
    ("rope.freq_base", U32, 10000),
    ("rope.scaling.factor", U32, 1),
    ("rope.scaling.type", U32, 1),
    ("expert_count", U32, 1 << 31),
    ("expert_used_count", U32, 3),
    ("attention.causal", ValueType.UINT8, 1),
]


@pytest.mark.oracle
@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="needs the package xllamacpp"
)
def test_llama_cpp_refuses_the_same(mbuild: Run, tmp_path: Path) -> None:
    """Of each of these changes to a model that it loads, and of files with gaps."""
    write_family(tmp_path / "model", Family("llama", {}))
    (tmp_path / "Modelfile").write_text("FROM ./model\n")
    assert mbuild("-t", "m").returncode == 0
    made = max((tmp_path / "store/blobs").iterdir(), key=lambda path: path.stat().st_size)
    with open_gguf(made) as file:
        good = file.model()
        files = {tmp_path / "good.gguf": good}
        for number, (key, type_, value) in enumerate(WRONG):
            entry = KV(f"llama.{key}", type_, value)
            others = [kv for kv in good.metadata if kv.key != entry.key]
            with pytest.raises(FormatError, match=f"llama.{key}"):
                check_hyperparameters([*others, entry], "x.gguf")
            files[tmp_path / f"{number}.gguf"] = replace(good, metadata=(*others, entry))
        for path, model in files.items():
            path.write_bytes(gguf_bytes(model))
    gaps = [tmp_path / f"gap-{number}.gguf" for number in range(2)]
    for path, change in zip(gaps, (with_gap, not_from_the_start), strict=True):
        path.write_bytes(made.read_bytes())
        moved(path, change)
    found = loadable([*files, *gaps])
    assert [path.name for path, loads in found.items() if loads] == ["good.gguf"]
