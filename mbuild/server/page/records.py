"""Builds as JSON: a line of a list, and everything about one; from the log or while it runs."""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING, Any

from mbuild.build.history import History
from mbuild.build.underway import build_underway
from mbuild.server.catalogue import timestamp
from mbuild.server.page.places import Scrub, without_places

if TYPE_CHECKING:
    from mbuild.build.history import BuildRecord, StepRecord
    from mbuild.store import Store

PAST = 50
"""Builds of the log that a list has."""

_KNOWN = 20  # records that were found and are remembered

MOST_REASONS = 20
"""Reasons of one step that are listed; a report has all."""


def summary(record: BuildRecord) -> dict[str, Any]:
    """A build's line; ``seconds`` of a running one are those until it last told of itself."""
    request = record.request
    return {
        "id": record.id,
        "names": list(record.names) if request.named else [],
        "state": record.result,
        "began": timestamp(record.time),
        "seconds": round(record.seconds, 3),
        "error": record.error,
        "from": "command line" if request.script else "api" if request.source else "",
        "steps": len(record.steps),
        "finished": record.ran + record.cached,
        "ran": record.ran,
        "cached": record.cached,
        "written": record.written,
        "here": False,
    }


def line(record: BuildRecord, scrub: Scrub) -> dict[str, Any]:
    """The same without this machine's folders; of the steps only how many there are is read."""
    counted = summary(record)
    said = summary(without_places(record._replace(steps=()), scrub))
    return {**counted, "names": said["names"], "error": said["error"]}


def details(record: BuildRecord) -> dict[str, Any]:
    """Everything about a build that its page shows."""
    script = record.request.script
    names = record.names_by_step
    return {
        **summary(record),
        "modelfile": script.name if script else "",
        "options": [f"{flag} {value}".rstrip() for flag, value in record.request.flags()],
        "version": record.version,
        "models": [
            {"name": name, "id": record.models[name].hex if name in record.models else ""}
            for name in record.names
        ],
        "of": [
            {**_step(step), "models": list(names.get(place, ()))}
            for place, step in enumerate(record.steps)
        ],
    }


def _step(step: StepRecord) -> dict[str, Any]:
    """A step; ``look`` is one of the graph's."""
    from mbuild.view.report.drawing import look_of

    return {
        "kind": step.kind,
        "label": step.label,
        "look": look_of(step).name.lower(),
        "started": round(step.started, 3),
        "seconds": round(step.seconds, 3),
        "read": step.read,
        "written": step.written,
        "fetched": step.fetched,
        "reasons": list(step.reasons[:MOST_REASONS]),
    }


class PastBuilds:
    """The log of one store, read again only when it changed. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._rows: list[dict[str, Any]] | None = None
        self._found: dict[str, BuildRecord | None] = {}

    def rows(self, store: Store, scrub: Scrub) -> list[dict[str, Any]]:
        """The last builds, as :func:`line` has them."""
        with self._lock:
            history = self._history(store)
            if self._rows is None:
                self._rows = [line(each, scrub) for each in islice(history.newest_first(), PAST)]
            return self._rows

    def find(self, store: Store, identity: str) -> BuildRecord | None:
        """The record of a build that runs in the store, or of one in its log."""
        running = build_underway(store, identity)
        if running is not None:
            return running
        with self._lock:
            history = self._history(store)
            if identity not in self._found:
                while len(self._found) >= _KNOWN:
                    del self._found[next(iter(self._found))]
                found = (each for each in history.newest_first() if each.id == identity)
                self._found[identity] = next(found, None)
            return self._found[identity]

    def _history(self, store: Store) -> History:
        """The log; what is remembered of it goes when it is not what it was."""
        history = History(store)
        try:
            info = history.path.stat()
            stamp = (info.st_size, info.st_mtime_ns)
        except OSError:  # nothing was built yet
            stamp = (0, 0)
        if stamp != self._stamp:
            self._stamp, self._rows, self._found = stamp, None, {}
        return history
