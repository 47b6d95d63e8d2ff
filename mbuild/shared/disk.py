"""What lies in a shared cache, and removing what was last written long ago."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mbuild.core.values import NamedTuple
from mbuild.shared.naming import BLOB, LEASE, RECORD

if TYPE_CHECKING:
    from mbuild.store.shared import SharedStorage, StoredObject

_AT_ONCE = 500
_KINDS = {RECORD: "records", BLOB: "layers and pieces", LEASE: "leases"}


class Amount(NamedTuple):
    """How many objects, and their bytes."""

    objects: int = 0
    size: int = 0

    def and_one(self, found: StoredObject) -> Amount:
        """With one object more."""
        return Amount(self.objects + 1, self.size + found.size)


class Cleared(NamedTuple):
    """What pruning found, and what it removed of that."""

    found: Amount
    removed: Amount


def amounts(storage: SharedStorage) -> Mapping[str, Amount]:
    """Objects and bytes by what they are; raises :class:`RegistryError`."""
    counted = {text: Amount() for text in _KINDS.values()}
    for found in storage.objects():
        what = _KINDS[found.name.partition("/")[0]]
        counted[what] = counted[what].and_one(found)
    return counted


def clear(
    storage: SharedStorage,
    older: float,
    *,
    dry_run: bool = False,
    now: Callable[[], float] = time.time,
) -> Cleared:
    """Remove what was last written more than ``older`` seconds ago; raises :class:`RegistryError`.

    Records go before the blobs that they name. A record that stays and has lost its blob
    counts as none.
    """
    late = now() - older
    found = removed = Amount()
    old: list[str] = []
    for each in storage.objects():
        found = found.and_one(each)
        if each.modified and each.modified < late:
            removed = removed.and_one(each)
            old.append(each.name)
    old.sort(key=lambda name: (name.startswith(f"{BLOB}/"), name))
    for start in range(0, 0 if dry_run else len(old), _AT_ONCE):
        storage.remove(old[start : start + _AT_ONCE])
    return Cleared(found, removed)
