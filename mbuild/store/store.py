"""The store as a whole: where it lies, who uses it, and what may be removed."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.environment import keep_budget
from mbuild.core.errors import BusyError, DamagedError, NameNotFoundError, StoreError
from mbuild.store.blobs import Blobs
from mbuild.store.database import Database
from mbuild.store.files import remove_stale, store_errors
from mbuild.store.locks import FileLock, NoLocksError
from mbuild.store.manifests import Manifests, StoredManifest
from mbuild.store.place import check_place, make_store
from mbuild.store.records import MANIFEST
from mbuild.store.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mbuild.core.names import ModelName
    from mbuild.store.kept import Kept
    from mbuild.store.ports import ActionCache, FileDigests
    from mbuild.store.shared import SharedCache

PRIVATE_FOLDER = ".mbuild"
ATTACHED_FOLDER = "attached"
"""Below it: documents about models, by the models' ids."""

_SLACK = 1 << 20  # bytes that the cache's own files may grow by while a blob is written


class Store:
    """A store on disk, shared with Ollama and with any number of mbuild processes.

    ``blobs/`` and ``manifests/`` are Ollama's; what is mbuild's own (cache,
    lock, files under construction) lies in ``.mbuild/``, because Ollama
    removes what it does not know from ``blobs/``.
    """

    def __init__(
        self,
        root: Path,
        warn: Callable[[str], object] = lambda text: None,
        patience: float | None = None,
    ) -> None:
        """``warn`` is told what works less well here, in a sentence.

        ``patience``: seconds that :meth:`begin` waits where it is given no timeout.
        """
        self.root = root
        self._patience = patience
        self._warn = warn
        self.private = root / PRIVATE_FOLDER
        self._lock = FileLock(self.private / "lock")
        self.shared: SharedCache | None = None
        """What it has in common with other machines, while somebody has attached it."""
        self.shared_files: FileDigests | None = None

    @cached_property
    def blobs(self) -> Blobs:
        """The blobs."""
        folder = self.root / "blobs"
        temporary = self._temporary_for(folder)
        return Blobs(folder, temporary, self.prepare, self._make_room, lambda: self.kept)

    @cached_property
    def kept(self) -> Kept:
        """What builds made and no model names any more."""
        from mbuild.store.kept import Kept

        blobs = self.root / "blobs"
        elsewhere = self._temporary_for(blobs) == blobs  # a link to another disk
        folder = blobs / ".mbuild-kept" if elsewhere else self.private / "kept"
        return Kept(folder, blobs, self.database)

    @cached_property
    def manifests(self) -> Manifests:
        """The manifests."""
        folder = self.root / "manifests"
        return Manifests(folder, self._temporary_for(folder), self.prepare)

    @cached_property
    def database(self) -> Database:
        """The cache."""
        return Database(self.private / "cache.db", self._warn)

    @property
    def cache(self) -> ActionCache:
        """The records, as a build uses them."""
        return self.database

    @property
    def files(self) -> FileDigests:
        """The digests of this machine's files, as a build uses them."""
        return self.shared_files or self.database

    @cached_property
    def uploads(self) -> Uploads:
        """Blobs that were sent to the server and that no model uses yet."""
        return Uploads(self.private / "uploads")

    def prepare(self) -> None:
        """Create the store's folders, once, before the first write."""
        folders = (self.root / "blobs", self.root / "manifests", self.private / "tmp")
        if all(map(os.path.isdir, folders)):
            return
        make_store(self.root, folders)

    def has_provenance(self, model: Digest) -> bool:
        """Whether a statement about how a model was made is kept (:mod:`mbuild.store.attached`)."""
        with suppress(OSError):
            names = os.listdir(self.private / ATTACHED_FOLDER / model.hex)
            return any(name.startswith("provenance-") for name in names)
        return False

    # Users of the store.

    def begin(self, timeout: float | None = None) -> bool:
        """Start to build: until :meth:`end`, nothing that the build relies on is removed.

        Also removes the temporary files of builds that were killed. Returns
        False when somebody removed blobs for all of ``timeout`` seconds. Raises
        :class:`BusyError` when the store's patience ended, and :class:`UsageError` when
        ``MBUILD_KEEP`` is no size.
        """
        keep_budget()
        self.prepare()
        with store_errors("locking the store"):
            patience = self._patience if timeout is None else timeout
            if not self._lock.acquire(exclusive=False, timeout=patience):
                if timeout is None:
                    raise _busy()
                return False
        if self._lock.missing:
            self._warn(
                f"the file system of {self.root} has no locks: remove nothing there while a"
                " build runs"
            )
        for folder in {self.private / "tmp", self._temporary_for(self.root / "blobs")}:
            remove_stale(folder)
        return True

    def end(self) -> None:
        """The build is over: let go, remove what nothing uses any more, and write the cache.

        What is kept beyond its last model is brought within its budget.
        """
        self._lock.release()
        if self.database.garbage():
            self.collect_garbage()
        if "kept" in self.__dict__:
            self.kept.trim()
        self.database.close()

    @contextmanager
    def using(self, timeout: float | None = None) -> Iterator[None]:
        """Hold the store while the block runs: :meth:`begin` and :meth:`end` in one.

        Raises what :meth:`begin` raises, and :class:`BusyError` after ``timeout`` seconds.
        """
        if not self.begin(timeout):
            raise _busy()
        try:
            yield
        finally:
            self.end()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """As :meth:`using`, for whoever writes nothing.

        A store that cannot be written needs no lock: there nobody can remove anything.
        """
        with ExitStack() as stack:
            if self.root.is_dir():
                with suppress(StoreError):
                    stack.enter_context(self.using())
            yield

    def _make_room(self, size: int) -> int:
        """Give up what is kept where the disk has no room for ``size`` bytes."""
        return self.kept.make_room(size + _SLACK)

    # Models.

    def list(self) -> Iterator[StoredManifest | DamagedError]:
        """Every model, in no particular order; in place of an unreadable manifest its error."""
        check_place(self.root)
        unlisted: list[StoreError] = []
        for name in self.manifests.names(unlisted.append):
            try:
                yield self.manifests.read(name)
            except NameNotFoundError:  # removed since its name was read
                continue
            except DamagedError as error:
                yield error
            except StoreError as error:
                yield DamagedError(error.message, hint=error.hint)
        yield from (DamagedError(error.message, hint=error.hint) for error in unlisted)

    def replace(self, name: ModelName, data: bytes) -> Digest | None:
        """Write a model's manifest; blobs that only the old one used become garbage.

        Returns the id of the model that had the name, if there was one. Both manifests
        are remembered by their ids (:meth:`earlier`).
        """
        before = self._remembered(name)
        old = self._blobs_of(name)
        self.manifests.write(name, data)
        self.database.put(MANIFEST, Digest.of(data).hex, data)
        self.discard(old - self._blobs_of(name))
        return before

    def remove(self, name: ModelName) -> set[Digest]:
        """Remove a model; blobs that only it used become garbage. Returns the model's blobs."""
        self._remembered(name)
        old = self._blobs_of(name)
        self.manifests.remove(name)
        self.discard(old)
        return old

    def earlier(self, start: str) -> dict[str, bytes]:
        """The manifests of this store's present and past models whose ids begin so, by id."""
        found = self.database.find(MANIFEST, start)
        for name in self.manifests.names():
            data = self.manifests.read_bytes(name)
            if data is not None and (identity := Digest.of(data).hex).startswith(start):
                found[identity] = data
        return found

    def _remembered(self, name: ModelName) -> Digest | None:
        """The id of a model that is about to go, its manifest remembered by it."""
        data = self.manifests.read_bytes(name)
        if data is None:
            return None
        identity = Digest.of(data)
        self.database.put(MANIFEST, identity.hex, data)
        return identity

    def discard(self, digests: Iterable[Digest]) -> None:
        """Note blobs that may be unused; :meth:`collect_garbage` looks at them."""
        self.database.add_garbage(digests)
        self.database.flush()

    def collect_garbage(self) -> int:
        """Remove noted blobs that no manifest names, if nobody builds now; how many.

        Those that a build made stay usable as :attr:`kept`. Fresh uploads stay, and stay
        noted; so does what this user may not remove. Nothing is removed while any manifest
        is unreadable: it might name them.
        """
        with suppress(NoLocksError):
            if self._lock.acquire(exclusive=True, timeout=0):
                return self._collect()
        return 0

    def _collect(self) -> int:
        try:
            candidates = set(self.database.garbage()) - self.uploads.held().keys()
            used: set[Digest] = set()
            for stored in self.list():
                if isinstance(stored, DamagedError):
                    return 0
                used.update(layer.digest for layer in stored.manifest.blobs())
            removed: set[Digest] = set()
            for digest in candidates - used:
                with suppress(OSError, StoreError):
                    self.kept.release(digest)
                    self.blobs.remove(digest)  # an old Ollama's spelling of it, too
                    removed.add(digest)
            self.database.clear_garbage(removed | (candidates & used))
            self.database.flush()
            return len(removed)
        finally:
            self._lock.release()

    def _blobs_of(self, name: ModelName) -> set[Digest]:
        if self.manifests.read_bytes(name) is None:
            return set()
        try:
            return {layer.digest for layer in self.manifests.read(name).manifest.blobs()}
        except (DamagedError, NameNotFoundError):  # unreadable, or removed since
            return set()

    def _temporary_for(self, folder: Path) -> Path:
        """Where files are made that will be renamed into ``folder``: on its file system."""
        try:
            if folder.stat().st_dev != self.root.stat().st_dev:
                return folder  # a link to another disk
        except OSError:
            pass
        return self.private / "tmp"


def _busy() -> BusyError:
    return BusyError("another mbuild is removing blobs from the store", hint="try again later")
