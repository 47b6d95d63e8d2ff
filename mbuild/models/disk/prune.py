"""``prune``: remove what no model names, the cache's results too, and leftovers of killed programs.

Builders hold the store's lock together, a prune holds it alone, so nothing goes
while anybody builds, and nothing that an engine runs. Nothing goes while any manifest
is unreadable (it may name anything), nor while Ollama seems to be at work in the store:
it takes no lock, and names the blobs of a download only when all of them are there. What a client
of the server has sent and not named yet stays for a day.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import DamagedError, StoreError
from mbuild.core.values import NamedTuple
from mbuild.models.disk.inventory import (
    ACTIVE_SECONDS,
    FileInfo,
    Inventory,
    Leftover,
    LeftoverKind,
    take_inventory,
)
from mbuild.store.files import remove_stale, store_errors
from mbuild.store.locks import FileLock, NoLocksError
from mbuild.store.place import check_place
from mbuild.store.store import ATTACHED_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.store import Store


class StoreInUseError(StoreError):
    """Somebody builds in the store, so nothing may be removed."""


class PrunePolicy(NamedTuple):
    """What a prune may take.

    ``keep``: bytes that stay of what no model uses, the last changed: results that the
    cache keeps, unfinished builds and other blobs together.
    ``older``: seconds since the last change that make a file removable; None
    means no limit for blobs and an hour for what other programs may be
    writing. ``damaged``: also remove damaged blobs that were set aside and have
    not been made again, perhaps the only copies there are.
    """

    keep: int = 0
    older: float | None = None
    damaged: bool = False


class Pruned(NamedTuple):
    """What was removed (or would be): blobs, and leftovers; ``freed`` bytes in all.

    ``cached`` are those of the blobs that only the cache kept.
    ``kept`` are unused blobs that stayed, ``reason`` says why if not for the
    policy; ``waiting`` of them are uploads that wait for the request that names
    them, ``running`` are loaded by an engine. ``only_copies`` are removed files whose
    content is nowhere else in the store.
    """

    blobs: tuple[tuple[Digest, FileInfo], ...]
    leftovers: tuple[Leftover, ...]
    kept: tuple[tuple[Digest, FileInfo], ...]
    reason: str = ""
    waiting: int = 0
    only_copies: tuple[str, ...] = ()
    cached: frozenset[Digest] = frozenset()
    running: int = 0

    @property
    def freed(self) -> int:
        """Bytes that removing all of it frees."""
        files = [file for _, file in self.blobs] + [left.file for left in self.leftovers]
        return sum(file.freed for file in files)

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild prune --format json`` prints it."""
        return {
            "blobs": [
                {"digest": str(d), "bytes": file.size, "cached": d in self.cached}
                for d, file in self.blobs
            ],
            "leftovers": [
                {"kind": left.kind.value, "name": left.file.path.name, "bytes": left.file.size}
                for left in self.leftovers
            ],
            "kept": [{"digest": str(d), "bytes": file.size} for d, file in self.kept],
            "reason": self.reason,
            "waiting_uploads": self.waiting,
            "running": self.running,
            "only_copies": list(self.only_copies),
            "freed": self.freed,
        }


def choose(inventory: Inventory, policy: PrunePolicy, now: float) -> Pruned:
    """What a prune under that policy removes from what is there."""
    reason = "" if policy.older is not None else _foreign_work(inventory)
    going, kept = [], []
    unfinished: set[FileInfo] = set()
    rows = _by_age(inventory)
    left = sum(file.size for _, file in rows)
    for digest, file in rows:
        old = policy.older is None or now - file.changed >= policy.older
        free = old and (digest is None or digest in inventory.kept or not reason)
        needed = digest in inventory.uploads or digest in inventory.running
        if free and not needed and left > policy.keep:
            left -= file.size
            if digest is None:
                unfinished.add(file)
            else:
                going.append((digest, file))
        elif digest is not None:
            kept.append((digest, file))
    leftovers = tuple(
        x
        for x in inventory.leftovers
        if x.file in unfinished or _removable(x, inventory, policy, now)
    )
    only = tuple(
        x.file.path.name
        for x in leftovers
        if x.kind is LeftoverKind.DAMAGED and not _made_again(x, inventory)
    )
    waiting = sum(digest in inventory.uploads for digest, _ in kept)
    cached = frozenset(digest for digest, _ in going if digest in inventory.kept)
    running = sum(digest in inventory.running for digest, _ in kept)
    return Pruned(tuple(going), leftovers, tuple(kept), reason, waiting, only, cached, running)


def _by_age(inventory: Inventory) -> list[tuple[Digest | None, FileInfo]]:
    """All that a budget is for, the longest unchanged first; no digest for unfinished builds."""
    rows: list[tuple[Digest | None, FileInfo]] = [*inventory.unused.items()]
    rows += inventory.kept.items()
    rows += [
        (None, left.file)
        for left in inventory.leftovers
        if left.kind is LeftoverKind.UNFINISHED and not left.in_use
    ]
    return sorted(rows, key=lambda row: (row[1].changed, row[0] or ()))


def _foreign_work(inventory: Inventory) -> str:
    for leftover in inventory.leftovers:
        if leftover.kind is LeftoverKind.PARTIAL and leftover.in_use:
            return f"Ollama seems to be at work: {leftover.file.path.name} changed in the last hour"
    return ""


def _removable(leftover: Leftover, inventory: Inventory, policy: PrunePolicy, now: float) -> bool:
    age = now - leftover.file.changed
    match leftover.kind:
        case LeftoverKind.TEMPORARY:
            return not leftover.in_use
        case LeftoverKind.PARTIAL:
            return age >= (ACTIVE_SECONDS if policy.older is None else policy.older)
        case LeftoverKind.UNFINISHED:
            return False  # what the cache keeps, within its budget
        case LeftoverKind.OLD_CACHE:
            return True
        case LeftoverKind.DOCUMENT:
            return policy.older is None or age >= policy.older
        case LeftoverKind.STRAY:
            return not leftover.in_use and not _is_needed(leftover, inventory)
        case LeftoverKind.DAMAGED:
            return policy.damaged or _made_again(leftover, inventory)


def _is_needed(leftover: Leftover, inventory: Inventory) -> bool:
    """Whether a model names the blob in whose place a stray lies: a link to an absent drive."""
    return Digest.parse(leftover.file.path.name) in inventory.users


def _made_again(leftover: Leftover, inventory: Inventory) -> bool:
    """Whether a damaged blob that was set aside has its place taken by a new one."""
    with suppress(DigestError):
        return Digest.parse(leftover.file.path.name[:71]) in inventory.blobs
    return False


def prune(
    store: Store,
    policy: PrunePolicy | None = None,
    *,
    dry_run: bool = False,
    wait: bool = False,
    on_wait: Callable[[], None] | None = None,
    now: float | None = None,
) -> Pruned:
    """Remove what the policy allows, or with ``dry_run`` only tell.

    ``wait`` waits for running builds (``on_wait`` is called once when that
    takes a second); without it they raise :class:`StoreInUseError`. Raises
    :class:`DamagedError` while a manifest is unreadable; then, as after any
    error, nothing was removed that is in use. ``now``: see ``take_inventory``.
    """
    policy = policy or PrunePolicy()
    now = time.time() if now is None else now
    if dry_run:
        return choose(_checked(store, now), policy, now)
    check_place(store.root)
    if not store.root.is_dir():
        return Pruned((), (), ())
    store.prepare()
    lock = FileLock(store.private / "lock")
    with store_errors("locking the store"):
        try:
            got = lock.acquire(exclusive=True, timeout=None if wait else 0, on_wait=on_wait)
        except NoLocksError:
            if policy.older is None:  # with an age the user says what nobody needs
                raise
            got = True
    if not got:
        raise StoreInUseError(
            "a build is running in this store, so nothing was removed",
            hint="wait until it is done, or let prune wait with --wait",
        )
    try:
        chosen = choose(_checked(store, now), policy, now)
        _remove(store, chosen)
        return chosen
    finally:
        lock.release()
        store.database.close()


def _checked(store: Store, now: float) -> Inventory:
    """The inventory of a store in which every manifest can be read."""
    inventory = take_inventory(store, now)
    if inventory.damaged:
        messages = "; ".join(error.message for error in inventory.damaged)
        denied = (e.hint for e in inventory.damaged if not isinstance(e, DamagedError))
        raise DamagedError(
            f"nothing was removed: {messages}",
            hint=next(denied, "")
            or "it may name any blob: build that model again, or remove it with mbuild rm",
        )
    if inventory.blobs and not store.manifests.folder.is_dir():
        raise DamagedError(
            f"nothing was removed: {store.manifests.folder} is not there",
            hint="mount it, or create that folder if the store really has no models",
        )
    return inventory


def _remove(store: Store, chosen: Pruned) -> None:
    for digest, _ in chosen.blobs:
        with store_errors(f"removing result {digest.short}"):
            store.kept.path(digest).unlink(missing_ok=True)
        store.blobs.remove(digest)
    store.database.clear_garbage(digest for digest, _ in chosen.blobs)
    store.uploads.expire()
    for leftover in chosen.leftovers:
        if leftover.kind is not LeftoverKind.TEMPORARY:
            with store_errors(f"removing {leftover.file.path.name}"):
                if leftover.kind is LeftoverKind.STRAY and not leftover.file.path.is_symlink():
                    with suppress(OSError):
                        leftover.file.path.rmdir()
                        continue
                leftover.file.path.unlink(missing_ok=True)
    # Whether a temporary file's maker lives is looked at anew, under its lock.
    for folder in {left.file.path.parent for left in chosen.leftovers}:
        remove_stale(folder)
        if folder.parent.name == ATTACHED_FOLDER:
            with suppress(OSError):  # somebody else's file is in it
                folder.rmdir()
