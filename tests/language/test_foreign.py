"""Files that are no Modelfiles, words that are no instructions: what they are is said."""

from __future__ import annotations

import pytest

from mbuild.language.diagnosis import meant_instruction, name_of
from mbuild.language.foreign import KINDS, recognise
from mbuild.language.instructions import From, System
from mbuild.language.parser import parse
from mbuild.language.recipe import Recipe, Reference, Turn
from mbuild.language.spellings import known_parameter, meant_parameter, meant_value, plain_name


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"GGUF\x03\0\0\0", "GGUF file"),
        (b"PK\x03\x04rest", "archive"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"FROM debian\nRUN apt-get update\n", "Dockerfile"),
        (b"services:\n  web:\n", "compose"),
        (b"#!/bin/sh\n", "script"),
        (b'{"a": 1}', "JSON"),
    ],
)
def test_other_files_are_recognised(data: bytes, part: str) -> None:
    """What a file is instead of a Modelfile, and what to do about it."""
    found = recognise(data, "model.bin")
    assert found is not None
    what, hint = found
    assert part in what
    assert hint
    assert "{name}" not in hint


def test_a_modelfile_is_not_taken_for_another_file() -> None:
    """Nothing is said of what begins like a Modelfile, and each kind has a remedy."""
    assert recognise(b"FROM llama3\nPARAMETER top_k 1\n", "Modelfile") is None
    assert all(kind.hint for kind in KINDS)


def test_a_character_is_named_with_its_number() -> None:
    """So that what cannot be seen can be searched for."""
    assert name_of("\u00a0") == "U+00A0 (no-break space)"
    assert "invisible" in name_of("\x07")


@pytest.mark.parametrize(("line", "meant"), [("FORM a", "FROM"), ("SYSTME hi", "SYSTEM")])
def test_a_misspelt_instruction_is_recognised(line: str, meant: str) -> None:
    """The nearest instruction is meant."""
    assert meant_instruction(line, 0) == meant
    assert meant_instruction("zzzzzz", 0) is None


@pytest.mark.parametrize(
    ("name", "known"),
    [("maxTokens", "num_predict"), ("--ctx-size", "num_ctx"), ("TOP_K", "top_k"), ("zzz", None)],
)
def test_names_of_other_programs_are_known(name: str, known: str | None) -> None:
    """Whoever comes from another program finds Ollama's name."""
    assert known_parameter(name) == known
    assert plain_name("maxTokens") == plain_name("--max-tokens") == "max_tokens"


def test_what_a_parameter_was_meant_to_be_is_asked() -> None:
    """A near name is a question, a setting of another place says which."""
    assert meant_parameter("temprature") == "did you mean temperature?"
    assert "OLLAMA_NUM_PARALLEL" in meant_parameter("num_parallel")
    assert meant_parameter("zzzzzz").startswith("Ollama has draft_num_predict, ")


@pytest.mark.parametrize(
    ("name", "text", "hint", "only"),
    [
        ("num_ctx", "8k", "did you mean 8192 or 8000?", ""),
        ("num_ctx", "8,192", "did you mean 8192?", "8192"),
        ("temperature", "0,7", "did you mean 0.7?", "0.7"),
        ("temperature", "70%", "did you mean 0.7?", "0.7"),
        ("use_mmap", "yes", "did you mean true?", "true"),
        ("top_k", "40 # few", "a comment needs a line of its own: write PARAMETER top_k 40", "40"),
        ("top_k", "many", "", ""),
    ],
)
def test_numbers_as_people_write_them_are_understood(
    name: str, text: str, hint: str, only: str
) -> None:
    """What Ollama refuses is not accepted, but the message has what to write."""
    assert meant_value(name, text) == (hint, only)


def test_a_recipe_is_the_same_after_it_was_kept() -> None:
    """The cache's text has all of it, with places, and anything else is refused."""
    modelfile = parse(
        b"FROM ./a.gguf\nADAPTER ./l\nSYSTEM one\nSYSTEM two\nPARAMETER stop x\nMESSAGE user hi\n",
        "Modelfile",
    )
    recipe = Recipe.of(modelfile)
    assert recipe.system == "two"
    assert recipe.models == (Reference("./a.gguf", recipe.models[0].span),)
    assert recipe.messages == (Turn("user", "hi"),)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert modelfile.last(From) is not None
    assert [item.value for item in modelfile.every(System)] == ["one", "two"]
    assert Recipe.from_json("{}") == Recipe(())
    for text in ("", "[]", "[1]", '{"models": 1}', '{"unknown": 1}'):
        with pytest.raises((ValueError, TypeError)):
            Recipe.from_json(text)
