"""Any web site, for a file of which the digest is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mbuild.core.errors import AbsentError, DeniedError, RegistryError
from mbuild.registry.client.answers import drained, refusal
from mbuild.registry.client.registry import Body, Registry
from mbuild.registry.reference import ModelReference

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from mbuild.registry.client.access import Access
    from mbuild.work.cancel import Cancel


class Site(Registry):
    """The site that an address belongs to; nobody logs in there."""

    def __init__(self, url: str, access: Access, cancel: Cancel) -> None:
        """Raises :class:`ForbiddenHostError` for a host that may not be asked."""
        self._scheme = urlsplit(url).scheme
        host = urlsplit(url).netloc.rpartition("@")[2].lower()
        super().__init__(ModelReference(host, ""), access, cancel)

    @property
    def _said(self) -> str:
        """That of the address."""
        return self._scheme

    def _with_login(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        body: Body,
    ) -> BaseHTTPResponse:
        return self._send(method, url, headers, body)

    def size_of(self, url: str) -> int:
        """How many bytes a file has, as the site says; raises :class:`RegistryError`."""
        answer = self.get(url, (), {}, method="HEAD").response
        if answer.status != 200:
            raise self.refused(answer, f"{url} cannot be fetched")
        said = answer.headers.get("content-length", "")
        drained(answer)
        if not said.isdigit():
            raise RegistryError(f"{url}: the site does not say how large the file is")
        return int(said[:18])

    def refused(self, answer: BaseHTTPResponse, what: str) -> RegistryError:
        """The error for an answer that is none to what was asked for."""
        error = refusal(answer, what, self.host)
        if isinstance(error, DeniedError):
            return DeniedError(error.message, hint="only what everybody may fetch can be named")
        if isinstance(error, AbsentError):
            error.hint = "check the address"
        return error
