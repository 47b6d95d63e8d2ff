"""Model names as Ollama spells them: ``[host/][namespace/]model[:tag]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    pass

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# Ollama's types/model/name.go: the first character of every part is a letter,
# a digit or "_", so no part can be "." or ".." or look like an option.
_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_LIMITS = (
    ("host", 350, _FIRST | frozenset("-.:")),
    ("namespace", 80, _FIRST | frozenset("-")),
    ("model", 80, _FIRST | frozenset("-.")),
    ("tag", 80, _FIRST | frozenset("-.")),
)
_SHOWN = 500  # characters of a text that is no name


class InvalidNameError(MbuildError):
    """A text that is not a model name; ``why`` is the reason without the text, where it is told."""

    why = ""


class ModelName(NamedTuple):
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
            raise _invalid(text, "it has more parts than host/namespace/model")
        host, namespace, model = [DEFAULT_HOST, DEFAULT_NAMESPACE, ""][: 3 - len(parts)] + parts
        name = cls(host, namespace, model, tag)
        for value, (what, limit, allowed) in zip(name, _LIMITS, strict=True):
            if len(value) > limit:
                raise _invalid(
                    text, f"its {what} has {len(value)} characters; at most {limit} are allowed"
                )
            if value[:1] not in _FIRST or not allowed.issuperset(value):
                raise _invalid(text, _not_allowed(what, value, limit, allowed))
        return name

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


def _not_allowed(what: str, value: str, limit: int, allowed: frozenset[str]) -> str:
    """Why a part is not one: what it may hold, and how many characters."""
    if not value:
        return f"its {what} is empty"
    signs = ", ".join(f"'{sign}'" for sign in "_-.:" if sign in allowed)
    rule = f"letters, digits, {signs} (at most {limit}), and starts with a letter, a digit or '_'"
    return f"its {what} {value!r} is not allowed: a {what} has only {rule}"


def _invalid(text: str, why: str) -> InvalidNameError:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    error = InvalidNameError(
        f"invalid model name {shown!r}: {why}",
        hint="a name is [host/][namespace/]model[:tag] of letters, digits, '_', '-' and '.',"
        " at most 80 in each part",
    )
    error.why = why
    return error
