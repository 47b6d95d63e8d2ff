"""What to say of a model that is not in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.core.errors import DamagedError
from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near_models
from mbuild.store.place import about_empty, check_place

if TYPE_CHECKING:
    from mbuild.store.store import Store


_ID = regex("[0-9a-f]{4,64}")


def about_absent(store: Store, wanted: str) -> str:
    """A hint for somebody who names a model that is not there: what they can have meant.

    Raises :class:`StoreError` where the whole store is not there (:func:`check_place`).
    """
    check_place(store.root)
    names = [str(name) for name in store.manifests.names()]
    if not names:
        return about_empty(store.root)
    return _about_id(store, wanted) or did_you_mean(near_models(wanted, names)[:3])


def _about_id(store: Store, wanted: str) -> str:
    """The names of the models whose id was given, in whole or the first digits, for a name."""
    digits = wanted.removesuffix(":latest").removeprefix("sha256:")
    if not _ID.fullmatch(digits):
        return ""
    found = sorted(
        str(stored.name)
        for stored in store.list()
        if not isinstance(stored, DamagedError) and stored.id.hex.startswith(digits)
    )
    return f"{digits} is the id of {' and '.join(found)}: give the name" if found else ""
