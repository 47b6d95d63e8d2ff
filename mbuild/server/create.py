"""``POST /api/create``: from a request's JSON to instructions, and on to one build."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mbuild import lint
from mbuild.build.plan import Options
from mbuild.build.request import Request as BuildRequest
from mbuild.build.sources.places import is_path
from mbuild.core import gojson
from mbuild.core.digest import Digest
from mbuild.core.errors import ModelfileError, UsageError
from mbuild.core.names import ModelName
from mbuild.language.instructions import (
    Adapter,
    Draft,
    From,
    Instruction,
    License,
    Message,
    Modelfile,
    Parameter,
    Parser,
    Renderer,
    Requires,
    Severity,
    System,
    Template,
)
from mbuild.language.parameters import DEPRECATED, PARAMETERS, Kind
from mbuild.language.recipe import Recipe
from mbuild.server.context import (
    FOLDER,
    MAX_FILES,
    UPLOAD_HINT,
    BlobContext,
    Files,
    gguf_names,
    is_checkpoint,
    parse_files,
)
from mbuild.server.errors import MAX_PROBLEMS
from mbuild.server.requests import model_name, parse_name
from mbuild.server.shapes import UNREAD

if TYPE_CHECKING:
    from mbuild.build.steps import Quantization
    from mbuild.store import Store

TEXTS: tuple[tuple[str, type[Template | System | Renderer | Parser | Requires]], ...] = (
    ("template", Template),
    ("system", System),
    ("renderer", Renderer),
    ("parser", Parser),
    ("requires", Requires),
)
"""Fields that are one instruction each; an empty one asks for nothing."""

INFO: Mapping[str, tuple[str, type]] = {
    "model_family": ("model_family", str),
    "base_name": ("base_name", str),
    "parameter_size": ("model_type", str),
    "quantization_level": ("file_type", str),
    "context_length": ("context_length", int),
    "embedding_length": ("embedding_length", int),
    "capabilities": ("capabilities", list),
}
"""Keys of ``info``, and the keys of the model's config that they set, with their types."""

_FURTHER = ("thinking", "images", "tool_calls", "tool_name", "tool_call_id")
"""What a message carries besides role and content, in the order of Ollama's api.Message."""


MAX_LICENSES = 1024
"""Licenses of one request: each is a layer, with a file of its own."""

MAX_TEXT = {"system": 1 << 20, "license": 4 << 20, "messages": 16 << 20}
"""Characters of a field's texts together. Every answer of ``/api/show`` holds them, twice."""

_NAMED = 100  # characters of a name that an error repeats


class Creation(NamedTuple):
    """A checked request: what to build, and which uploaded blobs it names.

    ``key`` is the same for requests that build the same.
    """

    name: ModelName
    recipe: Recipe
    files: Files
    adapters: Files
    drafts: Files
    options: Options
    warnings: tuple[str, ...]

    @property
    def key(self) -> str:
        """A text that tells builds apart."""
        files = [{name: str(digest) for name, digest in part.items()} for part in self._parts]
        return json.dumps([self.name, self.recipe, files, self.options], default=str)

    @property
    def _parts(self) -> tuple[Files, Files, Files]:
        return (self.files, self.adapters, self.drafts)

    @property
    def uploads(self) -> set[Digest]:
        """The uploaded blobs that the request names."""
        return {digest for part in self._parts for digest in part.values()}

    def build_request(self, store: Store) -> BuildRequest:
        """The build over a store."""
        context = BlobContext(store, self.name.model, self.files, self.adapters, self.drafts)
        return BuildRequest(
            self.recipe, context, (self.name,), self.options, warnings=self.warnings
        )


def read_creation(fields: Mapping[str, Any], store: Store) -> Creation:
    """Check a body; raises :class:`UsageError`, :class:`ModelfileError` or a digest's error.

    ``fields`` are those of :data:`mbuild.server.shapes.CREATE`. Nothing but the
    first bytes of uploaded blobs is read.
    """
    name = parse_name(model_name(dict(fields)))
    files = parse_files(fields.get("files", {}))
    adapters = parse_files(fields.get("adapters", {}))
    drafts = parse_files(fields.get("draft_files", {}))
    _check_sources(fields)
    _check_amounts(fields)
    sources = tuple(_sources(fields, files, adapters, drafts, store))
    recipe, warnings = _recipe(fields, sources)
    warnings = (*fields.get(UNREAD, ()), *warnings)
    return Creation(name, recipe, files, adapters, drafts, _options(fields), warnings)


def _recipe(
    fields: Mapping[str, Any], sources: tuple[Instruction, ...]
) -> tuple[Recipe, tuple[str, ...]]:
    """The request's instructions taken together, checked as a Modelfile's are."""
    messages = fields.get("messages", [])
    parameters = _parameters(fields.get("parameters", {}))
    models = sum(isinstance(item, From) for item in sources)
    if models > MAX_FILES:
        raise UsageError(f"{models} FROM lines; the limit is {MAX_FILES}")
    licenses = sum(isinstance(item, License) for item in sources)
    if licenses > MAX_LICENSES:
        raise UsageError(f"{licenses} licenses; the limit is {MAX_LICENSES}")
    modelfile = Modelfile((*sources, *_texts(fields), *parameters, *_messages(messages)))
    problems = lint.check_instructions(modelfile)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        raise ModelfileError(errors)
    recipe = _with_further(Recipe.of(modelfile), messages)
    recipe = recipe._replace(config={**recipe.config, **_info(fields.get("info", {}))})
    return recipe, tuple(problem.message for problem in problems)


def _check_sources(fields: Mapping[str, Any]) -> None:
    """Exactly one of ``from``, ``files`` and, for older clients, ``modelfile``."""
    if not fields.get("from") and "files" not in fields and not fields.get("modelfile"):
        hint = "'path' is not read: no file is opened because a request names it"
        raise UsageError(
            "neither 'from' or 'files' was specified", hint=hint if "path" in fields else ""
        )
    for key in ("adapters", "draft_files"):
        if fields.get(key) == {}:
            raise UsageError("unknown type", hint=f"{key!r} names no file")
    if fields.get("remote_host"):
        raise UsageError(
            "'remote_host' is not supported", hint="mbuild builds models on this machine only"
        )
    if fields.get("from") and fields.get("files"):
        raise UsageError("both 'from' and 'files' were specified", hint="leave one out")


def _check_amounts(fields: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for more than a model can hold, before anything is written."""
    licenses = fields.get("license", [])
    licenses = [licenses] if isinstance(licenses, str) else licenses
    if len(licenses) > MAX_LICENSES:
        raise UsageError(f"{len(licenses)} licenses; the limit is {MAX_LICENSES}")
    contents = [message.get("content") or "" for message in fields.get("messages", [])]
    for what, texts in (
        ("system", [fields.get("system", "")]),
        ("license", [text or "" for text in licenses]),
        ("messages", contents),
    ):
        length = sum(map(len, texts))
        if length > MAX_TEXT[what]:
            raise UsageError(
                f"{what!r} has {length} characters; the limit is {MAX_TEXT[what]}",
                hint="shorten it",
            )
    unknown = [
        n for n in fields.get("parameters", {}) if n not in PARAMETERS and n not in DEPRECATED
    ]
    if len(unknown) > MAX_PROBLEMS:
        named = ", ".join(repr(name[:_NAMED]) for name in unknown[:MAX_PROBLEMS])
        raise UsageError(f"{len(unknown)} unknown parameters: {named} and others")


def _sources(
    fields: Mapping[str, Any], files: Files, adapters: Files, drafts: Files, store: Store
) -> Iterator[Instruction]:
    """FROM, ADAPTER and DRAFT, or the text of a Modelfile in place of FROM."""
    if fields.get("from"):
        _check_from(fields["from"])
        yield From(fields["from"])
    elif "files" in fields:
        yield from (From(name) for name in _names(files, store))
    else:
        from mbuild.language.parser import parse

        yield from parse(fields["modelfile"].encode(), "modelfile").instructions
    if adapters:
        yield from (Adapter(name) for name in _names(adapters, store))
    if drafts:
        yield from (Draft(name) for name in _names(drafts, store))


def _check_from(value: str) -> None:
    """``from`` is a model's name; raises :class:`UsageError` with what to do about a path."""
    try:
        parse_name(value)
    except UsageError as error:
        if not is_path(value) and "/" not in value and "\\" not in value:
            raise
        raise UsageError(error.message, hint=UPLOAD_HINT) from None


def _names(files: Files, store: Store) -> Sequence[str]:
    """What names a request's files: a directory with safetensors is one, GGUF files are each.

    Raises :class:`UsageError` for files that are both.
    """
    if not is_checkpoint(files):
        return gguf_names(files, store)
    gguf = next((name for name in files if name.endswith(".gguf")), None)
    if gguf is not None:
        raise UsageError(
            "files of two kinds: safetensors and GGUF", hint=f"leave {gguf!r} out or send it alone"
        )
    return [FOLDER]


def _texts(fields: Mapping[str, Any]) -> Iterator[Instruction]:
    for name, kind in TEXTS:
        if fields.get(name):
            yield kind(fields[name])
    given = fields.get("license", [])
    if isinstance(given, str):
        given = [given] if given else []
    yield from (License(text or "") for text in given)


def _parameters(values: Mapping[str, Any]) -> Iterator[Parameter]:
    """PARAMETER instructions; raises :class:`UsageError` for a value of the wrong JSON type."""
    for name, value in values.items():
        if value is None and name in PARAMETERS:
            continue  # a client that sends all options, given or not
        for text in parameter_texts(name, value):
            yield Parameter(name, text)


def parameter_texts(name: str, value: Any) -> list[str]:
    """A typed value as the text that PARAMETER would have, several for a list.

    An unknown name gets any text: the check of the instructions says what is
    wrong with it.
    """
    kind = PARAMETERS.get(name)
    if kind is None:
        return [value if isinstance(value, str) else json.dumps(value)[:100]]
    texts = _TEXTS_OF[kind](value)
    if texts is None:
        raise UsageError(f"option {name!r} must be of type {_TYPE_NAMES[kind]}".replace("'", '"'))
    return texts


def _integer(value: Any) -> list[str] | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return [str(int(value))]


def _float(value: Any) -> list[str] | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return [repr(value)]


def _bool(value: Any) -> list[str] | None:
    return [str(value).lower()] if isinstance(value, bool) else None


def _strings(value: Any) -> list[str] | None:
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list) and all(isinstance(text, str) for text in values):
        return values
    return None


_TEXTS_OF = {Kind.INT: _integer, Kind.FLOAT: _float, Kind.BOOL: _bool, Kind.TEXTS: _strings}
_TYPE_NAMES = {
    Kind.INT: "integer",
    Kind.FLOAT: "float32",
    Kind.BOOL: "boolean",
    Kind.TEXTS: "array of strings",
}
"""As Ollama's errors call them."""


def _messages(values: list[Mapping[str, Any]]) -> Iterator[Message]:
    for value in values:
        yield Message(value.get("role", "").lower(), value.get("content", ""))


def _with_further(recipe: Recipe, values: list[Mapping[str, Any]]) -> Recipe:
    """The messages with what MESSAGE cannot say, in the order in which Go writes it."""
    further = [
        {key: _tool_calls(value[key]) for key in _FURTHER if value.get(key)} for value in values
    ]
    if not any(further):
        return recipe
    plain = len(recipe.messages) - len(further)  # those of a Modelfile's text
    pairs = zip(recipe.messages, [*({} for _ in range(plain)), *further], strict=True)
    return recipe._replace(
        messages=tuple((*message[:2], more) if more else message for message, more in pairs)
    )


def _tool_calls(value: Any) -> Any:
    """Calls of tools with their keys as Go has them; any other value as it is."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return value
    calls = []
    for item in value:
        function = item.get("function")
        function = function if isinstance(function, dict) else {}
        call = {"id": item["id"]} if item.get("id") else {}
        index, name = function.get("index") or 0, function.get("name") or ""
        arguments = function.get("arguments") or {}
        calls.append({**call, "function": {"index": index, "name": name, "arguments": arguments}})
    return calls


def _info(values: Mapping[str, Any]) -> dict[str, Any]:
    """What ``info`` sets in the model's config; raises :class:`UsageError` for wrong types."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in INFO or value is None:
            continue
        target, kind = INFO[key]
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if kind is list:
            fits = fits and all(isinstance(item, str) for item in value)
        if not fits or len(gojson.dumps(value)) > _MAX_INFO:
            raise UsageError(f"info: {key} must be of type {kind.__name__}")
        if kind is int and value < 0:
            raise UsageError(f"info: {key} must not be negative")
        found[target] = value
    return found


_MAX_INFO = 64 << 10


def _options(fields: Mapping[str, Any]) -> Options:
    """The build's options; raises :class:`UsageError` for a type that nobody knows."""
    model = _quantization(fields.get("quantize") or fields.get("quantization"))
    draft = _quantization(fields.get("draft_quantize"))
    return Options(quantizations=(model,) if model else (), draft_quantization=draft)


def _quantization(text: str | None) -> Quantization | None:
    if not text:
        return None
    from mbuild.build.steps import Quantization
    from mbuild.quant.choose.types import file_type

    return Quantization(file_type(text).name)
