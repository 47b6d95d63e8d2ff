"""What a build tells the world while it runs.

Steps report to the engine, the engine yields these values, and one renderer
per front end shows them. What a front end decides by is a code, a kind, a role or a
number, never a text; sentences are made in ``mbuild.cli.wording`` and
``mbuild.server.wording``. A failure is an exception; only programs that read events get
one about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from mbuild.core.digest import Digest
from mbuild.core.values import NamedTuple

Value = str | float | bool | tuple[str, ...]
"""What a code's sentence has places for."""


class Code(StrEnum):
    """What a :class:`Status` says; behind each, the names of its values."""

    WAITING_FOR_PRUNE = "waiting-for-prune"
    WAITING_FOR_BUILDS = "waiting-for-builds"
    PULLING_MANIFEST = "pulling-manifest"
    PARSING_GGUF = "parsing-gguf"
    CONVERTING_MODEL = "converting-model"
    CONVERTING_ADAPTER = "converting-adapter"
    QUANTIZING = "quantizing"  # source, target: types; role: model or draft
    COMPILING_QUANTIZERS = "compiling-quantizers"  # types; kept: whether for later builds
    WORKERS = "workers"  # place: who computes; threads: how many at once
    REUSED_TENSORS = "reused-tensors"  # reused, total: how many
    NEWLY_QUANTIZED = "newly-quantized"  # tensors: their names
    CHOSEN_TYPES = "chosen-types"  # size: bytes; bits: for each weight; again: what repeats it
    AUTODETECTED_TEMPLATE = "autodetected-template"  # template: its name
    WAITING_FOR_MACHINE = "waiting-for-machine"  # step: its label; holder: who makes it
    TAKING_OVER = "taking-over"  # step; holder: who began to make it
    TOOK_SHARED = "took-shared"  # step: its label; size: bytes that came from the shared cache
    MAKING_SOONER = "making-sooner"  # step, fetching, making: seconds; by: how that is known
    SENDING_SHARED = "sending-shared"  # size: bytes that are on their way to the shared cache
    SENT_SHARED = "sent-shared"  # size: bytes that it got from this build


class Cause(StrEnum):
    """Why a step runs: an input that differs, or else what a :class:`Note` says."""

    INPUT = "input"  # another value of an input
    STEP = "step"  # another kind of step makes the weights
    VERSION = "version"  # another version of mbuild or of the step
    FIRST = "first-build"  # no earlier build of the model
    NEW_STEP = "new-step"  # the last build had no such step
    NOTHING_KEPT = "nothing-kept"  # the last build's inputs are not known
    NO_CACHE = "no-cache"  # asked for
    REWRITTEN = "rewritten"  # mbuild writes unchanged inputs down in another way
    READ_AGAIN = "read-again"  # only reading the inputs could tell that nothing changed
    RESULT_REMOVED = "result-removed"
    LAYER_REMOVED = "layer-removed"  # layer: its short digest
    LAYER_DAMAGED = "layer-damaged"  # layer; size: its bytes on the disk
    NOT_HERE = "not-here"  # what it fetches is not in the store
    MADE_SOONER = "made-sooner"  # of a shared result; fetching, making: seconds; by: known how
    DEPENDS = "depends"  # it runs only if its input changes


class Note(NamedTuple):
    """Why a step runs none of whose inputs differs."""

    cause: Cause
    values: Mapping[str, Value] = {}


class BuildStarted(NamedTuple):
    """A build begins; ``steps`` is how many there are, cached or not."""

    name: str
    steps: int


class Status(NamedTuple):
    """What the build is doing, by a code; ``values`` are what its sentence names."""

    code: Code
    values: Mapping[str, Value] = {}


class Warned(NamedTuple):
    """Something that does not stop the build but that its author should know.

    ``file``, ``line`` and ``column`` are its place in a Modelfile, empty and 0 where it has none.
    """

    text: str
    file: str = ""
    line: int = 0
    column: int = 0


class StepStarted(NamedTuple):
    """A step runs because the cache has no result for it; ``step`` is its number.

    Steps that run together from one read tell their progress once: under the
    number ``leader``, which is the step's own where it runs alone. ``label`` is what it
    does, for people; ``kind`` (``import``, ``params``, ...), ``role`` (``model``,
    ``adapter``, ``draft``), ``subject`` (the name of what it starts from) and ``target``
    (the type of its variant) say the same apart, each empty where there is none.
    """

    step: int
    label: str
    leader: int = 0
    kind: str = ""
    role: str = ""
    subject: str = ""
    target: str = ""


class StepProgress(NamedTuple):
    """How far a running step is, in bytes; ``total`` is 0 while it is not known."""

    step: int
    label: str
    completed: int
    total: int
    kind: str = ""
    role: str = ""
    subject: str = ""
    target: str = ""


class StepFinished(NamedTuple):
    """A step has its result, from the cache or after ``seconds`` of work.

    ``limits`` tells of a step that makes weights how many of these seconds each resource was
    what it waited for: ``disk``, ``hash`` (a digest, which one core makes) and ``cores``.
    """

    step: int
    label: str
    cached: bool
    seconds: float
    written: int
    kind: str = ""
    role: str = ""
    subject: str = ""
    target: str = ""
    limits: Mapping[str, float] = {}


class LayerReady(NamedTuple):
    """A layer of the new manifest, in its order there.

    ``existing``: the store had it before this build (Ollama's ``using existing
    layer``); otherwise it is new.
    """

    digest: Digest
    media_type: str
    size: int
    existing: bool


class WritingManifest(NamedTuple):
    """All layers are durable; the name is about to be changed."""

    name: str


class Replaced(NamedTuple):
    """A name that another model had before, whose ``id`` was this."""

    name: str
    id: Digest


class ModelBuilt(NamedTuple):
    """One of the build's models is there; ``id`` is its manifest's digest.

    ``name`` is the first that it has, empty where the build gives none; ``size`` the bytes
    of its layers.
    """

    name: str
    id: Digest
    size: int = 0


class Reason(NamedTuple):
    """Why one step ran: each input that differs from the last build's.

    ``causes`` has a code for each of the ``texts``, which are for people.
    """

    label: str
    texts: tuple[str, ...]
    causes: tuple[Cause, ...] = ()


class Explained(NamedTuple):
    """Why the steps ran that ran; comes once, before the end, if any did."""

    steps: tuple[Reason, ...]


class BuildFinished(NamedTuple):
    """All models are there.

    ``name`` names them, empty where the build gives no names; ``id`` is the first one's,
    ``written`` bytes of new blobs.
    """

    name: str
    id: Digest
    ran: int
    cached: int
    written: int
    seconds: float


class PartFinished(NamedTuple):
    """A part of a build is made: part ``number`` of ``parts``; no model is.

    ``made`` pieces of tensors were made and ``there`` were in the shared cache before;
    ``size`` are the bytes made, ``sent`` those that the cache took, ``seconds`` the time.
    """

    number: int
    parts: int
    made: int
    there: int
    size: int
    sent: int
    seconds: float


class Failure(NamedTuple):
    """One thing that is wrong, and what to do about it, if anybody knows.

    ``file`` is the Modelfile, ``line`` and ``column`` count from 1; empty and 0 where the
    problem has no place in one. ``code`` is a name for programs, perhaps empty.
    """

    message: str
    hint: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    code: str = ""


class BuildFailed(NamedTuple):
    """The build has ended without its models; nothing comes after it.

    ``reason`` is ``failed``, or ``stopped`` when a signal ended it. ``problems`` say what is
    wrong, each by itself; there are none where it was stopped.
    """

    reason: str
    problems: tuple[Failure, ...]


BuildEvent = (
    BuildStarted
    | Status
    | Warned
    | StepStarted
    | StepProgress
    | StepFinished
    | LayerReady
    | WritingManifest
    | Replaced
    | ModelBuilt
    | Explained
    | BuildFinished
    | PartFinished
    | BuildFailed
)
"""The closed union: a renderer that matches on all of them shows everything."""
