"""Changed weights that are not quantized: they become a layer, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import Made, Step, StepContext
from mbuild.build.splitting import SPLITTING_NAMES, Splitting, split_fields
from mbuild.build.steps.as_it_is import write_as_it_is
from mbuild.build.steps.changes import ChangedOrigin, held_factors
from mbuild.build.steps.gguf import Role, check_role
from mbuild.build.steps.models import made_of, shards_of, sizes_written
from mbuild.build.steps.opened import OpenFiles
from mbuild.build.steps.origins import ORIGIN_NAMES, open_quietly
from mbuild.build.steps.together import OverOrigin
from mbuild.core.errors import UnsupportedError

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.core.digest import Digest
    from mbuild.gguf.model import Model
    from mbuild.store.ports import BuildStore


class ChangeWeights(OverOrigin):
    """Weights become a layer with all that MERGE, SET, DROP and TAKE make of them."""

    origin: ChangedOrigin
    splitting: Splitting | None = None

    kind: ClassVar[str] = "change"
    role: ClassVar[str] = Role.MODEL
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[Step, ...]] = ()
    makes_weights: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = ORIGIN_NAMES | SPLITTING_NAMES

    @property
    def several_layers(self) -> bool:
        """Where it is split, or its source is and that is kept."""
        if self.splitting is None:
            return False
        return self.origin.is_split or not self.splitting.keep

    @property
    def label(self) -> str:
        """What is made of what."""
        return f"make {self.origin.shown}"

    @property
    def reads(self) -> int:
        """The sizes of all files."""
        return sum(file.stamp.size for file in self.origin.files.values())

    def key_fields(self) -> Mapping[str, Any] | None:
        """The description of the origin with its changes, and where it is cut."""
        origin = self.origin.fields()
        return None if origin is None else {"origin": origin, **split_fields(self.splitting)}

    def cost(self, store: BuildStore) -> Cost:
        """The file, written while all cores compute."""
        from mbuild.build.costs import Cost, memory_for
        from mbuild.work.cores import cores

        with ExitStack() as stack:
            model = open_quietly(self.origin, store, stack)
            shards = shards_of(model, self.splitting, StepContext.silent(store))
            size, largest = sizes_written(shards)
        memory = memory_for(self.reads + size, largest, cores()) + held_factors(self.origin)
        return Cost(size, memory, every_core=True)

    @classmethod
    def make(
        cls, steps: Sequence[ChangeWeights], model: Model, files: OpenFiles, context: StepContext
    ) -> list[Made]:
        """Write the model as each step wants it cut."""
        from mbuild.gguf.facts import describe
        from mbuild.gguf.hyperparameters import check_hyperparameters

        made = []
        for step in steps:
            name = step.origin.name
            check_role(Role.MODEL, describe(model), name)
            check_hyperparameters(model.metadata, name)
            _check_types(model)
            blobs = write_as_it_is(context, model, files, step.splitting, step.origin)
            made.append(made_of(context, blobs, Role.MODEL.media_type, name))
        return made

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(origin=self.origin.learned(files))


def _check_types(model: Model) -> None:
    """Raise :class:`UnsupportedError` for an adapter on quantized weights that stay quantized."""
    from mbuild.convert.lora.merging import MergedRows

    for tensor in model.tensors:
        load = tensor.load
        if isinstance(load, MergedRows) and load.stored is not load.type:
            raise UnsupportedError(
                f"MERGE: {tensor.name} is quantized ({load.stored.name}), so nothing can be added"
                " to it exactly",
                hint="merge into the unquantized model, or add QUANTIZE TYPE REQUANTIZE",
            )
