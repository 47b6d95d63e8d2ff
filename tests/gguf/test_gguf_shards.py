"""Split models: what belongs together, what is missing, and merging back to the original."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gguf_files import entry, gguf_bytes, tensor, tiny_gguf, tiny_model, tiny_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from mbuild.core.errors import FormatError
from mbuild.gguf.model import KV, Model
from mbuild.gguf.reader import GGUFFile, open_gguf
from mbuild.gguf.shards import ShardName, is_shard, merge, missing_shards, parse_shard_name
from mbuild.gguf.types import GGMLType, ValueType


def opened(paths: list[Path]) -> list[GGUFFile]:
    return [open_gguf(path) for path in paths]


def rewrite(path: Path, tensors: Any = None, **changes: Any) -> None:
    """Write a shard anew with other ``split.*`` values (dots as underscores) or tensors."""
    with open_gguf(path) as file:
        model = file.model()
        new = {key.replace("_", "."): value for key, value in changes.items()}
        metadata = tuple(
            KV(kv.key, kv.type, new.get(kv.key, kv.value), kv.element)
            for kv in model.metadata
            if new.get(kv.key, 0) is not None
        )
        data = gguf_bytes(Model(metadata, model.tensors if tensors is None else tensors))
    path.write_bytes(data)


@pytest.mark.parametrize("sizes", [[5], [2, 3], [0, 5], [1, 1, 1, 1, 1], [3, 0, 2]])
def test_a_split_model_merges_to_the_unsplit_one(sizes: list[int], tmp_path: Path) -> None:
    """Whatever the order of the shards, the merged file has the original's bytes."""
    shards = opened(tiny_shards(tmp_path, "m", sizes))
    whole = gguf_bytes(tiny_model())
    assert gguf_bytes(merge(shards)) == whole
    assert gguf_bytes(merge(shards[::-1])) == whole


@settings(max_examples=30, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 5), max_size=4).map(sorted), order=st.randoms())
def test_any_split_merges_back(
    cuts: list[int], order: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Split anywhere and shuffled, the model comes back."""
    edges = [0, *cuts, 5]
    sizes = [b - a for a, b in pairwise(edges)]
    shards = opened(tiny_shards(tmp_path_factory.mktemp("split"), "x", sizes, seed=3))
    order.shuffle(shards)
    assert gguf_bytes(merge(shards)) == gguf_bytes(tiny_model(seed=3))


def test_a_single_file_is_its_own_merge(tmp_path: Path) -> None:
    """A file that is not split passes through; keys that a merge by llama.cpp left behind go."""
    path = tiny_gguf(tmp_path / "m.gguf")
    assert gguf_bytes(merge(opened([path]))) == path.read_bytes()
    left = {
        "split.no": KV("split.no", ValueType.UINT16, 0),
        "split.count": KV("split.count", ValueType.UINT16, 0),
        "split.tensors.count": KV("split.tensors.count", ValueType.INT32, 5),
    }
    merged = open_gguf(tiny_gguf(tmp_path / "merged.gguf", metadata=left))
    assert not is_shard(merged)
    assert gguf_bytes(merge([merged])) == path.read_bytes()


def test_names_are_taken_apart() -> None:
    """Only gguf-split's names are shards' names; siblings are all of them, in order."""
    shard = parse_shard_name("a-b-00002-of-00003.gguf")
    assert shard == ShardName("a-b", 2, 3)
    assert str(shard) == "a-b-00002-of-00003.gguf"
    assert shard.siblings == tuple(f"a-b-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    assert missing_shards(shard, {str(shard), "other"}) == (shard.siblings[0], shard.siblings[2])
    for other in (
        "model.gguf",
        "m-00004-of-00003.gguf",
        "m-00000-of-00003.gguf",
        "m-1-of-3.gguf",
        "m-00001-of-00003.gguf.part",
        "m-00001-of-00003.safetensors",
        "-00001-of-00003.gguf",
        "m-00001-of-00003.gguf\n",
        "m-٠٠٠٠١-of-00003.gguf",
    ):
        assert parse_shard_name(other) is None, other


def test_missing_shards_are_named(tmp_path: Path) -> None:
    """The error lists the files to get."""
    paths = tiny_shards(tmp_path, "m", [2, 1, 2])
    with pytest.raises(FormatError, match=r"missing m-00001-of-00003.gguf, m-00003-of-00003.gguf$"):
        merge(opened([paths[1]]))
    first = tmp_path / "blob"
    paths[0].rename(first)
    with pytest.raises(FormatError, match=r"missing shard 2 of 3, shard 3 of 3$"):
        merge(opened([first]))


def test_a_hostile_count_is_answered_briefly(tmp_path: Path) -> None:
    """65,535 missing shards are not listed one by one."""
    paths = tiny_shards(tmp_path, "m", [2, 3])
    rewrite(paths[0], split_count=65535)
    paths[0].rename(tmp_path / "m.gguf")
    with pytest.raises(FormatError, match=r"and 65529 more$"):
        merge(opened([tmp_path / "m.gguf"]))


def test_a_count_of_any_size_is_not_counted_up_to(tmp_path: Path) -> None:
    """A number of 64 bits takes no more time and memory than another."""
    count = KV("split.count", ValueType.UINT64, 1 << 62)
    number = KV("split.no", ValueType.UINT64, 3)
    path = tiny_gguf(tmp_path / "m.gguf", metadata={"split.count": count, "split.no": number})
    with pytest.raises(FormatError, match=r"shard 6 of \d{19} and 4611686018427387898 more$"):
        merge(opened([path]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split_count": 3}, "split.count is 3, but 2 in"),
        ({"split_count": 0}, "split.count is 0, so it is not a shard"),
        ({"split_no": 0}, "says shard 1 of 2, the name says 2 of 2"),
        ({"split_no": 7}, "split.no is 7, not 0 to 1"),
        ({"split_tensors_count": 6}, "split.tensors.count is 6, but the shards hold 5"),
    ],
)
def test_numbers_that_disagree_are_refused(
    changes: dict[str, int], says: str, tmp_path: Path
) -> None:
    """Count, number and tensor count must be those of one model, and of the file's name."""
    paths = tiny_shards(tmp_path, "m", [2, 3])
    with open_gguf(paths[1]) as second:  # give it an architecture, so that any number is read
        model = second.model()
        arch = entry("general.architecture", "llama")
        paths[1].write_bytes(gguf_bytes(Model((arch, *model.metadata), model.tensors)))
    rewrite(paths[1], **changes)
    with pytest.raises(FormatError, match=says):
        merge(opened(paths))


def test_a_shard_given_twice_is_refused(tmp_path: Path) -> None:
    """Both names are in the message."""
    paths = tiny_shards(tmp_path, "m", [2, 3])
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(paths[1].read_bytes())
    with pytest.raises(FormatError, match=r"copy.gguf: shard 2 of 2 is given twice.*m-00002-of"):
        merge(opened([*paths, copy]))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    """A tensor has one home."""
    paths = tiny_shards(tmp_path, "m", [2, 3])
    twice = tuple(tensor(name, (8,), GGMLType.F32) for name in ("token_embd.weight", "a", "b"))
    rewrite(paths[1], tensors=twice)
    with pytest.raises(FormatError, match=r"'token_embd\.weight' is also in .*m-00001-of"):
        merge(opened(paths))


def test_different_alignment_is_refused(tmp_path: Path) -> None:
    """Shards are aligned alike, or were not split together."""
    paths = tiny_shards(tmp_path, "m", [2, 3], metadata={"general.alignment": 64})
    with pytest.raises(FormatError, match="alignment 32, but 64 in"):
        merge(opened(paths))


def test_unrelated_files_do_not_merge(tmp_path: Path) -> None:
    """Two whole models are not shards of one."""
    files = [tiny_gguf(tmp_path / name) for name in ("a.gguf", "b.gguf")]
    with pytest.raises(FormatError, match=r"split\.count is None"):
        merge(opened(files))
    with pytest.raises(FormatError, match="no GGUF file"):
        merge([])
