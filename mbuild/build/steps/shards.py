"""Models in several layers: the shards of a split GGUF kept as they are, or a GGUF model split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import Made, Result, Step, StepContext
from mbuild.build.splitting import SPLITTING_NAMES, Splitting, split_fields
from mbuild.build.steps.gguf import OverShards, Role, bring_in, check_role
from mbuild.build.steps.models import check_loadable, made_of, shards_of, sizes_written, write_model
from mbuild.build.steps.opened import OpenFiles, open_source
from mbuild.build.steps.origins import ORIGIN_NAMES, GGUFOrigin, LayerOrigin, open_quietly
from mbuild.build.steps.together import OverOrigin
from mbuild.core.events import Code
from mbuild.core.system import allow_open_files
from mbuild.core.values import aside

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.core.digest import Digest
    from mbuild.gguf.facts import ModelFacts
    from mbuild.gguf.model import Model
    from mbuild.store.copying import OpenFile
    from mbuild.store.manifest import Blob
    from mbuild.store.ports import BuildStore
    from mbuild.work.spread import Part


class KeepShards(OverShards):
    """The shards of a split GGUF become layers with the same bytes, in order.

    ``link``: hard-link the files instead of copying them (not part of the key: the bytes are
    the same).
    """

    link: bool = aside(default=False)

    kind: ClassVar[str] = "keep-shards"
    version: ClassVar[int] = 1

    @property
    def several_layers(self) -> bool:
        """Always."""
        return True

    @property
    def label(self) -> str:
        """What is kept."""
        return f"keep {self.role.prefix}{self.files[0].name} and {len(self.files) - 1} more"

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Check that the shards are one whole model, and bring each into the store."""
        from mbuild.gguf.reader import open_gguf

        context.status(Code.PARSING_GGUF, {})
        allow_open_files(2 * len(self.files))
        name = self.files[0].name
        with ExitStack() as stack:
            opened = [stack.enter_context(open_source(file)) for file in self.files]
            check_role(self.role, self._facts(opened), name)
            for each in opened:
                with open_gguf(each.reading_path, name=each.name) as file:
                    check_loadable(file, context)
            blobs = self._bring(context, opened)
        digests = {
            str(file.path): blob.blake3 or blob.digest
            for file, blob in zip(self.files, blobs, strict=True)
        }
        return made_of(context, blobs, self.role.media_type, name, digests)

    def _facts(self, opened: Sequence[OpenFile]) -> ModelFacts:
        """What the model is; raises :class:`FormatError` if the shards are not those of one."""
        from mbuild.gguf.facts import describe
        from mbuild.gguf.weights import open_weights

        paths, names = [each.reading_path for each in opened], [each.name for each in opened]
        with open_weights(paths, names) as weights:
            return describe(weights)

    def _bring(self, context: StepContext, opened: Sequence[OpenFile]) -> list[Blob]:
        """Bring all files in, hashing several at once."""
        from mbuild.work.spread import spread

        if not self.link:
            context.store.blobs.check_room(self.reads)

        def bring(file: OpenFile, part: Part) -> Blob:
            return bring_in(context, file, part.at, link=self.link)

        return spread(bring, opened, self.reads, context.report, name="mbuild-import")


class SplitWeights(OverOrigin):
    """A GGUF model, of files or of the store, becomes layers that each hold a part of it."""

    origin: GGUFOrigin | LayerOrigin
    splitting: Splitting
    role: Role = Role.MODEL

    kind: ClassVar[str] = "split"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[Step, ...]] = ()
    makes_weights: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = ORIGIN_NAMES | SPLITTING_NAMES

    @property
    def several_layers(self) -> bool:
        """Always."""
        return True

    @property
    def label(self) -> str:
        """What is split."""
        return f"split {self.role.prefix}{self.origin.name}"

    def key_fields(self) -> Mapping[str, Any] | None:
        """The source's digests, where it is cut, and the role."""
        origin = self.origin.fields()
        if origin is None:
            return None
        return {"origin": origin, **split_fields(self.splitting), **self.role.fields()}

    def cost(self, store: BuildStore) -> Cost:
        """The shards, as large as the model and their headers."""
        from mbuild.build.costs import Cost, memory_for
        from mbuild.work.cores import cores

        with ExitStack() as stack:
            model = open_quietly(self.origin, store, stack)
            shards = shards_of(model, self.splitting, StepContext.silent(store))
            size, largest = sizes_written(shards)
        return Cost(size, memory_for(2 * size, largest, cores()))

    @classmethod
    def make(
        cls, steps: Sequence[SplitWeights], model: Model, files: OpenFiles, context: StepContext
    ) -> list[Made]:
        """Write the shards."""
        from mbuild.gguf.facts import describe
        from mbuild.gguf.hyperparameters import check_hyperparameters

        made = []
        for step in steps:
            check_role(step.role, describe(model), step.origin.name)
            check_hyperparameters(model.metadata, step.origin.name)
            blobs = write_model(context, model, files, step.splitting)
            made.append(made_of(context, blobs, step.role.media_type, step.origin.name))
        return made

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(origin=self.origin.learned(files))
