"""One blob from a registry: ranges, each asked for again where it was cut."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import urllib3

from mbuild.core.errors import RegistryError, UnreachableError
from mbuild.core.patterns import regex
from mbuild.registry.client.access import Nearness
from mbuild.registry.client.answers import AGAIN, check_plain, drained, later, lost, read_into
from mbuild.registry.client.attempts import Attempts
from mbuild.registry.client.registry import Registry, pull_scope

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from mbuild.core.digest import Digest
    from mbuild.registry.transfer.partial import PartialBlob
    from mbuild.work.cancel import Cancel
    from mbuild.work.spread import Part

RANGE = 16 << 20
"""Bytes that are asked for at once: few enough that the digest keeps up with what arrives."""

NEAR_RANGE = 128 << 20
"""The same within this machine, where a request takes as long as some MB of what it brings; but
not where somebody reads what comes, from any place."""

_PIECE = 512 << 10
"""Bytes that are read and noted at once at most: what a kill loses, but for what is on the way."""

_LEAST_PIECE = 64 << 10
_SECONDS = 0.005
"""About how long a piece takes, so that a kill loses as little of the time on a slow line."""

_PROGRESS = 16 << 10
"""Bytes that a request has to bring to count as one that went well: a few each time have no end."""

_DIGESTED = 1 << 20  # bytes after which the digest follows
_EXPIRED = frozenset({400, 401, 403, 404, 410})
"""What storage answers to an address that was good for some minutes only."""

_CONTENT_RANGE = regex(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class Download:
    """A blob on its way; its ranges are fetched by several threads."""

    def __init__(
        self, registry: Registry, partial: PartialBlob, cancel: Cancel, url: str = ""
    ) -> None:
        """``url`` is where the content is to be had, by default the registry's blob."""
        self._registry = registry
        self._partial = partial
        self._cancel = cancel
        self._own = url or registry.url(f"blobs/{partial.digest}")
        self._place = self._own
        self._whole = False
        self._alone = threading.Lock()
        self.moved = 0
        self.ended = False  # its digest is still to be seen to
        self._moving = threading.Lock()

    @property
    def partial(self) -> PartialBlob:
        """What has arrived."""
        return self._partial

    @property
    def _host(self) -> str:
        """Who sends the bytes: the registry, or the storage that it leads to."""
        return urlsplit(self._place).netloc.rpartition("@")[2]

    @property
    def digest(self) -> Digest:
        """The blob's digest."""
        return self._partial.digest

    @property
    def size(self) -> int:
        """The blob's bytes."""
        return self._partial.size

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return self._partial.received

    def ranges(self, first: int = 0) -> list[tuple[int, int]]:
        """What to ask for, in order; of the whole the ``first`` bytes by themselves."""
        is_near = self._registry.near is Nearness.LOOPBACK
        most = NEAR_RANGE if is_near and not first else RANGE
        found = []
        for start, end in self._partial.missing():
            cut = min(first, end) if start == 0 and first else start
            if cut > start:
                found.append((start, cut))
            found += [(at, min(at + most, end)) for at in range(cut, end, most)]
        return found

    def fetch(self, start: int, end: int, part: Part) -> None:
        """Bring a range, however often it is cut; raises :class:`RegistryError`.

        A registry that knows no ranges sends the whole blob: then one thread takes it, and
        the others wait for that.
        """
        attempts = Attempts(self._cancel)
        while gaps := self._partial.missing(start, end):
            part.at(0)
            before = self._partial.received
            try:
                if self._whole:
                    with self._alone:
                        if self._partial.missing(start, end):
                            self._take_whole(part)
                else:
                    self._take(*gaps[0], part)
            except UnreachableError as error:
                if self._partial.received >= before + _PROGRESS:
                    attempts.progressed()
                attempts.failed(error)
        self._partial.advance()

    def _take(self, start: int, end: int, part: Part) -> None:
        """Ask for a range once and take what comes of it."""
        if start == 0 and end == self._partial.size:
            self._take_whole(part)
            return
        answer = self._ask({"Range": f"bytes={start}-{end - 1}"})
        try:
            if answer.status == 200:
                self._whole = True
                return
            said = answer.headers.get("content-range", "")
            found = _CONTENT_RANGE.fullmatch(said)
            sizes = ("*", str(self._partial.size))
            if not found or int(found[1]) != start or found[3] not in sizes:
                raise RegistryError(
                    f"blob {self._partial.digest}: the registry sent a different range from the"
                    f" one asked for: {said[:80]!r}",
                    hint="the blob's size is not what the manifest says, or a proxy is at fault",
                )
            self._read(answer, start, end, part)
        finally:
            answer.close()

    def _take_whole(self, part: Part) -> None:
        """Ask for all of it, and take it from the first byte on."""
        answer = self._ask({})
        try:
            size = self._partial.size
            said = answer.headers.get("content-length")
            if answer.status != 200 or said not in (None, str(size)):
                raise self._another_size(said)
            self._read(answer, 0, size, part)
            if said is None and answer.read(1):
                raise self._another_size("more")
        except urllib3.exceptions.HTTPError:
            raise lost(self._host) from None
        finally:
            answer.close()

    def _another_size(self, said: str | None) -> RegistryError:
        return RegistryError(
            f"blob {self._partial.digest}: the registry sends {(said or 'other')[:40]} bytes, the"
            f" manifest says {self._partial.size}",
            hint="the model in the registry is damaged",
        )

    def _ask(self, headers: dict[str, str]) -> BaseHTTPResponse:
        """An answer with bytes, from wherever the registry keeps them."""
        asked = self._place
        answered = self._registry.get(asked, (pull_scope(self._registry.path),), headers, tries=1)
        answer = answered.response
        if answer.status in (200, 206):
            check_plain(answer, self._host)
            if not self._registry.is_own(answered.url):
                self._place = answered.url
            return answer
        if asked != self._own and answer.status in _EXPIRED:
            self._place = self._own
            drained(answer)
            raise UnreachableError("the storage address has expired")
        if answer.status in AGAIN:
            raise later(answer, f"blob {self._partial.digest}", self._registry.host)
        raise self._registry.refused(answer, f"blob {self._partial.digest} cannot be pulled")

    def _read(self, answer: BaseHTTPResponse, start: int, end: int, part: Part) -> None:
        """Write what comes to its place; raises :class:`UnreachableError` if it ends too soon."""
        at = digested = start
        size, before = _LEAST_PIECE, time.monotonic()
        room = memoryview(bytearray(min(_PIECE, end - start)))
        if len(room) < end - start <= NEAR_RANGE:
            self._partial.expect(start, end)
        try:
            while at < end:
                count = read_into(answer, room[: min(size, end - at)], self._host)
                if not count:
                    raise lost(self._host)
                now = time.monotonic()
                size, before = _following(size, now - before), now
                part.at(0)
                self._partial.take(at, room[:count])
                at += count
                if at - digested >= _DIGESTED:
                    digested = at
                    self._partial.advance()
        except (urllib3.exceptions.HTTPError, OSError):
            part.at(0)
            raise lost(self._host) from None
        finally:
            with self._moving:
                self.moved += at - start
        answer.release_conn()


def _following(size: int, seconds: float) -> int:
    """How many bytes to read next, after so many took so long."""
    if seconds > 2 * _SECONDS:
        return max(size // 2, _LEAST_PIECE)
    return min(size * 2, _PIECE) if seconds < _SECONDS / 2 else size
