"""HTTP as the storage of a shared cache: ``mbuild serve --cache``, and bazel-remote's layout.

``/cas/SHA256`` has bytes by their SHA-256, ``/ac/KEY`` small objects by any 64 hexadecimal digits
(https://github.com/buchgr/bazel-remote, "HTTP/1.1 REST API"): records and leases are found under
the SHA-256 of their names. A server that validates what lies below ``/ac`` has to leave that off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import urllib3

from mbuild.core.environment import CACHE_TOKEN_VARIABLE
from mbuild.core.errors import DeniedError, RegistryError, UnreachableError
from mbuild.registry.client.access import Access, Nearness
from mbuild.registry.client.answers import AGAIN, drained, later, read_limited, refusal
from mbuild.registry.client.registry import Body
from mbuild.registry.client.site import Site
from mbuild.shared.naming import SERVED, digest_of, is_name, served_name
from mbuild.store.shared import LARGEST_SMALL, StoredObject
from mbuild.work.cancel import Cancel
from mbuild.work.spread import run_all

if TYPE_CHECKING:
    from typing_extensions import Buffer
    from urllib3 import BaseHTTPResponse

    from mbuild.core.digest import Digest
    from mbuild.shared.locations import Location

_AT_ONCE = 8  # connections that are kept
_TRIES = 2
_PIECE = 1 << 20
_LONGEST_LINE = 4096
_EXISTS = frozenset({409, 412})
_DONE = frozenset({200, 201, 202, 204})

LISTING = "objects"
"""Below the URL: every object, which ``mbuild serve --cache`` tells and nobody else."""

LISTING_TYPE = "application/x-ndjson"


def open_storage(location: Location, writes: bool) -> WebStorage:
    """The server of a location; nothing is asked yet."""
    return WebStorage(str(location), os.environ.get(CACHE_TOKEN_VARIABLE, "").strip())


class WebStorage:
    """A server with ``/ac`` and ``/cas`` below a URL."""

    def __init__(self, url: str, token: str) -> None:
        self.place = url
        self.can_lease = True
        self.any_digest = False
        self._url = url
        self._token = token
        self._cancel = Cancel()
        self._site = Site(url, Access(), self._cancel)

    @cached_property
    def _login(self) -> Mapping[str, str]:
        """The token, which travels in the open only inside one's own network."""
        if not self._token:
            return {}
        if self._site.scheme == "http" and self._site.near is Nearness.PUBLIC:
            raise DeniedError(
                f"{self.place} would get {CACHE_TOKEN_VARIABLE} over http, for everybody to read",
                hint="use https",
            )
        return {"Authorization": f"Bearer {self._token}"}

    def _path(self, name: str) -> str:
        if name == LISTING:
            return f"{self._url}/{LISTING}"
        digest = digest_of(name)
        if digest is not None:
            return f"{self._url}/cas/{digest.hex}"
        return f"{self._url}/ac/{served_name(name).removeprefix(SERVED)[1:]}"

    def _ask(
        self, method: str, name: str, headers: Mapping[str, str] | None = None, body: Body = None
    ) -> BaseHTTPResponse:
        """Ask for an object; 404 is an answer, a refusal is raised."""
        sent = {**self._login, **(headers or {})}
        answer = self._site.ask(method, self._path(name), (), sent, body, tries=_TRIES)
        if answer.status in AGAIN:
            raise later(answer, self.place, self._site.host)
        if answer.status in (401, 403):
            drained(answer)
            raise DeniedError(
                f"{self.place} refuses: status {answer.status}",
                hint=f"put the server's token into {CACHE_TOKEN_VARIABLE}",
            )
        return answer

    def _got(self, answer: BaseHTTPResponse, *statuses: int) -> bool:
        """Whether an answer brings something; raises for one that means neither yes nor no."""
        if answer.status in statuses:
            return True
        if answer.status in (404, 410, 416):
            drained(answer)
            return False
        raise refusal(answer, self.place, self._site.host)

    def read_many(self, names: Collection[str]) -> dict[str, bytes]:
        """The objects that are there, some requests at once."""
        found: dict[str, bytes] = {}

        def read(name: str) -> None:
            answer = self._ask("GET", name)
            if self._got(answer, 200):
                found[name] = read_limited(answer, LARGEST_SMALL, self._site.host)

        self._each(read, names)
        return found

    def read_range(self, name: str, offset: int, size: int) -> bytes | None:
        """Some bytes; of a server that knows no ranges only those that an object begins with."""
        if not size:
            return b""
        answer = self._ask("GET", name, {"Range": f"bytes={offset}-{offset + size - 1}"})
        if not self._got(answer, 206, 200):
            return None
        return range_in(answer, offset, size, self._site.host)

    def stream(self, name: str, size: int) -> Iterator[bytes]:
        """The object's bytes in one answer."""
        answer = self._ask("GET", name)
        if self._got(answer, 200):
            with closing(answer):
                yield from pieces_of(answer, self._site.host)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """What servers say of the objects that are there."""
        found: dict[str, int] = {}

        def size(name: str) -> None:
            answer = self._ask("HEAD", name)
            if self._got(answer, 200, 204):
                said = answer.headers.get("content-length", "")
                drained(answer)
                if said.isdigit():
                    found[name] = int(said[:18])

        self._each(size, names)
        return found

    def write_many(
        self, objects: Mapping[str, Buffer], blobs: Mapping[str, Mapping[Digest, int]] = {}
    ) -> None:
        """PUT, some at once."""

        def write(name: str) -> None:
            data = bytes(objects[name])
            self._put(name, data, len(data))

        self._each(write, objects)

    def create(self, name: str, data: bytes) -> bool:
        """PUT on the condition that there is nothing; not every server heeds it."""
        answer = self._ask("PUT", name, {"If-None-Match": "*"}, data)
        drained(answer)
        if answer.status in _EXISTS:
            return False
        if answer.status not in _DONE:
            raise refusal(answer, self.place, self._site.host)
        return True

    def upload(self, name: str, path: Path, report: Callable[[int], object]) -> None:
        """PUT a file."""
        self._put(name, lambda: _Told(path, report), path.stat().st_size)

    def _put(self, name: str, body: Body, size: int) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        answer = self._ask("PUT", name, headers, body)
        if answer.status not in _DONE:
            raise refusal(answer, f"{self.place} does not take what is sent", self._site.host)
        drained(answer)

    def remove(self, names: Collection[str]) -> None:
        """DELETE; where a server has none a lease is left empty, which means the same."""

        def remove(name: str) -> None:
            answer = self._ask("DELETE", name)
            drained(answer)
            if answer.status in (405, 501):
                self._put(name, b"", 0)

        self._each(remove, names)

    def objects(self) -> Iterator[StoredObject]:
        """What ``mbuild serve --cache`` tells of its folder; bazel-remote tells nobody."""
        answer = self._ask("GET", LISTING)
        if answer.status != 200 or LISTING_TYPE not in answer.headers.get("content-type", ""):
            drained(answer)
            raise RegistryError(
                f"{self.place} does not tell what it holds, as only mbuild serve --cache does",
                hint="bazel-remote keeps to a size of its own (--max_size), and says at /status"
                " how much it holds",
            )
        with closing(answer):
            yield from listed(pieces_of(answer, self._site.host), self.place)

    def close(self) -> None:
        """Cut what still waits."""
        self._site.web.interrupt()
        self._site.web.close()

    def _each(self, ask: Callable[[str], None], names: Collection[str]) -> None:
        run_all(ask, list(names), _AT_ONCE, name="mbuild-shared")


def listed(pieces: Iterable[bytes], place: str) -> Iterator[StoredObject]:
    """The objects that a server lists, one JSON line each; raises :class:`RegistryError`."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            try:
                name, size, modified = json.loads(line)
                found = StoredObject(str(name), int(size), float(modified))
            except (ValueError, TypeError, OverflowError, RecursionError):
                raise RegistryError(
                    f"{place} lists something that is not an object: {line[:60]!r}"
                ) from None
            if is_name(found.name):
                yield found
        if len(rest) > _LONGEST_LINE:
            raise RegistryError(f"{place} lists an object in more than {_LONGEST_LINE} bytes")
    if rest:
        raise UnreachableError("the list was cut off")


def range_in(answer: BaseHTTPResponse, offset: int, size: int, host: str) -> bytes | None:
    """The bytes that were asked for of ``host`` from ``offset`` on; what is more is cut off.

    None from a server that knows no ranges, but for those that an object begins with.
    """
    if answer.status == 200 and offset:
        answer.close()
        return None
    parts, left = [], size
    with closing(answer):
        for piece in pieces_of(answer, host):
            parts.append(piece[:left])
            left -= len(parts[-1])
            if not left:
                break
    return b"".join(parts)


def pieces_of(answer: BaseHTTPResponse, host: str) -> Iterator[bytes]:
    """An answer's bytes as they come; raises :class:`UnreachableError` where it ends too soon."""
    try:
        while piece := answer.read(_PIECE):
            yield piece
        answer.release_conn()
    except (urllib3.exceptions.HTTPError, OSError):
        raise UnreachableError(f"the answer of {host} was cut off") from None


class _Told:
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, report: Callable[[int], object]) -> None:
        self._file = path.open("rb")
        self._report = report

    def read(self, count: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(count)
        self._report(self._file.tell())
        if not data:
            self._file.close()
        return data
