"""Weights with changes as an origin: what decides them, which files they need, what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.build.altering import altered, changed_weights
from mbuild.build.graph import Made, Result, StepContext
from mbuild.build.request import Target
from mbuild.build.sources.values import CheckpointSource, FileStamp, SourceFile
from mbuild.build.splitting import Splitting
from mbuild.build.staged import arguments_of, staged_targets
from mbuild.build.staging import NoFiles
from mbuild.build.steps.changed import ChangeWeights
from mbuild.build.steps.changes import (
    ChangedOrigin,
    DropLayers,
    MergeAdapter,
    SetMetadata,
    held_factors,
)
from mbuild.build.steps.checking import MEASURES, CheckModel
from mbuild.build.steps.origins import GGUFOrigin
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import FailedCheckError, UsageError
from mbuild.core.names import ModelName
from mbuild.language.recipe import ModelChange, Recipe, Reference
from mbuild.language.stages.scope import Scope
from mbuild.language.stages.stage import Stage, stage_name
from mbuild.language.stages.values import QuantizeLine, StageRecipe
from mbuild.lint.stages import check_stages
from mbuild.server.stages import last_stage, target_of
from mbuild.store import Store


def file(name: str, content: str | None = "x") -> SourceFile:
    """A file whose digest is that of its content, or is not known."""
    digest = None if content is None else Digest.of(content.encode(), BLAKE3)
    return SourceFile(name, Path("/f") / name, FileStamp(1, 2, 3, 4, 5), digest)


def adapter(name: str, content: str | None = "x", weight: float = 1.0) -> MergeAdapter:
    """An adapter's folder."""
    files = {
        "adapter_config.json": file(f"{name}-c"),
        "adapter_model.safetensors": file(f"{name}-w", content),
        "README.md": file("r"),
        "optimizer.safetensors": file("o"),
    }
    return MergeAdapter(CheckpointSource(name, files), weight)


BASE = GGUFOrigin((file("m.gguf", "base"),))


def test_adapters_beside_each_other_are_the_same_in_any_order() -> None:
    """Of the key; other changes keep their places."""
    one, two, key = adapter("a"), adapter("b", "y", 0.5), SetMetadata("k", "v")
    fields = [ChangedOrigin(BASE, changes).fields() for changes in (
        (one, two), (two, one), (one, key, two), (two, key, one))]  # fmt: skip
    assert fields[0] == fields[1]
    assert fields[2] != fields[3]
    assert len({str(f) for f in fields}) == 3


def test_what_an_adapter_is_called_decides_nothing() -> None:
    """Its config and its weights do, and its own weight."""
    same = ChangedOrigin(BASE, (adapter("a"),)).fields()
    assert ChangedOrigin(BASE, (adapter("other"),)).fields() == same
    assert ChangedOrigin(BASE, (adapter("a", "y"),)).fields() != same
    assert ChangedOrigin(BASE, (adapter("a", weight=2),)).fields() != same
    assert ChangedOrigin(BASE, (adapter("a", None),)).fields() is None


def test_files_of_two_adapters_are_told_apart() -> None:
    """Each change has its number; logs and cards of the folder are not opened."""
    origin = ChangedOrigin(BASE, (adapter("a"), adapter("b")))
    assert list(origin.files) == [
        *("m.gguf", "0:adapter_config.json", "0:adapter_model.safetensors"),
        *("1:adapter_config.json", "1:adapter_model.safetensors"),
    ]
    assert [m.name for m in origin.materials] == ["m.gguf", "a", "b"]


def test_a_label_says_what_is_changed() -> None:
    """So that two stages of one base are told apart."""
    changes = (adapter("a"), adapter("b", weight=-0.5), DropLayers((1, 2)), SetMetadata("k", None))
    origin = ChangedOrigin(BASE, changes)
    assert origin.shown == "m.gguf + a + -0.5 b without layers 1 2 without k"
    step = changed_weights(origin, Splitting(keep=True))
    assert isinstance(step, ChangeWeights)
    assert step.label == f"make {origin.shown}"
    assert not step.several_layers
    assert changed_weights(origin, Splitting(size=5)).several_layers


def test_changes_of_a_recipe_become_those_of_weights() -> None:
    """In order, each with what it names."""
    recipe = (ModelChange("drop", "", [3]), ModelChange("set", "k", "v"), ModelChange("unset", "l"))
    origin = altered(BASE, recipe, [None, None, None])
    assert origin.changes == (DropLayers((3,)), SetMetadata("k", "v"), SetMetadata("l", None))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_check_is_known_by_what_it_demands(measure: str, tmp_path: Path) -> None:
    """Its key has no name in it; its cost is nothing written."""
    step = CheckModel(changed_weights(ChangedOrigin(BASE, ()), None), measure, "<", "5GB")
    assert step.key_fields() == {"measure": measure, "compare": "<", "bound": "5GB"}
    assert step.cost(Store(tmp_path)).writes == 0


@pytest.mark.parametrize(("compare", "bound", "holds"), [
    ("<", "100", True), ("<", "99", False), ("<=", "99", True), (">", "99", False),
    (">=", "99", True), (">", "98", True),
])  # fmt: skip
def test_a_size_is_compared(compare: str, bound: str, holds: bool, tmp_path: Path) -> None:
    """All layers together, 99 bytes here."""
    layer = {"mediaType": "m", "digest": f"sha256:{'0' * 64}", "size": 99}
    text = '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
    text += f'"config":{str(layer).replace(chr(39), chr(34))},'
    text += f'"layers":[{str(layer).replace(chr(39), chr(34))}]}}'
    given = Result(facts={"manifest": text})
    step = CheckModel(changed_weights(ChangedOrigin(BASE, ()), None), "size", compare, bound)
    context = StepContext.silent(Store(tmp_path))
    if holds:
        assert step.run(context, [given]) == Made(Result(facts={"size": 99}))
    else:
        with pytest.raises(FailedCheckError, match=f"CHECK size {compare} {bound}"):
            step.run(context, [given])


# Targets of stages.


def stage(name: str, *lines: QuantizeLine) -> StageRecipe:
    """A stage FROM x."""
    return StageRecipe(name, Recipe((Reference("x"),)), lines)


GIVEN = {
    **{"quantize": (), "outtype": "auto", "tensor_type_file": None, "split": None},
    **{"split_layers": None, "keep_split": False, "recipe": "llama.cpp", "imatrix": None},
    **{"pure": False, "leave_output_tensor": False, "output_tensor_type": None},
    **{"token_embedding_type": None, "tensor_type": (), "allow_requantize": False},
    **{"imatrix_from": None, "imatrix_chunks": None, "size": (), "bpw": ()},
    **{"override_kv": (), "include_weights": (), "exclude_weights": (), "prune_layers": None},
}


@pytest.mark.parametrize(
    ("names", "stages", "expected"),
    [
        (("m",), (stage("a"),), ["m:latest"]),
        (("m",), (stage("a", QuantizeLine(("q4_0", "q8_0"), {})),), ["m:q4_0", "m:q8_0"]),
        ((), (stage("a"), stage("b")), ["folder:a", "folder:b"]),
        (
            ("m:{target}-{quant}",),
            (stage("a"), stage("b", QuantizeLine(("Q4_K_M",), {}))),
            ["m:a", "m:b-q4_K_M"],
        ),
        (
            ("{target}:{quant}",),
            (stage("a", QuantizeLine(("q4_0",), {})), stage("b", QuantizeLine(("q4_0",), {}))),
            ["a:q4_0", "b:q4_0"],
        ),
    ],
)
def test_targets_have_names(
    names: tuple[str, ...], stages: tuple[StageRecipe, ...], expected: list[str]
) -> None:
    """By the stage and the type, as the templates say."""
    made = staged_targets(stages, names, lambda: "folder:latest", GIVEN, ModelName.parse).targets
    found = [f"{name.model}:{name.tag}" for target in made for name in target.names]
    assert found == expected


def test_two_targets_of_one_name_are_refused() -> None:
    """Two lines of one type in one stage."""
    lines = QuantizeLine(("q4_0",), {}), QuantizeLine(("q4_0",), {"pure": True})
    with pytest.raises(UsageError, match="two targets would be called"):
        staged_targets((stage("a", *lines),), ("m:{quant}",), lambda: "f", GIVEN, ModelName.parse)


def test_an_argument_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name alone, if it is set; else the default counts."""
    monkeypatch.setenv("SET_HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert arguments_of(("A=1=2", "SET_HERE", "NOT_HERE")) == {"A": "1=2", "SET_HERE": "yes"}
    with pytest.raises(UsageError):
        arguments_of(("=x",))


def test_a_request_makes_one_model() -> None:
    """Of the last stage; what the request says of the type counts."""
    text = "# syntax=mbuild/1\nFROM x AS a\nFROM a\nSYSTEM hi\nQUANTIZE q4_0\n"
    found = last_stage(text)
    assert found is not None
    target = target_of(found.recipe(), Target((ModelName.parse("m"),)))
    assert target.quantization is not None
    assert target.quantization.file_type.name == "Q4_0"
    assert last_stage("FROM x\n") is None


def test_a_stages_own_lines_are_checked_once() -> None:
    """A base's warnings are told with the base, not with each stage on it."""
    text = "# syntax=mbuild/1\nFROM x AS a\nPARAMETER temperature 99\nFROM a AS b\nSYSTEM b\n"
    found = check_stages(text.encode(), "M", NoFiles())
    assert [(w.code, w.span and w.span.line) for w in found.warnings] == [("odd-value", 3)]


def test_a_stages_name_is_its_own() -> None:
    """Read in either case."""
    taken = [Stage("Base", None, Scope({}))]
    assert stage_name("other", None, taken) == "other"
    with pytest.raises(Exception, match="a stage is called Base already"):
        stage_name("base", None, taken)


def test_what_adapters_take_in_memory_is_the_size_of_their_files() -> None:
    """Of each that is merged; without one it is nothing."""
    one = adapter("a")
    size = sum(each.stamp.size for each in one.files.values())
    assert size > 0 and held_factors(BASE) == held_factors(ChangedOrigin(BASE, ())) == 0
    changes = (one, DropLayers((1,)), adapter("b"))
    assert held_factors(ChangedOrigin(BASE, changes)) == 2 * size
