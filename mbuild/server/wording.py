"""Events of a build in the words that Ollama's clients read: the only place of the server's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mbuild.build.reasons import in_words
from mbuild.core.digest import Digest
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    Code,
    LayerReady,
    ModelBuilt,
    Replaced,
    Status,
    StepFinished,
    StepProgress,
    Warned,
    WritingManifest,
)
from mbuild.core.transfers import (
    BlobDone,
    BlobProgress,
    Direction,
    Phase,
    PhaseStarted,
    TransferEvent,
    Transferred,
)
from mbuild.core.units import human_size
from mbuild.core.values import NamedTuple
from mbuild.server.errors import in_fields
from mbuild.server.stream import Line

STATUSES: Mapping[Code, str] = {
    Code.WAITING_FOR_PRUNE: "waiting for another mbuild, which is removing blobs",
    Code.WAITING_FOR_BUILDS: "waiting for other builds to finish",
    Code.PULLING_MANIFEST: "pulling manifest",
    Code.PARSING_GGUF: "parsing GGUF",
    Code.CONVERTING_MODEL: "converting model",
    Code.CONVERTING_ADAPTER: "converting adapter",
    Code.QUANTIZING: "quantizing {source} model to {target}",
    Code.AUTODETECTED_TEMPLATE: "using autodetected template {template}",
}
"""The statuses that clients get; the others are for terminals.

A quantization's comes with how far it is, as from Ollama.
"""

_ONLY_LOGGED: Mapping[Code, str] = {
    Code.COMPILING_QUANTIZERS: "compiling quantizers for {types}",
    Code.REUSED_TENSORS: "reused {reused} of {total} quantized tensors",
    Code.NEWLY_QUANTIZED: "newly quantized: {tensors}",
    Code.WORKERS: "computing on {place}, {threads} tasks at a time",
    Code.CHOSEN_TYPES: "chose types for {size}, {bits} bits a weight",
    Code.WAITING_FOR_MACHINE: "waiting for {holder}, which makes the same: {step}",
    Code.TAKING_OVER: "{holder} has stopped: {step}",
    Code.TOOK_SHARED: "took {size} from the shared cache: {step}",
    Code.MAKING_SOONER: "made here in about {making}, {by}; from the shared cache it would take"
    " {fetching}: {step}",
    Code.SENDING_SHARED: "sending {size} to the shared cache",
    Code.SENT_SHARED: "sent {size} to the shared cache",
}
"""The statuses that the page's log has, and that no client of Ollama's expects."""

_VERIFYING = "verifying conversion"


class _Around(NamedTuple):
    """What Ollama says before and after a step of a kind."""

    before: str
    after: str


LINES_OF_STEPS: Mapping[str, _Around] = {
    "import": _Around(STATUSES[Code.PARSING_GGUF], _VERIFYING),
    "merge": _Around(STATUSES[Code.PARSING_GGUF], _VERIFYING),
    "convert": _Around(STATUSES[Code.CONVERTING_MODEL], _VERIFYING),
    "convert-adapter": _Around(STATUSES[Code.CONVERTING_ADAPTER], ""),
    "quantize": _Around("", _VERIFYING),
}
"""What is said around a step, also when its result is cached.

A running step says the first itself; of a cached quantization the request
tells what it began with.
"""

_MADE_FROM_FILES = ("import", "convert")
"""Of these kinds Ollama verifies the model, not the draft."""


def opening(*, is_checkpoint: bool) -> str:
    """How Ollama begins with a request's files."""
    return STATUSES[Code.CONVERTING_MODEL if is_checkpoint else Code.PARSING_GGUF]


PHASES: Mapping[tuple[Direction, Phase], str] = {
    (Direction.PULL, Phase.READING_MANIFEST): "pulling manifest",
    (Direction.PULL, Phase.VERIFYING): "verifying sha256 digest",
    (Direction.PULL, Phase.WRITING_MANIFEST): "writing manifest",
    (Direction.PUSH, Phase.READING_MANIFEST): "retrieving manifest",
    (Direction.PUSH, Phase.WRITING_MANIFEST): "pushing manifest",
    (Direction.PUSH, Phase.ABSENT): "couldn't retrieve manifest",
}
"""What Ollama says while a model travels and no blob does."""

_MOVING = {Direction.PULL: "pulling", Direction.PUSH: "pushing"}


class TransferLines:
    """Turns the events of one pull or push into Ollama's lines."""

    def __init__(self) -> None:
        self.last: Line = {"status": "working"}

    def of(self, event: BuildEvent | TransferEvent) -> list[Line]:
        """The lines of an event, perhaps none."""
        line: Line | None = None
        match event:
            case PhaseStarted(direction, phase):
                line = {"status": PHASES[direction, phase]}
            case BlobProgress(direction, digest, completed, total):
                line = _blob(direction, digest, completed, total)
            case BlobDone(direction, digest, total):
                line = _blob(direction, digest, total, total)
            case Transferred():
                line = {"status": "success"}
            case Status(code, values) if code in STATUSES:
                line = {"status": STATUSES[code].format(**values)}
        if line is None:
            return []
        self.last = line
        return [line]


def _blob(direction: Direction, digest: Digest, completed: int, total: int) -> Line:
    """How far a blob is; Ollama leaves out a number that is 0."""
    line = {"status": f"{_MOVING[direction]} {digest.short}", "digest": str(digest)}
    numbers = {"total": total, "completed": completed}
    return {**line, **{key: number for key, number in numbers.items() if number}}


class Wording(NamedTuple):
    """What the lines of a build depend on besides its events.

    ``fresh``: uploaded blobs that no model used before, whose layers are new
    though the store has them. ``opening`` and ``draft_opening``: how a
    quantization of the request's files, and of its draft's, begins.
    """

    fresh: Collection[Digest] = ()
    opening: str = ""
    draft_opening: str = ""


class Lines:
    """Turns the events of one build into lines; keeps what must come later than it happens.

    Ollama has no line for a warning: the last line carries them all.
    """

    def __init__(self, wording: Wording) -> None:
        self._wording = wording
        self._quantizing: dict[tuple[Any, Any], str] = {}
        self.warnings: list[str] = []
        self.last: Line = {"status": "working"}

    def of(self, event: BuildEvent | TransferEvent) -> list[Line]:
        """The lines of an event, perhaps none."""
        lines: list[Line] = [{"status": text} for text in self._texts(event)]
        if isinstance(event, StepProgress):
            lines = [progress_line(event, self._quantizing.get((event.role, event.target), ""))]
        elif isinstance(event, BuildFinished) and self.warnings:
            lines = [{"status": "success", "warnings": self.warnings}]
        if lines:
            self.last = lines[-1]
        return lines

    def _texts(self, event: BuildEvent | TransferEvent) -> list[str]:
        match event:
            case Status(code, values) if code in STATUSES:
                text = STATUSES[code].format(**values)
                if code is not Code.QUANTIZING:
                    return [text]
                self._quantizing[values["role"], values["target"]] = text
            case Warned(text=text):
                self.warnings.append(in_fields(text))
            case StepFinished(kind=kind, role=role, cached=cached) if kind in LINES_OF_STEPS:
                before, after = self._around(kind, role)
                return [text for text in ((before, after) if cached else (after,)) if text]
            case LayerReady(digest, existing=existing):
                new = not existing or digest in self._wording.fresh
                return [f"{'creating new' if new else 'using existing'} layer {digest}"]
            case WritingManifest():
                return ["writing manifest"]
            case BuildFinished():
                return ["success"]
        return []

    def _around(self, kind: str, role: str) -> _Around:
        """What is said before and after a step; Ollama verifies no adapter."""
        before, after = LINES_OF_STEPS[kind]
        is_draft = role == "draft"
        if not before:
            before = self._wording.draft_opening if is_draft else self._wording.opening
        if role == "adapter" or (is_draft and kind in _MADE_FROM_FILES):
            after = ""
        return _Around(before, after)


def log_line(event: BuildEvent | TransferEvent) -> str:
    """What the page's log says of an event; nothing of steps, which it shows by themselves."""
    match event:
        case Status(code, values):
            words = in_words(values)
            if isinstance(size := values.get("size"), int):
                words["size"] = human_size(size)
            return (_ONLY_LOGGED.get(code) or STATUSES.get(code, "")).format(**words)
        case Warned(text=text):
            return f"warning: {in_fields(text)}"
        case LayerReady(digest, existing=existing):
            return f"{'using existing' if existing else 'creating new'} layer {digest.short}"
        case WritingManifest(name):
            return f"writing manifest of {name}"
        case Replaced(name, id):
            return f"replaced {name} (was {id.short})"
        case ModelBuilt(name, id):
            return f"built {name} {id.short}"
    return ""


def progress_line(event: StepProgress, quantizing: str = "") -> Line:
    """Progress of one step; both numbers are whole bytes."""
    return {
        "status": quantizing if event.kind == "quantize" and quantizing else event.label,
        "step": event.step,
        "total": int(event.total),
        "completed": int(event.completed),
    }
