"""Which storage a URL means: one row for each scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from mbuild.core.errors import UsageError
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.shared.locations import Location
    from mbuild.store.shared import SharedStorage


class StorageRow(NamedTuple):
    """A kind of storage.

    ``module`` has a function ``open_storage(location, writes)``. ``leases`` tells whether the
    storage knows who was first; ``needs`` are the packages beyond mbuild's own.
    """

    what: str
    module: str
    leases: bool
    needs: tuple[str, ...] = ()


_OBJECTS = "mbuild.shared.objects"

STORAGES: Mapping[str, StorageRow] = {
    "file": StorageRow("a folder, also on NFS", "mbuild.shared.folder", True),
    "http": StorageRow("mbuild serve --cache, bazel-remote", "mbuild.shared.web", True),
    "https": StorageRow("the same over TLS", "mbuild.shared.web", True),
    "oci": StorageRow("a registry", "mbuild.shared.registry", False),
    "oci+http": StorageRow("a registry without TLS", "mbuild.shared.registry", False),
    "s3": StorageRow("S3 and what speaks it", _OBJECTS, True, ("fsspec", "s3fs")),
    "gs": StorageRow("Google Cloud Storage", _OBJECTS, True, ("fsspec", "gcsfs")),
    "az": StorageRow("Azure Blob Storage", _OBJECTS, True, ("fsspec", "adlfs")),
    "abfs": StorageRow("the same", _OBJECTS, True, ("fsspec", "adlfs")),
    "sftp": StorageRow("a folder over SSH", _OBJECTS, True, ("fsspec", "paramiko")),
}
"""By the URL's scheme. Any other scheme that fsspec knows is asked of fsspec, without leases."""


def open_storage(location: Location, *, writes: bool = False) -> SharedStorage:
    """The storage that a place means, perhaps to write to; nothing is asked of it yet.

    Raises :class:`UsageError` for a scheme that nobody knows and for a package that is missing.
    """
    row = STORAGES.get(location.scheme) or _others(location)
    for package in row.needs:
        try:
            import_module(package)
        except ImportError:
            raise UsageError(
                f"the cache {location} needs the package {package}",
                hint="pip install 'mbuild-models[cache]'",
            ) from None
    opened: Callable[[Location, bool], SharedStorage] = import_module(row.module).open_storage
    return opened(location, writes)


def _others(location: Location) -> StorageRow:
    """A scheme that has no row here and may have one in fsspec's table."""
    try:
        from fsspec.registry import known_implementations
    except ImportError:
        known_implementations = {}
    if location.scheme not in known_implementations:
        raise UsageError(
            f"{location.scheme}:// is not a storage that mbuild knows",
            hint=did_you_mean(near(location.scheme, STORAGES))
            or f"use a folder, or one of {', '.join(STORAGES)}",
        )
    return StorageRow("", _OBJECTS, False, ("fsspec",))
