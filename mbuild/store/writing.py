"""A blob under construction: digested and written beside whoever makes its bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from mbuild.core.digest import BLAKE3, Digest, hashing
from mbuild.core.errors import CancelledError
from mbuild.store.blocks import BLOCK, Blocks
from mbuild.store.files import TemporaryFile, remove_stale, store_errors, sync
from mbuild.work.cores import cores
from mbuild.work.limits import DISK, HASH, Limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Buffer

    from mbuild.store.manifest import Blob

_FEW = 2  # cores that are busy enough with making the bytes and digesting them
_PIECE = 256 << 10  # bytes that are still in the processor's cache when they are copied


class WriteTarget(Protocol):
    """Where a finished blob goes: the folder of blobs."""

    @property
    def folder(self) -> Path:
        """The folder."""

    @property
    def partial_folder(self) -> Path:
        """Where unfinished files lie that a killed build leaves on purpose."""

    def temporary(self, partial: str = "") -> TemporaryFile:
        """A new temporary file, under a name that begins with ``partial``."""

    def publish(self, file: TemporaryFile, digest: Digest, size: int) -> Blob:
        """Give a finished file its digest's name."""


class BlobWriter:
    """A blob under construction: write its bytes in order, then commit.

    The disk is waited for on another thread. With cores to spare one more digests the
    bytes; without, that is done here, while they are in the processor's cache. Use as a
    context manager; what is not committed leaves nothing behind, but for the saved part
    of a named one when the build was stopped.
    """

    def __init__(self, blobs: WriteTarget, partial: str = "", *, twice: bool = False) -> None:
        """``twice``: the blob's BLAKE3 is computed too, on a thread of its own."""
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self._blake3 = hashing(BLAKE3) if twice else None
        self._partial = partial
        self._file = blobs.temporary(partial)
        self._beside = cores() > _FEW
        looks = [self._hash.update] if self._beside else []
        if self._blake3 is not None:
            looks.append(self._blake3.update)
        self._blocks = Blocks(self._file.fd, *looks)
        self._block: memoryview | None = None
        self._filled = 0
        self._saved = False
        self._finished = False
        self.size = 0
        self.limits = Limits()

    def save(
        self, then: Callable[[str, int], object], *, durable: bool = True, begun: bool = True
    ) -> None:
        """Make what was written so far durable, and call ``then``, both on another thread.

        It is given the file's place below the store's root, and how many bytes of the
        file are durable. See :meth:`wait`. What is not ``durable`` outlives this process, and
        perhaps not the machine's power. Without ``begun`` the block that is not full yet
        waits for the next time: to write it twice costs more than to write it directly.
        """

        def save(written: int) -> None:
            if durable:
                with store_errors("writing a blob"):
                    sync(self._file.fd)
            self._saved = True
            place = self._file.path.relative_to(self._blobs.folder.parent).as_posix()
            then(place, written)

        rest = bytes(self._block[: self._filled]) if self._block and begun else b""
        self._blocks.then(rest, save)

    def wait(self) -> None:
        """Wait until everything is durable that was to be saved."""
        self._blocks.wait()

    @property
    def digest(self) -> Digest:
        """The digest of what was written so far."""
        self._blocks.seen()
        state = self._hash.copy()
        if self._beside and self._block is not None:
            state.update(self._block[: self._filled])
        return Digest(state.hexdigest())

    def write(self, data: Buffer) -> None:
        """Append bytes (anything with the buffer protocol)."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        with store_errors("writing a blob"):
            while view:
                block = self._block = self._block or self._taken()
                piece = view[: min(_PIECE, BLOCK - self._filled)]
                view = view[len(piece) :]
                if not self._beside:
                    with self.limits.held_up_by(HASH):
                        self._hash.update(piece)
                block[self._filled : self._filled + len(piece)] = piece
                self._filled += len(piece)
                if self._filled == BLOCK:
                    self._blocks.put(block, BLOCK)
                    self._block, self._filled = None, 0

    def _taken(self) -> memoryview:
        """A free block, once there is one."""
        with self.limits.held_up_by(self._blocks.slowest):
            return self._blocks.take()

    def finish(self) -> None:
        """Wait until all bytes are written, and give back the memory and the threads.

        A blob that waits for others before it is published holds nothing but its file.
        """
        if self._finished:
            return
        with store_errors("writing a blob"):
            with self.limits.held_up_by(HASH):
                self._blocks.seen()
            with self.limits.held_up_by(DISK):
                self._blocks.finish(self._block, self._filled)
        self._block = None  # its bytes are digested with the others now
        self._blocks.close()
        self._finished = True

    def commit(self) -> Blob:
        """Publish the blob under its digest; raises :class:`StoreError` (disk full, ...).

        Earlier builds' unfinished files of the same name are not needed any more.
        """
        self.finish()
        with self.limits.held_up_by(DISK):
            blob = self._blobs.publish(self._file, self.digest, self.size)
        if self._partial:
            remove_stale(self._blobs.partial_folder, self._partial)
        if self._blake3 is None:
            return blob
        return blob._replace(blake3=Digest(self._blake3.hexdigest(), BLAKE3))

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._blocks.stop()
        if self._saved and kind is not None and issubclass(kind, CancelledError):
            self._file.leave()
        else:
            self._file.discard()
