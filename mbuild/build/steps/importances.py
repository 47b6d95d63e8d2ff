"""An importance matrix as a step: computed by the engine on the unquantized model, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.results import cache_key, describe
from mbuild.build.sources.values import FileStamp, Material, SourceFile
from mbuild.build.steps.measuring import followed, held_text
from mbuild.build.steps.origins import ORIGIN_NAMES, Origin
from mbuild.build.steps.unquantized import files_for_engine, loadable
from mbuild.store.records import IMATRIX

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.core.digest import Digest
    from mbuild.store import Store
    from mbuild.store.ports import BuildStore

IMATRIX_TYPE = "application/vnd.mbuild.imatrix"
"""The media type of a matrix in a step's result; no model has such a layer."""

NAME = "imatrix.gguf"
"""What llama-imatrix calls its file, and llama-quantize then writes into the model."""


class MakeImatrix(BaseStep):
    """The sums of squares that a text's activations give for each column of the weights.

    The rules are llama-imatrix'. All variants that want the same matrix share this step.
    What a killed build had computed is gone on with, chunk by chunk.
    """

    origin: Origin
    text: SourceFile
    chunks: int = 0

    kind: ClassVar[str] = "imatrix"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[Step, ...]] = ()
    input_name: ClassVar[str] = "importance matrix"
    shows: ClassVar[tuple[str, ...]] = ("imatrix", "chunks", "weights", "unseen")
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        **ORIGIN_NAMES,
        ("text",): "text",
        ("chunks",): "--imatrix-chunks",
        ("engine",): "the engine",
    }

    @property
    def needs(self) -> tuple[Step, ...]:
        """The unquantized weights in a file."""
        return files_for_engine(self.origin)

    @property
    def subject(self) -> str:
        """The name of the text."""
        return self.text.name

    @property
    def label(self) -> str:
        """Of which model on which text."""
        return f"compute importances of {self.origin.shown} on {self.text.name}"

    @property
    def materials(self) -> tuple[Material, ...]:
        """The model and the text."""
        return (*self.origin.materials, self.text.material)

    def key_fields(self) -> Mapping[str, Any] | None:
        """The unquantized model, the text and how much of it, and what computes it.

        The text's name is in the file.
        """
        from mbuild.runtime.statistics.identity import engine_identity

        origin = self.origin.fields()
        if origin is None or self.text.content is None:
            return None
        return {
            "origin": origin,
            "text": [self.text.name, str(self.text.content)],
            "chunks": self.chunks,
            "engine": engine_identity(),
        }

    def cost(self, store: BuildStore) -> Cost:
        """A file of some MiB, which takes as long as so many tokens of a prompt."""
        from mbuild.build.costs import Cost

        return Cost(writes=None, every_core=True)

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(origin=self.origin.learned(files), text=self.text.learned(files))

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Run the text through the model, and keep the matrix.

        Where one was lent (:func:`lent_key`), that is the matrix.
        """
        lent = context.store.cache.get(IMATRIX, lent_key(self.label))
        if lent is not None:
            return Made(Result.from_json(lent["result"]))
        from mbuild.runtime.abandoned import OwnFolder
        from mbuild.runtime.statistics.jobs import imatrix_job, run_job
        from mbuild.work.cores import cores

        with ExitStack() as stack:
            held, digests = stack.enter_context(held_text(self.text, context))
            path = stack.enter_context(loadable(self.origin, context))
            output = stack.enter_context(OwnFolder()).path / NAME
            job = imatrix_job(
                path, str(held), str(output), self.text.name, self.chunks, cores(), special=False
            )
            state = self._state(context, digests)
            running = run_job({**job, "state": state}, lambda: context.report(0, 0))
            facts = followed(running, context)
            blob = context.store.blobs.put(output.read_bytes())
        if state:
            Path(state).unlink(missing_ok=True)
        for weight, experts in facts["unseen"].items():
            numbers = ", ".join(map(str, experts[:_NAMED])) + (", ..." * (len(experts) > _NAMED))
            context.warn(f"{self.text.name} never reached experts {numbers} of {weight}")
        shown = {
            "imatrix": str(blob.digest),
            "chunks": facts["chunks"],
            "weights": facts["tensors"],
            "unseen": facts["unseen"] or None,
        }
        return Made.of([blob], IMATRIX_TYPE, shown, digests)

    def _state(self, context: StepContext, digests: Mapping[str, Digest]) -> str:
        """Where what was computed so far is kept; nowhere while the key is not known."""
        described = describe(self.learned(digests), ())
        if described is None or not context.use_cache:
            return ""
        folder = cast("Store", context.store).private / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder / f"imatrix-{cache_key(described)[:32]}")


_NAMED = 8

LENT_KIND = MakeImatrix.kind
"""The kind of the steps whose results are lent to a store that builds a model again."""


def lent_key(label: str) -> str:
    """Under what such a store knows the matrix of the step with that label."""
    return f"lent {label}"


def matrix_of(result: Result, store: BuildStore) -> SourceFile:
    """The matrix that :class:`MakeImatrix` came to, as a file."""
    (layer,) = result.layers
    path = store.blobs.local_path(layer.digest)
    return SourceFile(NAME, path, FileStamp.of(path.stat(), is_blob=True), None, layer.digest)
