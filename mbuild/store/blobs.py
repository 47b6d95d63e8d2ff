"""Blobs: files named by the SHA-256 of their content, hashed while they are written."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import CancelledError, DamagedError, FormatError, StoreError
from mbuild.store.blocks import BLOCK, Blocks
from mbuild.store.files import (
    TemporaryFile,
    check_room,
    inherit,
    is_dangling,
    leads_nowhere,
    make_directories,
    may_not_read,
    open_regular,
    remove_stale,
    store_errors,
    sync,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Buffer

    from mbuild.store.copying import OpenFile

    Progress = Callable[[int, int], None]


_FEW = 2  # cores that are busy enough with making the bytes and digesting them
_PIECE = 256 << 10  # bytes that are still in the processor's cache when they are copied


class Blob(NamedTuple):
    """A stored blob; ``existed`` tells whether the store had it before.

    ``linked``: it is the user's own file under a second name.
    """

    digest: Digest
    size: int
    existed: bool
    linked: bool = False


class BlobWriter:
    """A blob under construction: write its bytes in order, then commit.

    The disk is waited for on another thread. With cores to spare one more digests the
    bytes; without, that is done here, while they are in the processor's cache. Use as a
    context manager; what is not committed leaves nothing behind, but for the saved part
    of a named one when the build was stopped.
    """

    def __init__(self, blobs: Blobs, partial: str = "") -> None:
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self._partial = partial
        self._file = blobs.temporary(partial)
        from mbuild.work.cores import cores

        self._beside = cores() > _FEW
        self._blocks = Blocks(self._file.fd, self._hash.update if self._beside else None)
        self._block: memoryview | None = None
        self._filled = 0
        self._saved = False
        self.size = 0

    def save(self, then: Callable[[str, int], object]) -> None:
        """Make what was written so far durable, and call ``then``, both on another thread.

        It is given the file's place below the store's root, and how many bytes of the
        file are durable. See :meth:`wait`.
        """

        def save(written: int) -> None:
            with store_errors("writing a blob"):
                sync(self._file.fd)
            self._saved = True
            place = self._file.path.relative_to(self._blobs.folder.parent).as_posix()
            then(place, written)

        self._blocks.then(bytes(self._block[: self._filled]) if self._block else b"", save)

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
                block = self._block = self._block or self._blocks.take()
                piece = view[: min(_PIECE, BLOCK - self._filled)]
                view = view[len(piece) :]
                if not self._beside:
                    self._hash.update(piece)
                block[self._filled : self._filled + len(piece)] = piece
                self._filled += len(piece)
                if self._filled == BLOCK:
                    self._blocks.put(block, BLOCK)
                    self._block, self._filled = None, 0

    def commit(self) -> Blob:
        """Publish the blob under its digest; raises :class:`StoreError` (disk full, ...).

        Earlier builds' unfinished files of the same name are not needed any more.
        """
        with store_errors("writing a blob"):
            self._blocks.finish(self._block, self._filled)
            self._block = None  # its bytes are digested with the others now
        blob = self._blobs.publish(self._file, self.digest, self.size)
        if self._partial:
            remove_stale(self._blobs.partial_folder, self._partial)
        return blob

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._blocks.stop()
        if self._saved and kind is not None and issubclass(kind, CancelledError):
            self._file.leave()
        else:
            self._file.discard()


class Blobs:
    """The folder ``blobs/`` of a store."""

    def __init__(
        self,
        folder: Path,
        temporary_folder: Path,
        prepare: Callable[[], None],
        make_room: Callable[[int], object],
    ) -> None:
        """``make_room`` is called with the bytes that are about to be written."""
        self.folder = folder
        self._temporary_folder = temporary_folder
        self._prepare = prepare
        self._make_room = make_room

    def path(self, digest: Digest) -> Path:
        """Where the blob of that digest lies, or would lie."""
        path = self.folder / digest.filename
        if not os.path.lexists(path):
            old = self._old_path(digest)
            if os.path.lexists(old):
                return old
        return path

    def _old_path(self, digest: Digest) -> Path:
        """Where an Ollama before April 2024 put the blob; today's renames it at its start."""
        return self.folder / str(digest)

    def size(self, digest: Digest) -> int | None:
        """Bytes of a stored blob, or None when it is not there.

        Raises :class:`StoreError` where nobody may look.
        """
        info = self._stat(self.folder / digest.filename) or self._stat(self._old_path(digest))
        return info.st_size if info is not None and stat.S_ISREG(info.st_mode) else None

    def _stat(self, path: Path) -> os.stat_result | None:
        try:
            return os.stat(path)
        except PermissionError as error:
            raise self._denied(error) from error
        except OSError:
            return None

    def has(self, digest: Digest, size: int) -> bool:
        """Whether the blob is there with that size (its content is not read)."""
        return self.size(digest) == size

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob's content; raises :class:`DamagedError` when it is gone or too long.

        Raises :class:`StoreError` for one that this user may not read.
        """
        path = self.path(digest)
        try:
            fd, _ = open_regular(path)
            with open(fd, "rb") as file:
                data = file.read(limit + 1)
        except PermissionError as error:
            raise StoreError(
                f"blob {digest} cannot be read: {error.strerror}", hint=may_not_read(path)
            ) from error
        except OSError as error:
            link = next((p for p in (self.folder, path) if is_dangling(p)), None)
            if link is not None:
                raise leads_nowhere(link) from error
            raise DamagedError(
                f"blob {digest} cannot be read: {error.strerror}",
                hint="build or pull the models that use it again",
            ) from error
        if len(data) > limit:
            raise DamagedError(f"blob {digest} is longer than {limit} bytes")
        return data

    def check_room(self, size: int) -> None:
        """Raise :class:`StoreError` if blobs of so many bytes do not fit on the disk."""
        self._prepare()
        self._make_room(size)
        check_room(self.folder, size)

    def writer(self, partial: str = "") -> BlobWriter:
        """Start a new blob.

        With ``partial`` the unfinished file outlives a kill, for whoever knows
        what lies where in it; a blob that is finished under the same prefix
        removes it.
        """
        return BlobWriter(self, partial)

    def put(self, data: bytes) -> Blob:
        """Store bytes that are in memory; nothing is written when the blob is there."""
        digest = Digest.of(data)
        if self.has(digest, len(data)):
            return Blob(digest, len(data), existed=True)
        self._make_room(len(data))
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def ingest(self, source: OpenFile, *, link: bool, progress: Progress) -> Blob:
        """Bring a file into the store, reading it once.

        The blob shares the file's extents where the file system can (reflink),
        is the file itself with ``link`` (hard link), or a copy. The digest is
        that of the stored bytes. Raises :class:`FormatError` when the file
        changes meanwhile.
        """
        from mbuild.store.copying import copy_and_hash, hash_file

        if link:
            digest = hash_file(source.fd, source.size, progress)
            source.check_unchanged()
            if self.has(digest, source.size):
                return Blob(digest, source.size, existed=True)
            if self._hard_link(source, digest):
                return Blob(digest, source.size, existed=False, linked=True)
        self._make_room(source.size)
        with store_errors(f"importing {source.name}"), self.temporary() as file:
            digest = copy_and_hash(source.fd, file.fd, source.size, progress)
            source.check_unchanged()
            return self.publish(file, digest, source.size)

    def _hard_link(self, source: OpenFile, digest: Digest) -> bool:
        """Give the user's own file a second name; False where that cannot be done."""
        self._prepare()
        target = self.folder / digest.filename
        with suppress(OSError):
            target.unlink(missing_ok=True)  # only ever a damaged one
            os.link(os.path.realpath(source.path), target)
            if os.path.samestat(os.stat(target), os.fstat(source.fd)):
                return True
            target.unlink()
        return False

    def publish(self, file: TemporaryFile, digest: Digest, size: int) -> Blob:
        """Give a finished temporary file its digest's name, unless the blob is there."""
        if self.has(digest, size):
            file.discard()
            return Blob(digest, size, existed=True)
        with store_errors(f"publishing blob {digest.short}"):
            if os.fstat(file.fd).st_size != size:
                raise FormatError(f"{os.fstat(file.fd).st_size} bytes written, not {size}")
            target = self.folder / digest.filename
            with suppress(OSError):  # an empty folder that something left there
                target.rmdir()
            file.publish(target)
        return Blob(digest, size, existed=False)

    @property
    def partial_folder(self) -> Path:
        """Where unfinished files lie that a killed build leaves on purpose."""
        if self._temporary_folder == self.folder:  # on a disk of its own
            return self.folder
        return self._temporary_folder.with_name("partial")

    def temporary(self, partial: str = "") -> TemporaryFile:
        """A new temporary file on the blobs' file system."""
        self._prepare()
        with store_errors("creating a temporary file in the store"):
            folder = self.partial_folder if partial else self._temporary_folder
            if partial:
                make_directories(folder)
            file = TemporaryFile(folder, partial or "tmp-")
            inherit(file.fd, self.folder)
            return file

    def remove(self, digest: Digest) -> None:
        """Remove a blob; the caller holds the store's lock alone and knows that it is unused."""
        with store_errors(f"removing blob {digest.short}"):
            (self.folder / digest.filename).unlink(missing_ok=True)
            self._old_path(digest).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Digest]:
        """The digests of all stored blobs, each once, in no particular order."""
        return iter({digest for _, digest, info in self._entries() if stat.S_ISREG(info.st_mode)})

    def strays(self) -> Iterator[tuple[Path, os.stat_result]]:
        """What has a blob's name and is none: folders, pipes, links that lead nowhere."""
        for path, _, info in self._entries():
            if not stat.S_ISREG(info.st_mode):
                yield path, info

    def _entries(self) -> Iterator[tuple[Path, Digest, os.stat_result]]:
        """All that has a blob's name, with the ``stat`` of what it leads to."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise self._denied(error) from error
        for name in names:
            with suppress(DigestError, FileNotFoundError):
                digest, path = Digest.parse(name), self.folder / name
                info = self._stat(path)
                yield path, digest, os.lstat(path) if info is None else info

    def _denied(self, error: OSError) -> StoreError:
        return StoreError(
            f"the blobs in {self.folder} cannot be accessed: {error.strerror}",
            hint=may_not_read(self.folder),
        )
