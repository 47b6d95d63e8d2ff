"""Gates that write down what a build is made from, and that hold a build to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.history import modelfile_text
from mbuild.build.lock import (
    BuildLock,
    Drift,
    LockPlace,
    drift_of_inputs,
    drift_of_results,
    pinned_commits,
    pinned_manifests,
)
from mbuild.build.pins import inputs, results, variants
from mbuild.core.errors import ModelfileError

if TYPE_CHECKING:
    from mbuild.build.plan import Plan
    from mbuild.build.prepare import Build, Resolved
    from mbuild.core.digest import Digest
    from mbuild.language.span import Span
    from mbuild.store import Store


class Writing:
    """A gate that lets everything pass and keeps what a lock says of it."""

    def __init__(self, wanted: Build) -> None:
        self._wanted = wanted
        self.inputs: dict[str, Any] = {}
        self.results: dict[str, Any] = {}

    def before(self, found: Sequence[Resolved], plans: Sequence[Plan]) -> None:
        """Keep what the build starts from."""
        self.inputs = inputs(found, plans)

    def after(self, manifests: Sequence[bytes]) -> None:
        """Keep what came out."""
        self.results = results(self._wanted.request, manifests)


class Locked:
    """A gate that lets pass what a lock says and nothing else."""

    def __init__(self, lock: BuildLock, path: Path, wanted: Build, store: Store) -> None:
        self._lock = lock
        self._path = path
        self._wanted = wanted
        self._store = store

    @property
    def pinned(self) -> dict[str, Digest]:
        """The manifests of the models that the locked build starts from, by their names."""
        return pinned_manifests(self._lock)

    @property
    def commits(self) -> dict[str, str]:
        """The commits of the Hub's repositories that it starts from."""
        return pinned_commits(self._lock)

    def before(self, found: Sequence[Resolved], plans: Sequence[Plan]) -> None:
        """Raise :class:`ModelfileError` for every input that drifted."""
        now = inputs(found, plans)
        self._refuse(
            drift_of_inputs(self._lock, now, variants(self._wanted.request)),
            f"nothing was built: undo the change, or accept it with mbuild lock"
            f" (which writes {self._path})",
        )

    def after(self, manifests: Sequence[bytes]) -> None:
        """Raise :class:`ModelfileError` for every result that differs."""
        self._refuse(
            drift_of_results(self._lock, results(self._wanted.request, manifests)),
            f"the inputs are those of {self._path}, which mbuild {self._lock.mbuild} wrote, the"
            " result is not; nothing was named",
        )

    def _refuse(self, drifts: Sequence[Drift], hint: str) -> None:
        if not drifts:
            return
        from mbuild.language.instructions import Problem
        from mbuild.language.parser import decode

        script = self._wanted.request.script
        data = modelfile_text(script.text, self._store) if script else None
        spans = _spans(data, [drift.place for drift in drifts])
        text = "" if data is None else decode(data)
        problems = [
            Problem(drift.message, span, code="drift").located(text, script.name if script else "")
            for drift, span in zip(drifts, spans, strict=True)
        ]
        last = problems[-1]
        problems[-1] = Problem(
            last.message, last.span, last.severity, last.code, hint, last.filename, last.line_text
        )
        raise ModelfileError(problems)


def _spans(data: bytes | None, places: Iterable[LockPlace]) -> list[Span | None]:
    """Where the instructions of some places stand in a Modelfile, as far as they do."""
    if data is None:
        return [None for _ in places]
    from mbuild.language.instructions import TYPES, Parameter
    from mbuild.language.parser import parse
    from mbuild.language.stages.opening import opens_stages

    if opens_stages(data):  # the places name the target, which is no line of the file
        return [None for _ in places]

    modelfile = parse(data, "")
    found = []
    for word, number, label in places:
        items = [item for item in modelfile.instructions if item.word == word]
        if word and issubclass(TYPES[word], Parameter):
            items = [i for i in items if isinstance(i, Parameter) and i.name.lower() == label]
        some = items[number : number + 1 or None]
        found.append(some[0].span if some else None)
    return found
