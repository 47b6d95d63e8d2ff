"""The options about several files: one table, which everything that takes or shows them follows."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from gguf_files import tensor, tiny_gguf, tiny_model, tiny_shards

from mbuild.build.graph import StepContext
from mbuild.build.request import BuildRequest, Target
from mbuild.build.sources.values import FileStamp, SourceFile
from mbuild.build.splitting import SPLITTING, SPLITTING_NAMES, Splitting, split_fields
from mbuild.build.steps.gguf import Role
from mbuild.build.steps.kinds import KINDS
from mbuild.build.steps.origins import GGUFOrigin
from mbuild.build.steps.shards import KeepShards, SplitWeights
from mbuild.cli.main import WITH_VALUE
from mbuild.cli.splitting import cutting_options, splitting_of, splitting_options
from mbuild.core.errors import SourceError, StoreError, UsageError
from mbuild.core.names import ModelName
from mbuild.core.units import exact_size, parse_size
from mbuild.gguf.types import GGMLType
from mbuild.server.shapes import CREATE
from mbuild.store import Store


def test_every_field_is_a_row_that_both_front_ends_take() -> None:
    """Flag, help, value, the API's field, the name in explanations: all from the table."""
    assert (*SPLITTING,) == Splitting._fields
    command = splitting_options(click.Command("options"))
    asked = {name: param for param in command.params for name in param.opts}
    for field, option in SPLITTING.items():
        param = asked[option.flag]
        assert isinstance(param, click.Option)
        assert (param.name, param.help) == (option.name, option.help)
        assert (option.flag in WITH_VALUE) == bool(option.kind.metavar)
        assert option.name in CREATE.fields
        assert SPLITTING_NAMES["splitting", field] == option.flag
    few = cutting_options(click.Command("few"))
    assert {param.opts[0] for param in few.params} == {"--split", "--split-layers"}


@pytest.mark.parametrize(
    ("given", "value", "flags"),
    [
        ({"split": "40GB"}, Splitting(size=40_000_000_000), [("--split", "40GB")]),
        ({"split": 1536}, Splitting(size=1536), [("--split", "1536")]),
        ({"split": "1GiB"}, Splitting(size=1 << 30), [("--split", str(1 << 30))]),
        ({"split_layers": "4"}, Splitting(layers=4), [("--split-layers", "4")]),
        ({"keep_split": True}, Splitting(keep=True), [("--keep-split", "")]),
        ({"keep_split": False, "split": None}, None, []),
        ({}, None, []),
    ],
)
def test_options_are_read_and_written(
    given: dict[str, object], value: Splitting | None, flags: list[tuple[str, str]]
) -> None:
    """From texts and JSON, and back; a request has them, and a command line gives them again."""
    assert Splitting.parse(given) == value
    assert (
        splitting_of({"split": None, "split_layers": None, "keep_split": False, **given}) == value
    )
    request = BuildRequest((Target((ModelName.parse("m"),)),), splitting=value)
    assert BuildRequest.from_json(request.to_json()) == request
    assert request.flags() == flags
    assert split_fields(value).keys() == ({"splitting"} if value else set())
    if value is not None:
        assert Splitting.parse(value.to_json()) == value


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"split": "1GB", "keep_split": True}, "--split and --keep-split cannot be combined"),
        ({"split": True}, "True is not a size"),
        ({"split": "-1"}, "is not a size"),
        ({"split_layers": 0}, "0 is not a whole number of at least 1"),
        ({"split_layers": True}, "True is not a whole number of at least 1"),
        ({"keep_split": "yes"}, "neither true nor false"),
        ({"shards": 3}, "unknown option of splitting 'shards'"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], says: str) -> None:
    """One error, which names the option or the value."""
    with pytest.raises(UsageError) as refused:
        Splitting.parse(given)
    assert says in refused.value.message


@pytest.mark.parametrize("size", [1, 999, 1000, 1500, 40_000_000_000, 1 << 40, 5 * 10**12])
def test_a_size_is_written_so_that_it_is_read_back(size: int) -> None:
    """In the largest unit of which it is a whole number."""
    assert parse_size(exact_size(size)) == size
    assert len(exact_size(size)) <= len(str(size))


def test_where_a_model_is_cut() -> None:
    """By size, by layers, or where its source was; and not at all where that was one file."""
    model = tiny_model(tensors=[tensor(f"blk.{n}.x", (32,), GGMLType.F32) for n in range(4)])
    assert Splitting(size=256).counts(model) == (0, 2, 2)
    assert Splitting(layers=3).counts(model) == (0, 3, 1)
    assert Splitting(keep=True).counts(model) == ()


def source(path: Path) -> SourceFile:
    return SourceFile(path.name, path, FileStamp.of(path.stat()), None)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    """What a running step may use, on an empty store; nobody hears of it."""
    store = Store(tmp_path / "store")
    store.prepare()
    return StepContext.silent(store)


def test_steps_of_several_layers(tmp_path: Path, context: StepContext) -> None:
    """What is kept and what is cut: layers in order, the whole model's facts, known files."""
    files = tuple(map(source, tiny_shards(tmp_path, "x", [2, 3])))
    keep = KeepShards(files, Role.MODEL)
    assert keep.several_layers and keep.key_fields() is None
    made = keep.run(context, [])
    assert [layer.size for layer in made.result.layers] == [f.stamp.size for f in files]
    assert made.new == made.result.layers
    known = keep.learned(made.files)
    assert known.key_fields() is not None
    assert keep.run(context, []).new == ()
    whole = source(tiny_gguf(tmp_path / "m.gguf"))
    cut = SplitWeights(GGUFOrigin((whole,)), Splitting(layers=1))
    split = cut.run(context, [])
    assert len(split.result.layers) == 3
    assert split.result.facts == made.result.facts
    assert cut.cost(context.store).writes == sum(layer.size for layer in split.result.layers)
    assert {KINDS[step.kind] for step in (keep, cut)} == {KeepShards, SplitWeights}


@pytest.mark.parametrize("keep", [True, False])
def test_the_disk_must_have_room_for_all_files(
    tmp_path: Path, context: StepContext, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    """It is asked once, for the sum, before a byte of the first one is written."""
    shards = tuple(map(source, tiny_shards(tmp_path, "x", [2, 3])))
    whole = source(tiny_gguf(tmp_path / "m.gguf"))
    step = KeepShards(shards, Role.MODEL) if keep else SplitWeights(
        GGUFOrigin((whole,)), Splitting(layers=1)
    )  # fmt: skip
    asked: list[int] = []

    def check_room(folder: Path, size: int, work: str) -> None:
        asked.append(size)
        raise StoreError("the disk is full")

    monkeypatch.setattr("mbuild.store.blobs.check_room", check_room)
    with pytest.raises(StoreError, match="the disk is full"):
        step.run(context, [])
    assert asked == [step.cost(context.store).writes]
    assert not [p for p in (tmp_path / "store").rglob("*") if p.is_file() and p.stat().st_size > 99]


def test_a_projector_is_not_split(tmp_path: Path, context: StepContext) -> None:
    """Nor kept in shards: it is named, and what to do."""
    projector = source(tiny_gguf(tmp_path / "p.gguf", kind="projector"))
    with pytest.raises(SourceError, match=r"FROM p\.gguf: it is a projector"):
        SplitWeights(GGUFOrigin((projector,)), Splitting(layers=1)).run(context, [])
    shards = tuple(map(source, tiny_shards(tmp_path, "p", [0, 1], kind="projector")))
    with pytest.raises(SourceError, match="it is a projector"):
        KeepShards(shards, Role.MODEL).run(context, [])
