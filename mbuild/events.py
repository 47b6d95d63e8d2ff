"""What a build tells the world while it runs.

Steps report to the engine, the engine yields these values, and one renderer
per front end shows them. A failure is an exception, not an event.
"""

from __future__ import annotations

from dataclasses import dataclass

from mbuild.digest import Digest


@dataclass(frozen=True, slots=True)
class BuildStarted:
    """A build begins; ``steps`` is how many there are, cached or not."""

    name: str
    steps: int


@dataclass(frozen=True, slots=True)
class Status:
    """A line that Ollama would print, such as ``parsing GGUF``."""

    text: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that does not stop the build but that its author should know."""

    text: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step runs because the cache has no result for it; ``step`` is its number."""

    step: int
    label: str


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far a running step is, in bytes; ``total`` is 0 while it is not known."""

    step: int
    label: str
    completed: int
    total: int


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step has its result, from the cache or after ``seconds`` of work."""

    step: int
    label: str
    cached: bool
    seconds: float
    written: int


@dataclass(frozen=True, slots=True)
class LayerReady:
    """A layer of the new manifest, in its order there.

    ``existing``: the store had it before this build (Ollama's ``using existing
    layer``); otherwise it is new.
    """

    digest: Digest
    media_type: str
    size: int
    existing: bool


@dataclass(frozen=True, slots=True)
class WritingManifest:
    """All layers are durable; the name is about to be changed."""

    name: str


@dataclass(frozen=True, slots=True)
class BuildFinished:
    """The model is there. ``id`` is the manifest's digest, ``written`` bytes of new blobs."""

    name: str
    id: Digest
    ran: int
    cached: int
    written: int
    seconds: float


BuildEvent = (
    BuildStarted
    | Status
    | Warned
    | StepStarted
    | StepProgress
    | StepFinished
    | LayerReady
    | WritingManifest
    | BuildFinished
)
"""The closed union: a renderer that matches on all of them shows everything."""
