"""The types of a model's tensors chosen such that it keeps most within a size.

What a type loses is measured: some rows of the tensor are quantized to it and decoded again.
That is remembered for each tensor and type, so another size costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import Made, Result, Step, StepContext
from mbuild.build.sources.values import SourceFile
from mbuild.build.steps.opened import OpenFiles, open_source
from mbuild.build.steps.origins import ORIGIN_NAMES, Origin
from mbuild.build.steps.together import OfOrigin, readable
from mbuild.core.events import Code
from mbuild.core.units import human_size
from mbuild.quant.choose.options import BESIDE_TYPES, OPTIONS, Quantization

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.build.steps.importances import MakeImatrix
    from mbuild.core.digest import Digest
    from mbuild.quant.choose.types import Budget
    from mbuild.store.ports import BuildStore

CHOOSER_VERSION = 1
"""Counts up when the same model and size would come out as other types."""


class ChooseTypes(OfOrigin):
    """Each tensor's type, such that the whole loses least within a budget.

    ``imatrix`` is the importance matrix of the quantization, a file or the step that computes
    one. The fact that counts is the quantization that names every type.
    """

    origin: Origin
    quantization: Quantization
    imatrix: SourceFile | MakeImatrix | None = None

    kind: ClassVar[str] = "choose"
    role: ClassVar[str] = ""
    version: ClassVar[int] = CHOOSER_VERSION
    input_name: ClassVar[str] = "chosen types"
    shows: ClassVar[tuple[str, ...]] = ("size", "bits", "flags", "modelfile")
    input_facts: ClassVar[tuple[str, ...]] = ("flags", "loss")
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        **ORIGIN_NAMES,
        ("quantization", "file_type"): "size",
        **{("quantization", field): option.flag for field, option in OPTIONS.items()},
    }

    @property
    def inputs(self) -> tuple[Step, ...]:
        """What computes the importance matrix."""
        if self.imatrix is None or isinstance(self.imatrix, SourceFile):
            return ()
        return (self.imatrix,)

    @property
    def matrix(self) -> SourceFile | None:
        """The importance matrix, if it is a file."""
        return self.imatrix if isinstance(self.imatrix, SourceFile) else None

    @property
    def budget(self) -> Budget:
        """How large the model may be."""
        budget = self.quantization.file_type.budget
        assert budget is not None
        return budget

    @property
    def target(self) -> str:
        """The size."""
        return self.quantization.file_type.name

    @property
    def label(self) -> str:
        """For what types are chosen."""
        return f"choose types of {self.origin.shown} for {self.target}"

    def key_fields(self) -> Mapping[str, Any] | None:
        """The unquantized model, the budget, and what the user says of single tensors."""
        origin, options = self.origin.fields(), self.quantization.fields()
        if origin is None:
            return None
        if self.matrix is not None:
            if self.matrix.content is None:
                return None
            options["imatrix"] = [self.matrix.name, str(self.matrix.content)]
        return {"origin": origin, "quantization": options}

    def cost(self, store: BuildStore) -> Cost:
        """It writes nothing, and all cores work on it."""
        from mbuild.build.costs import Cost

        return Cost(writes=0, every_core=True)

    def cost_of_file(self, store: BuildStore) -> Cost:
        """What quantizing to the chosen types takes, as far as it can be known before."""
        from mbuild.build.costs import Cost

        return Cost(writes=self.budget.size, every_core=True)

    def learned(self, files: Mapping[str, Digest]) -> Any:
        """The step with the digests that reading the files gave."""
        imatrix = None if self.imatrix is None else self.imatrix.learned(files)
        return self.changed(origin=self.origin.learned(files), imatrix=imatrix)

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Measure what is not known yet, and choose."""
        from mbuild.build.steps.chooser import TypeChooser
        from mbuild.build.steps.importances import matrix_of
        from mbuild.quant.choose.imatrix import open_imatrix

        file = matrix_of(inputs[0], context.store) if inputs else self.matrix
        quiet = context._replace(status=lambda code, values: None, warn=lambda text: None)
        with ExitStack() as stack:
            sources = {str(each.path): each for each in self.origin.files.values()}
            by_name = self.origin.by_name
            files = OpenFiles(sources, stack, by_name=by_name, context=context)
            imatrix = None
            if file is not None:
                opened = stack.enter_context(open_source(file))
                use = self.quantization.matrix_use
                imatrix = open_imatrix(opened.path, name=file.name, use=use)
            model = self.origin.open(quiet, readable(self.origin, files), stack)
            facts = TypeChooser(self.quantization, model, imatrix, context).facts()
            files.finish(context)
            digests = files.digests(context)
        for text in (facts["flags"], facts["modelfile"]):
            values = {"size": human_size(facts["size"]), "bits": f"{facts['bits']:.2f}"}
            context.status(Code.CHOSEN_TYPES, {**values, "again": text})
        return Made(Result(facts=facts), files=digests)


def chosen(result: Result, asked: Quantization) -> Quantization:
    """The quantization that names every type, with all else that was asked."""
    found = Quantization.from_json(result.facts["quantization"])
    return found._replace(**{name: getattr(asked, name) for name in BESIDE_TYPES})
