"""Stores to start tests from."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from conformance import STORE

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError
from mbuild.store import Store


def copy_tiny_store(target: Path) -> Path:
    """A writable copy of the store with the base model ``tiny``."""
    shutil.copytree(STORE, target, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(target):
        Path(folder).chmod(0o755)
    return target


def check_promise(root: Path) -> int:
    """Assert that every manifest is whole and every blob is what its name says; count models."""
    store = Store(root)
    for blob in (root / "blobs").iterdir():
        assert Digest.parse(blob.name).hex == hashlib.sha256(blob.read_bytes()).hexdigest()
    models = list(store.list())
    for model in models:
        assert not isinstance(model, DamagedError), model
        for layer in model.manifest.blobs():
            assert store.blobs.has(layer.digest, layer.size), (model.name, layer)
    return len(models)
