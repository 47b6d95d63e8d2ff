"""Steps and their results: the build graph, without any kind of step in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mbuild.build.sources.values import Material
from mbuild.core.digest import Digest, canonical_json, sha256
from mbuild.core.events import Code
from mbuild.core.values import Frozen, NamedTuple
from mbuild.store import Layer

if TYPE_CHECKING:
    from mbuild.build.costs import Cost, PlannedTensor
    from mbuild.store.manifest import Blob
    from mbuild.store.ports import BuildStore
    from mbuild.work.pools import WorkerPool


class Result(NamedTuple):
    """What a step came out as: layers in the store, and facts that later steps need.

    ``facts`` is JSON: it is kept in the cache, so that nothing has to be read
    again to know it.
    """

    layers: tuple[Layer, ...] = ()
    facts: Mapping[str, Any] = {}

    def to_json(self) -> str:
        """The result as the cache keeps it."""
        value = {"layers": [layer.to_json() for layer in self.layers], "facts": self.facts}
        return canonical_json(value)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read :meth:`to_json`'s text; raises ValueError or a digest error."""
        value = json.loads(text)
        if not isinstance(value["layers"], list):
            raise ValueError("a result's layers are a list")
        return cls(tuple(Layer.from_json(v) for v in value["layers"]), value["facts"])


class Made(NamedTuple):
    """What running a step gave: its result, and what only this run knows.

    ``new`` are those of the result's layers that the store did not have before, ``files``
    the digests of the user's files that were read, by their paths, for :meth:`Step.learned`.
    ``limits`` are the seconds in which each resource held the work up, where there was much.
    """

    result: Result
    new: tuple[Layer, ...] = ()
    files: Mapping[str, Digest] = {}
    limits: Mapping[str, float] = {}

    @classmethod
    def of(
        cls,
        blobs: Sequence[Blob],
        media_type: str,
        facts: Mapping[str, Any] = {},
        files: Mapping[str, Digest] = {},
        *,
        origin: str = "",
    ) -> Made:
        """Layers of one type, whose bytes are blobs of the store."""
        from mbuild.work.limits import added

        layers = tuple(Layer(media_type, blob.digest, blob.size, origin) for blob in blobs)
        old = {blob.digest for blob in blobs if blob.existed}
        new = tuple(layer for layer in layers if layer.digest not in old)
        limits = added([blob.limits for blob in blobs])
        return cls(Result(layers, facts), new, files, limits)


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
    begun: Callable[[], object] = lambda: None
    """What a fetching step says once those that it fetches for may start
    (:attr:`Step.overlaps`)."""
    arriving: MutableMapping[Digest, Any] | None = None
    """The files on their way in this run, by SHA-256 (:mod:`mbuild.build.steps.arriving`)."""
    passes: bool = False
    """Whether what a fetching step brings is read once, by steps that run together while it
    comes, so that it need not be kept for them."""
    pool: WorkerPool | None = None
    """Who else computes for this build."""
    weights_only: bool = False
    """Whether only weights are wanted: no vocabulary is read."""

    @classmethod
    def silent(cls, store: BuildStore) -> StepContext:
        """For who only looks: nobody hears of it."""
        return cls(store, lambda done, total: None, lambda code, values: None, lambda text: None)


class Step(Protocol):
    """One node of the graph, a value: steps that are equal are one node.

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
    def needs(self) -> tuple[Step, ...]:
        """Steps that fetch what this one reads: its key knows that by digest, not by them."""

    @property
    def holds(self) -> bool:
        """Whether its result is of use only while all that it needs is in the store."""

    @property
    def overlaps(self) -> bool:
        """Whether it can start once what it needs is on its way."""

    @property
    def fetches(self) -> bool:
        """Whether it only brings to this machine what others need, and runs for them alone."""

    @property
    def trivial(self) -> bool:
        """Whether making its result takes less time than to ask another machine for it."""

    @property
    def group(self) -> Hashable | None:
        """Steps of one group that have to run are run together, by :meth:`run_together`."""

    @property
    def several_layers(self) -> bool:
        """Whether its result is weights in several layers, the shards of one model."""

    @property
    def makes_weights(self) -> bool:
        """Whether its result is a model's weights, however they are made."""

    @property
    def shows(self) -> tuple[str, ...]:
        """The facts of its result that the log keeps, for people: what was measured."""

    @property
    def reads(self) -> int:
        """Bytes of the user's files, or of stored weights, that it reads when it runs."""

    @property
    def materials(self) -> tuple[Material, ...]:
        """The sources that it is made from, for people: the key holds their contents."""

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """The kinds of work in it and their versions, for a lock."""

    def is_there(self, store: BuildStore, *, bring: bool) -> bool:
        """Of a step that fetches whether nothing is missing; ``bring`` what the cache keeps."""

    def key_fields(self) -> Mapping[str, Any] | None:
        """What else decides the result, as JSON; None while a file has not been read yet."""

    def cost(self, store: BuildStore) -> Cost:
        """What running it takes, from headers; raises what running it would raise first."""

    def tensors(self, store: BuildStore) -> tuple[PlannedTensor, ...]:
        """Of a quantization each tensor's types and size, from headers; else nothing."""

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Make the result."""

    def run_together(
        self, steps: Sequence[Step], context: StepContext, inputs: Sequence[Sequence[Result]]
    ) -> Iterator[tuple[Step, Made]]:
        """Make the results of ``steps``, of this one's group, and give each when it is there.

        Digests of files may come with the last of them.
        """

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The same step once it has run: with the digests, by path, that it found by reading."""

    def __eq__(self, other: object) -> bool:
        """Whether it is the same node: of one kind, with equal fields and equal inputs."""

    def __hash__(self) -> int:
        """Equal for equal steps, and known at once however deep the graph is."""


class BaseStep(Frozen):
    """What most steps have in common; every kind of step is declared over it.

    Steps are compared by value, files by name, path and stamp, so that this can be done
    before anybody has read them. A field that is ``aside`` only labels its step, or
    says how to make what comes out the same. What a step is worth in a comparison is
    digested once, when it is made: its inputs exist by then, so neither a look into a
    dictionary nor a comparison walks down the graph.
    """

    makes_weights: ClassVar[bool] = False
    """Whether its result is a model's weights, however they are made."""

    holds: ClassVar[bool] = False
    """Whether its result is of use only while all that it needs is in the store."""

    fetches: ClassVar[bool] = False
    """Whether it only brings to this machine what others need."""

    trivial: ClassVar[bool] = False
    """Whether making its result takes less time than to ask another machine for it."""

    shows: ClassVar[tuple[str, ...]] = ()
    """The facts of its result that the log keeps, for people: what was measured."""

    input_name: ClassVar[str] = ""
    """What its result is called where it is the input of another step, if not by its kind."""

    input_facts: ClassVar[tuple[str, ...]] = ()
    """Of its facts those that decide all others: only they are named in an explanation."""

    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {}
    """What the places in its key fields are called in an explanation."""

    def __post_init__(self) -> None:
        """Digest the value."""
        own = [getattr(self, field) for field in self._compared]
        text = f"{type(self).__module__}.{type(self).__qualname__}{written(own)}"
        self.__dict__["_value"] = sha256(text.encode()).digest()

    def __eq__(self, other: object) -> bool:
        """Whether two steps are one node."""
        return isinstance(other, BaseStep) and self.value == other.value

    def __hash__(self) -> int:
        """The hash of the value."""
        return hash(self.value)

    @property
    def value(self) -> bytes:
        """The digest of what counts in a comparison."""
        return self._value  # type: ignore[attr-defined, no-any-return]

    @property
    def subject(self) -> str:
        """Nothing that has a name."""
        return ""

    @property
    def target(self) -> str:
        """No variant."""
        return ""

    @property
    def needs(self) -> tuple[Step, ...]:
        """Nothing that has to be fetched."""
        return ()

    @property
    def overlaps(self) -> bool:
        """It starts once what it needs is there."""
        return False

    def is_there(self, store: BuildStore, *, bring: bool) -> bool:
        """It fetches nothing."""
        return True

    @property
    def group(self) -> Hashable | None:
        """No group."""
        return None

    @property
    def several_layers(self) -> bool:
        """One layer, or none."""
        return False

    @property
    def reads(self) -> int:
        """No bytes."""
        return 0

    @property
    def materials(self) -> tuple[Material, ...]:
        """Nothing but its inputs."""
        return ()

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """Its own kind and version."""
        step: Any = self
        return ((step.kind, step.version),)

    def cost(self, store: BuildStore) -> Cost:
        """It writes about what it reads, if it reads anything."""
        from mbuild.build.costs import Cost

        return Cost(writes=self.reads or None)

    def tensors(self, store: BuildStore) -> tuple[PlannedTensor, ...]:
        """It quantizes nothing."""
        return ()

    def run_together(
        self, steps: Sequence[Step], context: StepContext, inputs: Sequence[Sequence[Result]]
    ) -> Iterator[tuple[Step, Made]]:
        """One after the other."""
        for step, given in zip(steps, inputs, strict=True):
            yield step, step.run(context, given)

    def learned(self, files: Mapping[str, Digest]) -> Any:
        """The step itself: it has read no file."""
        return self


def names_of(step: Step) -> tuple[str, str, str, str]:
    """A step's kind, role, subject and target: what the events say of it apart."""
    return step.kind, str(step.role), step.subject, step.target


def written(value: Any) -> str:
    """A text that is the same for equal values and for no others, steps in it by their values.

    1, 1.0 and True, which Python takes for equal, are not.
    """
    if isinstance(value, BaseStep):
        return value.value.hex()
    if isinstance(value, Mapping):
        rows = (f"{key!r}:{written(item)}" for key, item in sorted(value.items()))
        return "{" + ",".join(rows) + "}"
    if type(value) in (tuple, list):  # not a named tuple, which says what it is by its repr
        return "(" + ",".join(map(written, value)) + ")"
    return repr(value)


def before(step: Step) -> tuple[Step, ...]:
    """All steps that have to be over when a step runs: what fetches for it, and its inputs."""
    return (*step.needs, *step.inputs)


def variant_label(text: str, variant: str) -> str:
    """A step's label; where a build makes several variants with the one that it is for."""
    return f"{text} for {variant}" if variant else text


def in_order(targets: Sequence[Step]) -> tuple[Step, ...]:
    """All steps that the targets need, each once, inputs before users.

    Depth first without recursion, so that a deep graph is no problem. Of equal steps the
    first stands for all. Steps cannot form a cycle: they are frozen and made after their
    inputs.
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
            stack.extend((source, False) for source in reversed(before(step)))
    return tuple(order)
