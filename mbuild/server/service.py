"""What every handler works with, and the row that says which handler answers what."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple
from mbuild.registry.client.access import Access
from mbuild.runtime.pool import Pool
from mbuild.runtime.runner import Runner
from mbuild.server.catalogue import Catalogue
from mbuild.server.errors import Scrubber, text_of
from mbuild.server.incoming import Pushes
from mbuild.server.jobs import Jobs
from mbuild.server.locking import Locking
from mbuild.server.page.board import Board
from mbuild.server.page.records import PastBuilds
from mbuild.server.tokens import RegistryTokens
from mbuild.shared.attach import attached, opened
from mbuild.shared.folder import FolderStorage, ServedFolder
from mbuild.store import Store

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mbuild.server.security import AccessPolicy
    from mbuild.server.shapes import Body
    from mbuild.server.upstream import Upstream
    from mbuild.shared.guard import Warn
    from mbuild.shared.locations import CacheOptions, Location
    from mbuild.store.shared import SharedStorage

BUILDS_AT_ONCE = 4
"""Builds that run side by side; each uses several cores."""

TRANSFERS_AT_ONCE = 4
"""Pulls and pushes that run side by side; each has several connections."""


class ServiceOptions(NamedTuple):
    """How a server is run.

    ``builds`` may run at once, 0 for the usual number. ``log``: ``text``, ``json`` or ``off``;
    ``registries`` are those the operator names. ``writable``: other machines may push into the
    store. ``engine``: what runs models: the path of a ``llama-server``, "" for the installed
    package, None for nothing. ``keys``: Ollama's public keys that count as a login of ``/v2/``.
    ``cache``: the folder of a shared cache that other machines may fill, ``caching`` what the
    builds here use.
    """

    builds: int = 0
    log: str = "off"
    registries: Iterable[str] = ()
    writable: bool = False
    engine: str | None = None
    keys: Iterable[bytes] = ()
    cache: Path | None = None
    caching: CacheOptions | None = None


AS_USUAL = ServiceOptions()
"""For who asks for nothing: it runs no models, has no cache, and writes no log."""


class Service:
    """What handlers work with: the store, the builds, the list of models, the upstream."""

    def __init__(
        self,
        root: Path,
        policy: AccessPolicy,
        upstream: Upstream | None = None,
        options: ServiceOptions = AS_USUAL,
    ) -> None:
        """Raises :class:`UsageError` for what is no registry."""
        engine, cache = options.engine, options.cache
        self._root = root.absolute()
        self.policy = policy
        self.upstream = upstream
        self.runner = None if engine is None else Runner(self.store, Pool(engine), self._warn)
        self.jobs = Jobs(options.builds or BUILDS_AT_ONCE)
        self.board = Board()
        self.past = PastBuilds()
        self.pushes = Pushes()
        self.writable = options.writable
        self.tokens = RegistryTokens(options.keys)
        self.transfers = Jobs(TRANSFERS_AT_ONCE)
        self.access = Access.of_operator(options.registries)
        self.locking = Locking()
        self.cache = FolderStorage(cache, "/cache", writes=True) if cache is not None else None
        self._caching = options.caching
        self.log = options.log
        self.catalogue = Catalogue()
        self.scrub = Scrubber(self._root)
        self._warned: set[str] = set()

    def store(self, patience: float | None = None) -> Store:
        """The store, for one piece of work: locks and caches are not shared between threads.

        ``patience``: seconds to wait for its lock, None for as long as it takes.
        """
        return Store(self._root, self._warn, patience)

    @property
    def runs_models(self) -> bool:
        """Whether requests that run models are answered, here or by the upstream."""
        return self.runner is not None or self.upstream is not None

    def sharing(self, store: Store, warn: Warn) -> AbstractContextManager[object]:
        """The shared caches of this server's builds, attached to a store for one of them.

        ``warn`` is told, from any thread, of one that does not answer.
        """
        if self._caching is None:
            return nullcontext()
        return attached(store, self._caching, warn, self._opened)

    def _opened(self, place: Location, writes: bool) -> SharedStorage:
        """A storage; this server's own folder has the names that clients give over HTTP."""
        folder = Path(place.rest)
        if place.scheme == "file" and self.cache is not None and self.cache.is_at(folder):
            return ServedFolder(folder, str(place), writes=writes)
        return opened(place, writes)

    def _warn(self, text: str) -> None:
        """Say on standard error, once, what works less well in this store."""
        if text not in self._warned:
            self._warned.add(text)
            sys.stderr.write(f"warning: {text}\n")

    def error_text(self, error: BaseException) -> str:
        """What a client is told of an error; of a bug only that there is one."""
        if isinstance(error, MbuildError):
            return self.scrub(text_of(error))
        report(error)
        return "internal error"


def report(error: BaseException) -> None:
    """Tell whoever runs the server about a bug, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {frame[0].filename}:{frame[0].lineno}" if frame else ""
    sys.stderr.write(f"internal error: {type(error).__name__}: {error}{where}\n")


def closed(service: Service, request: Request) -> bool:
    """That a request needs the token, where there is one."""
    return False


Handler = Callable[[Service, "Request"], Awaitable["Response"]]


class Endpoint(NamedTuple):
    """One row: methods and path, the handler, the body if it has a JSON one.

    ``binary``: the body is a blob's bytes. ``is_open`` tells the requests that need no token.
    """

    methods: tuple[str, ...]
    path: str
    handler: Handler
    summary: str
    body: Body | None = None
    binary: bool = False
    is_open: Callable[[Service, Request], bool] = closed
