"""The table of media types: the one place that says what a layer can be."""

from __future__ import annotations

import ast
import string
from pathlib import Path

from mbuild.core.digest import Digest
from mbuild.store import Layer, media
from mbuild.store.media import GGUF, MEDIA_TYPES, PREFIX, ROWS, Inheritance

PACKAGE = Path(__file__).parents[2] / "mbuild"


def test_each_named_media_type_is_a_row() -> None:
    """The constants that code compares with are texts of the table."""
    named = {
        value
        for name, value in vars(media).items()
        if name.isupper() and isinstance(value, str) and name != "PREFIX"
    }
    assert named <= MEDIA_TYPES.keys()
    assert len(MEDIA_TYPES) == len(ROWS) == len({row.name for row in ROWS})


def test_the_short_name_is_what_a_layer_calls_itself() -> None:
    """A layer's kind, which is made from any media type's text, is the row's name."""
    digest = Digest("0" * 64)
    assert [Layer(row.text, digest, 0).kind for row in ROWS] == [row.name for row in ROWS]


def test_only_what_a_modelfile_has_a_word_for_changes() -> None:
    """Layers without an instruction are kept from the base model, all others are not."""
    assert all((row.rule is Inheritance.KEPT) == (not row.word) for row in ROWS)


def test_the_rules_are_those_of_ollama() -> None:
    """Of a template there is one, licenses add up, parameters are merged key by key."""
    rules = {row.name: row.rule for row in ROWS if row.word}
    assert {name for name, rule in rules.items() if rule is Inheritance.REPLACED} == {
        "system",
        "template",
        "messages",
    }
    assert {name for name, rule in rules.items() if rule is Inheritance.MERGED} == {"params"}


def test_exported_files_of_one_model_have_names_of_their_own() -> None:
    """Every type that holds a GGUF file has a pattern for its name, and no two give the same."""
    names = [MEDIA_TYPES[text].file.format(stem="m", n="") for text in GGUF]
    assert len(set(names)) == len(names) == 4
    for text in GGUF:
        fields = {field for _, field, _, _ in string.Formatter().parse(MEDIA_TYPES[text].file)}
        assert fields - {None} == {"stem", "n"}


def test_no_other_module_writes_a_media_type_of_layers() -> None:
    """The prefix stands in the table's module and nowhere else."""
    found = [
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and PREFIX in node.value
    ]
    assert found == ["media.py"]
