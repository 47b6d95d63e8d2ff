"""Object storage through fsspec: S3, Google's, Azure's, SFTP, and what else it has a scheme for.

Logins are the libraries' own business: their environment variables and configuration files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mbuild.core.errors import DeniedError, RegistryError, UnreachableError
from mbuild.shared.naming import is_name
from mbuild.shared.storages import STORAGES
from mbuild.store.shared import LARGEST_SMALL, StoredObject
from mbuild.work.spread import run_all

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mbuild.core.digest import Digest
    from mbuild.shared.locations import Location

ValueT = TypeVar("ValueT")

_VERSION = "v1"
_AT_ONCE = 32  # requests side by side to a storage that takes as many
_FEW = 4  # to one with a single connection
_PIECE = 4 << 20  # bytes of one request of many

_CONNECT_SECONDS, _READ_SECONDS = 5, 30

_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"max_attempts": 2},
            "max_pool_connections": _AT_ONCE,
        },
        "use_listings_cache": False,
    },
}
"""What each library is told besides the address."""


def open_storage(location: Location, writes: bool) -> ObjectStorage:
    """The storage of a location; nothing is asked yet."""
    row = STORAGES.get(location.scheme)
    leases = row is not None and row.leases
    if location.scheme in ("sftp", "ssh"):
        from mbuild.shared.ssh import connecting

        over_ssh, path = connecting(location)
        return ObjectStorage(over_ssh, path, str(location), leases, over_ssh=True)
    import fsspec

    protocol = {"gs": "gcs"}.get(location.scheme, location.scheme)
    options: dict[str, Any] = {"skip_instance_cache": True, **_OPTIONS.get(location.scheme, {})}
    if "@" in location.rest.partition("/")[0]:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(str(location), **options)
    else:
        system = fsspec.filesystem(protocol, **options)
        root = system._strip_protocol(str(location))
    return ObjectStorage(system, str(root), str(location), leases)


class ObjectStorage:
    """Objects of an fsspec file system below a root.

    Its errors are those of a dozen libraries: what is not a missing object is said in the
    library's words, and counts as unreachable.
    """

    def __init__(
        self, system: Any, root: str, place: str, can_lease: bool, *, over_ssh: bool = False
    ) -> None:
        """``over_ssh``: the system is an :class:`~mbuild.shared.ssh.SSHSystem`."""
        self._system = system
        self._over_ssh = over_ssh
        self._is_async = not over_ssh and getattr(system, "async_impl", False)
        self._root = f"{root.rstrip('/')}/{_VERSION}"
        self._threads = _AT_ONCE if self._is_async else _FEW
        self._turn: AbstractContextManager[object] = nullcontext()
        if over_ssh:  # paramiko's client loses answers when several threads ask
            self._threads, self._turn = 1, threading.RLock()
        self.place = place
        self.can_lease = can_lease
        self.any_digest = True

    def read_many(self, names: Collection[str]) -> dict[str, bytes]:
        """The objects that are there, many requests at once."""

        def read(name: str) -> bytes:
            return bytes(self._system.cat_file(self._path(name), start=0, end=LARGEST_SMALL + 1))

        found = self._each(read, names)
        return {name: data for name, data in found.items() if len(data) <= LARGEST_SMALL}

    def read_range(self, name: str, offset: int, size: int) -> bytes | None:
        """Some bytes of an object."""

        def read(name: str) -> bytes:
            return bytes(self._system.cat_file(self._path(name), start=offset, end=offset + size))

        return self._each(read, [name]).get(name)

    def stream(self, name: str, size: int) -> Iterator[bytes]:
        """The object's bytes, several ranges of it asked for at once."""
        step = _PIECE * self._threads
        for start in range(0, size, step):
            for piece in self._ranges(name, start, min(start + step, size)):
                if not piece:
                    return
                yield piece

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of those that are there."""

        def size(name: str) -> int:
            self._system.invalidate_cache(self._path(name).rpartition("/")[0])
            return int(self._system.info(self._path(name))["size"])

        return self._each(size, names)

    def write_many(
        self, objects: Mapping[str, Buffer], blobs: Mapping[str, Mapping[Digest, int]] = {}
    ) -> None:
        """Write, many requests at once."""

        def write(name: str) -> None:
            self._make_parent(name)
            self._system.pipe_file(self._path(name), bytes(objects[name]))

        self._each(write, objects)

    def create(self, name: str, data: bytes) -> bool:
        """Write on the condition that nothing is there, which the storage has to know.

        S3 has ``If-None-Match: *``, Google ``ifGenerationMatch=0``, Azure an upload without
        overwriting; SFTP opens exclusively.
        """
        with self._errors(), self._turn:
            self._make_parent(name)
            try:
                self._create(self._path(name), data)
            except FileExistsError:
                return False
        return True

    def _create(self, path: str, data: bytes) -> None:
        if self._over_ssh:
            try:
                with self._system.ftp.open(path, "wx") as file:
                    file.write(data)
            except OSError:  # version 3 of the protocol has no word for what is there already
                if self._system.exists(path):
                    raise FileExistsError(path) from None
                raise
        else:
            self._system.pipe_file(path, data, mode="create")

    def upload(self, name: str, path: Path, report: Callable[[int], object]) -> None:
        """Send a file in parts, as the library does it."""
        from fsspec.callbacks import Callback

        class Told(Callback):  # type: ignore[misc]
            def call(self, *arguments: Any, **named: Any) -> None:
                report(self.value)

        with self._errors(), self._turn:
            self._make_parent(name)
            self._system.put_file(str(path), self._path(name), callback=Told())
        report(path.stat().st_size)  # some libraries tell nobody

    def remove(self, names: Collection[str]) -> None:
        """Remove those that are there."""

        def remove(name: str) -> None:
            self._system.rm_file(self._path(name))

        self._each(remove, names)

    def objects(self) -> Iterator[StoredObject]:
        """Everything below the root."""
        with self._errors(), self._turn:
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._root, detail=True)
            except FileNotFoundError:
                found = {}
        for path, info in found.items():
            name = path[path.find(self._root) + len(self._root) :].lstrip("/")
            if is_name(name):
                yield StoredObject(name, int(info["size"]), _modified(info))

    def close(self) -> None:
        """Let go of the connection, where one is kept."""
        if self._over_ssh:
            self._system.close()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_parent(self, name: str) -> None:
        """Folders have to be made where there are any."""
        if not self._is_async:
            with self._errors(), suppress(FileExistsError):
                self._system.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    def _ranges(self, name: str, start: int, stop: int) -> list[bytes | None]:
        """Some bytes of an object in pieces that are asked for at once."""
        found: dict[int, bytes | None] = {}

        def read(at: int) -> None:
            found[at] = self.read_range(name, at, min(_PIECE, stop - at))

        run_all(read, list(range(start, stop, _PIECE)), self._threads, name="mbuild-shared")
        return [found[at] for at in sorted(found)]

    def _each(self, ask: Callable[[str], ValueT], names: Collection[str]) -> dict[str, ValueT]:
        """What asking for each gives; objects that are not there are left out."""
        found: dict[str, ValueT] = {}

        def one(name: str) -> None:
            with suppress(FileNotFoundError), self._turn:
                found[name] = ask(name)

        with self._errors():
            run_all(one, list(names), self._threads, name="mbuild-shared")
        return found

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (RegistryError, FileExistsError, FileNotFoundError):
            raise
        except TimeoutError:
            raise UnreachableError("the storage does not answer in time") from None
        except PermissionError as error:
            raise DeniedError(f"the storage refuses: {_in_a_line(error)}") from None
        except Exception as error:
            raise UnreachableError(f"the storage fails: {_in_a_line(error)}") from None


def _in_a_line(error: Exception) -> str:
    """A library's error, short and printable; addresses with signatures are cut at the ?."""
    words = (str(error) or type(error).__name__).split()
    text = " ".join(word.partition("?")[0] for word in words)
    return "".join(c if c.isprintable() else " " for c in text)[:200]


def _modified(info: Mapping[str, Any]) -> float:
    """When an object was written last, as libraries say it; 0 where they do not."""
    for key in ("LastModified", "last_modified", "updated", "mtime", "created"):
        when: Any = info.get(key)
        if hasattr(when, "timestamp"):
            return float(when.timestamp())
        if isinstance(when, int | float):
            return float(when)
        if isinstance(when, str):
            from datetime import datetime

            with suppress(ValueError):
                return datetime.fromisoformat(when).timestamp()
    return 0.0
