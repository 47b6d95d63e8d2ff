"""What a Modelfile asks for, once its instructions are taken together as Ollama takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mbuild.modelfile.instructions import (
    License,
    Message,
    Modelfile,
    Parser,
    Renderer,
    Requires,
    System,
    Template,
)
from mbuild.modelfile.parameters import merge


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything but the files: of single values the last counts, the others add up.

    An empty TEMPLATE, SYSTEM, RENDERER or PARSER asks for nothing, as in Ollama.
    ``config`` holds ``renderer``, ``parser`` and ``requires`` where given.
    """

    template: str = ""
    system: str = ""
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, modelfile: Modelfile) -> Settings:
        """Take a checked Modelfile's instructions together."""
        template, system = modelfile.last(Template), modelfile.last(System)
        config = {
            "renderer": _plain(modelfile.last(Renderer)),
            "parser": _plain(modelfile.last(Parser)),
            "requires": _plain(modelfile.last(Requires)).removeprefix("v"),
        }
        return cls(
            template.value if template else "",
            system.value if system else "",
            tuple(item.value for item in modelfile.every(License)),
            merge({}, modelfile.parameters),
            modelfile.messages,
            {key: value for key, value in config.items() if value},
        )


def _plain(item: Renderer | Parser | Requires | None) -> str:
    return item.plain if item else ""
