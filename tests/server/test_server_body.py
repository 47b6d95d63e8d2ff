"""The body of a create request as a value: each field of its own type, or an error."""

from __future__ import annotations

from typing import Any

import pytest

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import MbuildError, UsageError
from mbuild.core.names import ModelName
from mbuild.language.recipe import Turn
from mbuild.server.body import INFO, MAX_LICENSES, MAX_TEXT, CreateBody
from mbuild.server.fields import FILES, INTEGER, NUMBERS, OBJECT, Type
from mbuild.server.shapes import CREATE, check

ANY = Digest.of(b"any")


def body(**fields: Any) -> CreateBody:
    """A body FROM a model, with fields as a client sends them."""
    return CreateBody.of(check(CREATE, {"model": "mario", "from": "tiny", **fields}))


def refused(**fields: Any) -> str:
    """What is said of a body that asks for something that cannot be."""
    with pytest.raises(UsageError) as caught:
        body(**fields)
    return caught.value.message


def test_a_field_that_says_nothing_is_empty() -> None:
    """A name and a base are enough; of files one knows whether they were sent at all."""
    least = body(system="", template="", license="", parser=None)
    assert (least.name, least.base) == (ModelName.parse("mario"), "tiny")
    assert least.files is None
    assert (least.texts, least.licenses, least.parameters, least.messages) == ({}, (), {}, ())
    assert (least.quantization, least.draft_quantize, least.unread) == (None, None, ())
    assert CreateBody.of({"model": "m", "files": {}}).files == {}


def test_files_are_digests() -> None:
    """Of each kind, by the names that the client gave them."""
    files = {"m.gguf": str(ANY)}
    found = CreateBody.of(
        {"model": "m", "files": files, "adapters": {"l": str(ANY)}, "draft_files": {"d": str(ANY)}}
    )
    assert (found.files, found.adapters, found.drafts) == ({"m.gguf": ANY}, {"l": ANY}, {"d": ANY})
    with pytest.raises(DigestError):
        CreateBody.of({"model": "m", "files": {"m.gguf": "latest"}})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "m"}, "neither 'from' or 'files' was specified"),
        ({"model": "m", "path": "/x"}, "neither 'from' or 'files' was specified"),
        ({"model": "m", "from": "t", "files": {"a": str(ANY)}}, "both 'from' and 'files'"),
        ({"model": "m", "from": "t", "adapters": {}}, "unknown type"),
        ({"model": "m", "from": "t", "draft_files": {}}, "unknown type"),
        ({"model": "m", "from": "t", "remote_host": "h"}, "'remote_host' is not supported"),
        ({"model": "m", "from": "/etc/passwd"}, "invalid model name"),
    ],
)
def test_it_starts_from_one_thing(fields: dict[str, Any], told: str) -> None:
    """A model or files, never a path."""
    with pytest.raises(UsageError) as caught:
        CreateBody.of(fields)
    assert caught.value.message.startswith(told)


def test_whoever_names_a_path_is_told_to_upload() -> None:
    """In the field that was meant for a model's name."""
    for value in ("/models/m", "./m.gguf", "m/../x/y"):
        with pytest.raises(UsageError) as caught:
            body(**{"from": value})
        assert "POST /api/blobs/" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "licenses"),
    [("MIT", ("MIT",)), (["MIT", None, ""], ("MIT", "", "")), ([], ()), ("", ())],
)
def test_licenses_are_one_text_or_several(given: Any, licenses: tuple[str, ...]) -> None:
    """In a list an empty one is one, as in Ollama."""
    assert body(license=given).licenses == licenses


def test_a_message_keeps_what_an_instruction_cannot_say() -> None:
    """Its role in lower case, and calls of tools with Go's keys in Go's order."""
    call = {"function": {"arguments": {"x": 1}, "name": "f"}, "type": "function"}
    (turn,) = body(messages=[{"role": "Assistant", "tool_calls": [call], "images": []}]).messages
    assert (turn.role, turn.content) == ("assistant", "")
    assert turn.further == {
        "tool_calls": [{"function": {"index": 0, "name": "f", "arguments": {"x": 1}}}]
    }
    assert list(turn.further["tool_calls"][0]["function"]) == ["index", "name", "arguments"]
    assert body(messages=[{"role": "user", "content": "hi"}]).messages == (Turn("user", "hi"),)


def test_info_sets_the_configs_keys() -> None:
    """Under the names of the config; what nobody knows there is ignored."""
    values = {
        "model_family": "llama",
        "parameter_size": "8B",
        "context_length": 4096.0,
        "capabilities": ["tools"],
        "embedding_length": None,
        "color": "red",
    }
    assert body(info=values).config == {
        "model_family": "llama",
        "model_type": "8B",
        "context_length": 4096,
        "capabilities": ["tools"],
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_family", 1),
        ("context_length", "4096"),
        ("context_length", 1.5),
        ("context_length", True),
        ("context_length", -1),
        ("capabilities", ["tools", 1]),
        ("model_family", "x" * (64 << 10)),
    ],
)
def test_info_of_another_type_is_named(key: str, value: Any) -> None:
    """It would be in the config of every copy of the model."""
    assert key in INFO
    assert refused(info={key: value}).startswith(f"info: {key} must ")


def test_a_quantization_is_one_value() -> None:
    """Under either of Ollama's names; an option without it would do nothing."""
    one, two = body(quantize="q4_K_M"), body(quantization="Q4_K_M")
    assert one.quantization is not None
    assert one.quantization == two.quantization
    assert one.quantization.file_type.name == "Q4_K_M"
    assert refused(imatrix={"i.dat": str(ANY)}) == "'imatrix' has no effect without 'quantize'"
    with pytest.raises(MbuildError, match="q4_X"):
        body(quantize="q4_X")


def test_an_importance_matrix_is_one_uploaded_file() -> None:
    """The option names it, and its digest is among the request's files."""
    found = body(quantize="q4_0", imatrix={"i.dat": str(ANY)})
    assert found.quantization is not None
    assert found.quantization.imatrix == "i.dat"
    assert found.imatrices == {"i.dat": ANY}
    two = {"a.dat": str(ANY), "b.dat": str(ANY)}
    assert refused(quantize="q4_0", imatrix=two) == "'imatrix' names 2 files"


@pytest.mark.parametrize(
    ("most", "more", "told"),
    [
        ({"license": ["x"] * MAX_LICENSES}, {"license": ["x"] * (MAX_LICENSES + 1)}, "1025 lice"),
        (
            {"system": "x" * MAX_TEXT["system"]},
            {"system": "x" * (MAX_TEXT["system"] + 1)},
            "'system' has 1048577 characters; the limit is 1048576",
        ),
        (
            {"license": ["x" * MAX_TEXT["license"]]},
            {"license": ["x" * MAX_TEXT["license"], "y"]},
            "'license' has",
        ),
    ],
)
def test_amounts_have_limits(most: dict[str, Any], more: dict[str, Any], told: str) -> None:
    """Of all texts of a field together; as much as that is taken."""
    assert body(**most).licenses or body(**most).texts
    assert refused(**more).startswith(told)


def test_many_unknown_parameters_are_told_in_few_words() -> None:
    """An error as long as the request would help nobody."""
    told = refused(parameters={f"p{n}" + "x" * 1000: 1 for n in range(5000)})
    assert told.startswith("5000 unknown parameters: 'p0x")
    assert len(told) < 20_000


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (INTEGER, True, "cannot unmarshal bool into Go struct field B.f of type int"),
        (NUMBERS, [1, "2"], "cannot unmarshal string into Go struct field B.f of type int"),
        (FILES, {"a": 1}, "cannot unmarshal number into Go struct field B.f of type string"),
        (OBJECT, [], "cannot unmarshal array into Go struct field B.f of type map"),
    ],
)
def test_a_field_s_type_is_checked_as_go_checks_it(kind: Type, value: Any, said: str) -> None:
    """Truth values are no numbers, and what is wrong inside is named by the field it is in."""
    with pytest.raises(UsageError, match=said):
        kind.check(value, "B.f")
