"""``POST /api/create``: from a checked body to instructions, and on to one build."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild import lint
from mbuild.build.fetching import Fetching
from mbuild.build.prepare import Build, Notice, keep_recipe
from mbuild.build.request import BuildRequest, Posted, Target
from mbuild.build.sources.posted import (
    FOLDER,
    MAX_FILES,
    BlobContext,
    Files,
    gguf_names,
    is_checkpoint,
)
from mbuild.core.digest import Digest
from mbuild.core.errors import ModelfileError, UsageError
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import (
    TYPES,
    Adapter,
    Draft,
    From,
    Instruction,
    License,
    Message,
    Modelfile,
    Parameter,
    Severity,
)
from mbuild.language.parameters import PARAMETERS, ParameterType
from mbuild.language.recipe import Recipe, Turn
from mbuild.language.stages.values import Expectation, StageRecipe
from mbuild.server.body import MAX_LICENSES, CreateBody
from mbuild.server.stages import last_stage, target_of

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.language.stages.stage import Stage
    from mbuild.registry.client.access import Access
    from mbuild.store import Store


class Creation(NamedTuple):
    """A checked request: the build that it asks for, and what to say of it before."""

    request: BuildRequest
    posted: Posted
    recipe: Recipe
    warnings: tuple[Notice, ...]
    checks: tuple[Expectation, ...] = ()

    @property
    def name(self) -> ModelName:
        """The name of the model to be."""
        return self.request.names[0]

    @property
    def key(self) -> str:
        """A text that tells builds apart: the same for requests that build the same."""
        return json.dumps(self.request.to_json(), sort_keys=True)

    @property
    def uploads(self) -> set[Digest]:
        """The uploaded blobs that the request names."""
        return set(self.posted.blobs)

    def build(self, store: Store, access: Access) -> Build:
        """The build over a store, which keeps what is asked so that it can be asked again.

        FROM a model of a registry asks only those that ``access`` allows.
        """
        keep_recipe(self.recipe, store)
        context = BlobContext(store, self.posted)
        fetching = Fetching(access=access)
        stages = {"": StageRecipe("", self.recipe, (), self.checks)} if self.checks else {}
        wanted = Build(self.request, self.recipe, context, stages=stages)
        return wanted._replace(warnings=self.warnings, fetching=fetching)


def read_creation(fields: Mapping[str, Any], store: Store, *, by_name: bool = False) -> Creation:
    """Check a body; raises :class:`UsageError`, :class:`ModelfileError` or a digest's error.

    ``fields`` are those of :data:`mbuild.server.shapes.CREATE`. Nothing but the
    first bytes of uploaded blobs is read. ``by_name``: of a request with files and a Modelfile
    the Modelfile counts, and names the files; Ollama leaves it unread then.
    """
    body = CreateBody.of(fields)
    if by_name and body.modelfile and body.files:
        body = body._replace(named=body.files, files=None)
    stage = last_stage(body.modelfile) if body.modelfile else None
    recipe, warnings = _recipe(body, tuple(_sources(body, store, stage)))
    target = Target((body.name,), body.quantization)
    checks: tuple[Expectation, ...] = ()
    if stage is not None:
        said = stage.recipe()
        recipe = recipe._replace(changes=said.recipe.changes, unset=said.recipe.unset)
        target, checks = target_of(said, target), said.checks
    posted = Posted(
        Digest.of(recipe.to_json().encode()),
        body.name.model,
        body.files or body.named,
        body.adapters or body.named,
        body.drafts or body.named,
        body.imatrices,
    )
    request = BuildRequest(
        (target,),
        posted,
        draft_quantize=body.draft_quantize,
        splitting=body.splitting,
        conversion=body.conversion,
        halves=body.halves,
    )
    return Creation(request, posted, recipe, (*map(Notice, body.unread), *warnings), checks)


def _recipe(
    body: CreateBody, sources: tuple[Instruction, ...]
) -> tuple[Recipe, tuple[Notice, ...]]:
    """The request's instructions taken together, checked as a Modelfile's are."""
    models = sum(isinstance(item, From) for item in sources)
    if models > MAX_FILES:
        raise UsageError(f"{models} FROM lines; the limit is {MAX_FILES}")
    licenses = sum(isinstance(item, License) for item in sources)
    if licenses > MAX_LICENSES:
        raise UsageError(f"{licenses} licenses; the limit is {MAX_LICENSES}")
    said = (*_texts(body), *_parameters(body.parameters), *_messages(body.messages))
    modelfile = Modelfile((*sources, *said))
    problems = lint.check_instructions(modelfile)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        raise ModelfileError(errors)
    recipe = Recipe.of(modelfile)
    before = (Turn(item.role, item.content) for item in sources if isinstance(item, Message))
    recipe = recipe._replace(
        messages=(*before, *body.messages), config={**recipe.config, **body.config}
    )
    return recipe, tuple(Notice(problem.message, problem.span) for problem in problems)


def _sources(body: CreateBody, store: Store, stage: Stage | None) -> Iterator[Instruction]:
    """FROM, ADAPTER and DRAFT, or the text of a Modelfile in place of FROM.

    Adapters that the Modelfile merges are no adapters of the model.
    """
    if body.base:
        yield From(body.base)
    elif body.files is not None:
        yield from (From(name) for name in _names(body.files, store))
    elif stage is not None:
        yield from stage.instructions
    else:
        from mbuild.language.parser import parse

        yield from parse(body.modelfile.encode(), "modelfile").instructions
    merges = stage is not None and any(change.kind == "merge" for change in stage.changes)
    if body.adapters and not merges:
        yield from (Adapter(name) for name in _names(body.adapters, store))
    if body.drafts:
        yield from (Draft(name) for name in _names(body.drafts, store))


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


def _texts(body: CreateBody) -> Iterator[Instruction]:
    for name, text in body.texts.items():
        kind: Any = TYPES[name.upper()]
        yield kind(text)
    yield from (License(text) for text in body.licenses)


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


_TEXTS_OF = {
    ParameterType.INT: _integer,
    ParameterType.FLOAT: _float,
    ParameterType.BOOL: _bool,
    ParameterType.TEXTS: _strings,
}
_TYPE_NAMES = {
    ParameterType.INT: "integer",
    ParameterType.FLOAT: "float32",
    ParameterType.BOOL: "boolean",
    ParameterType.TEXTS: "array of strings",
}
"""As Ollama's errors call them."""


def _messages(turns: Sequence[Turn]) -> Iterator[Message]:
    yield from (Message(turn.role, turn.content) for turn in turns)
