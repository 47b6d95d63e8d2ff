"""CHECK: what has to hold of a finished model before it gets its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext, variant_label
from mbuild.build.steps.manifest import Assembled
from mbuild.core.errors import FailedCheckError
from mbuild.core.units import exact_size, human_size, parse_size
from mbuild.core.values import aside
from mbuild.store.media import MODEL, PROJECTOR, TEMPLATE

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.gguf.reader import TensorInfo
    from mbuild.gguf.weights import GGUFWeights
    from mbuild.store.ports import BuildStore

_PIECE = 16 << 20  # bytes of a tensor that are looked at together
_SHOWN = 200  # characters of an answer that are shown


class CheckModel(BaseStep):
    """A model is looked at; what does not hold ends the build before anything is named.

    ``looked_at`` is the step of its manifest, or the one that measured it. ``measure`` is a
    key of :data:`MEASURES`; ``compare`` and ``bound`` are what it is held against, where it is a
    number, or ``bound`` alone an expression. What held is a result like others, and is not
    looked at again.
    """

    looked_at: Step
    measure: str
    compare: str = ""
    bound: str = ""
    target: str = aside(default="")

    kind: ClassVar[str] = "check"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    shows: ClassVar[tuple[str, ...]] = ("value", "size")
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("measure",): "what is checked",
        ("compare",): "comparison",
        ("bound",): "bound",
    }

    @property
    def inputs(self) -> tuple[Step, ...]:
        """What it looks at."""
        return (self.looked_at,)

    @property
    def condition(self) -> str:
        """What has to hold, as it is written behind CHECK."""
        bound = f"/{self.bound}/" if self.measure == "answers" else self.bound
        return " ".join(part for part in (self.measure, self.compare, bound) if part)

    @property
    def label(self) -> str:
        """What is checked, and of which of several variants."""
        return variant_label(f"check {self.condition}", self.target)

    def key_fields(self) -> Mapping[str, Any]:
        """All but the model, which comes with the inputs."""
        return {"measure": self.measure, "compare": self.compare, "bound": self.bound}

    def cost(self, store: BuildStore) -> Cost:
        """It writes nothing."""
        from mbuild.build.costs import Cost

        return Cost(writes=0)

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Raise :class:`FailedCheckError` unless it holds."""
        return Made(Result(facts=MEASURES[self.measure](self, inputs[0], context)))


def holds(value: float, compare: str, bound: float) -> bool:
    """Whether a number is within a bound."""
    return {
        "<": value < bound,
        "<=": value <= bound,
        ">": value > bound,
        ">=": value >= bound,
    }[compare]


_CHANGE = "nothing was named; take another type, or change the CHECK"


def _number(fact: str, step: CheckModel, result: Result, named: str = "") -> Mapping[str, Any]:
    """A number that was measured."""
    value, bound = float(result.facts[fact]), float(step.bound)
    if not holds(value, step.compare, bound):
        where = f" for {step.target}" if step.target else ""
        which = f", of {result.facts[named]}" if named else ""
        apart, way = abs(value - bound), "much" if value > bound else "little"
        raise FailedCheckError(
            f"CHECK {step.condition}{where}: it is {value:.6g}{which}, {apart:.3g} too {way}",
            hint=_CHANGE,
        )
    return {"value": value}


def _answers(step: CheckModel, result: Result, context: StepContext) -> Mapping[str, Any]:
    """What the model answered has the expression in it."""
    found = result.facts["answer"]
    if re.search(step.bound, found) is None:
        where = f" for {step.target}" if step.target else ""
        shown = found if len(found) <= _SHOWN else f"{found[:_SHOWN]}..."
        raise FailedCheckError(
            f"CHECK {step.condition}{where}: the model answers {shown!r}",
            hint="nothing was named; change the model, or the CHECK",
        )
    return {"value": True}


def _size(step: CheckModel, result: Result, context: StepContext) -> Mapping[str, Any]:
    """The bytes of all layers."""
    model = Assembled.of(result)
    size, bound = sum(layer.size for layer in model.manifest.layers), parse_size(step.bound)
    if not holds(size, step.compare, bound):
        apart, way = abs(size - bound), "much" if size > bound else "little"
        raise FailedCheckError(
            f"CHECK size {step.compare} {step.bound}: the model has {human_size(size)}"
            f" ({exact_size(size)}), {human_size(apart)} too {way}",
            hint=_CHANGE,
        )
    return {"size": size}


def _nan(step: CheckModel, result: Result, context: StepContext) -> Mapping[str, Any]:
    """Every value is a finite number; of quantized blocks their scales, as in llama.cpp."""
    from mbuild.store.contents import grouped, open_group

    model, count = Assembled.of(result), 0
    for media_type in (MODEL, PROJECTOR):
        layers = model.manifest.of_kind(media_type)
        for group in grouped(context.store.blobs, layers, "the model") if layers else ():
            with ExitStack() as stack:
                weights = stack.enter_context(open_group(context.store.blobs, group, "the model"))
                total, done = sum(tensor.nbytes for tensor in weights.tensors), 0
                for tensor in weights.tensors:
                    for read in _bad_rows(weights, tensor):
                        done += read
                        context.report(done, total)
                    count += 1
    return {"tensors": count}


def _bad_rows(weights: GGUFWeights, tensor: TensorInfo) -> Iterator[int]:
    """Bytes that were looked at; raises for a value that is none."""
    import numpy as np

    from mbuild.gguf.types import BLOCKS, GGMLType
    from mbuild.quant.table import TYPES

    block, parts = BLOCKS[tensor.type], TYPES.get(tensor.type)
    if parts is None:
        raise FailedCheckError(f"CHECK nan: {tensor.name} has the type {tensor.type.name}, whose"
                               " values mbuild cannot check", hint="remove the CHECK")  # fmt: skip
    step = max(_PIECE // block.size, 1) * block.size
    for start in range(0, tensor.nbytes, step):
        data = weights.read(tensor, start, min(step, tensor.nbytes - start))
        if tensor.type is GGMLType.F32:
            bad = ~np.isfinite(np.frombuffer(data, "<f4"))
        else:
            bad = parts.bad(np.frombuffer(data, np.uint8).reshape(-1, block.size))
        if bad.any():
            place = (start // block.size + int(np.argmax(bad))) * block.weights
            raise FailedCheckError(
                f"CHECK nan: {tensor.name} holds no finite number (value {place})",
                hint="nothing was named; the source or an adapter of it is damaged",
            )
        yield len(data)


def _template(step: CheckModel, result: Result, context: StepContext) -> Mapping[str, Any]:
    """The template renders conversations, and what was asked is in the prompt."""
    from mbuild.store.contents import read_text
    from mbuild.templates.conversation import Values
    from mbuild.templates.failure import RenderError, TemplateError
    from mbuild.templates.gotemplate import parse
    from mbuild.templates.probes import FINDING
    from mbuild.templates.render import render

    model = Assembled.of(result)
    layers = model.manifest.of_kind(TEMPLATE)
    if not layers:
        return _chat_template(model, context)
    try:
        tree = parse(read_text(context.store.blobs, layers[-1]))
        for probe in FINDING:
            prompt = render(tree, Values(messages=probe.messages), today=probe.day)
            _check_prompt(prompt, probe.messages[-1].content)
    except (TemplateError, RenderError) as error:
        raise FailedCheckError(
            f"CHECK template renders: {error.message}", hint="nothing was named; fix TEMPLATE"
        ) from None
    return {"template": str(layers[-1].digest)}


def _chat_template(model: Assembled, context: StepContext) -> Mapping[str, Any]:
    """Of a model without a template layer the one in its GGUF file, which runners use then."""
    from mbuild.gguf.facts import chat_template_of
    from mbuild.store.contents import open_group
    from mbuild.templates.detect import expected_texts
    from mbuild.templates.probes import FINDING

    found: Mapping[str, Any] = {}
    layers = model.manifest.of_kind(MODEL)
    if layers:
        with open_group(context.store.blobs, layers, "the model") as weights:
            found = chat_template_of(weights.model())
    if not found:
        raise FailedCheckError(
            "CHECK template renders: the model has no template",
            hint="nothing was named; add TEMPLATE, or start from a model that has one",
        )
    texts = expected_texts(
        found["text"], FINDING[:2], found["bos"], found["eos"], adds_bos=found["adds_bos"]
    )
    if texts is None or texts[0] is None:
        raise FailedCheckError(
            "CHECK template renders: the chat template in the GGUF file refuses a conversation",
            hint="nothing was named; add TEMPLATE, or SET tokenizer.chat_template @FILE",
        )
    _check_prompt(texts[0], FINDING[0].messages[-1].content)
    return {"chat_template": True}


def _check_prompt(prompt: str, asked: str) -> None:
    if asked not in prompt:
        raise FailedCheckError(
            f"CHECK template renders: the prompt does not hold what was asked, {asked!r}",
            hint="nothing was named; TEMPLATE needs {{ .Prompt }} or {{ .Messages }}",
        )


_Looking = Callable[[CheckModel, Result, StepContext], Mapping[str, Any]]


def _measured(fact: str, named: str = "") -> _Looking:
    def look(step: CheckModel, result: Result, context: StepContext) -> Mapping[str, Any]:
        return _number(fact, step, result, named)

    return look


MEASURES: dict[str, _Looking] = {
    "nan": _nan,
    "size": _size,
    "template": _template,
    "error": _measured("error", "tensor"),
    "kld": _measured("mean_kld"),
    "kld99": _measured("kld_99"),
    "same_top": _measured("same_top"),
    "perplexity": _measured("perplexity"),
    "answers": _answers,
}
"""What CHECK can look at, one row each: facts of a model of which it holds."""
