"""Events of a build become the lines that Ollama's clients read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from mbuild.core.digest import Digest
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    LayerReady,
    Status,
    StepFinished,
    StepProgress,
    Warned,
    WritingManifest,
)

PROGRESS_SECONDS = 0.1
"""Progress lines come no faster than this."""

PATIENCE_SECONDS = 0.5
"""Nobody needs to see the progress of a build that is over by then."""

HEARTBEAT_SECONDS = 20.0
"""After this long without a line the last one is repeated: a client's proxy must not give up."""

_VERIFYING = "verifying conversion"

LINES_OF_STEPS: Mapping[str, tuple[str, str]] = {
    "import": ("parsing GGUF", _VERIFYING),
    "merge": ("parsing GGUF", _VERIFYING),
    "convert": ("converting model", _VERIFYING),
    "convert-adapter": ("converting adapter", ""),
    "quantize": ("", _VERIFYING),
}
"""What Ollama says before and after a step of a kind, also when its result is cached.

A running step says the first itself; of a cached quantization the request
tells what it began with.
"""

SAID = ("parsing GGUF", "converting ", "using autodetected ", "waiting ")
"""How the statuses begin that clients get as they are; the others are for terminals."""

_QUANTIZING = "quantizing "

Line = Mapping[str, Any]


class Wording(NamedTuple):
    """What the lines of a build depend on besides its events.

    ``fresh``: uploaded blobs that no model used before, whose layers are new
    though the store has them. ``adapters``: names of adapters' files, which
    Ollama does not verify. ``opening`` and ``draft_opening``: how a
    quantization of the request's files, and of its draft's, begins.
    """

    fresh: Collection[Digest] = ()
    adapters: Collection[str] = ()
    opening: str = ""
    draft_opening: str = ""


class Lines:
    """Turns the events of one build into lines; keeps what must come later than it happens.

    Ollama has no line for a warning: the last line carries them all.
    """

    def __init__(self, wording: Wording) -> None:
        self._wording = wording
        self._quantizing: dict[str, str] = {}
        self.warnings: list[str] = []
        self.last: Line = {"status": "working"}

    def of(self, event: BuildEvent) -> list[Line]:
        """The lines of an event, perhaps none."""
        lines: list[Line] = [{"status": text} for text in self._texts(event)]
        if isinstance(event, StepProgress):
            lines = [progress_line(event, self._quantizing.get(_last_word(event.label), ""))]
        elif isinstance(event, BuildFinished) and self.warnings:
            lines = [{"status": "success", "warnings": self.warnings}]
        if lines:
            self.last = lines[-1]
        return lines

    def _texts(self, event: BuildEvent) -> list[str]:
        match event:
            case Status(text) if text.startswith(_QUANTIZING):
                self._quantizing[_last_word(text)] = text  # Ollama says it with how far it is
                return []
            case Status(text) if text.startswith(SAID):
                return [text]
            case Warned(text):
                self.warnings.append(text.removeprefix("warning: "))
                return []
            case StepFinished(kind=kind, label=label, cached=cached) if kind in LINES_OF_STEPS:
                before, after = self._around(kind, label.partition(" ")[2])
                return [text for text in ((before, after) if cached else (after,)) if text]
            case LayerReady(digest, existing=existing):
                new = not existing or digest in self._wording.fresh
                return [f"{'creating new' if new else 'using existing'} layer {digest}"]
            case WritingManifest():
                return ["writing manifest"]
            case BuildFinished():
                return ["success"]
        return []

    def _around(self, kind: str, what: str) -> tuple[str, str]:
        """What is said before and after a step; drafts are verified only where they change."""
        before, after = LINES_OF_STEPS[kind]
        is_draft = what.startswith("draft ")
        if not before:
            before = self._wording.draft_opening if is_draft else self._wording.opening
        if what in self._wording.adapters or (is_draft and kind in ("import", "convert")):
            after = ""
        return before, after


def _last_word(text: str) -> str:
    """The type that a model is quantized to, in a step's label and in Ollama's words for it."""
    return text.rpartition(" ")[2]


def progress_line(event: StepProgress, quantizing: str = "") -> Line:
    """Progress of one step; both numbers are whole bytes."""
    return {
        "status": quantizing if event.label.startswith("quantize ") and quantizing else event.label,
        "step": event.step,
        "total": int(event.total),
        "completed": int(event.completed),
    }


def encode(line: Line) -> bytes:
    """One line of the stream, with its end."""
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
