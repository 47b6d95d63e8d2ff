"""Splitting models: the bytes of llama.cpp's converter, where cuts lie, what changes a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import entry, gguf_bytes, tensor, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from mbuild.core.errors import FormatError, UsageError
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.reader import GGUFFile, open_gguf
from mbuild.gguf.shards import merge
from mbuild.gguf.split import MAX_SHARDS, by_layers, by_size, split
from mbuild.gguf.types import GGMLType, ValueType
from mbuild.gguf.weights import GGUFWeights
from mbuild.gguf.writer import Output, interleaved, layout, write_all


def of_names(*names: str) -> list[Tensor]:
    return [tensor(name, (32,), GGMLType.F32) for name in names]


def opened(folder: Path, models: Sequence[Model]) -> list[GGUFFile]:
    """Shards written as files under their names."""
    found = []
    for number, model in enumerate(models, start=1):
        path = folder / f"m-{number:05d}-of-{len(models):05d}.gguf"
        path.write_bytes(gguf_bytes(model))
        found.append(open_gguf(path, name=path.name))
    return found


@pytest.mark.parametrize("most", [1, 400, 1000, 2600, 1 << 20])
def test_shards_have_the_bytes_of_llama_cpps_writer(most: int, tmp_path: Path) -> None:
    """Every file equals that of gguf-py with the same size and a small first shard."""
    rng = np.random.default_rng(most)
    shapes = [(3, 32), (7, 5), (64,), (64, 33), (11,), (2, 3, 8)]
    arrays = {f"blk.{n}.x": rng.random(s, np.float32) for n, s in enumerate(shapes)}
    writer = gguf.GGUFWriter(
        tmp_path / "m.gguf", "llama", split_max_size=most, small_first_shard=True
    )
    writer.add_name("m")
    writer.add_uint32("llama.block_count", 6)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = Model(
        (
            entry("general.architecture", "llama"),
            entry("general.name", "m"),
            entry("llama.block_count", 6),
        ),
        tuple(
            Tensor(name, array.shape[::-1], GGMLType.F32, array.tobytes)
            for name, array in arrays.items()
        ),
    )
    ours = [gguf_bytes(shard) for shard in split(model, by_size(model.tensors, most))]
    assert ours == [path.read_bytes() for path in sorted(tmp_path.glob("m-*.gguf"))]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), most=st.integers(1, 5000))
def test_no_shard_is_larger_than_asked_but_for_one_tensor(sizes: list[int], most: int) -> None:
    """A shard holds at most SIZE bytes of tensors, or a single tensor; none but the first is empty,
    and no two neighbours would fit into one."""
    tensors = [tensor(f"t.{n}", (size,), GGMLType.F32) for n, size in enumerate(sizes)]
    first, *counts = by_size(tensors, most)
    assert first == 0 and sum(counts) == len(sizes)
    left = iter(sizes)
    shards = [[4 * next(left) for _ in range(count)] for count in counts]
    for shard, following in zip(shards, [*shards[1:], [most]], strict=True):
        assert len(shard) == 1 or sum(shard) <= most
        assert sum(shard) + following[0] > most


def test_layers_are_counted_in_the_order_of_the_file() -> None:
    """A checkpoint of one file has layer 10 behind layer 1: that makes no more shards."""
    names = ["token_embd.weight", *(f"blk.{n}.{w}" for n in (0, 1, 10, 2, 3) for w in "ab")]
    tensors = of_names(*names, "output_norm.weight", "output.weight")
    assert by_layers(tensors, 2) == (0, 5, 4, 4)
    assert by_layers(tensors, 4) == (0, 9, 4)
    assert by_layers(tensors, 5) == (0, 13)
    scattered = of_names("blk.0.a", "blk.1.a", "blk.2.a", "blk.0.b", "blk.1.b", "blk.2.b")
    assert by_layers(scattered, 2) == (0, 2, 4)
    assert by_layers(of_names("enc.blk.0.a", "dec.blk.0.a"), 1) == (0, 1, 1)


@pytest.mark.parametrize("counts", [(0, 5), (0, 1, 1, 3), (0, 0, 5), (2, 3)])
@pytest.mark.parametrize("alignment", [None, 64])
def test_split_and_merged_a_model_is_what_it_was(
    counts: tuple[int, ...], alignment: int | None, tmp_path: Path
) -> None:
    """Split, merge, and split again: the same bytes each time, with any alignment."""
    model = tiny_model(metadata={"general.alignment": alignment})
    shards = split(model, counts)
    merged = merge(opened(tmp_path, shards))
    assert gguf_bytes(merged) == gguf_bytes(model)
    assert merged.shards == counts if len(counts) > 1 else ()
    again = split(merged, merged.shards)
    assert [*map(gguf_bytes, again)] == [*map(gguf_bytes, shards)]


def test_another_template_changes_the_first_shard_alone() -> None:
    """All metadata is there, and the shards with the weights do not depend on it."""
    one, other = (
        split(tiny_model(metadata={"tokenizer.chat_template": text}), (0, 2, 3))
        for text in ("{{ a }}", "{{ another }}")
    )
    assert not one[0].tensors
    digests = [
        [hashlib.sha256(gguf_bytes(shard)).hexdigest() for shard in shards]
        for shards in (one, other)
    ]
    assert digests[0][1:] == digests[1][1:]
    assert digests[0][0] != digests[1][0]


def test_more_shards_than_ollama_takes_are_refused() -> None:
    """The error says how many there would be, and what to change."""
    tensors = of_names(*(f"blk.{n}.a" for n in range(MAX_SHARDS)))
    with pytest.raises(UsageError, match="1025 shards; Ollama takes at most 1024"):
        by_size(tensors, 1)
    with pytest.raises(UsageError) as refused:
        by_layers(tensors, 1)
    assert "larger N" in refused.value.hint
    assert len(by_layers(tensors[1:], 1)) == MAX_SHARDS


QWEN = KV("general.architecture", ValueType.STRING, "qwen2")
MIXED: list[tuple[str, Any, Any]] = [
    ("general.architecture is qwen2, but llama", QWEN, None),
    ("general.file_type is 7, but 1", KV("general.file_type", ValueType.UINT32, 7), None),
    ("length of the rows of blk.*.ffn_up.weight is 32, but 64", None, (32, 2)),
]


@pytest.mark.parametrize(("says", "key", "dims"), MIXED)
def test_shards_of_two_models_are_told_apart(
    says: str, key: KV | None, dims: tuple[int, int] | None, tmp_path: Path
) -> None:
    """Whatever both say of the model is the same in both, or the second is named."""
    tensors = [tensor(f"blk.{n}.ffn_up.weight", (64, 2), GGMLType.F32) for n in range(2)]
    first, _, last = split(tiny_model(tensors=tensors), (0, 1, 1))
    if dims is not None:
        last = Model(last.metadata, (tensor("blk.1.ffn_up.weight", dims, GGMLType.F32),))
    if key is not None:
        last = Model((key, *last.metadata), last.tensors)
    middle = split(tiny_model(tensors=tensors), (0, 1, 1))[1]
    with pytest.raises(FormatError) as refused:
        merge(opened(tmp_path, [first, middle, last]))
    assert "m-00003-of-00003.gguf: " in refused.value.message
    assert says in refused.value.message
    assert refused.value.hint == "the shards are of different models"


def test_shards_are_looked_at_as_one_file(tmp_path: Path) -> None:
    """Metadata without what is about the split, all tensors, and each one's bytes."""
    model = tiny_model()
    weights = GGUFWeights(opened(tmp_path, split(model, (0, 2, 3)))[::-1])
    assert [*weights.kvs] == [entry.key for entry in model.metadata]
    assert weights.get("general.name") == "tiny" and weights.get("no", 3) == 3
    assert [t.name for t in weights.tensors] == [t.name for t in model.tensors]
    assert [weights.shard(t) for t in weights.tensors] == [1, 1, 2, 2, 2]
    for info, made in zip(weights.tensors, model.tensors, strict=True):
        assert weights.read(info, 0, info.nbytes) == bytes(made.load())
        assert weights.read(info, 1, 3) == bytes(made.load())[1:4]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=6),
    together=st.integers(1, 4),
)
def test_files_that_are_made_together_grow_together(sizes: list[list[int]], together: int) -> None:
    """Every piece comes once, a file's in order, and no file begins before its group."""
    order = interleaved(sizes, together)
    assert sorted(order) == [(f, n) for f, pieces in enumerate(sizes) for n in range(len(pieces))]
    done = [0] * len(sizes)
    for file, number in order:
        assert number == done[file]
        done[file] += 1
        group = file // together
        assert all(done[f] == len(sizes[f]) for f in range(group * together))
        mine = sum(sizes[file][:number])
        for other in range(group * together, min(len(sizes), (group + 1) * together)):
            if done[other] < len(sizes[other]):
                assert sum(sizes[other][: done[other]]) >= mine - (other < file)


@pytest.mark.parametrize("together", [1, 2, 5])
@pytest.mark.parametrize("workers", [1, 3])
def test_files_written_together_have_the_bytes_of_files_written_alone(
    together: int, workers: int
) -> None:
    """Each sink gets its own file in order, hears of its end, and progress ends at the sum."""
    models = split(tiny_model(), (0, 1, 3, 0, 1))
    made = [bytearray() for _ in models]
    ended: list[tuple[int, int]] = []
    outputs = [
        Output(model, layout(model), data.extend, lambda n=n, d=data: ended.append((n, len(d))))  # type: ignore[arg-type, misc]
        for n, (model, data) in enumerate(zip(models, made, strict=True))
    ]
    said: list[int] = []
    write_all(outputs, together=together, workers=workers, progress=said.append)
    assert [bytes(data) for data in made] == [gguf_bytes(model) for model in models]
    assert sorted(ended) == [(n, len(made[n])) for n in range(5) if models[n].tensors]
    assert said == sorted(said) and said[-1] == sum(map(len, made))
