"""Models measured by running them: on a text, or by what they answer."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext, variant_label
from mbuild.build.sources.values import Material, SourceFile
from mbuild.build.steps.opened import OpenFiles
from mbuild.build.steps.origins import ORIGIN_NAMES, Origin
from mbuild.build.steps.unquantized import files_for_engine, loadable, loadable_layers
from mbuild.core.values import aside
from mbuild.store import Layer

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.core.digest import Digest
    from mbuild.runtime.statistics.jobs import Progress
    from mbuild.store.ports import BuildStore


class MeasureModel(BaseStep):
    """A model's weights go through a text, beside those that they were quantized from.

    ``weights`` is the step that makes them, or their layers; ``against`` are the unquantized
    ones, None for perplexity alone. The facts are those of
    :class:`mbuild.runtime.statistics.quality.Quality`. No logits are kept, and no bound is in
    the key: another bound costs nothing.
    """

    weights: Step | tuple[Layer, ...]
    against: Origin | None
    text: SourceFile
    chunks: int = 0
    target: str = aside(default="")

    kind: ClassVar[str] = "measure"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    shows: ClassVar[tuple[str, ...]] = ("perplexity", "mean_kld", "kld_99", "same_top")
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        **ORIGIN_NAMES,
        ("layers",): "weights",
        ("text",): "text",
        ("chunks",): "chunks",
        ("engine",): "the engine",
    }

    @property
    def inputs(self) -> tuple[Step, ...]:
        """What makes the weights."""
        return () if isinstance(self.weights, tuple) else (self.weights,)

    @property
    def needs(self) -> tuple[Step, ...]:
        """The unquantized weights in a file."""
        return files_for_engine(self.against) if self.against is not None else ()

    @property
    def subject(self) -> str:
        """The name of the text."""
        return self.text.name

    @property
    def label(self) -> str:
        """On what it is measured."""
        return variant_label(f"measure on {self.text.name}", self.target)

    @property
    def materials(self) -> tuple[Material, ...]:
        """The text."""
        return (self.text.material,)

    def key_fields(self) -> Mapping[str, Any] | None:
        """The text and how much of it, what it is compared with, and what computes it."""
        from mbuild.runtime.statistics.identity import engine_identity

        against = self.against.fields() if self.against is not None else None
        if self.text.content is None or (self.against is not None and against is None):
            return None
        layers = self.weights if isinstance(self.weights, tuple) else ()
        return {
            "text": str(self.text.content),
            "chunks": self.chunks,
            "origin": against,
            "engine": engine_identity(),
            **({"layers": [str(layer.digest) for layer in layers]} if layers else {}),
        }

    def cost(self, store: BuildStore) -> Cost:
        """It writes nothing, and all cores work on it."""
        from mbuild.build.costs import Cost

        return Cost(writes=0, every_core=True)

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        against = self.against.learned(files) if self.against is not None else None
        return self.changed(text=self.text.learned(files), against=against)

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Run the text through one model, or through both in step."""
        from mbuild.runtime.statistics.jobs import measure_job, run_job
        from mbuild.work.cores import cores

        layers = self.weights if isinstance(self.weights, tuple) else inputs[0].layers
        with ExitStack() as stack:
            held, digests = stack.enter_context(held_text(self.text, context))
            own = stack.enter_context(loadable_layers(layers, context))
            other = None
            if self.against is not None:
                other = stack.enter_context(loadable(self.against, context))
            job = measure_job(own, other, str(held), self.chunks, cores())
            running = run_job(job, lambda: context.report(0, 0))
            facts = followed(running, context)
        return Made(Result(facts=facts), files=digests)


class AskModel(BaseStep):
    """A model is asked, as it would be run: by its template, with its system message.

    The fact is what it answered, the likeliest word each time, at most
    :data:`mbuild.build.steps.answering.LONGEST` of them.
    """

    manifest: Step
    prompt: str
    target: str = aside(default="")

    kind: ClassVar[str] = "ask"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    shows: ClassVar[tuple[str, ...]] = ("answer",)
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("prompt",): "prompt",
        ("engine",): "the engine",
    }

    @property
    def inputs(self) -> tuple[Step, ...]:
        """The manifest's step."""
        return (self.manifest,)

    @property
    def subject(self) -> str:
        """What is asked, or the beginning of it."""
        return repr(self.prompt[:40])

    @property
    def label(self) -> str:
        """What is asked."""
        return variant_label(f"ask {self.subject}", self.target)

    def key_fields(self) -> Mapping[str, Any]:
        """The prompt, and what runs the model."""
        from mbuild.build.steps.answering import LONGEST
        from mbuild.runtime.statistics.identity import engine_identity

        return {"prompt": self.prompt, "words": LONGEST, "engine": engine_identity()}

    def cost(self, store: BuildStore) -> Cost:
        """It writes nothing, and all cores work on it."""
        from mbuild.build.costs import Cost

        return Cost(writes=0, every_core=True)

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Load the model, ask, and end the engine."""
        from mbuild.build.steps.answering import answer
        from mbuild.build.steps.manifest import Assembled

        return Made(Result(facts={"answer": answer(Assembled.of(inputs[0]), self.prompt, context)}))


@contextmanager
def held_text(
    text: SourceFile, context: StepContext
) -> Iterator[tuple[Path, Mapping[str, Digest]]]:
    """A copy of a text, which nobody changes while it is used, and the text's digest.

    Raises :class:`SourceError` for one that is too long, and for what is no text.
    """
    from mbuild.runtime.abandoned import OwnFolder
    from mbuild.runtime.statistics.texts import MAX_TEXT, check_text, too_long

    if text.stamp.size > MAX_TEXT:
        raise too_long(text.name)
    with OwnFolder() as folder:
        held = folder.path / "text"
        with ExitStack() as stack:
            files = OpenFiles({text.name: text}, stack, by_name=True)
            data = files.paths[text.name].read_bytes()
            held.write_bytes(data)
            files.finish(context)
            check_text(text.name, data)
            digests = files.digests(context)
        yield held, digests


def followed(
    work: Generator[Progress, None, dict[str, Any]], context: StepContext
) -> dict[str, Any]:
    """The result of a job of the engine's, whose progress is the step's."""
    with closing(work):
        while True:
            try:
                progress = next(work)
            except StopIteration as ended:
                found: dict[str, Any] = ended.value
                return found
            context.report(progress.done, progress.total)
