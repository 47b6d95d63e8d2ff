"""``show --modelfile`` prints a Modelfile that builds the same layers again."""

from __future__ import annotations

import tempfile
from pathlib import Path

from asked import asked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import copy_tiny_store

from mbuild.build.build import build
from mbuild.build.prepare import read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.names import ModelName
from mbuild.language.recipe import Recipe, Reference, Turn
from mbuild.models.library import by_path, modelfile_of, view
from mbuild.store import Layer, Store

# What can be in a layer through a Modelfile: anything but the two line-end
# combinations that no quoting can say, and what trimming removes.
awkward = st.text(st.sampled_from('ab"\t \n\r\u200d\u00a0#<é{'), max_size=12)
texts = st.one_of(awkward, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))

numbers = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 1e-7, 3.4028235e38, -0.0, 16777216.0]),
        "top_k": st.sampled_from([0.0, 40.0, -1.0, 9.223372036854776e18, -9.223372036854776e18]),
        "use_mmap": st.booleans(),
        "stop": st.lists(texts, min_size=1, max_size=3),
    },
)


def expressible(recipe: Recipe) -> bool:
    """Whether the language has a way to write every value."""
    from mbuild.core.errors import ModelfileError
    from mbuild.language.quoting import quote

    values = [recipe.template, recipe.system, *recipe.licenses]
    values += recipe.parameters.get("stop", [])
    values += [turn.content for turn in recipe.messages]
    try:
        for value in values:
            quote(value)
    except ModelfileError:
        return False
    return True


turns = st.builds(Turn, st.sampled_from(["user", "assistant", "system"]), texts, st.just({}))
recipes = st.builds(
    Recipe,
    models=st.just((Reference("tiny"),)),
    adapters=st.just(()),
    drafts=st.just(()),
    template=st.sampled_from(["", "{{ .Prompt }}", '"{{ .System }}"', " {{ .Prompt }}\n"]),
    system=texts,
    licenses=st.lists(texts, max_size=2).map(tuple),
    parameters=numbers,
    messages=st.lists(turns).map(tuple),
    changes=st.just(()),
    unset=st.just(()),
    config=st.fixed_dictionaries(
        {},
        optional={
            "renderer": st.just("qwen3"),
            "parser": st.just("x y"),
            "requires": st.just("0.14.0"),
        },
    ),
).filter(expressible)


def build_recipe(store: Store, recipe: Recipe, name: str) -> list[Layer]:
    """Build, and the layers without where they were inherited from."""
    parsed = ModelName.parse(name)
    context = LocalContext(Path(store.root), store)
    for _ in build(asked(recipe, context, parsed), store):
        pass
    manifest = store.manifests.read(parsed).manifest
    return [layer._replace(origin="") for layer in (manifest.config, *manifest.layers)]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(recipe=recipes)
def test_the_printed_modelfile_builds_the_same_layers(recipe: Recipe) -> None:
    """Layers, config and their order come out again from what show prints."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(copy_tiny_store(Path(folder) / "store"))
        first = build_recipe(store, recipe, "first")
        printed = modelfile_of(view(store, ModelName.parse("first")), by_path(store))
        again, _ = read_recipe(printed.encode(), "Modelfile", store)
        assert build_recipe(store, again, "second") == first
