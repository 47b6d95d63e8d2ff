"""One registry: requests with its login, repeated where that helps, led on where that is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from mbuild.core.digest import Digest
from mbuild.core.errors import AbsentError, RegistryError, UnreachableError
from mbuild.core.values import NamedTuple
from mbuild.registry.auth.challenge import BEARER, Challenge, challenges
from mbuild.registry.auth.tokens import Authority, BearerTokens, usable
from mbuild.registry.client.access import PORTS, Access, Nearness, origin
from mbuild.registry.client.answers import (
    AGAIN,
    DAMAGED_THERE,
    drained,
    is_json,
    later,
    read_limited,
    refusal,
)
from mbuild.registry.client.attempts import FIRST_TRIES, TRIES, Attempts
from mbuild.registry.client.proxies import is_here, nearness_behind, read_from
from mbuild.registry.client.web import Web, speaks_tls
from mbuild.registry.hub.reference import mirror
from mbuild.store.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from mbuild.registry.auth.login import Login
    from mbuild.registry.reference import ModelReference
    from mbuild.store.manifest import Layer
    from mbuild.work.cancel import Cancel

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

ACCEPT = ", ".join((MANIFEST_TYPE, OCI_MANIFEST, OCI_INDEX, DOCKER_LIST))
"""Every form of manifest: a registry that is asked for one of them hides the others."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5

Body = bytes | Callable[[], Any] | None
"""Bytes, or what makes a new stream of the same bytes for each attempt."""


class Received(NamedTuple):
    """A manifest as it came: its bytes, their digest, and what the registry says it is."""

    data: bytes
    digest: Digest
    media_type: str


class Answered(NamedTuple):
    """An answer to read, and the address that it came from."""

    response: BaseHTTPResponse
    url: str


class Registry:
    """A registry as one transfer uses it; safe for many threads."""

    def __init__(
        self, reference: ModelReference, access: Access, cancel: Cancel, login: Login | None = None
    ) -> None:
        """``login`` is shown in place of a stored one.

        For the Hub's registry the mirror is asked that ``$HF_ENDPOINT`` names. Raises
        :class:`ForbiddenHostError` for a host that may not be asked.
        """
        self._mirror = mirror(reference)
        self.host = self._mirror.host or reference.endpoint
        self.path = reference.path
        access.check(self.host)
        self.access = access
        self.web = Web(cancel, access.over_http(self.host))
        self._cancel = cancel
        self._given = login
        self._written = reference.scheme
        self._challenges: Sequence[Challenge] = ()
        self._answered = False

    # Where it is.

    @cached_property
    def near(self) -> Nearness:
        """How far away the registry is; behind a proxy nobody can tell."""
        near = nearness_behind(self._said or "https", self.host)
        if near is Nearness.LOOPBACK and self.access.is_named(self.host) and is_here(self.host):
            self.web.here.add(urlsplit(f"//{self.host}").hostname or "")
        return near

    @cached_property
    def scheme(self) -> str:
        """https, but http where that was asked for, or where a registry on this machine has it."""
        if not self._said and self.near is Nearness.LOOPBACK and self.access.named is None:
            return "https" if self._has_https() else "http"
        return self._said or "https"

    @property
    def _said(self) -> str:
        """The scheme that somebody asked for, "" where nobody did.

        One that the user wrote counts; one from a request over HTTP leads to http only where
        the server's operator named it so.
        """
        if self._mirror.scheme:
            return self._mirror.scheme
        if self.host in self.access.plain:
            return "http"
        if self._written == "https" or self.access.named is None:
            return self._written
        return ""

    def _has_https(self) -> bool:
        parts = urlsplit(f"//{self.host}")
        name, port = parts.hostname or "", parts.port or PORTS["https"]
        if name in self.web.here or not Web.has_proxy("https", name, port):
            return speaks_tls(name, port)
        try:
            drained(self.web.ask("GET", f"https://{self.host}/v2/", {}))
        except UnreachableError:
            return False
        return True

    def url(self, rest: str) -> str:
        """An address below the repository."""
        return f"{self.scheme}://{self.host}{self._mirror.path}/v2/{self.path}/{rest}"

    def absolute(self, location: str, base: str = "") -> str:
        """The address that a ``Location`` names, which may be a path, by default of this host.

        Raises :class:`RegistryError` for what is no web address.
        """
        try:
            found = urljoin(base or f"{self.scheme}://{self.host}/", location)
            usable = bool(location) and urlsplit(found).scheme in PORTS
        except ValueError:
            usable = False
        if not usable:
            raise RegistryError(
                f"the registry {self.host} redirects to no usable address: {location[:200]!r}"
            )
        return found

    def is_own(self, url: str) -> bool:
        """Whether an address is this registry's: scheme, host and port."""
        return origin(url) == origin(f"{self.scheme}://{self.host}")

    @cached_property
    def _login(self) -> Login | None:
        """The login, looked for once the registry asks for one."""
        if self._given is not None:
            return usable(self._given, self.scheme, self._reader)
        if not self.access.is_named(self.host):
            return None
        from mbuild.registry.auth.logins import find, hub_token

        found = find(self.host, self.path)
        if found is None and self._mirror.host:  # whoever named it trusts it as the Hub
            found = hub_token()
        return usable(found, self.scheme, self._reader)

    @property
    def _reader(self) -> Nearness:
        near, name = self.near, urlsplit(f"//{self.host}").hostname
        return near if name in self.web.here else read_from(self.scheme, self.host, near)

    @cached_property
    def _tokens(self) -> BearerTokens:
        authority = Authority(self.scheme, self.host, self.near, self.access, self._login)
        return BearerTokens(self.web, authority)

    # Asking.

    def ask(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        *,
        tries: int = TRIES,
    ) -> BaseHTTPResponse:
        """Ask, with a login where one is wanted; repeated after what passes by itself.

        Redirects are the caller's. Raises :class:`UnreachableError` after the last try.
        """
        attempts = Attempts(self._cancel, tries)
        while True:
            try:
                answer = self._with_login(method, url, scopes, headers or {}, body)
            except UnreachableError as error:
                if not self._answered:
                    attempts.at_most(FIRST_TRIES)
                attempts.failed(error)
                continue
            self._answered = True
            if answer.status not in AGAIN or not attempts.left:
                return answer
            attempts.failed(later(answer, f"the registry {self.host}", self.host))

    def _with_login(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        body: Body,
    ) -> BaseHTTPResponse:
        """Ask once, or up to three times where the registry wants a login or a new token."""
        if not self.is_own(url):
            return self._send(method, url, headers, body)
        shown = self._tokens.header(self._challenges, scopes, "") if self._challenges else ""
        failed = False
        while True:
            sent = {**headers, "Authorization": shown} if shown else headers
            answer = self._send(method, url, sent, body)
            if answer.status != 401 or failed:
                return answer
            asked = challenges(", ".join(answer.headers.getlist("www-authenticate")))
            given = self._tokens.header(asked, scopes, shown)
            if not given:
                return answer
            drained(answer)
            self._challenges, failed, shown = asked, bool(shown), given

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body
    ) -> BaseHTTPResponse:
        content = body() if callable(body) else body
        return self.web.ask(method, url, headers, content, self._reach(url))

    def _reach(self, url: str) -> frozenset[Nearness]:
        host = urlsplit(url).netloc.rpartition("@")[2].lower()
        return self.access.reach_from(self.host, self.near, host)

    def get(
        self,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        tries: int = TRIES,
    ) -> Answered:
        """GET or HEAD, led on to where the registry keeps its blobs.

        The login goes to the registry only, never to another host, port or scheme; https
        does not lead to http. Raises :class:`RegistryError` for a redirect that goes wrong.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self.ask(method, url, scopes, headers, tries=tries)
            if answer.status not in REDIRECTS:
                return Answered(answer, url)
            location = answer.headers.get("location", "")
            drained(answer)
            following = self.absolute(location, url)
            if url.startswith("https:") and not following.startswith("https:"):
                raise RegistryError(
                    f"the registry {self.host} redirects from https to http",
                    hint="what comes over http may have been changed on the way",
                )
            url = following
        raise RegistryError(f"the registry {self.host} redirects too many times")

    def refused(self, answer: BaseHTTPResponse, what: str) -> RegistryError:
        """The error for an answer that is none to what was asked for."""
        return refusal(answer, what, self.host)

    # Manifests.

    def manifest(self, reference: ModelReference, scopes: Sequence[str]) -> Received:
        """The manifest that a reference names, as it came.

        Raises :class:`AbsentError`, :class:`DeniedError` and :class:`RegistryError`: also
        where its digest is not the one that was asked for or that the registry names.
        """
        url = self.url(f"manifests/{reference.target}")
        answer = self.get(url, scopes, {"Accept": ACCEPT}, tries=FIRST_TRIES).response
        if answer.status != 200:
            error = refusal(answer, f"{reference} cannot be pulled", self.host)
            if isinstance(error, AbsentError):
                error.hint = (
                    f"check its name and tag; it may want a login: mbuild login {self.host}"
                )
            raise error
        said = answer.headers.get("docker-content-digest", "")
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        data = read_limited(answer, MAX_MANIFEST_BYTES, self.host)
        digest = Digest.of(data)
        if reference.digest is not None and reference.digest != digest:
            raise RegistryError(
                f"{reference}: the registry sent a different manifest, {digest}",
                hint="it was damaged or changed there: do not use it",
            )
        if said.startswith("sha256:") and said != str(digest):
            raise RegistryError(
                f"{reference}: the manifest has the digest {digest}, but the registry says"
                f" {said[:80]!r}",
                hint="something on the way, such as a proxy, changes what the registry sends",
            )
        return Received(data, digest, media_type)

    def put_manifest(
        self, reference: ModelReference, data: bytes, media_type: str, scopes: Sequence[str]
    ) -> bool:
        """Give a manifest its tag; whether the registry then lists it under its subject.

        Raises :class:`RegistryError` where it is not kept as it is.
        """
        url = self.url(f"manifests/{reference.target}")
        answer = self.ask("PUT", url, scopes, {"Content-Type": media_type}, data)
        if answer.status not in (200, 201, 202):
            raise refusal(answer, f"{reference} cannot be pushed", self.host)
        said = answer.headers.get("docker-content-digest", "")
        listed = "oci-subject" in answer.headers
        drained(answer)
        digest = Digest.of(data)
        if said.startswith("sha256:") and said != str(digest):
            raise RegistryError(
                f"{reference}: the registry keeps a different manifest from the one that was sent,"
                f" {said[:80]!r}",
                hint="something on the way, such as a proxy, changes what is sent",
            )
        return listed

    def small_blob(self, layer: Layer, limit: int) -> bytes:
        """A blob of at most ``limit`` bytes, in memory.

        Raises :class:`RegistryError` for one that is longer, absent, or not what it is called.
        """
        if layer.size > limit:
            raise RegistryError(f"blob {layer.digest} has {layer.size} bytes, not at most {limit}")
        url, scopes = self.url(f"blobs/{layer.digest}"), (pull_scope(self.path),)
        answer = self.get(url, scopes, {}).response
        if answer.status != 200:
            raise refusal(answer, f"blob {layer.digest} cannot be pulled", self.host)
        data = read_limited(answer, layer.size, self.host)
        if Digest.of(data) != layer.digest:
            raise RegistryError(
                f"the registry sent the wrong bytes for the blob {layer.digest}",
                hint=DAMAGED_THERE,
            )
        return data

    def ping(self) -> bool:
        """Ask for the start page with the login; whether the registry wanted one.

        Raises :class:`DeniedError` for a login that is wrong, and others. What answers anything
        with a page is no registry: :class:`AbsentError`. A registry says its version there, wants
        a token, or answers with JSON (distribution's specification).
        """
        answer = self.ask("GET", f"{self.scheme}://{self.host}/v2/", ())
        if answer.status != 200:
            if answer.status == 404:
                drained(answer)
                raise AbsentError(f"{self.host} is not a registry: it has no /v2/")
            error = refusal(answer, f"{self.host} refuses the login", self.host)
            if answer.status == 401:
                error.hint = "check the user and the password; some want a token for a password"
            raise error
        token = any(challenge.scheme == BEARER for challenge in self._challenges)
        said = "docker-distribution-api-version" in answer.headers
        if not (is_json(answer) or said or token):
            raise AbsentError(
                f"{self.host} is not a registry: its /v2/ is a web page",
                hint="check the host and its port",
            )
        return bool(self._challenges)


def pull_scope(path: str) -> str:
    """What a token has to allow for a pull (distribution's token scopes)."""
    return f"repository:{path}:pull"


def push_scope(path: str) -> str:
    """The same for a push."""
    return f"repository:{path}:pull,push"
