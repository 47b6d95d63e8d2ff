"""From what CHECK and ``--check`` demand to the steps that look at a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mbuild.build.steps.checking import CheckModel
from mbuild.core.errors import UsageError

if TYPE_CHECKING:
    from mbuild.build.graph import Step
    from mbuild.build.plan import Plan
    from mbuild.build.sources.values import SourceFile
    from mbuild.language.stages.values import Expectation

COMPARING = frozenset(("kld", "kld99", "same_top"))
"""What is measured beside the unquantized model."""

ON_TEXT = COMPARING | {"perplexity"}
"""What is measured on a text."""

RUNNING = ON_TEXT | {"answers"}
"""What needs an engine."""

Texts = Mapping[tuple[str, bool], "SourceFile"]
"""Texts by their names, and by whether the Modelfile names them."""


def checks_of(
    planned: Plan, expected: Sequence[Expectation], texts: Texts, label: str
) -> Iterator[CheckModel]:
    """The steps that check a target; ``label`` tells it from others.

    Raises :class:`UsageError` for what cannot be checked of it, and
    :class:`mbuild.runtime.failure.NoEngineError` where nothing can run models.
    """
    if any(each.measure in RUNNING for each in expected):
        from mbuild.runtime.failure import NoEngineError
        from mbuild.runtime.process import has_engine

        if not has_engine():
            raise NoEngineError
    compared = {_text_of(each) for each in expected if each.measure in COMPARING}
    for each in expected:
        looked_at = _looked_at(planned, each, texts, label, beside=_text_of(each) in compared)
        yield CheckModel(looked_at, each.measure, each.compare, each.value, label)


def _text_of(each: Expectation) -> tuple[str, bool, int]:
    return each.text, each.beside, each.chunks


def _looked_at(planned: Plan, each: Expectation, texts: Texts, label: str, *, beside: bool) -> Step:
    """The step whose result a check looks at.

    ``beside``: the unquantized model goes through the text, too; perplexity comes with that.
    """
    if each.measure == "answers":
        from mbuild.build.steps.measuring import AskModel

        return AskModel(planned.manifest, each.text, label)
    if each.measure == "error":
        from mbuild.build.steps.errors import CompareTensors

        if planned.origin is None or planned.weights is None:
            raise _nothing_to_compare(each)
        return CompareTensors(planned.origin, planned.weights, label)
    if each.measure not in ON_TEXT:
        return planned.manifest
    from mbuild.build.steps.measuring import MeasureModel

    comparing = each.measure in COMPARING
    if comparing and planned.origin is None:
        raise _nothing_to_compare(each)
    if planned.weights is None:
        raise UsageError(
            f"CHECK {each.said}: the target has no weights to measure",
            hint="take the CHECK out, or start from a model with weights",
        )
    name, found_beside, _ = _text_of(each)
    text = texts[name, found_beside]
    against = planned.origin if beside else None
    return MeasureModel(planned.weights, against, text, each.chunks, label)


def _nothing_to_compare(each: Expectation) -> UsageError:
    return UsageError(
        f"CHECK {each.said} compares a target with what it is before it is quantized, and this"
        " one is not quantized",
        hint="add QUANTIZE TYPE or -q TYPE, or take the CHECK out",
    )
