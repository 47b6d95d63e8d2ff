"""Builds that a test sees run: real ones that wait at a gate, and what other processes tell."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mbuild.build.build import build
from mbuild.build.history import BuildRecord
from mbuild.build.underway import Telling
from mbuild.core.events import BuildEvent, StepStarted
from mbuild.server import building
from mbuild.store import Store


class Gate:
    """``reached`` is set when a build has begun a step; it goes on once the gate is open."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def open(self) -> None:
        """Let all builds go on."""
        self._open.set()

    def build(self, *arguments: Any) -> Generator[BuildEvent, None, None]:
        """As :func:`mbuild.build.build.build`; whoever follows it waits at its first step."""
        events = build(*arguments)
        try:
            for event in events:
                yield event
                if isinstance(event, StepStarted):
                    self.reached.set()
                    self._open.wait(30)
        finally:
            events.close()


@contextmanager
def gated(patch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Every build of this process's servers passes the gate, which is open in the end."""
    gate = Gate()
    patch.setattr(building, "build", gate.build)
    try:
        yield gate
    finally:
        gate.open()


def told(store: Store, record: BuildRecord, identity: str) -> Telling:
    """What another process tells while it builds, with this id and else as in the record."""
    telling = Telling(store, identity)
    telling.tell(record._replace(id=identity, result="running"))
    return telling
