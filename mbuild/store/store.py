"""The store as a whole: where it lies, who uses it, and what may be removed."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.errors import DamagedError, NameNotFoundError, StoreError, UsageError
from mbuild.store.blobs import Blobs
from mbuild.store.database import Database
from mbuild.store.files import make_directories, remove_stale, store_errors
from mbuild.store.locks import Lock
from mbuild.store.manifests import Manifests, StoredManifest
from mbuild.store.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mbuild.digest import Digest
    from mbuild.names import ModelName

STORE_VARIABLE = "OLLAMA_MODELS"
PRIVATE_FOLDER = ".mbuild"


def default_store() -> Path:
    """Where Ollama keeps its models: ``$OLLAMA_MODELS``, else ``~/.ollama/models``.

    ``~`` is the home directory, as in a shell; Ollama makes a folder of that name.
    Raises :class:`UsageError` where nobody knows the home directory.
    """
    configured = os.environ.get(STORE_VARIABLE, "").strip().strip("\"'")
    try:
        return Path(configured or "~/.ollama/models").expanduser()
    except RuntimeError:
        raise UsageError(
            "there is no home directory to keep a store in", hint="name one with --store DIR"
        ) from None


class Store:
    """A store on disk, shared with Ollama and with any number of mbuild processes.

    ``blobs/`` and ``manifests/`` are Ollama's; what is mbuild's own (cache,
    lock, files under construction) lies in ``.mbuild/``, because Ollama
    removes what it does not know from ``blobs/``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private = root / PRIVATE_FOLDER
        self._lock = Lock(self.private / "lock")

    @cached_property
    def blobs(self) -> Blobs:
        """The blobs."""
        return Blobs(self.root / "blobs", self._temporary_for(self.root / "blobs"), self.prepare)

    @cached_property
    def manifests(self) -> Manifests:
        """The manifests."""
        folder = self.root / "manifests"
        return Manifests(folder, self._temporary_for(folder), self.prepare)

    @cached_property
    def database(self) -> Database:
        """The cache."""
        return Database(self.private / "cache.db")

    @cached_property
    def uploads(self) -> Uploads:
        """Blobs that were sent to the server and that no model uses yet."""
        return Uploads(self.private / "uploads")

    def prepare(self) -> None:
        """Create the store's folders, once, before the first write."""
        with store_errors("creating the store"):
            for folder in ("blobs", "manifests"):
                make_directories(self.root / folder)
            make_directories(self.private / "tmp")

    # Users of the store.

    def begin(self, timeout: float | None = None) -> bool:
        """Start to build: until :meth:`end`, nothing that the build relies on is removed.

        Also removes the temporary files of builds that were killed. Returns
        False when somebody removed blobs for all of ``timeout`` seconds.
        """
        self.prepare()
        with store_errors("locking the store"):
            if not self._lock.acquire(exclusive=False, timeout=timeout):
                return False
        for folder in {self.private / "tmp", self._temporary_for(self.root / "blobs")}:
            remove_stale(folder)
        return True

    def end(self) -> None:
        """The build is over: write the cache, let go, and remove what nothing uses any more."""
        self._lock.release()
        if self.database.garbage():
            self.collect_garbage()
        self.database.close()

    # Models.

    def list(self) -> Iterator[StoredManifest | DamagedError]:
        """Every model, in no particular order; in place of an unreadable manifest its error."""
        for name in self.manifests.names():
            try:
                yield self.manifests.read(name)
            except NameNotFoundError:  # removed since its name was read
                continue
            except DamagedError as error:
                yield error
            except StoreError as error:
                yield DamagedError(error.message, hint=error.hint)

    def replace(self, name: ModelName, data: bytes) -> None:
        """Write a model's manifest; blobs that only the old one used become garbage."""
        old = self._blobs_of(name)
        self.manifests.write(name, data)
        self.discard(old - self._blobs_of(name))

    def remove(self, name: ModelName) -> None:
        """Remove a model; blobs that only it used become garbage."""
        old = self._blobs_of(name)
        self.manifests.remove(name)
        self.discard(old)

    def discard(self, digests: Iterable[Digest]) -> None:
        """Note blobs that may be unused; :meth:`collect_garbage` looks at them."""
        self.database.add_garbage(digests)
        self.database.flush()

    def collect_garbage(self) -> int:
        """Remove noted blobs that no manifest names, if nobody builds now; how many.

        Fresh uploads stay, and stay noted. Nothing is removed while any
        manifest is unreadable: it might name them.
        """
        if not self._lock.acquire(exclusive=True, timeout=0):
            return 0
        try:
            candidates = set(self.database.garbage()) - self.uploads.held().keys()
            used: set[Digest] = set()
            for stored in self.list():
                if isinstance(stored, DamagedError):
                    return 0
                used.update(layer.digest for layer in stored.manifest.blobs())
            unused = candidates - used
            for digest in unused:
                self.blobs.remove(digest)
            self.database.clear_garbage(candidates)
            self.database.flush()
            return len(unused)
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
