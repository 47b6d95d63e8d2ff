"""A store and the shared caches that a build uses: attached for its time, drained at its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.environment import CACHE_KEY_VARIABLE
from mbuild.shared.cache import TeamCache
from mbuild.shared.envelope import Seal
from mbuild.shared.files import SharedFiles
from mbuild.shared.storages import open_storage

if TYPE_CHECKING:
    from mbuild.shared.locations import CacheOptions, Location
    from mbuild.store import Store
    from mbuild.store.shared import SharedStorage

Opener = Callable[["Location", bool], "SharedStorage"]
"""Opens the storage of a location, to write to if the second argument says so."""


def opened(location: Location, writes: bool) -> SharedStorage:
    """The storage that a location means; raises :class:`UsageError`."""
    return open_storage(location, writes=writes)


@contextmanager
def attached(
    store: Store, options: CacheOptions, warn: Callable[[str], object], opener: Opener = opened
) -> Iterator[TeamCache]:
    """Let a store's builds share; raises :class:`UsageError` for what cannot be opened."""
    seal = seal_of(options)
    target = opener(options.target, True) if options.target is not None else None
    sources = [opener(place, False) for place in options.sources]
    cache = TeamCache(sources, target, store.blobs, seal=seal, warn=warn)
    store.shared, store.shared_files = cache, SharedFiles(store.database, cache)
    try:
        yield cache
    finally:
        store.shared = store.shared_files = None
        cache.close()


def check(options: CacheOptions) -> None:
    """Raise the :class:`UsageError` of what could not be opened; nothing is asked of a storage."""
    seal_of(options)
    for place in options.places:
        opened(place, place == options.target).close()


def seal_of(options: CacheOptions) -> Seal:
    """Who signs, and whose signatures count; raises :class:`UsageError` for a wrong key."""
    named = os.environ.get(CACHE_KEY_VARIABLE, "").strip()
    signs = named and options.target is not None
    if not signs and not options.verify:
        return Seal()
    from mbuild.core.keys import private_key, public_key

    signer = private_key(Path(named).expanduser()) if signs else None
    trusted = [public_key(Path(path).expanduser()) for path in options.verify]
    if trusted and signer is not None:
        trusted.append(signer.public)
    return Seal(signer, tuple(trusted))
