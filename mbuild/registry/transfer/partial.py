"""A blob that arrives in parts: its file, the journal of what is there, and the running digest.

The file has the blob's whole length from the start, with holes. The journal beside it says what was
written, for whoever comes after a killed pull. A journal that lies (the power went, the file is
another one) costs a second download: the digest decides, always.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mbuild.core.digest import BLAKE3, SHA256, Digest, hashing
from mbuild.core.errors import RegistryError
from mbuild.core.system import reserve
from mbuild.registry.client.answers import DAMAGED_THERE
from mbuild.registry.transfer.journal import Journal, Span, merged
from mbuild.store.files import TemporaryFile, inherit, make_directories, store_errors, sync
from mbuild.store.locks import try_hold
from mbuild.work.background import Background

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer

    from mbuild.store.blobs import Blobs
    from mbuild.store.manifest import Blob

PREFIX = "pull-"
"""What the files' names begin with, before the digest's digits."""

_PIECE = 1 << 20  # bytes that are read back at once for the digest, from the system's cache
_WRITTEN = 128 << 10
"""Bytes that are written at once. Linux takes memory for a file in blocks as large as a write: of
larger ones it needs fewer, of very large ones few are free.
"""

_FLUSHED = 64 << 20
"""Bytes that are handed to the disk together while more come: in the end little is to wait for."""


class OtherBytesError(RegistryError):
    """What arrived is not what the digest says."""


class _HeldFile(TemporaryFile):
    """The partial file of a blob, found again by its name and held by one process at a time."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd
        self._open = True


class PartialBlob:
    """A blob of known digest and size of which parts are there; safe for many threads."""

    def __init__(self, blobs: Blobs, digest: Digest, size: int, *, twice: bool = False) -> None:
        """``twice``: its BLAKE3 is computed, too.

        ``is_read`` is set where others read it meanwhile: then it is not begun anew.
        """
        self.digest, self.size = digest, size
        self._blobs = blobs
        self._twice = twice
        self.is_read = False
        self._path = blobs.partial_folder / f"{PREFIX}{digest.hex}"
        self._journal = Journal(self._path, size, blobs.folder)
        self._file: _HeldFile | None = None
        self._disk = Background("mbuild-disk")
        self._flushed = 0
        self._spans: list[Span] = []
        self._wanted: list[Span] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._hashing = threading.Lock()
        self._start_hash()

    def _start_hash(self) -> None:
        self._hash = hashing(SHA256)
        self._other = hashing(BLAKE3) if self._twice else None
        self._hashed = 0
        self._room = memoryview(bytearray(min(_PIECE, max(self.size, 1))))

    @property
    def path(self) -> Path:
        """Where the file lies until it is whole."""
        return self._path

    # Who has it.

    def claim(self) -> bool:
        """Take the file for this process; False while another one has it.

        The caller looks again whether the blob is there, once it has the file, and begins.
        """
        with store_errors("opening a partial download"):
            make_directories(self._path.parent)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            fd = os.open(self._path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                if not try_hold(self._path, fd):
                    os.close(fd)
                    return False
                inherit(fd, self._blobs.folder)
                self._file = _HeldFile(self._path, fd)
                self._spans = self._journal.read() if self._length() == self.size else []
            except BaseException:
                if self._file is None:
                    with suppress(OSError):
                        os.close(fd)
                raise
        return True

    def begin(self) -> None:
        """Make room for what is missing, and open the journal for it."""
        with store_errors("starting a download"):
            if not self._spans:
                self.forget()
            self._journal.open(self._spans)

    def _length(self) -> int:
        assert self._file is not None
        return os.fstat(self._file.fd).st_size

    def forget(self) -> None:
        """Begin anew: what is there counts no more."""
        assert self._file is not None
        with self._lock, store_errors("restarting a download"):
            self._spans, self._flushed = [], 0
            os.ftruncate(self._file.fd, 0)
            os.ftruncate(self._file.fd, self.size)
            self._journal.forget()
        self._start_hash()

    # What is there.

    @property
    def received(self) -> int:
        """Bytes that are there."""
        with self._lock:
            return sum(end - start for start, end in self._spans)

    def missing(self, start: int = 0, end: int | None = None) -> list[Span]:
        """What of a stretch is not there, in order; by default of the whole blob."""
        end = self.size if end is None else end
        with self._lock:
            spans = list(self._spans)
        gaps, at = [], start
        for first, last in spans:
            if first >= end:
                break
            if first > at:
                gaps.append((at, first))
            at = max(at, last)
        return [*gaps, (at, end)] if at < end else gaps

    def expect(self, start: int, end: int) -> None:
        """These bytes come next: the disk gets room for them at once."""
        assert self._file is not None
        reserve(self._file.fd, start, end)

    def take(self, offset: int, data: memoryview) -> None:
        """Put bytes at their place: they need not be asked for again, even after a kill.

        What is there already stays as it is, for it may be digested. Bytes with which the
        digest goes on are digested while they are at hand.
        """
        end = offset + len(data)
        # One thread at a time: the others would wait in the kernel, and busily.
        with self._writing:
            gaps = self.missing(offset, end)
            for first, last in gaps:
                self.write(first, data[first - offset : last - offset])
                self.note(first, last)
            self._flush()
        if gaps == [(offset, end)] and self._hashed == offset:
            self._digest_next(offset, data)

    def write(self, offset: int, data: Buffer) -> None:
        """Put bytes at their place; they count once they are noted."""
        assert self._file is not None
        view = memoryview(data).cast("B")
        with store_errors("writing a blob"):
            while view:
                piece = view[:_WRITTEN]
                if hasattr(os, "pwrite"):
                    count = os.pwrite(self._file.fd, piece, offset)
                else:
                    os.lseek(self._file.fd, offset, os.SEEK_SET)
                    count = os.write(self._file.fd, piece)
                offset += count
                view = view[count:]

    def note(self, start: int, end: int) -> None:
        """These bytes are written: they need not be asked for again, even after a kill."""
        if start < end:
            with self._lock, store_errors("recording what has arrived"):
                self._spans = merged([*self._spans, (start, end)])
                self._journal.note(start, end, self._spans)

    def _flush(self) -> None:
        """Let the disk begin with what it has to have in the end, once that is much, or all."""
        received = self.received
        enough = received - self._flushed >= _FLUSHED and not self._disk.waiting
        if enough or received == self.size:
            self._flushed = received
            self._disk.put(self._sync)

    def _sync(self) -> None:
        assert self._file is not None
        with store_errors("writing a blob"):
            sync(self._file.fd)

    def advance(self) -> None:
        """Digest what is there without a gap before it, unless another thread does that now."""
        while self._hashed < self._prefix() and self._hashing.acquire(blocking=False):
            try:
                self._hash_to(self._prefix())
            finally:
                self._hashing.release()

    def _digest_next(self, offset: int, data: memoryview) -> None:
        """Digest bytes that are there, unless another thread does that now."""
        if self._hashing.acquire(blocking=False):
            try:
                if self._hashed == offset:
                    self._digest(data)
            finally:
                self._hashing.release()

    def _digest(self, data: memoryview) -> None:
        self._hash.update(data)
        if self._other is not None:
            self._other.update(data)
        self._hashed += len(data)

    def _prefix(self) -> int:
        with self._lock:
            return self._spans[0][1] if self._spans and self._spans[0][0] == 0 else 0

    def _hash_to(self, end: int) -> None:
        assert self._file is not None
        with store_errors("reading a partial download"):
            while self._hashed < end:
                room = self._room[: end - self._hashed]
                if hasattr(os, "preadv"):
                    count = os.preadv(self._file.fd, [room], self._hashed)
                else:
                    data = os.pread(self._file.fd, len(room), self._hashed)
                    count = len(data)
                    room[:count] = data
                if not count:
                    raise OtherBytesError("a partial download became shorter while it was read")
                self._digest(room[:count])

    # The end.

    def finish(self) -> Blob:
        """Give the blob its name; raises :class:`OtherBytesError` if its digest is another.

        Then nothing of it is kept.
        """
        assert self._file is not None
        digest = self._whole()
        self._disk.wait()  # a disk's error is told once, and may have been told there
        self._disk.stop()
        blob = self._blobs.publish(self._file, digest, self.size)
        self._journal.remove()
        if self._other is None:
            return blob
        return blob._replace(blake3=Digest(self._other.hexdigest(), BLAKE3))

    def _whole(self) -> Digest:
        """The digest, once all is digested; raises :class:`OtherBytesError` for another one."""
        assert not self.missing()
        with self._hashing:
            self._hash_to(self.size)
        found = Digest(self._hash.hexdigest())
        if found != self.digest:
            if not self.is_read:
                self.forget()
            raise OtherBytesError(
                f"the registry sent the wrong bytes: their digest is {found}, not {self.digest}",
                hint=f"nothing was kept; {DAMAGED_THERE}",
            )
        return found

    def discard(self) -> None:
        """Remove what is there: nobody needs it."""
        self._disk.stop()
        if self._file is not None:
            self._file.discard()
        self._journal.remove()

    def leave(self) -> None:
        """Close the files; what has arrived is taken up by the next pull.

        Where nothing has, nothing is left: an empty file is only in somebody's way.
        """
        if not self.received:
            self.discard()
            return
        self._disk.stop()
        if self._file is not None:
            self._file.leave()
        self._journal.close()

    # Who reads it while it comes.

    @contextmanager
    def wanting(self, start: int, end: int) -> Iterator[None]:
        """Meanwhile somebody waits for these bytes."""
        with self._lock:
            self._wanted.append((start, end))
        try:
            yield
        finally:
            with self._lock:
                self._wanted.remove((start, end))

    @property
    def wanted(self) -> list[Span]:
        """What somebody waits for, whoever came first before others."""
        with self._lock:
            return list(self._wanted)

    @property
    def ahead(self) -> int:
        """Bytes that arrived and that nobody has read, where that is to be little; else 0."""
        return 0

    def used(self, start: int, end: int) -> None:
        """Somebody read these bytes, who reads while it comes; here that changes nothing."""

    def check(self, start: int, end: int) -> None:
        """Raise where these bytes cannot be read a second time; here they can."""

    def release(self) -> None:
        """Whoever read while it came has ended; here that changes nothing."""
