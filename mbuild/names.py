"""Model names as Ollama spells them: ``[host/][namespace/]model[:tag]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mbuild.errors import MbuildError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# Ollama's types/model/name.go: the first character of every part is a letter,
# a digit or "_", so no part can be "." or ".." or look like an option.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


class InvalidNameError(MbuildError):
    """A text that is not a model name."""


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A full model name; every part is valid, so it can be used as a path.

    The four parts are the four levels of folders below ``manifests/``.
    """

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read any spelling, filling in Ollama's defaults; raises :class:`InvalidNameError`."""
        rest = text.split("://", 1)[-1]
        tag = DEFAULT_TAG
        if rest.rfind(":") > rest.rfind("/"):
            rest, _, tag = rest.rpartition(":")
        parts = rest.split("/")
        if len(parts) > 3:
            raise _invalid(text, "it has more than host/namespace/model")
        host, namespace, model = [DEFAULT_HOST, DEFAULT_NAMESPACE, ""][: 3 - len(parts)] + parts
        for what, value, pattern in (
            ("host", host, _HOST),
            ("namespace", namespace, _NAMESPACE),
            ("model", model, _PART),
            ("tag", tag, _PART),
        ):
            if not pattern.fullmatch(value):
                raise _invalid(text, f"its {what} {value!r} is not allowed")
        return cls(host, namespace, model, tag)

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model, tag."""
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def key(self) -> tuple[str, ...]:
        """The parts in lower case: names that differ only in case are one model."""
        return tuple(part.lower() for part in self.parts)

    def __str__(self) -> str:
        """The shortest spelling, always with the tag, as ``ollama list`` prints it."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"


def _invalid(text: str, why: str) -> InvalidNameError:
    return InvalidNameError(
        f"invalid model name {text!r}: {why}",
        hint="a name is [host/][namespace/]model[:tag] of letters, digits, '_', '-' and '.'",
    )
