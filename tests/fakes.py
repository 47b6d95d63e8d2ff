"""Steps and stores that tests of the engine and of single steps take instead of real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.core.digest import Digest
from mbuild.core.values import aside

RUNS: list[str] = []
"""The names of the fake steps that ran, in the order in which they began."""


class FakeStep(BaseStep):
    """Puts ``text`` and what its inputs put into one layer; ``then`` happens while it runs."""

    name: str
    text: str = ""
    inputs: tuple[Step, ...] = ()
    then: Callable[[StepContext], object] | None = aside(default=None)

    kind: ClassVar[str] = "fake"
    version: ClassVar[int] = 1
    role: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """The name."""
        return self.name

    def key_fields(self) -> Mapping[str, Any] | None:
        """The text alone: steps of other names have the same result."""
        return {"text": self.text}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Store the text, followed by the digests of the inputs' layers."""
        RUNS.append(self.name)
        if self.then is not None:
            self.then(context)
        given = [str(layer.digest) for result in inputs for layer in result.layers]
        blob = context.store.blobs.put("\n".join([self.text, *given]).encode())
        return Made.of([blob], "application/fake")


class FakeMember(FakeStep):
    """A step of the group ``team``, which runs together."""

    team: str = "team"

    kind: ClassVar[str] = "fake-member"

    @property
    def group(self) -> Hashable:
        """The team."""
        return self.team

    def run_together(
        self, steps: Sequence[Step], context: StepContext, inputs: Sequence[Sequence[Result]]
    ) -> Iterator[tuple[Step, Made]]:
        """One after the other, with a line for all of them before."""
        RUNS.append("together: " + ", ".join(step.label for step in steps))
        yield from super().run_together(steps, context, inputs)


class FakeReader(FakeStep):
    """A step over a file whose digest is not known until it has read it."""

    digest: Digest | None = None

    kind: ClassVar[str] = "fake-reader"

    def key_fields(self) -> Mapping[str, Any] | None:
        """The digest, once it is known."""
        return None if self.digest is None else {"file": str(self.digest)}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """As every fake step; the text is what stands in the file."""
        made = super().run(context, inputs)
        return made._replace(files={self.name: Digest.of(self.text.encode())})

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """With the digest."""
        return self.changed(digest=files.get(self.name))


def waiting_for(event: threading.Event) -> Callable[[StepContext], object]:
    """For ``then``: run until the event is set, or the build is stopped."""

    def wait(context: StepContext) -> None:
        while not event.wait(0.01):
            context.report(0, 0)

    return wait
