"""``POST /api/create``: from a request's JSON to instructions, and on to one build."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mbuild import gojson, lint
from mbuild.builder import Request as BuildRequest
from mbuild.digest import Digest
from mbuild.errors import ModelfileError, UsageError
from mbuild.modelfile.instructions import (
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
from mbuild.modelfile.parameters import PARAMETERS, Kind
from mbuild.modelfile.recipe import Recipe
from mbuild.names import ModelName
from mbuild.planner import Options
from mbuild.server.context import FOLDER, BlobContext, Files, gguf_names, is_checkpoint, parse_files
from mbuild.server.requests import model_name, parse_name

if TYPE_CHECKING:
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

_MESSAGE_EXTRAS = ("thinking", "images", "tool_calls", "tool_name", "tool_call_id")


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
    if fields.get("from") or "files" in fields:
        items = [
            *_sources(fields, files, adapters, drafts, store),
            *_texts(fields),
            *_parameters(fields.get("parameters", {})),
            *_messages(fields.get("messages", [])),
        ]
        modelfile, problems = Modelfile(tuple(items)), []
        problems = lint.check_instructions(modelfile)
    else:
        modelfile, problems = lint.check(fields["modelfile"].encode(), "modelfile")
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ModelfileError([p for p in problems if p.severity is Severity.ERROR])
    recipe = Recipe.of(modelfile)
    recipe = recipe._replace(config={**recipe.config, **_info(fields.get("info", {}))})
    warnings = tuple(problem.message for problem in problems)
    return Creation(name, recipe, files, adapters, drafts, _options(fields), warnings)


def _check_sources(fields: Mapping[str, Any]) -> None:
    """Exactly one of ``from``, ``files`` and, for older clients, ``modelfile``."""
    if not fields.get("from") and "files" not in fields and not fields.get("modelfile"):
        hint = "'path' is not read: no file is opened because a request names it"
        raise UsageError(
            "neither 'from' or 'files' was specified", hint=hint if "path" in fields else ""
        )
    if fields.get("from") and fields.get("files"):
        raise UsageError("both 'from' and 'files' were specified", hint="keep the one you mean")


def _sources(
    fields: Mapping[str, Any], files: Files, adapters: Files, drafts: Files, store: Store
) -> Iterator[Instruction]:
    """FROM, ADAPTER and DRAFT: a directory with safetensors is one, GGUF files are one each."""
    if fields.get("from"):
        parse_name(fields["from"])
        yield From(fields["from"])
    elif is_checkpoint(files):
        yield From(FOLDER)
    else:
        yield from (From(name) for name in gguf_names(files, store))
    if adapters:
        names = [FOLDER] if is_checkpoint(adapters) else gguf_names(adapters, store)
        yield from (Adapter(name) for name in names)
    if drafts:
        yield from (Draft(name) for name in gguf_names(drafts, store))


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
        extra = next((key for key in _MESSAGE_EXTRAS if value.get(key)), None)
        if extra is not None:
            raise UsageError(
                f"a message has {extra!r}, which a model cannot carry",
                hint="a MESSAGE has a role and a content",
            )
        yield Message(value.get("role", "").lower(), value.get("content", ""))


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
        found[target] = value
    return found


_MAX_INFO = 64 << 10


def _options(fields: Mapping[str, Any]) -> Options:
    """The build's options; what this planner has no option for is refused, not ignored."""
    wanted = {
        "quantize": fields.get("quantize") or fields.get("quantization") or "",
        "draft_quantize": fields.get("draft_quantize") or "",
    }
    known: dict[str, Any] = {}
    for key, value in wanted.items():
        if not value:
            continue
        if key not in Options._fields:
            raise UsageError(f"{key} {value!r} is not supported yet")
        known[key] = value
    return Options(**known)
