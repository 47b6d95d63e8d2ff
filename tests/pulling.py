"""Pulls in this process for tests, and what is true of a store after one was refused."""

from __future__ import annotations

import pytest
from stores import check_promise

from mbuild.core.errors import MbuildError, RegistryError
from mbuild.core.transfers import Transferred
from mbuild.registry.client.access import Access
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.pull import pull
from mbuild.store import Store


def pulled(
    store: Store, host: str, name: str = "a/m:v1", access: Access | None = None
) -> Transferred:
    """Pull a model under its own name; the last event."""
    reference = ModelReference.parse(f"{host}/{name}")
    *_, last = pull(reference, reference.local, store, access or Access())
    assert isinstance(last, Transferred)
    return last


def refused(store: Store, host: str, match: str, kind: type[MbuildError] = RegistryError) -> None:
    """A pull fails with these words, and the store has neither a model nor a blob of it."""
    with pytest.raises(kind, match=match):
        pulled(store, host)
    assert list(store.manifests.names()) == []
    assert check_promise(store.root) == 0 if (store.root / "blobs").is_dir() else True
