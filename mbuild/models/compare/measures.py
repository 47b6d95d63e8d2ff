"""What the builds of two models measured of them, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.build.history import History
from mbuild.models.compare.models import ChangedValue

if TYPE_CHECKING:
    from mbuild.build.history import BuildRecord
    from mbuild.build.request import Target
    from mbuild.store import Store, StoredManifest


def measures_of(
    old: StoredManifest | None, new: StoredManifest | None, store: Store
) -> tuple[ChangedValue, ...]:
    """What differs; a side that was not built here, or not measured, has None."""
    a, b = _measured(old, store), _measured(new, store)
    return tuple(
        ChangedValue(key, a.get(key), b.get(key))
        for key in dict.fromkeys((*a, *b))
        if a.get(key) != b.get(key)
    )


def _measured(stored: StoredManifest | None, store: Store) -> dict[str, Any]:
    """The values by what was looked at and their names."""
    record = History(store).maker_of(str(stored.name), stored.id) if stored is not None else None
    target = record.target_of(str(stored.name), stored.id) if record and stored else None
    if record is None or target is None:
        return {}
    found: dict[str, Any] = {}
    for step in record.steps:
        if step.subject and step.target in _own(record, target):
            about = f"{step.kind} {step.subject}"
            found |= {f"{about}: {name}": value for name, value in step.measured.items()}
    return found


def _own(record: BuildRecord, target: Target) -> tuple[str, ...]:
    """What the steps that look at a target have in their ``target``."""
    return (target.label, "") if len(record.request.targets) > 1 else ("", target.label)
