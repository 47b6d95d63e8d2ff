"""A request and a Modelfile that say the same build the same model, byte for byte."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from asked import asked
from gguf_files import gguf_bytes, tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import copy_tiny_store

from mbuild.build.build import build
from mbuild.build.prepare import read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.cli.quantizing import file_type_of
from mbuild.core.errors import MbuildError, UsageError
from mbuild.core.names import ModelName
from mbuild.gguf.model import Tensor
from mbuild.gguf.types import GGMLType
from mbuild.language.parameters import PARAMETERS, ParameterType
from mbuild.language.quoting import quote
from mbuild.registry.client.access import Access
from mbuild.server.create import parameter_texts, read_creation
from mbuild.server.requests import parse_json
from mbuild.server.shapes import CREATE, check
from mbuild.store import Store

TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"), include_characters="\n"),
    max_size=30,
).filter(lambda text: '"""' not in text)
VALUES: dict[ParameterType, st.SearchStrategy[Any]] = {
    ParameterType.INT: st.integers(-(2**63), 2**63 - 1),
    ParameterType.FLOAT: st.floats(-1e30, 1e30, allow_nan=False),
    ParameterType.BOOL: st.booleans(),
    ParameterType.TEXTS: st.lists(TEXT.filter(bool), min_size=1, max_size=3),
}
PARAMETER_SETS = st.fixed_dictionaries(
    {}, optional={name: VALUES[kind] for name, kind in PARAMETERS.items()}
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "system": TEXT,
        "template": TEXT.filter(lambda text: "{{" not in text and "}}" not in text),
        "license": st.lists(TEXT.filter(bool), max_size=2),
        "parameters": PARAMETER_SETS,
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}
            ),
            max_size=3,
        ),
        "requires": st.sampled_from(["0.14.0", "v1.2.3"]),
        "renderer": st.just("qwen3-coder"),
        "parser": st.just("qwen3-coder"),
        "draft_quantize": st.sampled_from(["", "q8_0", "F16"]),
    },
)


def as_modelfile(source: str, request: dict[str, Any]) -> str:
    """The Modelfile that says what a request says."""
    lines = [f"FROM {source}"]
    lines += [f"DRAFT ./{name}" for name in request.get("draft_files", {})]
    for key in ("template", "system", "renderer", "parser", "requires"):
        if request.get(key):
            lines.append(f"{key.upper()} {quote(request[key])}")
    lines += [f"LICENSE {quote(text)}" for text in request.get("license", [])]
    for name, value in request.get("parameters", {}).items():
        for item in value if isinstance(value, list) else [value]:
            text = quote(item) if isinstance(item, str) else str(item).lower()
            lines.append(f"PARAMETER {name} {text}")
    for message in request.get("messages", []):
        lines.append(f"MESSAGE {message['role']} {quote(message['content'])}")
    return "\n".join(lines) + "\n"


def built_from_text(text: str, folder: Path, store: Store, draft_type: str) -> bytes:
    """The manifest that the command line makes of a Modelfile."""
    name = ModelName.parse("by-text")
    recipe, _ = read_recipe(text.encode(), "Modelfile", store)
    context, draft = LocalContext(folder, store), file_type_of(draft_type)
    list(build(asked(recipe, context, name, draft_quantize=draft), store))
    return store.manifests.read_bytes(name) or b""


def built_from_json(request: dict[str, Any], store: Store) -> bytes:
    """The manifest that the server makes of a request."""
    creation = read_creation(check(CREATE, request), store)
    list(build(creation.build(store, Access.of_operator(())), store))
    return store.manifests.read_bytes(creation.name) or b""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request=REQUESTS, from_file=st.booleans())
def test_request_and_modelfile_give_the_same_manifest(
    request: dict[str, Any], from_file: bool
) -> None:
    """Whatever both can say comes to the same bytes, from a model and from a file."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(copy_tiny_store(Path(folder) / "store"))
        source = {"from": "tiny"}
        if from_file:
            data = gguf_bytes(tiny_model())
            Path(folder, "m.gguf").write_bytes(data)
            store.prepare()
            source = {"files": {"m.gguf": str(store.blobs.put(data).digest)}}
        if "draft_quantize" in request:
            zeros = Tensor("token_embd.weight", (64, 4), GGMLType.F16, lambda: bytes(512))
            data = gguf_bytes(tiny_model(tensors=[zeros]))
            Path(folder, "d.gguf").write_bytes(data)
            source["draft_files"] = {"d.gguf": str(store.blobs.put(data).digest)}
        request = {**request, **source}
        text = as_modelfile("./m.gguf" if from_file else "tiny", request)
        expected = built_from_text(text, Path(folder), store, request.get("draft_quantize", ""))
        assert expected
        assert built_from_json({"model": "by-json", **request}, store) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", "0.5"),
        ("temperature", True),
        ("num_ctx", 4096.5),
        ("num_ctx", "4096"),
        ("num_ctx", True),
        ("use_mmap", 1),
        ("use_mmap", "true"),
        ("stop", 1),
        ("stop", [1]),
        ("stop", {"a": 1}),
    ],
)
def test_values_of_the_wrong_type(name: str, value: Any) -> None:
    """A JSON value of another type than the parameter's is refused in Ollama's words."""
    with pytest.raises(UsageError, match=f'option "{name}" must be of type'):
        parameter_texts(name, value)


def test_values_that_are_not_numbers(tiny_store: Store) -> None:
    """Unknown names and numbers that do not fit are refused as on the command line."""
    for parameters in ({"nonsense": 1}, {"seed": 2**64}, {"temperature": 1e300}):
        fields = check(CREATE, {"model": "x", "from": "tiny", "parameters": parameters})
        with pytest.raises(MbuildError):
            read_creation(fields, tiny_store)


def test_whole_floats_are_integers(tiny_store: Store) -> None:
    """A client whose language has one kind of number sends 4096.0."""
    assert parameter_texts("num_ctx", 4096.0) == parameter_texts("num_ctx", 4096) == ["4096"]
    assert parameter_texts("stop", "x") == ["x"]


def test_requests_of_the_same_build_have_one_key(tiny_store: Store) -> None:
    """``name`` is ``model``, ``stream`` builds nothing; another text is another build."""

    def key(**fields: Any) -> str:
        return read_creation(check(CREATE, {"from": "tiny", **fields}), tiny_store).key

    assert key(model="a", stream=True) == key(name="a") == key(model="a:latest", name="")
    assert key(model="a", system="x") != key(model="a")
    assert key(model="a") != key(model="b")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b"  \n", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"a": "b', "unexpected EOF"),
        (b"[" * 200_000, "json: exceeded max depth"),
        (b'{"a": NaN}', "invalid character"),
        (b"nope", "invalid character"),
        (b"9" * 10_000, "json: "),
    ],
)
def test_bodies_that_are_not_json(body: bytes, message: str) -> None:
    """Each gets a message, whatever Python's parser raises."""
    with pytest.raises(UsageError, match=message):
        parse_json(body)


def test_bodies_as_go_reads_them() -> None:
    """Bytes that are no UTF-8 become U+FFFD, as do half pairs; what follows is ignored."""
    assert parse_json(b'{"a": "\xff"} trailing') == {"a": "\N{REPLACEMENT CHARACTER}"}
    pair = b'["\\ud800", "\\ud83d\\ude00"]'
    assert parse_json(pair) == ["\N{REPLACEMENT CHARACTER}", "\U0001f600"]
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    assert check(CREATE, {"MODEL": "x", "unknown": 1, "from": None}) == {"model": "x"}
