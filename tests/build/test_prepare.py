"""From a request to what can run: recipes that are remembered, sources, errors with their place."""

from __future__ import annotations

from pathlib import Path

import pytest
from asked import asked
from gguf_files import tiny_gguf

from mbuild.build.build import build
from mbuild.build.prepare import (
    Build,
    check_unasked_names,
    keep_recipe,
    kept_recipe,
    plans_of,
    read_recipe,
    resolve,
)
from mbuild.build.request import BuildRequest, Script, Target
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.steps.quantize import Quantize
from mbuild.core.digest import Digest
from mbuild.core.errors import MissingFileError, ModelfileError, SourceError, UsageError
from mbuild.core.events import Warned
from mbuild.core.names import ModelName
from mbuild.language.recipe import Recipe, Reference, Turn
from mbuild.language.span import Span
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Store

NAME = ModelName.parse("m")
TEXT = b'SYSTEM """two\nlines"""\n  FROM ./model.gguf\nMESSAGE user hi\nPARAMETER top_k 3\n'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def test_a_remembered_recipe_is_the_same(store: Store) -> None:
    """Spans with their last line, messages, parameters: the cache gives back what was read."""
    first, warnings = read_recipe(TEXT, "Modelfile", store)
    again, same = read_recipe(TEXT, "Modelfile", store)
    assert (again, same) == (first, warnings)
    assert first.models == (Reference("./model.gguf", Span(3, 3, 25, 42, 30, 3)),)
    assert first.messages == (Turn("user", "hi"),)
    assert isinstance(again.models[0].span, Span)
    assert isinstance(again.messages[0], Turn)


def test_a_warning_keeps_its_place(store: Store, tmp_path: Path) -> None:
    """From the cache too; programs get it with the warning, as they get it with an error."""
    text = b"FROM ./model.gguf\n  PARAMETER low_vram true\n"
    _, (notice,) = read_recipe(text, "Modelfile", store)
    recipe, again = read_recipe(text, "Modelfile", store)
    assert again == (notice,)
    assert notice.span is not None
    assert (notice.span.line, notice.span.column) == (2, 13)
    source = Script("Modelfile", Digest.of(text), str(tmp_path))
    wanted = asked(recipe, LocalContext(tmp_path, store), NAME, source=source)
    first = next(build(wanted._replace(warnings=again), store))
    assert first == Warned(notice.message, "Modelfile", 2, 13)
    plain = wanted._replace(request=wanted.request._replace(source=None), warnings=again)
    assert next(build(plain, store)) == Warned(notice.message)


def test_a_posted_recipe_is_kept_by_its_digest(store: Store) -> None:
    """With what only a program can say of a message; one that was not kept is None."""
    recipe = Recipe(
        (Reference("x"),), messages=(Turn("user", "a", {"images": ["AA=="]}), Turn("user", "b"))
    )
    digest = keep_recipe(recipe, store)
    assert digest == Digest.of(recipe.to_json().encode())
    assert kept_recipe(digest, store) == recipe
    assert kept_recipe(Digest.of(b"other"), store) is None


def test_an_importance_matrix_is_a_source(store: Store, tmp_path: Path) -> None:
    """It is found from the command's folder, not the Modelfile's, and once for all targets."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/i.dat").write_bytes(b"matrix")
    tiny_gguf(tmp_path / "model.gguf")
    targets = tuple(
        Target((ModelName.parse(f"m:{type_}"),), Quantization(file_type(type_), imatrix="i.dat"))
        for type_ in ("q8_0", "q4_0")
    )
    request = BuildRequest((*targets, Target((NAME,))))
    recipe = Recipe((Reference("./model.gguf"),))
    context = LocalContext(tmp_path, store, directory=tmp_path / "here")
    sources = resolve(recipe, request, context)
    assert [*sources.imatrices] == ["i.dat"]
    assert sources.imatrices["i.dat"].path == tmp_path / "here/i.dat"
    first, second, plain = plans_of(Build(request, recipe, context), store)
    for made in (first, second):
        quantized = [s for s in made.manifest.inputs[0].inputs if isinstance(s, Quantize)]
        assert [step.imatrix for step in quantized] == [sources.imatrices["i.dat"]]
    assert not any(isinstance(s, Quantize) for s in plain.manifest.inputs[0].inputs)
    with pytest.raises(SourceError, match=r"i\.dat: No such file"):
        resolve(recipe, request, LocalContext(tmp_path, store, directory=tmp_path))


def test_an_error_has_the_place_of_its_instruction(store: Store, tmp_path: Path) -> None:
    """One keeps its kind and gets a problem with file, line and text; several are told together."""
    recipe, _ = read_recipe(TEXT, "Modelfile", store)
    script = Script("Modelfile", Digest.of(TEXT), str(tmp_path))
    wanted = asked(recipe, LocalContext(tmp_path, store), NAME, source=script)
    with pytest.raises(MissingFileError) as one:
        plans_of(wanted, store)
    problem = one.value.problem
    assert (problem.filename, problem.span.line, problem.line_text) == (
        "Modelfile",
        3,
        "  FROM ./model.gguf",
    )
    assert (problem.message, problem.suggestion) == (one.value.message, one.value.hint)
    both = TEXT + b"ADAPTER ./lora\n"
    recipe, _ = read_recipe(both, "Modelfile", store)
    script = script._replace(text=Digest.of(both))
    wanted = asked(recipe, LocalContext(tmp_path, store), NAME, source=script)
    with pytest.raises(ModelfileError) as several:
        plans_of(wanted, store)
    assert [found.span.line for found in several.value.problems] == [3, 6]
    assert {found.filename for found in several.value.problems} == {"Modelfile"}


def test_an_error_with_a_place_is_another_error() -> None:
    """The error that was caught stays as it was; kind, message and hint are the same."""
    error = MissingFileError("not there", hint="make it")
    placed = error.at("somewhere")
    assert (type(placed), placed.message, placed.hint) == (MissingFileError, "not there", "make it")
    assert (placed.problem, error.problem) == ("somewhere", None)


def test_a_name_that_nobody_gave_replaces_no_other_model(tiny_store: Store) -> None:
    """Without -t a model that was built from elsewhere stays."""
    script = Script("Modelfile", Digest.of(b""), "/elsewhere")
    taken = BuildRequest((Target((ModelName.parse("tiny"),)),), script)
    with pytest.raises(UsageError, match="was not built from this Modelfile"):
        check_unasked_names(taken, tiny_store)
    check_unasked_names(taken._replace(targets=(Target((ModelName.parse("free"),)),)), tiny_store)
