"""Events of a build become the lines that Ollama's clients read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from mbuild.digest import Digest
from mbuild.events import (
    BuildEvent,
    BuildFinished,
    LayerReady,
    Status,
    StepFinished,
    StepProgress,
    Warned,
    WritingManifest,
)
from mbuild.store.manifest import TEMPLATE

PROGRESS_SECONDS = 0.1
"""Progress lines come no faster than this."""

HEARTBEAT_SECONDS = 20.0
"""After this long without a line the last one is repeated: a client's proxy must not give up."""

LINES_OF_STEPS: Mapping[str, tuple[str, str]] = {
    "import": ("parsing GGUF", "verifying conversion"),
    "merge": ("parsing GGUF", "verifying conversion"),
}
"""What Ollama says before and after a step of a kind, also when its result is cached.

A running step says the first itself.
"""

_DETECTED = "using autodetected template"

Line = Mapping[str, Any]


class Lines:
    """Turns the events of one build into lines; keeps what must come later than it happens.

    ``fresh`` are uploaded blobs that no model used before this build: their
    layers are new, though the store has them.
    """

    def __init__(self, fresh: Collection[Digest]) -> None:
        self._fresh = fresh
        self._detected: list[str] = []
        self.last: Line = {"status": "working"}

    def of(self, event: BuildEvent) -> list[Line]:
        """The lines of an event, perhaps none."""
        lines: list[Line] = [{"status": text} for text in self._texts(event)]
        if isinstance(event, StepProgress):
            lines = [progress_line(event)]
        if lines:
            self.last = lines[-1]
        return lines

    def _texts(self, event: BuildEvent) -> list[str]:
        match event:
            case Status(text) if text.startswith(_DETECTED):
                self._detected.append(text)  # Ollama says it with the template's layer
                return []
            case Status(text):
                return [text]
            case Warned(text):
                return [f"warning: {text.removeprefix('warning: ')}"]
            case StepFinished(kind=kind, cached=cached) if kind in LINES_OF_STEPS:
                before, after = LINES_OF_STEPS[kind]
                return [before, after] if cached else [after]
            case LayerReady(digest, media_type, existing=existing):
                detected, self._detected = self._detected, []
                if media_type != TEMPLATE:
                    detected, self._detected = [], detected
                new = not existing or digest in self._fresh
                text = f"{'creating new' if new else 'using existing'} layer {digest}"
                return [*detected, text]
            case WritingManifest():
                return ["writing manifest"]
            case BuildFinished():
                return ["success"]
        return []


def progress_line(event: StepProgress) -> Line:
    """Progress of one step; both numbers are whole bytes."""
    return {
        "status": event.label,
        "step": event.step,
        "total": int(event.total),
        "completed": int(event.completed),
    }


def encode(line: Line) -> bytes:
    """One line of the stream, with its end."""
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
