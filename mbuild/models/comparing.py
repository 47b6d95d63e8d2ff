"""A stored model's tensors compared with what they were quantized from."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.build.engine import BuildEngine
from mbuild.build.prepare import plans_of
from mbuild.build.results import Outcome
from mbuild.build.steps.errors import CompareTensors
from mbuild.core.errors import UsageError
from mbuild.core.events import StepProgress
from mbuild.runtime.statistics.jobs import Progress
from mbuild.store.media import MODEL

if TYPE_CHECKING:
    from mbuild.build.prepare import Build
    from mbuild.store import Store, StoredManifest


def compare_with_source(
    wanted: Build, stored: StoredManifest, store: Store
) -> Generator[Progress, None, Mapping[str, Any]]:
    """The facts of :class:`mbuild.build.steps.errors.CompareTensors` for a model.

    ``wanted`` is the build that made it. Raises :class:`UsageError` for a model that is not
    quantized, and :class:`SourceError` where the source is gone or another one now.
    """
    with store.using():
        (planned,) = plans_of(wanted._replace(checking=False), store)
        if planned.origin is None:
            raise UsageError(
                f"{stored.name} is not quantized: its tensors are those of its source",
                hint="name a model that was built with -q TYPE or QUANTIZE TYPE",
            )
        step = CompareTensors(planned.origin, tuple(stored.manifest.of_kind(MODEL)))
        outcome = Outcome()
        for event in BuildEngine(store).run([step], outcome):
            if isinstance(event, StepProgress):
                yield Progress(event.completed, event.total)
    return outcome.results[step].facts
