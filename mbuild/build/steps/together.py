"""Steps that read all of an origin: those of one origin run together, and read it once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext, written
from mbuild.build.sources.values import Material, SourceFile
from mbuild.build.steps.gguf import Role
from mbuild.build.steps.opened import OpenFiles
from mbuild.build.steps.origins import CheckpointOrigin, Origin, Readable

if TYPE_CHECKING:
    from mbuild.gguf.model import Model


class OfOrigin(BaseStep):
    """A step that reads all of an origin."""

    if TYPE_CHECKING:

        @property
        def origin(self) -> Origin:
            """What it is over."""

    @property
    def needs(self) -> tuple[Step, ...]:
        """The download of what is on another machine."""
        return self.origin.needs

    @property
    def subject(self) -> str:
        """The name of the origin."""
        return self.origin.name

    @property
    def reads(self) -> int:
        """The source's size; what else it reads is small."""
        return sum(each.size for each in self.origin.materials)

    @property
    def materials(self) -> tuple[Material, ...]:
        """The source."""
        return self.origin.materials


class Together(OfOrigin):
    """A step over an origin's files: those of one origin run together, and read them once."""

    quick: ClassVar[bool] = False
    """Whether it takes no time beside the others of its group."""

    needs_model: ClassVar[bool] = True
    """Whether it is made of the opened model."""

    @property
    def role(self) -> str:
        """Nothing: it makes no weights."""
        return ""

    @classmethod
    def make(
        cls, steps: Sequence[Any], model: Model, files: OpenFiles, context: StepContext
    ) -> list[Made]:
        """The results of all steps of this kind, from the opened origin."""
        raise NotImplementedError

    @classmethod
    def check(cls, steps: Sequence[Any], files: OpenFiles, context: StepContext) -> None:
        """Raise what makes the steps fail before anything is written by the others."""

    def settled(self, inputs: Sequence[Result], context: StepContext) -> Any:
        """The step with what its inputs came to in their place."""
        return self

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """All files to open."""
        return tuple(self.origin.files.values())

    @property
    def overlaps(self) -> bool:
        """Whether it reads safetensors, which it can while they arrive."""
        return isinstance(self.origin, CheckpointOrigin)

    @property
    def group(self) -> Hashable | None:
        """The origin, and what it is for: its readers run together."""
        return self.group_of(self.origin, self.role)

    @staticmethod
    def group_of(origin: Origin, role: str) -> Hashable:
        """The group of the readers of an origin that is for a role."""
        return str(role or Role.MODEL), written(origin)

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """The step's own; that of a conversion on the way counts too."""
        return (*super().versions, *self.origin.versions)

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """As a group of one."""
        ((_, made),) = self.run_together([self], context, [inputs])
        return made

    def run_together(
        self, steps: Sequence[Any], context: StepContext, inputs: Sequence[Sequence[Result]]
    ) -> Iterator[tuple[Step, Made]]:
        """Open the origin, and make what each kind of step over it makes, quick ones first."""
        kinds: dict[type[Together], list[Any]] = {}
        settled = {}
        for step, given in sorted(
            zip(steps, inputs, strict=True), key=lambda pair: not pair[0].quick
        ):
            kinds.setdefault(type(step), []).append(step)
            settled[step] = step.settled(given, context)
        with ExitStack() as stack:
            sources = {str(f.path): f for step in settled.values() for f in step.files}
            files = OpenFiles(sources, stack, by_name=self.origin.by_name, context=context)
            for kind, own in kinds.items():
                kind.check([settled[step] for step in own], files, context)
            model: Any = None
            if any(step.needs_model for step in steps):
                model = self.origin.open(context, readable(self.origin, files), stack)
            *first, last = kinds.items()
            files.more_follow = bool(first)
            for kind, own in first:
                made = kind.make([settled[step] for step in own], model, files, context)
                yield from zip(own, made, strict=True)
            kind, own = last
            files.read_last()
            made = kind.make([settled[step] for step in own], model, files, context)
            files.finish(context)
            digests = files.digests(context)
        for step, each in zip(own, made, strict=True):
            yield step, each._replace(files=digests)


class OverOrigin(Together):
    """A step over an origin, which is a field of its own."""

    origin: Origin


def readable(origin: Origin, files: OpenFiles) -> Readable:
    """An origin's files among those that were opened."""
    places = {name: str(file.path) for name, file in origin.files.items()}
    seen = {name: files.seen[place] for name, place in places.items() if place in files.seen}
    return Readable({name: files.paths[place] for name, place in places.items()}, seen)
