"""``du``: what each model takes, alone and shared, and what a prune would free."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.values import NamedTuple
from mbuild.models.disk.inventory import Inventory, LeftoverKind, take_inventory
from mbuild.models.disk.prune import PrunePolicy, choose

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.store import Store, StoredManifest


class ModelUsage(NamedTuple):
    """One model's bytes on disk; ``missing`` counts blobs that are not there.

    ``own`` is what removing the model frees, ``shared`` what other names use
    too. A blob that occurs twice in a model counts once.
    """

    name: str
    own: int
    shared: int
    missing: int

    @property
    def total(self) -> int:
        """Bytes of all its blobs."""
        return self.own + self.shared


class Usage(NamedTuple):
    """Where a store's bytes are.

    ``used`` and ``unused`` are blobs that some model, or none, names; ``kept`` are results
    of builds that only the cache keeps, ``budget`` how many bytes it may keep, unfinished
    builds among them; ``cache`` is its index;
    ``leftovers`` the bytes of each kind of leftover; ``linked`` the bytes of
    blobs that are a user's own file under a second name (``--link``) and so
    cost nothing. ``prunable`` is what a prune would free now; it frees nothing
    while ``unreadable``, the number of manifests that cannot be read, is not 0.
    ``waiting`` uploads of the last day stay, ``running`` blobs of engines, and whatever
    ``reason`` tells of.
    """

    models: tuple[ModelUsage, ...]
    used: int
    unused: int
    kept: int
    budget: int
    cache: int
    leftovers: Mapping[LeftoverKind, int]
    linked: int
    prunable: int
    unreadable: int
    waiting: int
    reason: str
    running: int

    @property
    def total(self) -> int:
        """All bytes of the store."""
        blobs = self.used + self.unused + self.kept
        return blobs + self.cache + sum(self.leftovers.values())

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild du --format json`` prints it; bytes everywhere."""
        return {
            "models": [
                {
                    "name": model.name,
                    "own": model.own,
                    "shared": model.shared,
                    "total": model.total,
                    "missing_blobs": model.missing,
                }
                for model in self.models
            ],
            "used": self.used,
            "unused": self.unused,
            "kept": self.kept,
            "keep_budget": self.budget,
            "cache": self.cache,
            "leftovers": {kind.value: self.leftovers.get(kind, 0) for kind in LeftoverKind},
            "linked": self.linked,
            "total": self.total,
            "prunable": self.prunable,
            "unreadable_manifests": self.unreadable,
            "waiting_uploads": self.waiting,
            "reason": self.reason,
            "running": self.running,
        }


def usage(store: Store, now: float | None = None) -> Usage:
    """Add a store up; nothing is written. ``now`` is as for ``take_inventory``."""
    now = time.time() if now is None else now
    inventory = take_inventory(store, now)
    unused = sum(file.size for file in inventory.unused.values())
    leftovers: dict[LeftoverKind, int] = {}
    for leftover in inventory.leftovers:
        leftovers[leftover.kind] = leftovers.get(leftover.kind, 0) + leftover.file.size
    pruned = choose(inventory, PrunePolicy(), now)
    return Usage(
        tuple(_model(inventory, stored) for stored in inventory.models),
        sum(file.size for file in inventory.blobs.values()) - unused,
        unused,
        sum(file.size for file in inventory.kept.values()),
        store.kept.budget(),
        inventory.cache_bytes,
        leftovers,
        sum(file.size for file in inventory.blobs.values() if file.links > 1),
        0 if inventory.damaged else pruned.freed,
        len(inventory.damaged),
        pruned.waiting,
        pruned.reason,
        pruned.running,
    )


def _model(inventory: Inventory, stored: StoredManifest) -> ModelUsage:
    digests: set[Digest] = {layer.digest for layer in stored.manifest.blobs()}
    own = shared = missing = 0
    for digest in digests:
        file = inventory.blobs.get(digest)
        if file is None:
            missing += 1
        elif len(inventory.users[digest]) == 1:
            own += file.size
        else:
            shared += file.size
    return ModelUsage(str(stored.name), own, shared, missing)
