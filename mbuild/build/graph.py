"""Steps, their results and their keys: the build graph, without any kind of step in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mbuild.build.sources.values import Material
from mbuild.core.digest import Digest
from mbuild.core.events import Code
from mbuild.store import Layer

if TYPE_CHECKING:
    from mbuild.store.ports import BuildStore


class Result(NamedTuple):
    """What a step made: layers in the store, and facts that later steps need.

    ``facts`` is JSON: it is kept in the cache, so that nothing has to be read
    again to know it. Neither of the last two is part of the value: ``existed``
    names those layers that the store had before the step ran, ``files`` the
    digests of the user's files that it read, for :meth:`Step.learned`.
    """

    layers: tuple[Layer, ...] = ()
    facts: Mapping[str, Any] = {}
    existed: frozenset[Digest] = frozenset()
    files: Mapping[str, Digest] = {}

    @property
    def written(self) -> int:
        """Bytes of the layers that the store did not have before."""
        return sum(layer.size for layer in self.layers if layer.digest not in self.existed)

    def to_json(self) -> str:
        """The result as the cache keeps it."""
        value = {"layers": [layer.to_json() for layer in self.layers], "facts": self.facts}
        return canonical_json(value)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read :meth:`to_json`'s text; raises ValueError or a digest error."""
        value = json.loads(text)
        return cls(tuple(Layer.from_json(v) for v in value["layers"]), value["facts"])


class StepContext(NamedTuple):
    """What a running step may use: the store, and three ways to talk.

    Without ``use_cache`` it takes nothing from the cache that it can make.
    """

    store: BuildStore
    report: Callable[[int, int], None]
    """``report(completed, total)`` in bytes. Raises CancelledError when the build was
    stopped, so a step that reports often stops soon."""
    status: Callable[[Code, Mapping[str, Any]], None]
    """``status(code, values)``: what it is doing, by a code of the events."""
    warn: Callable[[str], None]
    use_cache: bool = True


class Step(Protocol):
    """One node of the graph; implementations are frozen dataclasses.

    ``version`` changes when the same inputs would give another result.
    """

    @property
    def kind(self) -> str:
        """The kind of step, part of the key."""

    @property
    def version(self) -> int:
        """The version of the kind's code, part of the key."""

    @property
    def label(self) -> str:
        """What the step does, for people."""

    @property
    def role(self) -> str:
        """What its weights are for: ``model``, ``adapter`` or ``draft``; else nothing."""

    @property
    def subject(self) -> str:
        """The name of what it starts from: a file, a folder or a model; else nothing."""

    @property
    def target(self) -> str:
        """The type of the variant that it is for, where there is one."""

    @property
    def inputs(self) -> tuple[Step, ...]:
        """The steps whose results this one needs."""

    @property
    def group(self) -> object | None:
        """Steps of one group that have to run are run together, by ``run_together``."""

    @property
    def reads(self) -> int:
        """Bytes of the user's files that it reads when it runs."""

    @property
    def materials(self) -> tuple[Material, ...]:
        """What it is made from that no step makes, for people: the key holds the contents."""

    def key_fields(self) -> Mapping[str, Any] | None:
        """What else decides the result, as JSON; None while a file has not been read yet."""

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Result:
        """Make the result."""

    def __hash__(self) -> int:
        """By identity: a step is a node, not its value."""

    def learned(self, result: Result) -> Step:
        """The same step once it has run: with the digests that it found by reading."""


class BaseStep:
    """What most steps have in common: no file, no group, nothing to learn by running."""

    @property
    def subject(self) -> str:
        """Nothing that has a name."""
        return ""

    @property
    def target(self) -> str:
        """No variant."""
        return ""

    @property
    def group(self) -> object | None:
        """No group."""
        return None

    @property
    def reads(self) -> int:
        """No bytes."""
        return 0

    @property
    def materials(self) -> tuple[Material, ...]:
        """Nothing but its inputs."""
        return ()

    def learned(self, result: Result) -> Any:
        """The step itself: it knew everything."""
        return self


def names_of(step: Step) -> tuple[str, str, str, str]:
    """A step's kind, role, subject and target: what the events say of it apart."""
    return step.kind, str(step.role), step.subject, step.target


def variant_label(text: str, variant: str) -> str:
    """A step's label; where a build makes several variants with the one that it is for."""
    return f"{text} for {variant}" if variant else text


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no escapes that depend on anything."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def describe(step: Step, inputs: Sequence[Result]) -> dict[str, Any] | None:
    """Everything that decides a step's result; None while that is not known.

    This value is what is hashed for the key, and what is printed to explain a
    rebuild. Inputs count with their results, so a step that comes out
    unchanged stops the rebuild.
    """
    fields = step.key_fields()
    if fields is None:
        return None
    return {
        "kind": step.kind,
        "version": step.version,
        "fields": fields,
        "inputs": [
            {"kind": source.kind, "result": json.loads(result.to_json())}
            for source, result in zip(step.inputs, inputs, strict=True)
        ],
    }


def cache_key(description: Mapping[str, Any]) -> str:
    """The key under which a result is kept: the SHA-256 of the description."""
    return hashlib.sha256(canonical_json(description).encode()).hexdigest()


def in_order(targets: Sequence[Step]) -> tuple[Step, ...]:
    """All steps that the targets need, each once, inputs before users.

    Depth first without recursion, so that a deep graph is no problem. Steps
    cannot form a cycle: they are frozen and made after their inputs.
    """
    order: dict[Step, None] = {}
    stack: list[tuple[Step, bool]] = [(step, False) for step in reversed(targets)]
    while stack:
        step, expanded = stack.pop()
        if step in order:
            continue
        if expanded:
            order[step] = None
        else:
            stack.append((step, True))
            stack.extend((source, False) for source in reversed(step.inputs))
    return tuple(order)
