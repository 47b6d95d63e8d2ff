"""What other steps have to know of a model that is quantized on the way, from its header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import Made, Result, Step, StepContext
from mbuild.build.steps.opened import OpenFiles
from mbuild.build.steps.origins import ORIGIN_NAMES, Origin
from mbuild.build.steps.together import OverOrigin
from mbuild.gguf.facts import chat_template_of

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.core.digest import Digest
    from mbuild.gguf.model import Model
    from mbuild.store.ports import BuildStore


class HeaderPart(StrEnum):
    """What of a header somebody needs."""

    CHAT_TEMPLATE = "chat template"
    """For its detection: the template and the tokens around a text."""

    SHAPES = "shapes"
    """For an adapter's conversion: the family, its numbers, and the tensors' sizes."""


class ReadHeader(OverOrigin):
    """A part of an unquantized model's header becomes facts; the model is never written.

    Variants differ in nothing that it reads, so what depends on it is made once for all,
    and not again when only weights change. It runs together with the quantizations, which
    open the origin anyway.
    """

    origin: Origin
    part: HeaderPart

    kind: ClassVar[str] = "header"
    quick: ClassVar[bool] = True
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[Step, ...]] = ()
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {**ORIGIN_NAMES, ("part",): "part"}

    @property
    def label(self) -> str:
        """What is read from what."""
        return f"read {self.part} of {self.origin.shown}"

    @property
    def reads(self) -> int:
        """No bytes of its own: the others of its group open the origin."""
        return 0

    def key_fields(self) -> Mapping[str, Any] | None:
        """The description of the unquantized model, and the part."""
        origin = self.origin.fields()
        return None if origin is None else {"origin": origin, "part": self.part.value}

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """Those of the origin: another way to read a header changes nothing by itself."""
        return self.origin.versions

    def cost(self, store: BuildStore) -> Cost:
        """Nothing beside the quantizations."""
        from mbuild.build.costs import Cost

        return Cost(in_passing=True)

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(origin=self.origin.learned(files))

    @classmethod
    def make(
        cls, steps: Sequence[ReadHeader], model: Model, files: OpenFiles, context: StepContext
    ) -> list[Made]:
        """Read each part."""
        return [Made(Result(facts=_facts(step.part, model))) for step in steps]


def _facts(part: HeaderPart, model: Model) -> dict[str, Any]:
    from mbuild.convert.lora.base import facts_of_base

    return chat_template_of(model) if part is HeaderPart.CHAT_TEMPLATE else facts_of_base(model)
