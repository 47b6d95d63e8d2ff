"""What a build tells the world while it runs.

Steps report to the engine, the engine yields these values, and one renderer
per front end shows them. A failure is an exception; only programs that read
events get one about it.
"""

from __future__ import annotations

from typing import NamedTuple

from mbuild.core.digest import Digest


class BuildStarted(NamedTuple):
    """A build begins; ``steps`` is how many there are, cached or not."""

    name: str
    steps: int


class Status(NamedTuple):
    """A line that Ollama would print, such as ``parsing GGUF``."""

    text: str


class Warned(NamedTuple):
    """Something that does not stop the build but that its author should know."""

    text: str


class StepStarted(NamedTuple):
    """A step runs because the cache has no result for it; ``step`` is its number.

    Steps that run together from one read tell their progress once: under the
    number ``leader``, which is the step's own where it runs alone.
    """

    step: int
    label: str
    leader: int = 0


class StepProgress(NamedTuple):
    """How far a running step is, in bytes; ``total`` is 0 while it is not known."""

    step: int
    label: str
    completed: int
    total: int


class StepFinished(NamedTuple):
    """A step has its result, from the cache or after ``seconds`` of work.

    ``kind`` is the step's (``import``, ``params``, ...).
    """

    step: int
    label: str
    cached: bool
    seconds: float
    written: int
    kind: str = ""


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
    """Why one step ran: each input that differs from the last build's."""

    label: str
    texts: tuple[str, ...]


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
    | BuildFailed
)
"""The closed union: a renderer that matches on all of them shows everything."""
