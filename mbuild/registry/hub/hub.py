"""The Hub as a source of files: its API, its login, what its refusals mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from mbuild.core.errors import (
    AbsentError,
    DeniedError,
    RegistryError,
    UnreachableError,
)
from mbuild.registry.auth.tokens import usable
from mbuild.registry.client.answers import read_limited, refusal
from mbuild.registry.client.registry import Body, Registry
from mbuild.registry.hub.listing import HubFile, Listing, git_oid, read_listing
from mbuild.registry.hub.reference import DEFAULT_ENDPOINT, HubReference, endpoint, is_offline
from mbuild.registry.reference import HUB_HOSTS, ModelReference

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from mbuild.registry.auth.login import Login
    from mbuild.registry.client.access import Access
    from mbuild.work.cancel import Cancel

MAX_LISTING = 64 << 20
MAX_SMALL = 256 << 20
"""Bytes of a file that git itself holds: the Hub's own limit is 10 MB for most."""

_ERROR = "x-error-code"


class Hub(Registry):
    """The Hub, or the mirror that ``$HF_ENDPOINT`` names, as one download uses it."""

    def __init__(self, reference: HubReference, access: Access, cancel: Cancel) -> None:
        """Raises :class:`ForbiddenHostError` for a host that may not be asked.

        Raises :class:`UnreachableError` where ``$HF_HUB_OFFLINE`` forbids to ask at all.
        """
        self.reference = reference
        self.base = endpoint()
        parts = urlsplit(self.base)
        host = parts.netloc.rpartition("@")[2].lower()
        if is_offline():
            raise UnreachableError(
                f"{reference} is not here, and HF_HUB_OFFLINE forbids fetching it",
                hint="unset HF_HUB_OFFLINE, or build once with a network",
            )
        super().__init__(ModelReference(host, reference.repository), access, cancel)

    @property
    def _said(self) -> str:
        """That of the endpoint."""
        return urlsplit(self.base).scheme

    @cached_property
    def _login(self) -> Login | None:
        """The Hub's token, for the Hub or the mirror that the same person named."""
        if not is_named(self.access, self.host):
            return None
        from mbuild.registry.auth.logins import hub_token

        return usable(hub_token(), self.scheme, self._reader)

    def _with_login(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        body: Body,
    ) -> BaseHTTPResponse:
        """Ask once, with the token if there is one; the Hub sends no challenges."""
        shown = {}
        if self.is_own(url) and self._login is not None:
            shown = {"Authorization": f"Bearer {self._login.bearer}"}
        return self._send(method, url, {**headers, **shown}, body)

    # What there is.

    def listing(self) -> Listing:
        """The commit that the revision is now, and its files; raises :class:`RegistryError`.

        A repository that was renamed is found by its old name, too.
        """
        name, revision = self.reference
        rev = quote(revision, safe="")
        url = f"{self.base}/api/models/{name}/revision/{rev}?blobs=true"
        answer = self.get(url, (), {"Accept": "application/json"}).response
        if answer.status == 404 and not answer.headers.get(_ERROR):  # as some mirrors say it
            raise self._no_repository()
        if answer.status != 200:
            raise self.refused(answer, f"{self.reference} cannot be read")
        return read_listing(read_limited(answer, MAX_LISTING, self.host), str(self.reference))

    def file_url(self, listing: Listing, name: str) -> str:
        """Where a file of a commit is to be had."""
        return f"{self.base}/{listing.repository}/resolve/{listing.commit}/{quote(name)}"

    def small_file(self, listing: Listing, file: HubFile) -> bytes:
        """A file that git itself holds, checked against git's name of it.

        Raises :class:`RegistryError`.
        """
        what = f"{self.reference}: {file.name}"
        if file.size > MAX_SMALL:
            raise RegistryError(f"{what} has {file.size} bytes, which is too much outside LFS")
        answer = self.get(self.file_url(listing, file.name), (), {}).response
        if answer.status != 200:
            raise self.refused(answer, f"{what} cannot be read")
        data = read_limited(answer, file.size, self.host)
        if len(data) != file.size or (file.oid and git_oid(data) != file.oid):
            raise RegistryError(
                f"{what}: the Hub sent different content from what its list of files names",
                hint="something on the way, such as a proxy, changes what is sent",
            )
        return data

    def refused(self, answer: BaseHTTPResponse, what: str) -> RegistryError:
        """The error for an answer that is none to what was asked for."""
        code = answer.headers.get(_ERROR, "")
        if code == "GatedRepo":
            return DeniedError(
                f"{self.reference} is gated: its owners decide who may download it",
                hint=f"ask for access at {self._page}, then {self._sign_in}",
            )
        if code == "RevisionNotFound":
            return AbsentError(
                f"{self.reference}: the repository has no revision {self.reference.revision!r}",
                hint="behind @ comes a branch, a tag or a commit",
            )
        if code == "EntryNotFound":
            return AbsentError(f"{what}: the commit has no such file")
        if code == "RepoNotFound" or answer.status == 401:
            return self._no_repository()
        if answer.status == 403:
            return DeniedError(f"{what}: the Hub refuses access", hint=self._sign_in)
        if answer.status == 404:
            return AbsentError(f"{what}: the Hub's storage does not have it", hint="try later")
        return refusal(answer, what, self.host)

    @property
    def _page(self) -> str:
        return f"{DEFAULT_ENDPOINT}/{self.reference.repository}"

    @property
    def _sign_in(self) -> str:
        if is_named(self.access, self.host):
            return "set HF_TOKEN or run hf auth login"
        return "this server asks the Hub without a token unless its operator names it"

    def _no_repository(self) -> AbsentError:
        return AbsentError(
            f"{self.reference}: the Hub has no such repository, or it is private",
            hint=f"check the spelling at {self._page}; for a private one {self._sign_in}",
        )


def is_named(access: Access, host: str) -> bool:
    """Whether whoever is responsible named the Hub himself: by any of its names, or a mirror."""
    if host in HUB_HOSTS:
        return any(access.is_named(each) for each in HUB_HOSTS)
    return access.is_named(host)
