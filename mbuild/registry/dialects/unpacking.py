"""Layers that are tar archives, as modctl makes them unless told otherwise: their files by name.

Only regular files are taken, by the last part of their names; nothing is written but blobs.
What else an archive has is told, so that nothing goes missing in silence.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mbuild.core.errors import RegistryError
from mbuild.core.values import NamedTuple
from mbuild.registry.dialects.roles import LEFT_OUT, role_of_file
from mbuild.store.manifest import Layer

if TYPE_CHECKING:
    from typing import IO

    from mbuild.store import Store

_CHUNK = 1 << 20
_MOST_FILES = 10_000
_SMALL = 64 << 20
"""Bytes of the largest file that is no weights."""


class Unpacked(NamedTuple):
    """A file of an archive: what it is called there, and its blob.

    ``layer`` is None for what a model has no place for, of which nothing is stored.
    """

    path: str
    layer: Layer | None


def unpacked(layer: Layer, store: Store, name: str) -> Iterator[Unpacked]:
    """The files of an archive in their order; those that a model has a place for are stored.

    Raises :class:`RegistryError` for what is no tar archive, and :class:`StoreError` where
    the disk has no room.
    """
    what = f"{name}: layer {layer.digest.short}"
    try:
        with store.blobs.open(layer.digest) as file, _archive(file) as archive:
            for number, member in enumerate(archive):
                if number >= _MOST_FILES:
                    raise RegistryError(f"{what} has more than {_MOST_FILES} files")
                if member.isdir():
                    continue
                role = role_of_file(member.name) if member.isreg() else LEFT_OUT
                content = archive.extractfile(member) if role != LEFT_OUT else None
                found = None
                if content is not None:
                    _check_size(role, member.size, what, store)
                    found = _stored(content, member.size, role, store, what)
                yield Unpacked(member.name, found)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise RegistryError(
            f"{what} cannot be unpacked: {error}",
            hint="it came as it was pushed: whoever pushed it has to pack it anew and push that",
        ) from None


def _archive(file: IO[bytes]) -> tarfile.TarFile:
    """The archive, compressed with gzip or not."""
    start = file.read(2)
    file.seek(0)
    mode = "r|gz" if start == b"\x1f\x8b" else "r|"
    return tarfile.open(fileobj=file, mode=mode)  # type: ignore[call-overload,no-any-return]


def _check_size(role: str, size: int, what: str, store: Store) -> None:
    from mbuild.store.media import GGUF

    if role not in GGUF and size > _SMALL:
        raise RegistryError(f"{what} has a text of {size} bytes")
    store.blobs.check_room(size, "pull")


def _stored(content: IO[bytes], size: int, role: str, store: Store, what: str) -> Layer:
    with store.blobs.writer() as writer:
        while piece := content.read(_CHUNK):
            writer.write(piece)
        if writer.size != size:
            raise RegistryError(f"{what} ends in the middle of a file")
        blob = writer.commit()
    return Layer(role, blob.digest, blob.size)
