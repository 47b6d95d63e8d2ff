"""Blobs: files named by the SHA-256 of their content, hashed while they are written."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import DamagedError, FormatError, StoreError
from mbuild.store.files import (
    TemporaryFile,
    check_room,
    inherit,
    is_dangling,
    leads_nowhere,
    make_directories,
    may_not_read,
    open_regular,
    store_errors,
)
from mbuild.store.manifest import Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from mbuild.store.copying import OpenFile
    from mbuild.store.kept import Kept
    from mbuild.store.records import RangePlace
    from mbuild.store.writing import BlobWriter

    Progress = Callable[[int, int], None]


class Blobs:
    """The folder ``blobs/`` of a store."""

    def __init__(
        self,
        folder: Path,
        temporary_folder: Path,
        prepare: Callable[[], None],
        make_room: Callable[[int], object],
        kept: Callable[[], Kept],
    ) -> None:
        """``make_room`` is called with the bytes that are about to be written.

        ``kept`` gives what builds made and no model names any more.
        """
        self.folder = folder
        self._kept = kept
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

    def missing(self, sizes: Mapping[Digest, int]) -> set[Digest]:
        """Of blobs and their sizes those that are neither here nor kept by the cache."""
        gone = {digest for digest, size in sizes.items() if not self.has(digest, size)}
        return {digest for digest in gone if not self._kept().has(digest, sizes[digest])}

    def bring(self, digest: Digest, size: int) -> bool:
        """Make sure that a blob has its name here; False when it is gone.

        The caller holds the store (:meth:`mbuild.store.Store.using`).
        """
        return self.has(digest, size) or self._kept().restore(digest, size)

    def keep(self, digest: Digest) -> None:
        """Let a blob that a step made outlive the models that name it."""
        self._kept().add(digest)

    def named(self, path: Path, info: os.stat_result) -> Digest | None:
        """The digest of a file with that ``stat`` that is a blob of this very store, else None."""
        try:
            digest = Digest.parse(path.name)
            same = os.path.samestat(info, (self.folder / digest.filename).stat())
        except (DigestError, OSError):
            return None
        return digest if same else None

    def local_path(self, digest: Digest) -> Path:
        """The blob's file; raises :class:`DamagedError` when it is gone."""
        path = self.path(digest)
        if self.size(digest) is None:
            raise self._gone(
                digest, path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            )
        return path

    def open(self, digest: Digest) -> BinaryIO:
        """A blob's content as a stream; raises as :meth:`read` does."""
        path = self.path(digest)
        try:
            fd, _ = open_regular(path)
            return open(fd, "rb")
        except OSError as error:
            raise self._gone(digest, path, error) from error

    def read_at(self, place: RangePlace) -> bytes | None:
        """The bytes at a place in a blob or an unfinished file; None when the file is gone.

        They are not checked. A path that leads anywhere else is that of no such file.
        """
        name = place.path.rpartition("/")[2]
        if name in ("", ".", ".."):
            return None
        folders = (self.folder, self._kept().folder, self.partial_folder)
        for folder in folders:
            with suppress(OSError, ValueError), open(folder / name, "rb") as file:
                file.seek(place.offset)
                return file.read(min(place.size, os.fstat(file.fileno()).st_size))
        return None

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob's content; raises :class:`DamagedError` when it is gone or too long.

        Raises :class:`StoreError` for one that this user may not read.
        """
        with self.open(digest) as file:
            try:
                data = file.read(limit + 1)
            except OSError as error:
                raise self._gone(digest, self.path(digest), error) from error
        if len(data) > limit:
            raise DamagedError(f"blob {digest} is longer than {limit} bytes")
        return data

    def _gone(self, digest: Digest, path: Path, error: OSError) -> StoreError:
        """What to say of a blob that cannot be read."""
        if isinstance(error, PermissionError):
            return StoreError(
                f"blob {digest} cannot be read: {error.strerror}", hint=may_not_read(path)
            )
        link = next((p for p in (self.folder, path) if is_dangling(p)), None)
        if link is not None:
            return leads_nowhere(link)
        return DamagedError(
            f"blob {digest} cannot be read: {error.strerror}",
            hint="build or pull the models that use it again",
        )

    def check_room(self, size: int, work: str = "build") -> None:
        """Raise :class:`StoreError` if blobs of so many bytes do not fit on the disk.

        ``work`` is what they are for: ``build`` or ``pull``.
        """
        self._prepare()
        self._make_room(size)
        check_room(self.folder, size, work)

    def writer(self, partial: str = "", *, twice: bool = False) -> BlobWriter:
        """Start a new blob; ``twice``: its BLAKE3 is computed too, on a thread beside.

        With ``partial`` the unfinished file outlives a kill, for whoever knows
        what lies where in it; a blob that is finished under the same prefix
        removes it.
        """
        from mbuild.store.writing import BlobWriter

        return BlobWriter(self, partial, twice=twice)

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
        is the file itself with ``link`` (hard link), or a copy. Both digests are
        those of the stored bytes. Raises :class:`FormatError` when the file
        changes meanwhile.
        """
        from mbuild.store.copying import copy_and_hash, hash_twice
        from mbuild.work.limits import DISK, HASH, Limits

        size, limits = source.size, Limits()
        if link:
            with limits.held_up_by(HASH):
                digest, blake3 = hash_twice(source.fd, size, progress)
            source.check_unchanged()
            if self.has(digest, size):
                return Blob(digest, size, existed=True, blake3=blake3)
            if self._hard_link(source, digest):
                made = Blob(digest, size, existed=False, linked=True, blake3=blake3)
                return made._replace(limits=limits.rounded())
        self._make_room(size)
        with store_errors(f"importing {source.name}"), self.temporary() as file:
            digest, blake3 = copy_and_hash(source.fd, file.fd, size, progress, limits, self.folder)
            source.check_unchanged()
            with limits.held_up_by(DISK):
                made = self.publish(file, digest, size)
            return made._replace(blake3=blake3, limits=limits.rounded())

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

    def scratch(self) -> BinaryIO:
        """A new file without a name on the blobs' file system, gone when it is closed."""
        from tempfile import TemporaryFile as Nameless

        self._prepare()
        return Nameless(dir=self._temporary_folder, buffering=0)

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
