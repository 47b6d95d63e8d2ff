"""What builds made stays usable when no model names it: ``.mbuild/kept/``, within a budget.

Ollama removes blobs that no manifest names when it starts, and whoever replaces a
model drops its blobs. So each blob that a step made gets a second name here, a hard
link: no second copy. When its name under ``blobs/`` goes, the content stays, and the
next build that needs it links it back. Nothing here is locked: whoever uses a kept
blob first gives it its name under ``blobs/``, which builders hold the store's lock
for, and losing the name here then costs nothing.

On file systems without hard links a blob is moved here when it loses its last model.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest, DigestError
from mbuild.core.environment import keep_budget
from mbuild.core.values import NamedTuple
from mbuild.store.files import free_bytes, make_directories, remove_stale
from mbuild.store.records import MADE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mbuild.store.database import Database

_SHARE_OF_DISK = 10  # by default kept blobs take at most a tenth of their disk,
_SHARE_LEFT_FREE = 20  # and leave a twentieth of it free


class KeptBlob(NamedTuple):
    """A kept file that has no name under ``blobs/``.

    ``changed`` is when it lost that name, in seconds since 1970; ``links`` counts its
    names, of which more than one means that somebody else linked it.
    """

    digest: Digest
    path: Path
    size: int
    changed: float
    links: int


class Kept:
    """The folder ``kept`` beside the blobs of a store, on their file system."""

    def __init__(self, folder: Path, blobs: Path, database: Database) -> None:
        self.folder = folder
        self._blobs = blobs
        self._database = database
        self._touched = False

    def path(self, digest: Digest) -> Path:
        """Where a kept blob lies, or would lie."""
        return self.folder / digest.filename

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob of that size can be brought back (its content is not read)."""
        info = _regular(self.path(digest))
        return info is not None and info.st_size == size

    def add(self, digest: Digest) -> None:
        """Keep a blob that a step made, beyond its last model.

        A file that somebody else has linked (``--link``) is theirs to edit as soon as
        no model names it, and is not kept.
        """
        blob, kept = self._blobs / digest.filename, self.path(digest)
        info = _regular(blob)
        if info is None:
            return
        self._touched = True
        old = _regular(kept)
        if old is not None and os.path.samestat(old, info):
            return
        if info.st_nlink > 1:
            return
        try:
            self._link(blob, kept)
        except OSError:  # no hard links here
            self._database.put(MADE, str(digest), True)

    def release(self, digest: Digest) -> bool:
        """Take the name under ``blobs/`` away, for the caller who holds the lock alone.

        Returns whether the content is kept. A blob that no step made is gone then.
        """
        blob, kept = self._blobs / digest.filename, self.path(digest)
        info, old = _regular(blob), _regular(kept)
        linked = info is not None and old is not None and os.path.samestat(info, old)
        made = not linked and self._database.get(MADE, str(digest)) is not None
        if made and info is not None and info.st_nlink == 1:
            with suppress(OSError):
                make_directories(self.folder)
                os.replace(blob, kept)
                self._touched = True
                return True
        blob.unlink(missing_ok=True)
        self._touched = self._touched or linked
        return linked

    def restore(self, digest: Digest, size: int) -> bool:
        """Give a kept blob its name under ``blobs/`` again; False when it is not there.

        The caller holds the store's lock. A file that has other names could have been
        edited through one of them, so its content counts only if its digest is right.
        """
        blob, kept = self._blobs / digest.filename, self.path(digest)
        info = _regular(kept)
        if info is None or info.st_size != size or not _trusted(kept, info, digest):
            return False
        with suppress(OSError):
            make_directories(self._blobs)
            self._link(kept, blob)
            return True
        with suppress(OSError):  # no hard links here: it moves back
            os.replace(kept, blob)
            self._database.put(MADE, str(digest), True)
            return True
        return False

    def remove(self, digests: Iterable[Digest]) -> int:
        """Keep these no longer; returns the bytes that this frees on the disk."""
        freed = 0
        for digest in digests:
            path = self.path(digest)
            info = _regular(path)
            if info is not None:
                with suppress(OSError):
                    path.unlink()
                    freed += info.st_size if info.st_nlink == 1 else 0
        return freed

    def links_to(self, digest: Digest, info: os.stat_result) -> bool:
        """Whether a blob with that ``stat`` has its second name here."""
        kept = _regular(self.path(digest))
        return kept is not None and os.path.samestat(kept, info)

    def remove_link(self, digest: Digest, info: os.stat_result) -> None:
        """Keep a blob no longer if the kept file is the one with that ``stat``."""
        if self.links_to(digest, info):
            self.remove([digest])

    def size_of(self, digests: Iterable[Digest]) -> int:
        """Bytes of those of the blobs that are kept and have no name under ``blobs/``."""
        wanted = set(digests)
        return sum(blob.size for blob in self.unnamed() if blob.digest in wanted)

    def unnamed(self) -> list[KeptBlob]:
        """The kept blobs that have no name under ``blobs/``, the longest unused first.

        A copied store (an archive of it that was unpacked) may hold a blob in both
        places: then the kept one becomes a link again.
        """
        found = []
        for digest in self._apart():
            path = self.path(digest)
            info = _regular(path)
            if info is None:
                continue
            blob = _regular(self._blobs / digest.filename)
            blob = blob or _regular(self._blobs / str(digest))  # Ollama's spelling of old
            if blob is None or blob.st_size != info.st_size:
                changed = max(info.st_mtime, info.st_ctime)
                found.append(KeptBlob(digest, path, info.st_size, changed, info.st_nlink))
        return sorted(found, key=lambda kept: (kept.changed, kept.digest))

    def trim(self) -> int:
        """Keep within the budget: the longest unused go first; returns the bytes freed."""
        if not self._touched:
            return 0
        self._touched = False
        remove_stale(self.folder)
        self._merge_copies()
        kept = self.unnamed()
        return self._evict(kept, sum(blob.size for blob in kept) - self.budget(kept))

    def make_room(self, size: int) -> int:
        """Give up kept blobs until so many bytes are free on the disk; returns the bytes freed."""
        free = free_bytes(self.folder.parent)
        if free is None or free >= size:
            return 0
        return self._evict(self.unnamed(), size - free)

    def budget(self, kept: list[KeptBlob] | None = None) -> int:
        """Bytes that unnamed blobs may take: ``MBUILD_KEEP``, else a tenth of the disk.

        Without a budget of the user's they also leave a twentieth of the disk free.
        Raises :class:`UsageError` for a value that is no size.
        """
        asked = keep_budget()
        if asked is not None:
            return asked
        try:
            disk = os.statvfs(self.folder if self.folder.exists() else self._blobs)
        except (AttributeError, OSError):  # Windows, or no store yet
            return _windows_budget(self._blobs)
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        used = sum(blob.size for blob in (self.unnamed() if kept is None else kept))
        return max(0, min(total // _SHARE_OF_DISK, used + free - total // _SHARE_LEFT_FREE))

    def __iter__(self) -> Iterator[Digest]:
        """The digests of all kept blobs, in no particular order."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return
        for name in names:
            with suppress(DigestError):
                yield Digest.parse(name)

    def _apart(self) -> Iterator[Digest]:
        """The kept blobs but those that are one file with the blob of their name.

        Nearly all are, and the two folders' listings tell it without a look at each file: a
        build must not take longer because the store has many models.
        """
        named = _inodes(self._blobs)
        for name, inode in _inodes(self.folder).items():
            if named.get(name) != inode:
                with suppress(DigestError):
                    yield Digest.parse(name)

    def _evict(self, kept: Iterable[KeptBlob], excess: int) -> int:
        freed = 0
        for blob in kept:
            if freed >= excess:
                break
            freed += self.remove([blob.digest])
        return freed

    def _merge_copies(self) -> None:
        """Of a blob that lies in both places as two files the kept one becomes a link."""
        for digest in self._apart():
            blob, kept = self._blobs / digest.filename, self.path(digest)
            info, old = _regular(blob), _regular(kept)
            if info is not None and old is not None and not os.path.samestat(info, old):
                with suppress(OSError):
                    kept.unlink()
                    self._link(blob, kept)

    def _link(self, old: Path, new: Path) -> None:
        """Give a file another name, in place of whatever has it; readers see one or the other."""
        try:
            os.link(old, new)
        except FileExistsError:
            if os.path.samefile(old, new):
                return
            make_directories(self.folder)
            beside = self.folder / f"tmp-{os.getpid()}-{os.urandom(6).hex()}"
            os.link(old, beside)
            os.replace(beside, new)
        except FileNotFoundError:
            if new.parent.is_dir():
                raise
            make_directories(new.parent)
            os.link(old, new)


def _windows_budget(folder: Path) -> int:
    import shutil

    with suppress(OSError):
        return shutil.disk_usage(folder).total // _SHARE_OF_DISK
    return 0


def _inodes(folder: Path) -> dict[str, int]:
    """The files of a folder by their names, each with its number on the file system."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.inode() for entry in entries}
    except OSError:
        return {}


def _regular(path: Path) -> os.stat_result | None:
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info if stat.S_ISREG(info.st_mode) else None


def _trusted(path: Path, info: os.stat_result, digest: Digest) -> bool:
    if info.st_nlink == 1:
        return True
    from mbuild.store.copying import OpenFile, hash_file

    with OpenFile.open(path, path.name) as file:
        return hash_file(file.fd, file.size, lambda done, total: None) == digest
