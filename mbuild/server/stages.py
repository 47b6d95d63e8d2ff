"""The ``modelfile`` of a request in the language of stages: its last stage, as one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.build.splitting import Splitting
from mbuild.build.staging import NoFiles
from mbuild.core.errors import UsageError
from mbuild.language.stages.opening import opens_stages
from mbuild.quant.choose.options import Quantization

if TYPE_CHECKING:
    from mbuild.build.request import Target
    from mbuild.language.stages.stage import Stage
    from mbuild.language.stages.values import StageRecipe


def last_stage(text: str) -> Stage | None:
    """The last stage of a Modelfile that has some; None for one in Ollama's language.

    No file is read because the text names it. Raises :class:`ModelfileError`.
    """
    data = text.encode()
    if not opens_stages(data):
        return None
    from mbuild.lint.stages import check_stages

    return check_stages(data, "modelfile", NoFiles(), targets=()).stages[-1]


def target_of(stage: StageRecipe, target: Target) -> Target:
    """The request's target with what QUANTIZE says, where the request says nothing.

    Raises :class:`UsageError` for several variants: a request makes one model.
    """
    if target.quantization is not None or not stage.quantize:
        return target
    types = [(line, type_) for line in stage.quantize for type_ in line.types]
    if len(types) > 1:
        names = ", ".join(type_ for _, type_ in types)
        raise UsageError(
            f"the modelfile asks for {len(types)} models ({names}), and a request makes one",
            hint="choose with the field quantize",
        )
    ((line, type_),) = types
    splitting = Splitting.parse(line.splitting) if line.splitting else None
    quantization = Quantization.parse(type_, line.options)
    return target._replace(
        quantization=quantization, outtype=line.outtype, splitting=splitting, beside=True
    )
