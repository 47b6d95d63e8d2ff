"""What a Modelfile asks for, once its instructions are taken together as Ollama takes them.

A recipe is what a build starts from. It is kept in the cache as JSON, so that
a build with nothing to do loads neither the parser nor the instructions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.values import NamedTuple
from mbuild.language.span import Span

if TYPE_CHECKING:
    from mbuild.language.instructions import Modelfile

RECIPE_VERSION = 4
"""Counts up when the same Modelfile would give another recipe, or other warnings."""


class Reference(NamedTuple):
    """A file or model that an instruction names; ``span`` is where, if it is in a text."""

    value: str
    span: Span | None = None


class Turn(NamedTuple):
    """One MESSAGE; ``further`` is what only a program can give: images, calls of tools."""

    role: str
    content: str
    further: Mapping[str, Any] = {}


class ModelChange(NamedTuple):
    """What becomes of the model's weights or metadata before anything is made of them.

    ``kind`` is ``merge`` (``name`` is the adapter, ``value`` its weight), ``set`` (a key and
    its text), ``unset`` (a key), ``drop`` (``value`` has the numbers of layers) or ``take``
    (``name`` is a regular expression, ``value`` the JSON of the other model's recipe).
    """

    kind: str
    name: str = ""
    value: Any = None
    span: Span | None = None


class Recipe(NamedTuple):
    """The instructions taken together: of single values the last counts, others add up.

    An empty TEMPLATE, SYSTEM, RENDERER or PARSER asks for nothing, as in
    Ollama. ``config`` holds ``renderer``, ``parser`` and ``requires`` where given. ``changes``
    are made in their order. ``unset`` names what of the base is left out: an instruction's
    word in lower case, behind ``parameter`` and a blank a parameter.
    """

    models: tuple[Reference, ...]
    adapters: tuple[Reference, ...] = ()
    drafts: tuple[Reference, ...] = ()
    template: str = ""
    system: str = ""
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = {}
    messages: tuple[Turn, ...] = ()
    config: Mapping[str, str] = {}
    changes: tuple[ModelChange, ...] = ()
    unset: tuple[str, ...] = ()

    @classmethod
    def of(cls, modelfile: Modelfile) -> Recipe:
        """Take a checked Modelfile's instructions together."""
        from mbuild.language import instructions as kinds
        from mbuild.language.meaning import merge
        from mbuild.language.printable import visible

        def last(kind: type[Any]) -> str:
            item = modelfile.last(kind)
            return item.value if item else ""

        def references(kind: type[Any]) -> tuple[Reference, ...]:
            return tuple(Reference(item.plain, item.span) for item in modelfile.every(kind))

        config = {
            "renderer": visible(last(kinds.Renderer)),
            "parser": visible(last(kinds.Parser)),
            "requires": visible(last(kinds.Requires)).removeprefix("v"),
        }
        return cls(
            references(kinds.From),
            references(kinds.Adapter),
            references(kinds.Draft),
            last(kinds.Template),
            last(kinds.System),
            tuple(item.value for item in modelfile.every(kinds.License)),
            merge({}, modelfile.parameters),
            tuple(Turn(message.role, message.content) for message in modelfile.messages),
            {key: value for key, value in config.items() if value},
        )

    def every(self) -> Iterator[Recipe]:
        """The recipe, and those of the models that it takes tensors from."""
        yield self
        for change in self.changes:
            if change.kind == "take":
                yield from Recipe.from_json(change.value[1]).every()

    def to_json(self) -> str:
        """The recipe as the cache keeps it: an object with what was said, and no more."""
        return json.dumps({key: value for key, value in self._asdict().items() if value})

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read :meth:`to_json`'s text; raises ValueError or TypeError for anything else."""
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("a recipe is an object")
        for name in ("models", "adapters", "drafts"):
            rows = fields.get(name, ())
            fields[name] = tuple(Reference(value, span and Span(*span)) for value, span in rows)
        fields["licenses"] = tuple(fields.get("licenses", ()))
        fields["messages"] = tuple(Turn(*turn) for turn in fields.get("messages", ()))
        rows = fields.get("changes", ())
        fields["changes"] = tuple(
            ModelChange(kind, name, value, span and Span(*span)) for kind, name, value, span in rows
        )
        fields["unset"] = tuple(fields.get("unset", ()))
        return cls(**fields)
