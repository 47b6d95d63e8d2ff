"""One blob on its way to a registry: asked for first, mounted if possible, else sent.

A small one goes in one request. A large one goes in parts: the registry says after each how far
it is, and a registry that remembers (distribution 3) is asked for that after a cut or a kill, too.
What is known of an upload lies in a small file, so that the next push goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from mbuild.core.errors import DeniedError, RegistryError, UnreachableError
from mbuild.core.patterns import regex
from mbuild.registry.client.answers import AGAIN, DAMAGED_THERE, drained, later, refusal
from mbuild.registry.client.attempts import Attempts
from mbuild.registry.client.registry import REDIRECTS, Registry, push_scope
from mbuild.registry.transfer.record import Session, UploadRecord
from mbuild.registry.transfer.slices import ReadAt, Slice, read_at

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from mbuild.core.digest import Digest
    from mbuild.store import Layer, Store
    from mbuild.work.cancel import Cancel
    from mbuild.work.spread import Part

ONE_REQUEST = 100 << 20
"""Bytes that go in one request: less than every proxy's limit that is known of."""

PART = 64 << 20
_LEAST_PART = 1 << 20
_LOOK_SECONDS, _MOST_LOOKS = 0.1, 600  # at a registry that still takes what was on its way
_RANGE = regex(r"(?:bytes=)?(\d+)-(\d+)")
_UPLOAD_GONE = frozenset({404, 410})
_TOO_LARGE = frozenset({413, 416})
_NO_PARTS = frozenset({404, 405, 501})


class _Lost(Exception):
    """The registry knows nothing of the upload any more: it begins anew."""


class Upload:
    """A blob of the store on its way into a repository."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        layer: Layer,
        mount_from: str,
        cancel: Cancel,
        content: bytes | None = None,
    ) -> None:
        """``mount_from``: a repository of the same registry that has the blob, or "".

        ``content``: the bytes of a blob that the store does not have.
        """
        self.layer = layer
        self.done = 0
        self.moved = 0
        self.ended = False
        self._registry = registry
        self._blobs = store.blobs
        self._content = content
        self._cancel = cancel
        self._mount_from = mount_from
        self._part = PART
        self._in_parts = layer.size > ONE_REQUEST
        self._whole_refused = False
        self._forgotten = 0
        self._resumes = False
        self._other_size: int | None = None
        self._record = UploadRecord(store, registry, layer)
        self._scopes: Sequence[str] = (push_scope(registry.path),)
        if mount_from:
            self._scopes = (*self._scopes, f"repository:{mount_from}:pull")

    @property
    def digest(self) -> Digest:
        """The blob's digest."""
        return self.layer.digest

    @property
    def size(self) -> int:
        """The blob's bytes."""
        return self.layer.size

    def run(self, part: Part) -> None:
        """Bring the blob there unless it is; raises :class:`RegistryError` and StoreError."""
        try:
            self._run(part)
        finally:
            self._record.release()
        self.done, self.ended = self.layer.size, True

    def _run(self, part: Part) -> None:
        if not self.is_there():
            damaged = self._other_size is not None
            if damaged:
                self._mount_from = ""  # a name for the same bytes
            try:
                with self._opened() as read:
                    self._bring(read, part)
            except (UnreachableError, DeniedError):
                raise
            except RegistryError as error:
                raise self._kept_damaged(error.message) if damaged else error from None
            self._record.remove()
            if damaged and not self.is_there():
                raise self._kept_damaged("it was sent again, and that changed nothing")
        else:
            self._record.drop()

    @contextmanager
    def _opened(self) -> Iterator[ReadAt]:
        """What gives the bytes of the blob."""
        if (content := self._content) is not None:
            yield lambda count, offset: content[offset : offset + count]
            return
        with self._blobs.open(self.layer.digest) as file:
            yield partial(read_at, file.fileno())

    def _bring(self, read: ReadAt, part: Part) -> None:
        """Send the blob, beginning anew or going on after what was lost."""
        attempts = Attempts(self._cancel)
        session, furthest = self._resumed(), 0
        while True:
            part.at(0)
            try:
                if session is None and (session := self._begun()) is None:
                    return  # mounted
                self._sent(session, read, part)
                return
            except (UnreachableError, _Lost) as error:
                lost = UnreachableError("the upload was lost repeatedly")
                attempts.failed(lost if isinstance(error, _Lost) else error)
                session = None if isinstance(error, _Lost) else self._resumed()
                # What was sent and lost again is no progress: else there is no end to it.
                if session is not None and session.offset >= furthest + _LEAST_PART:
                    furthest = session.offset
                    attempts.progressed()

    def _kept_damaged(self, why: str) -> RegistryError:
        return RegistryError(
            f"the registry {self._registry.host} has {self._other_size} bytes as blob"
            f" {self.layer.digest}, which has {self.layer.size}: {why}",
            hint=DAMAGED_THERE,
        )

    def is_there(self) -> bool:
        """Whether the registry has the blob: it says so, or leads to where it is kept.

        One that it has with another size was damaged there, and does not count. Who may not
        read where it could be mounted from has to send it.
        """
        try:
            return self._is_there()
        except DeniedError:
            if not self._mount_from:
                raise
        self._mount_from = ""
        self._scopes = self._scopes[:1]
        return self._is_there()

    def _is_there(self) -> bool:
        url = self._registry.url(f"blobs/{self.layer.digest}")
        answer = self._registry.ask("HEAD", url, self._scopes)
        drained(answer)
        if answer.status in (401, 403):
            host = self._registry.host
            raise refusal(answer, f"nothing can be pushed to {host}", host)
        said = answer.headers.get("content-length", "") if answer.status == 200 else ""
        # Some registries say 0 of every blob: that tells nothing.
        other = said.isascii() and said.isdigit() and said not in ("0", str(self.layer.size))
        self._other_size = int(said[:19]) if other else None
        if other:
            self._registry.ping()  # what answers everything with a page is none
        return (answer.status == 200 and not other) or answer.status in REDIRECTS

    # Where an upload stands.

    def _begun(self) -> Session | None:
        """A new upload; None where the registry had the blob in another repository."""
        self._resumes = False
        url = self._registry.url("blobs/uploads/")
        if self._mount_from:
            url += f"?mount={self.layer.digest}&from={self._mount_from}"
            self._mount_from = ""
        answer = self._registry.ask("POST", url, self._scopes, {"Content-Length": "0"}, b"")
        if answer.status == 201 and "?mount=" in url:
            drained(answer)
            return None
        if answer.status != 202:
            raise self._refusal(answer)
        least = answer.headers.get("oci-chunk-min-length", "")
        if least.isdigit():
            self._part = max(self._part, int(least[:12]))
        return self._session(answer, 0)

    def _session(self, answer: BaseHTTPResponse, offset: int) -> Session:
        """Where the registry's answer says that the upload goes on, which is written down."""
        location = answer.headers.get("location", "")
        drained(answer)
        if not location:
            raise RegistryError(f"the registry {self._registry.host} did not start an upload")
        session = Session(self._registry.absolute(location), offset)
        if self._in_parts:
            self._record.write(session)
        return session

    def _resumed(self) -> Session | None:
        """The upload that was begun, if the registry still knows how far it is.

        It may still be writing what was under way when the sender was cut: bytes that are sent
        meanwhile would lie between those. So it goes on once the registry has no more of them.
        """
        session = self._record.read() if self._in_parts else None
        for look in range(_MOST_LOOKS):
            if session is None or not self._registry.is_own(session.location):
                return None
            if look:
                self._cancel.check()
                time.sleep(_LOOK_SECONDS)
            before, session = session.offset, self._stands(session)
            if look and session is not None and session.offset == before:
                self._resumes = True
                return session
        return None  # somebody else sends it

    def _stands(self, session: Session) -> Session | None:
        """An upload as the registry has it now; None where it has none."""
        answer = self._registry.ask("GET", session.location, self._scopes)
        offset = _received(answer.headers) if answer.status == 204 else None
        if offset is None or offset > self.layer.size:
            drained(answer)
            return None
        self.done = offset
        return self._session(answer, offset)

    # Sending.

    def _sent(self, session: Session, read: ReadAt, part: Part) -> None:
        """Send what is missing; raises :class:`_Lost` or :class:`UnreachableError`."""
        further: Session | None = session
        while further is not None:
            in_part = self._in_parts and self.layer.size - further.offset > self._part
            further = (self._patched if in_part else self._put)(further, read, part)

    def _patched(self, session: Session, read: ReadAt, part: Part) -> Session:
        """Send one part; where the upload then stands."""
        start, size = session.offset, min(self._part, self.layer.size - session.offset)
        headers = {"Content-Range": f"{start}-{start + size - 1}"}
        answer = self._send(
            "PATCH", session.location, headers, self._slice(read, start, size, part)
        )
        if start == 0 and self._takes_no_parts(answer.status):
            drained(answer)
            self._in_parts = False  # only whole blobs
            raise _Lost
        if answer.status in _TOO_LARGE:
            return self._smaller(answer, session)
        if answer.status != 202:
            raise self._refused(answer)
        offset = _received(answer.headers)
        if offset is not None and not start <= offset <= start + size:
            drained(answer)
            raise _Lost  # it put the part somewhere else
        offset = start + size if offset is None else offset
        self.done = offset
        return self._session(answer, offset)

    def _takes_no_parts(self, status: int) -> bool:
        """Whether the answer to a first part means that the blob should come in one request.

        ghcr answers 416 to a part of more than 4 MiB, and takes a blob of any size in one.
        """
        if self._whole_refused:
            return False
        if status == 413:
            return self._part <= _LEAST_PART
        return status == 416 or status in _NO_PARTS

    def _smaller(self, answer: BaseHTTPResponse, session: Session) -> Session:
        """Go on from where the registry says that the upload stands, unless it did before.

        It may be that more arrived meanwhile; else the parts are too large, and become smaller.
        """
        error = self._refused(answer)
        drained(answer)
        resumed = self._resumed()
        if resumed is None:
            raise _Lost
        if resumed.offset <= session.offset:
            if self._part <= _LEAST_PART:
                raise error
            self._part = max(self._part // 2, _LEAST_PART)
        return resumed

    def _put(self, session: Session, read: ReadAt, part: Part) -> Session | None:
        """Send the rest and end the upload; or where it stands, if that was elsewhere."""
        start, size = session.offset, self.layer.size - session.offset
        joint = "&" if "?" in session.location else "?"
        url = f"{session.location}{joint}digest={self.layer.digest}"
        headers = {"Content-Range": f"{start}-{start + size - 1}"} if start and size else {}
        answer = self._send("PUT", url, headers, self._slice(read, start, size, part))
        first = not self._whole_refused and not start
        if answer.status in _TOO_LARGE and first and size > _LEAST_PART:
            drained(answer)
            self._whole_refused = self._in_parts = True
            self._part = max(_LEAST_PART, min(self._part, size // 2))
            raise _Lost
        if answer.status == 416 and start:
            return self._smaller(answer, session)
        if answer.status == 400 and self._resumes:
            drained(answer)
            raise _Lost  # perhaps of what was there: sent anew it has only what is here
        if answer.status not in (201, 204):
            raise self._refused(answer)
        said = answer.headers.get("docker-content-digest", "")
        drained(answer)
        if said.startswith("sha256:") and said != str(self.layer.digest):
            raise RegistryError(f"the registry stored blob {self.layer.digest} as {said[:80]!r}")
        return None

    def _slice(self, read: ReadAt, start: int, size: int, part: Part) -> Slice:
        """Some bytes of the blob to send, which are counted as they go."""

        def sent(at: int, count: int) -> None:
            part.at(0)
            self.done = at
            self.moved += count

        return Slice(read, start, size, self.layer.digest, sent)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: Slice
    ) -> BaseHTTPResponse:
        """Send bytes once; raises :class:`UnreachableError` for what may go better later."""
        sent = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(body.size),
            **headers,
        }
        self.done = body.start
        answer = self._registry.ask(method, url, self._scopes, sent, body.rewound, tries=1)
        if answer.status in AGAIN:
            raise later(answer, f"blob {self.layer.digest}", self._registry.host)
        if answer.status in _UPLOAD_GONE and body.start:
            drained(answer)
            self._forgotten += 1
            if self._forgotten > 1 and not self._whole_refused:
                self._in_parts = False  # it does not keep what it took
            raise _Lost
        return answer

    def _refusal(self, answer: BaseHTTPResponse) -> RegistryError:
        host = self._registry.host
        return refusal(answer, f"blob {self.layer.digest} cannot be pushed to {host}", host)

    def _refused(self, answer: BaseHTTPResponse) -> RegistryError:
        error = self._refusal(answer)
        if answer.status == 400:
            return RegistryError(
                error.message, hint="mbuild verify tells whether the store's copy is damaged"
            )
        return error


def _received(headers: Mapping[str, str]) -> int | None:
    """How many bytes a registry says it has; ``0-0`` is how it writes none."""
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None:
        return None
    end = int(found[2][:15])
    return end + 1 if end else 0
