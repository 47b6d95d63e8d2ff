"""What the store remembers between builds, in SQLite: results of steps, digests of files.

Everything here is a cache: a row that is missing, damaged or from another
version costs a rebuild and never a wrong model. Each row carries a check of
its own content, and a file that SQLite cannot read is set aside.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from mbuild.core.digest import Digest, DigestError, sha256
from mbuild.store.files import NO_LOCKS, inherit
from mbuild.store.records import ALIAS, CONTENT, PLACE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from mbuild.store.records import RangePlace, RecordKind

T = TypeVar("T")

SCHEMA_VERSION = 1

_SCHEMA = f"""
BEGIN;
CREATE TABLE records (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, verify TEXT NOT NULL,
    created_ns INTEGER NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE files (
    device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    digest TEXT NOT NULL, hashed_ns INTEGER NOT NULL, PRIMARY KEY (device, inode)
) WITHOUT ROWID;
CREATE TABLE garbage (digest TEXT PRIMARY KEY) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_AT_ONCE = 500  # keys in one query; SQLite takes 999 values or more

_BUSY_SECONDS = 5.0  # of waiting for other processes, whose writing takes milliseconds
_BUSY_SLICE = 0.1  # signals are looked at only between two calls of SQLite

# A file that was written this shortly before it was hashed may be written again
# without its times changing (git's "racy" rule): clocks of file systems tick
# every few milliseconds, those that store whole seconds every two seconds.
_FINE_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_000_000_000


class Database:
    """The file ``cache.db``. Opened on first use; safe for many processes and threads."""

    def __init__(self, path: Path, warn: Callable[[str], object] = lambda text: None) -> None:
        """``warn`` is told, once, if the cache has to be done without."""
        self._path = path
        self._warn = warn
        self._off = False
        self._connection: sqlite3.Connection | None = None
        self._pending: list[tuple[str, tuple[object, ...]]] = []
        self._unwritten: dict[tuple[str, str], str] = {}
        self._lock = threading.RLock()

    # Results of steps, and other values that a pure function of their key gave.

    def get(self, kind: RecordKind[T], key: str) -> T | None:
        """The value recorded under a key, if it is there and undamaged."""
        return self.get_many(kind, (key,)).get(key)

    def get_many(self, kind: RecordKind[T], keys: Collection[str]) -> dict[str, T]:
        """The values recorded under these keys; those that are not there are left out."""
        table = kind.table
        texts = {
            key: self._unwritten[table, key] for key in keys if (table, key) in self._unwritten
        }
        wanted = [key for key in keys if key not in texts]
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            texts |= self._undamaged(table, f"key IN ({marks})", some)
        found = {key: kind.read(text) for key, text in texts.items()}
        return {key: value for key, value in found.items() if value is not None}

    def put(self, kind: RecordKind[T], key: str, value: T) -> None:
        """Record a value; it is written by the next :meth:`flush`."""
        table, text = kind.table, kind.encode(value)
        row = (table, key, text, _verify(table, key, text), time.time_ns())
        self._pending.append(("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", row))
        self._unwritten[table, key] = text

    def forget(self, kind: RecordKind[T], key: str) -> None:
        """Drop a record with the next :meth:`flush`."""
        self._unwritten.pop((kind.table, key), None)
        self._pending.append(("DELETE FROM records WHERE kind = ? AND key = ?", (kind.table, key)))

    def find(self, kind: RecordKind[T], start: str) -> dict[str, T]:
        """Values by their keys, which begin with ``start``, of what is written and undamaged."""
        texts = self._undamaged(kind.table, "key >= ? AND key < ?", (start, start + "\U0010ffff"))
        found = {key: kind.read(text) for key, text in texts.items()}
        return {key: value for key, value in found.items() if value is not None}

    # Where quantized ranges lie; each can lie at several places.

    def places(self, keys: Collection[str]) -> dict[str, list[RangePlace]]:
        """Where the bytes of ranges lie, by the ranges' keys."""
        found = {key: list(self.find(PLACE, f"{key} ").values()) for key in keys}
        return {key: places for key, places in found.items() if places}

    def add_place(self, key: str, place: RangePlace) -> None:
        """Record one more place of a range; :meth:`places` finds it after :meth:`flush`."""
        self.put(PLACE, f"{key} {place.path}", place)

    def drop_place(self, key: str, place: RangePlace) -> None:
        """Forget a place at which nothing is left."""
        self.forget(PLACE, f"{key} {place.path}")

    def _undamaged(self, table: str, which: str, values: Collection[str]) -> dict[str, str]:
        """The texts of one kind's records by their keys, those whose own check is right."""
        statement = f"SELECT key, value, verify FROM records WHERE kind = ? AND {which}"
        rows = self._query(statement, (table, *values))
        texts = [(str(key), str(value), verify) for key, value, verify in rows]
        return {key: text for key, text, verify in texts if verify == _verify(table, key, text)}

    # Digests of files that have not changed.

    def file_digest(self, info: os.stat_result) -> Digest | None:
        """The digest of the file with that ``stat``, if it cannot have changed since."""
        rows = self._query(
            "SELECT size, mtime_ns, ctime_ns, digest, hashed_ns FROM files"
            " WHERE device = ? AND inode = ?",
            (_signed(info.st_dev), _signed(info.st_ino)),
        )
        for size, mtime_ns, ctime_ns, digest, hashed_ns in rows:
            same = (size, mtime_ns, ctime_ns) == (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            if same and not _racy(info, hashed_ns):
                return _checked(info, digest)
        return None

    def content_known(self, size: int, digest: Digest | None = None) -> bool:
        """Whether a user's file of that size, or of that very content, was read before.

        Then a result for it can exist, and it pays to hash a file before it is used.
        """
        if digest is not None:
            return self.get(CONTENT, f"{size} {digest}") is not None
        return bool(self.find(CONTENT, f"{size} "))

    def remember_file(self, info: os.stat_result, digest: Digest, hashed_ns: int) -> None:
        """Record a file's digest; ``info`` is its ``stat`` at ``hashed_ns``.

        That is just before its first byte was read.
        """
        self.remember_content(info.st_size, digest)
        row = (
            _signed(info.st_dev),
            _signed(info.st_ino),
            info.st_size,
            info.st_mtime_ns,
            info.st_ctime_ns,
            f"{digest} {_vouched(info, digest)}",
            hashed_ns,
        )
        self._pending.append(("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row))

    def remember_linked(
        self, before: os.stat_result, now: os.stat_result, digest: Digest, hashed_ns: int
    ) -> None:
        """As :meth:`remember_file`, of a file that this process has hard-linked since.

        ``before`` is its ``stat`` at ``hashed_ns``, ``now`` the one after the link, which
        moved the change time and not the content.
        """
        trusted = not _racy(before, hashed_ns)
        linked_ns = now.st_ctime_ns + _COARSE_TICK_NS + 1
        self.remember_file(now, digest, linked_ns if trusted else hashed_ns)

    def remember_content(self, size: int, digest: Digest) -> None:
        """Record that such a content was read, whoever has it (:meth:`content_known`)."""
        self.put(CONTENT, f"{size} {digest}", True)

    def alias(self, digest: Digest) -> Digest | None:
        """The other digest of the content with that one: BLAKE3 for SHA-256, and back."""
        return self.get(ALIAS, str(digest))

    def remember_alias(self, one: Digest, other: Digest) -> None:
        """Record that two digests, a SHA-256 and a BLAKE3, are of the very same bytes."""
        if self.alias(one) != other:
            self.put(ALIAS, str(one), other)
            self.put(ALIAS, str(other), one)

    # Blobs that lost a model and wait for a moment without builders.

    def garbage(self) -> list[Digest]:
        """Blobs that may be unused by now."""
        found = []
        for (digest,) in self._query("SELECT digest FROM garbage", ()):
            with suppress(DigestError):
                found.append(Digest.parse(digest))
        return found

    def add_garbage(self, digests: Iterable[Digest]) -> None:
        """Remember blobs that a replaced or removed model used."""
        for digest in digests:
            self._pending.append(("INSERT OR IGNORE INTO garbage VALUES (?)", (str(digest),)))

    def clear_garbage(self, digests: Iterable[Digest]) -> None:
        """Forget blobs that were looked at."""
        for digest in digests:
            self._pending.append(("DELETE FROM garbage WHERE digest = ?", (str(digest),)))

    def flush(self) -> None:
        """Write what was recorded, in one transaction; a cache that cannot be written is not."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        self._unwritten = {}
        if not pending or self._off:
            return

        def write() -> None:
            with self._connect() as connection:
                for statement, row in pending:
                    connection.execute(statement, row)

        for attempt in range(2):
            try:
                self._patiently(write)
                return
            except sqlite3.OperationalError as error:
                if not _is_damage(error):
                    return  # read-only, full, or locked for too long
                self._set_aside()
            except sqlite3.DatabaseError:
                if attempt:
                    return
                self._set_aside()

    def close(self) -> None:
        """Write what is pending and close the file."""
        self.flush()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        # A store that was only read has nobody who ends its use.
        if self._connection is not None:
            self._connection.close()

    def _query(self, statement: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        with self._lock:
            if self._off or (self._connection is None and not os.path.isfile(self._path)):
                return []
            try:
                return self._patiently(
                    lambda: self._connect().execute(statement, values).fetchall()
                )
            except sqlite3.OperationalError as error:
                if _is_damage(error):
                    self._set_aside()
            except sqlite3.DatabaseError:
                self._set_aside()
            return []

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do something again while another process has the file locked, for a short time.

        Where nobody can lock it, as on some network drives, SQLite says the same: then, and
        when the time is over, the cache is done without from now on.
        """
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                reason = _no_locks(self._path.parent, error)
                if not reason and "locked" not in str(error):
                    raise
                if not reason and time.monotonic() < deadline:
                    continue
                reason = reason or f"another process has locked it for {_BUSY_SECONDS:.0f} s"
                self._off = True
                self._warn(f"continuing without the build cache {self._path}: {reason}")
                raise

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                self._set_aside()
                self._connection = self._open()
                version = 0
            if version == 0:
                self._create()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SLICE, check_same_thread=False)
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        return connection

    def _create(self) -> None:
        assert self._connection is not None
        try:
            self._connection.executescript(_SCHEMA)
            inherit(self._path, self._path.parent)
        except sqlite3.OperationalError:
            # Another process made the tables between our look and our try.
            self._connection.rollback()
            if self._connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                raise

    def _set_aside(self) -> None:
        """Move an unreadable file out of the way; the next write starts a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        with suppress(OSError):
            self._path.replace(self._path.with_name(self._path.name + ".damaged"))


def _racy(info: os.stat_result, hashed_ns: object) -> bool:
    """Whether the file may have changed after it was hashed without its times telling.

    On POSIX ctime alone decides: no program can set it, and every change of
    content or times moves it. On Windows ctime is the time of creation.
    """
    changed = info.st_mtime_ns if sys.platform == "win32" else info.st_ctime_ns
    tick = _COARSE_TICK_NS if changed % 1_000_000 == 0 else _FINE_TICK_NS
    return not isinstance(hashed_ns, int) or changed + tick > hashed_ns


def _signed(number: int) -> int:
    """SQLite's integers are signed 64 bit; inode and device numbers are not."""
    return (number & 0xFFFF_FFFF_FFFF_FFFF) - (1 << 63)


def _verify(kind: str, key: str, value: str) -> str:
    data = "\0".join((kind, key, value)).encode("utf-8", "replace")
    return sha256(data).hexdigest()[:32]


def _vouched(info: os.stat_result, digest: Digest) -> str:
    """A check of a file's digest: a flipped bit must not make it another file's."""
    return _verify("file", f"{info.st_dev} {info.st_ino} {info.st_size}", str(digest))


def _checked(info: os.stat_result, text: object) -> Digest | None:
    """A remembered digest, if its check is right."""
    digest, _, check = str(text).partition(" ")
    with suppress(DigestError):
        parsed = Digest.parse_any(digest)
        return parsed if check == _vouched(info, parsed) else None
    return None


def _no_locks(folder: Path, error: sqlite3.OperationalError) -> str:
    """Why a database in that folder cannot be locked, "" if it can or nothing tells.

    Tried on a file of its own: closing the database's would drop the locks of other threads.
    """
    if sys.platform == "win32" or not any(w in str(error) for w in ("lock", "I/O", "denied")):
        return ""
    import fcntl
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as refused:
        if refused.errno in NO_LOCKS:
            return f"the file system has no locks for it ({refused.strerror})"
    return ""


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Whether an operational error means a foreign or broken file, not a busy or full disk."""
    text = str(error)
    return "no such" in text or "malformed" in text or "has no column" in text
