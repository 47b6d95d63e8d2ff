"""Tokens: asked for at the place that a registry names, kept until they end, renewed on 401."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from mbuild.core.errors import DeniedError, RegistryError, UsageError
from mbuild.core.values import NamedTuple
from mbuild.registry.auth.challenge import BASIC, BEARER, Challenge
from mbuild.registry.client.access import PORTS, Access, Nearness, nearness_of_host
from mbuild.registry.client.answers import AGAIN, drained, later, read_limited
from mbuild.registry.reference import OLLAMA_HOSTS

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from mbuild.registry.auth.login import Login
    from mbuild.registry.client.web import Web

MAX_ANSWER = 1 << 20
_CLIENT = "mbuild"
_LEAST_SECONDS = 60.0
"""How long a token lasts whose answer does not say (distribution's token specification)."""

_MOST_SECONDS = 1e9
_MARGIN = 10.0  # seconds before its end at which a token is renewed

Where = tuple[str, str, tuple[str, ...]]


class _Kept(NamedTuple):
    header: str
    ends: float


class Authority(NamedTuple):
    """The registry that tokens are for: its address, who may ask, and the stored login.

    ``host`` is as in a reference, ``near`` how far away it is.
    """

    scheme: str
    host: str
    near: Nearness
    access: Access
    login: Login | None


class BearerTokens:
    """The tokens of one registry, safe for many threads: of those only one asks at a time."""

    def __init__(self, web: Web, registry: Authority) -> None:
        self._web = web
        self._registry = registry
        self._kept: dict[Where, _Kept] = {}
        self._lock = threading.Lock()

    def header(self, challenges: Sequence[Challenge], scopes: Sequence[str], failed: str) -> str:
        """The Authorization that meets one of the challenges, "" where there is none.

        ``failed`` is the one that was refused: it is not given again. Raises
        :class:`DeniedError`.
        """
        login = self._registry.login
        for challenge in challenges:
            if challenge.scheme == BEARER:
                if login is not None and login.bearer:
                    given = f"Bearer {login.bearer}"
                else:
                    given = self._token(challenge, scopes, failed)
            elif challenge.scheme == BASIC and login is not None and login.user:
                given = login.basic
            else:
                continue
            return given if given != failed else ""
        return ""

    def _token(self, challenge: Challenge, scopes: Sequence[str], failed: str) -> str:
        wanted = tuple(dict.fromkeys([*scopes, *_further(challenge.scopes, scopes)]))
        where = (challenge.realm, challenge.service, wanted)
        with self._lock:
            kept = self._kept.get(where)
            if kept is not None and kept.header != failed and time.monotonic() < kept.ends:
                return kept.header
            fresh = self._asked(challenge, wanted)
            self._kept[where] = fresh
            return fresh.header

    def _asked(self, challenge: Challenge, scopes: Sequence[str]) -> _Kept:
        self._check_realm(challenge.realm)
        reach = self._registry.access.reach_from(
            self._registry.host, self._registry.near, _host_of(challenge.realm)
        )
        login = self._registry.login
        answer = None
        if login is not None and login.identity:
            answer = self._post(challenge, scopes, login, reach)
        if answer is None:
            answer = self._get(challenge, scopes, login, reach)
        return _read(answer, self._registry.host, login is not None)

    def _check_realm(self, realm: str) -> None:
        """Refuse a place that a login must not be taken to; raises :class:`RegistryError`."""
        registry = self._registry
        try:
            parts = urlsplit(realm)
            port = parts.port or PORTS[parts.scheme]
        except (ValueError, KeyError):
            port = 0
        if not port or not parts.hostname:
            raise RegistryError(
                f"the registry {registry.host} does not say where to get tokens: {realm[:200]!r}"
            )
        if (
            parts.scheme == "http"
            and (registry.scheme != "http" or _host_of(realm) != registry.host)
            and not self._is_beside(parts.hostname, port)
        ):
            raise RegistryError(
                f"the registry {registry.host} sends logins to {parts.netloc} over http",
                hint="mbuild sends no login there: anyone on the way could read it",
            )

    def _is_beside(self, host: str, port: int) -> bool:
        """Whether a place is on this machine, as the registry itself is."""
        near = self._registry.near
        return (
            self._registry.scheme == "http"
            and near is Nearness.LOOPBACK
            and nearness_of_host(host, port) is near
        )

    def _get(
        self,
        challenge: Challenge,
        scopes: Sequence[str],
        login: Login | None,
        reach: frozenset[Nearness],
    ) -> BaseHTTPResponse:
        """Ask as distribution's token specification has it, with the login if there is one."""
        headers: dict[str, str] = {}
        query = [("service", challenge.service)] if challenge.service else []
        query += [("scope", scope) for scope in scopes]
        if login is not None and login.user:
            headers["Authorization"] = login.basic
            query.append(("account", login.user))
        joint = "&" if urlsplit(challenge.realm).query else "?"
        url = f"{challenge.realm}{joint if query else ''}{urlencode(query)}"
        if login is None and (key := self._ollama_key(challenge)):
            from mbuild.registry.auth.ollama_key import signed

            url, headers["Authorization"] = signed(key, challenge.realm, challenge.service, scopes)
        return self._web.ask("GET", url, headers, reach=reach)

    def _ollama_key(self, challenge: Challenge) -> Any:
        """Ollama's key, for its own registry: whose realm has to be on the same host."""
        registry = self._registry
        if registry.host not in OLLAMA_HOSTS or not registry.access.is_named(registry.host):
            return None
        if _host_of(challenge.realm) not in OLLAMA_HOSTS:
            return None
        from mbuild.registry.auth.ollama_key import key_file

        return key_file()

    def _post(
        self,
        challenge: Challenge,
        scopes: Sequence[str],
        login: Login,
        reach: frozenset[Nearness],
    ) -> BaseHTTPResponse | None:
        """Ask with the OAuth2 form; None where the server does not know it."""
        form = {
            "grant_type": "refresh_token",
            "service": challenge.service,
            "client_id": _CLIENT,
            "scope": " ".join(scopes),
            "refresh_token": login.identity,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(form).encode()
        answer = self._web.ask("POST", challenge.realm, headers, body, reach)
        if answer.status in (404, 405):
            drained(answer)
            return None
        return answer


def _further(asked: Sequence[str], ours: Sequence[str]) -> list[str]:
    """The scopes of a challenge that ours do not include already."""
    have = {tuple(scope.rsplit(":", 1)[:1]): scope.rsplit(":", 1)[-1].split(",") for scope in ours}
    return [
        scope
        for scope in asked
        if not set(scope.rsplit(":", 1)[-1].split(","))
        <= set(have.get(tuple(scope.rsplit(":", 1)[:1]), ()))
    ]


def _host_of(url: str) -> str:
    """A URL's host with its port, as a reference has it."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def _read(answer: BaseHTTPResponse, host: str, has_login: bool) -> _Kept:
    """The token in an answer; raises :class:`DeniedError` or :class:`RegistryError`."""
    if answer.status in AGAIN:
        raise later(answer, f"the registry {host} gave no token", host)
    data = read_limited(answer, MAX_ANSWER, host)
    if answer.status in (400, 401, 403):
        said = "does not accept the login" if has_login else "requires a login"
        hint = f"mbuild login {host}"
        if has_login:
            hint = f"check the user and the password, and log in again: {hint}"
        raise DeniedError(f"the registry {host} {said}", hint=hint)
    value: Mapping[str, Any] = {}
    if answer.status == 200:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = {}
    token = None
    if isinstance(value, dict):
        token = value.get("token") or value.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise RegistryError(
            f"the registry {host} gave no token: it answered with status {answer.status}"
        )
    seconds = value.get("expires_in")
    lasts = _LEAST_SECONDS
    if isinstance(seconds, int | float) and _LEAST_SECONDS < seconds < _MOST_SECONDS:
        lasts = float(seconds)
    return _Kept(f"Bearer {token}", time.monotonic() + lasts - _MARGIN)


def usable(login: Login | None, scheme: str, near: Nearness) -> Login | None:
    """The login, if it may be shown over that scheme; raises :class:`UsageError`.

    Over http everybody on the way reads it: that is for a registry that the user asked to be
    reached so.
    """
    if login is None or scheme == "https" or near is not Nearness.PUBLIC:
        return login
    raise UsageError(
        "a stored login is not sent over http to a host on the internet, nor to a proxy there",
        hint="leave --insecure out, or log out first; NO_PROXY names hosts that have no proxy",
    )
