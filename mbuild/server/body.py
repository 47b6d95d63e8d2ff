"""The body of ``POST /api/create`` as a typed value: read and checked once, before all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.build.sources.places import is_path
from mbuild.build.sources.posted import UPLOAD_HINT, Files, parse_files
from mbuild.build.splitting import HALVES, SPLITTING, Halves, Splitting
from mbuild.convert.conversion import CONVERSION, Conversion
from mbuild.core import gojson
from mbuild.core.errors import UsageError
from mbuild.core.values import NamedTuple
from mbuild.language.parameters import DEPRECATED, PARAMETERS
from mbuild.language.recipe import Turn
from mbuild.quant.choose.options import FILE, OPTIONS, RULES, Option, Quantization
from mbuild.server.errors import MAX_PROBLEMS
from mbuild.server.requests import model_name, parse_name
from mbuild.server.shapes import UNREAD

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.core.names import ModelName
    from mbuild.quant.choose.types import FileType

TEXTS = ("template", "system", "renderer", "parser", "requires")
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

_MAX_INFO = 64 << 10

_FURTHER = ("thinking", "images", "tool_calls", "tool_name", "tool_call_id")
"""What a message carries besides role and content, in the order of Ollama's api.Message."""

MAX_LICENSES = 1024
"""Licenses of one request: each is a layer, with a file of its own."""

MAX_TEXT = {"system": 1 << 20, "license": 4 << 20, "messages": 16 << 20}
"""Characters of a field's texts together. Every answer of ``/api/show`` holds them, twice."""

_NAMED = 100  # characters of a name that an error repeats


class CreateBody(NamedTuple):
    """What a create request says, each field of its own type.

    ``base`` is ``from``; ``files`` is None where the field is missing. ``texts`` are those of
    :data:`TEXTS` that are not empty; ``config`` is what ``info`` and ``capabilities`` set in
    the model's config; ``unread`` says what to say of fields that nobody reads. ``named`` are
    the files that ``modelfile`` may name, where it may.
    """

    name: ModelName
    base: str
    modelfile: str
    files: Files | None
    adapters: Files
    drafts: Files
    imatrices: Files
    texts: Mapping[str, str]
    licenses: tuple[str, ...]
    parameters: Mapping[str, Any]
    messages: tuple[Turn, ...]
    config: Mapping[str, Any]
    quantization: Quantization | None
    splitting: Splitting | None
    conversion: Conversion
    halves: Halves
    draft_quantize: FileType | None
    unread: tuple[str, ...]
    named: Mapping[str, Digest] = {}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> CreateBody:
        """Check the fields of :data:`mbuild.server.shapes.CREATE`.

        Raises :class:`UsageError`, or :class:`DigestError` for what is no digest of a file.
        """
        name = parse_name(model_name(dict(fields)))
        files = parse_files(fields["files"]) if "files" in fields else None
        adapters = parse_files(fields.get("adapters", {}))
        drafts = parse_files(fields.get("draft_files", {}))
        _check_sources(fields)
        body = cls(
            name,
            fields.get("from", ""),
            fields.get("modelfile", ""),
            files,
            adapters,
            drafts,
            _imatrices(fields),
            {key: fields[key] for key in TEXTS if fields.get(key)},
            _licenses(fields.get("license", [])),
            fields.get("parameters", {}),
            tuple(map(_turn, fields.get("messages", []))),
            {**_info(fields.get("info", {})), **_capabilities(fields)},
            _quantization(fields),
            Splitting.parse({row.name: fields.get(row.name) for row in SPLITTING.values()}),
            Conversion.parse({row.name: fields.get(row.name) for row in CONVERSION.values()}),
            Halves.parse({row.name: fields.get(row.name) for row in HALVES.values()}),
            _file_type(fields.get("draft_quantize")),
            tuple(fields.get(UNREAD, ())),
        )
        body._check_amounts()
        return body

    def _check_amounts(self) -> None:
        """Raise :class:`UsageError` for more than a model can hold, before anything is written."""
        if len(self.licenses) > MAX_LICENSES:
            raise UsageError(f"{len(self.licenses)} licenses; the limit is {MAX_LICENSES}")
        for what, texts in (
            ("system", [self.texts.get("system", "")]),
            ("license", self.licenses),
            ("messages", [turn.content for turn in self.messages]),
        ):
            length = sum(map(len, texts))
            if length > MAX_TEXT[what]:
                raise UsageError(
                    f"{what!r} has {length} characters; the limit is {MAX_TEXT[what]}",
                    hint="shorten it",
                )
        unknown = [n for n in self.parameters if n not in PARAMETERS and n not in DEPRECATED]
        if len(unknown) > MAX_PROBLEMS:
            named = ", ".join(repr(name[:_NAMED]) for name in unknown[:MAX_PROBLEMS])
            raise UsageError(f"{len(unknown)} unknown parameters: {named} and others")


# Where it starts from.


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
    if fields.get("from"):
        _check_from(fields["from"])


def _check_from(value: str) -> None:
    """``from`` is a model's name; raises :class:`UsageError` with what to do about a path."""
    try:
        parse_name(value)
    except UsageError as error:
        if not is_path(value) and "/" not in value and "\\" not in value:
            raise
        raise UsageError(error.message, hint=UPLOAD_HINT) from None


# What it says beside.


def _licenses(given: str | Sequence[str | None]) -> tuple[str, ...]:
    """One text, or several of which null is an empty one."""
    if isinstance(given, str):
        return (given,) if given else ()
    return tuple(text or "" for text in given)


def _turn(value: Mapping[str, Any]) -> Turn:
    """A message, with what MESSAGE cannot say in the order in which Go writes it."""
    further = {key: _tool_calls(value[key]) for key in _FURTHER if value.get(key)}
    return Turn((value.get("role") or "").lower(), value.get("content") or "", further)


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


def _capabilities(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the field of that name, which Ollama has since 0.34, sets in the model's config."""
    given = fields.get("capabilities")
    return _info({"capabilities": given}) if given else {}


# How it is quantized.


def _quantization(fields: Mapping[str, Any]) -> Quantization | None:
    """What ``quantize`` and the fields beside it ask for.

    Raises :class:`UsageError` for a type that nobody knows, and for options without a type.
    """
    given = {}
    for option in OPTIONS.values():
        value = _given(option, fields.get(option.name))
        if value is not None:
            given[option.name] = value
    type_ = fields.get("quantize") or fields.get("quantization")
    if type_:
        return Quantization.parse(type_, given)
    for option in OPTIONS.values():
        value = given.get(option.name)
        if value and value != option.default:
            raise UsageError(f"{option.name!r} has no effect without 'quantize'")
    return None


def _given(option: Option, value: Any) -> Any:
    """A field's value as the option takes it: a file by its name, rules as a list."""
    if option.kind is FILE and value is not None:
        return _one(option, value)
    return [value] if option.kind is RULES and isinstance(value, str) else value


def _one(option: Option, files: Mapping[str, str]) -> str | None:
    """The name of the one file that an option takes."""
    if len(files) > 1:
        raise UsageError(f"{option.name!r} names {len(files)} files", hint="name one")
    return next(iter(files), None)


def _imatrices(fields: Mapping[str, Any]) -> Files:
    """The files that options of a quantization name."""
    names = [option.name for option in OPTIONS.values() if option.kind is FILE]
    found: dict[str, str] = {}
    for name in names:
        found |= fields.get(name) or {}
    return parse_files(found)


def _file_type(text: str | None) -> FileType | None:
    if not text:
        return None
    from mbuild.quant.choose.types import file_type

    return file_type(text)
