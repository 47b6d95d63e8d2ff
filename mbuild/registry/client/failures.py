"""What is said of a request that no answer came to: what failed, who named it, and the remedy."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

import urllib3

from mbuild.core.errors import RegistryError, UnreachableError
from mbuild.core.patterns import regex
from mbuild.registry.client.access import PORTS
from mbuild.registry.client.proxies import SYSTEM, Proxy
from mbuild.registry.client.watched import CONNECT_SECONDS, STALL_SECONDS, NoProxyError, TunnelError

_WANTS_LOGIN = 407

_NO_AUTHORITY = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's codes for a chain whose end nobody knows (X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT...)."""

_HASHED = regex(r"[0-9a-f]{8}\.\d+")
"""What OpenSSL looks for in a folder of certificates."""


def explained(
    error: Exception, url: str, over_http: str, proxy: Proxy | None = None
) -> RegistryError:
    """What to say of a request that no answer came to; ``proxy`` is what it went through."""
    if isinstance(error, RegistryError):
        return error
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    cause = _innermost(error)
    faults = (one for one in _chain(error) if isinstance(one, NoProxyError | TunnelError))
    if proxy is not None and (fault := next(faults, None)) is not None:
        return _of_proxy(fault, cause, parts, proxy)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _of_certificate(where, cause, proxy)
    if isinstance(cause, ssl.SSLError) and parts.scheme == "https":
        return UnreachableError(
            f"{where} does not speak https",
            hint=f"if the registry only has http: {over_http}",
            again=cause.reason != "WRONG_VERSION_NUMBER",  # what answered in another protocol
        )
    if proxy is not None:
        return UnreachableError(
            f"{where} does not answer through the proxy {proxy.place}, from {proxy.source}:"
            f" {_reason(cause)}",
            hint=f"check the host and its port; without a proxy: {_avoided(proxy, parts)}",
        )
    kinds = urllib3.exceptions.ConnectTimeoutError
    connects = any(isinstance(one, kinds) for one in _chain(error))
    reason = _reason(cause, CONNECT_SECONDS if connects else STALL_SECONDS)
    return UnreachableError(
        f"{where} does not answer: {reason}",
        hint="check the host and its port, the network, and whether the server there runs",
    )


def wants_login(proxy: Proxy) -> UnreachableError:
    """The error for a proxy that answers in the host's place, for it wants a login."""
    shown = "does not take the login" if "@" in proxy.url else "wants a login"
    return UnreachableError(
        f"the proxy {proxy.place}, from {proxy.source}, {shown}",
        hint=f"{proxy.source} can have one: http://USER:PASSWORD@{proxy.place}",
        again=False,
    )


def _of_proxy(
    fault: BaseException, cause: BaseException, parts: SplitResult, proxy: Proxy
) -> RegistryError:
    """The error for what failed in a proxy, or before it."""
    if isinstance(fault, TunnelError):
        return _of_tunnel(fault, cause, parts, proxy)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _of_certificate(f"the proxy {proxy.place}, from {proxy.source},", cause, None)
    if isinstance(cause, ssl.SSLError):
        return UnreachableError(
            f"the proxy {proxy.place}, from {proxy.source}, does not speak https",
            hint=f"if it only has http, name it so in {proxy.source}: http://{proxy.place}",
            again=cause.reason != "WRONG_VERSION_NUMBER",
        )
    reason = _reason(cause, CONNECT_SECONDS)
    return UnreachableError(
        f"the proxy {proxy.place}, from {proxy.source}, does not answer: {reason}",
        hint=f"check its address, or do without it: {_avoided(proxy, parts)}",
    )


def _of_tunnel(
    tunnel: TunnelError, cause: BaseException, parts: SplitResult, proxy: Proxy
) -> UnreachableError:
    """The error for a proxy that answers, and does not connect to the host."""
    if tunnel.status == _WANTS_LOGIN:
        return wants_login(proxy)
    reason = f"status {tunnel.status}" if tunnel.status else _reason(cause, CONNECT_SECONDS)
    where = parts.netloc.rpartition("@")[2]
    target = where if parts.port else f"{where}:{PORTS['https']}"
    return UnreachableError(
        f"the proxy {proxy.place}, from {proxy.source}, does not connect to {target}: {reason}",
        hint=f"check the host and its port; without a proxy: {_avoided(proxy, parts)}",
        again=not 400 <= tunnel.status < 500,  # it will not allow it the next time either
    )


def _of_certificate(
    where: str, cause: ssl.SSLCertVerificationError, proxy: Proxy | None
) -> RegistryError:
    """The error for a certificate that is not trusted, with what was to be trusted."""
    wrong = _wrong_variable() if cause.verify_code in _NO_AUTHORITY else None
    if wrong is not None:
        variable, fault = wrong
        return RegistryError(
            f"{where} has a certificate that is not trusted: {cause.verify_message}; {variable}"
            f" names {fault}",
            hint=f"correct {variable}, or unset it",
        )
    own = ""
    if proxy is not None:
        own = f"the proxy {proxy.place}, from {proxy.source}, may have put its own in its place: "
    return RegistryError(
        f"{where} has a certificate that is not trusted: {cause.verify_message}",
        hint=f"{own}add its certificate authority to the system's, or set SSL_CERT_FILE to it",
    )


def _wrong_variable() -> tuple[str, str] | None:
    """The variable that should name certificates and names none, and what it names.

    OpenSSL passes over both in silence.
    """
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file is not None and (fault := _fault_of_file(file)):
        return "SSL_CERT_FILE", f"{file!r}, {fault}"
    if folders is not None and not any(map(_has_certificates, folders.split(os.pathsep))):
        return "SSL_CERT_DIR", f"{folders!r}, where OpenSSL finds none (openssl rehash names them)"
    return None


def _fault_of_file(file: str) -> str:
    """What is wrong with a file of certificates, "" for nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError:
        return "which has no certificates"
    except FileNotFoundError:
        return "which is not there"
    except (OSError, ValueError) as error:
        return f"which cannot be read: {getattr(error, 'strerror', None) or error}"
    return "" if context.cert_store_stats()["x509"] else "which has no certificates"


def _has_certificates(folder: str) -> bool:
    try:
        return any(map(_HASHED.fullmatch, os.listdir(folder)))
    except (OSError, ValueError):
        return False


def _avoided(proxy: Proxy, parts: SplitResult) -> str:
    """How to ask a host without its proxy."""
    if proxy.source == SYSTEM:
        return f"name {parts.hostname} in NO_PROXY"
    return f"unset {proxy.source}, or name {parts.hostname} in NO_PROXY"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it has wrapped, from the outside in."""
    seen: BaseException | None = error
    while isinstance(seen, BaseException):
        yield seen
        seen = getattr(seen, "reason", None) or seen.__cause__ or seen.__context__


def _innermost(error: BaseException) -> BaseException:
    """The first cause of an error that urllib3 has wrapped."""
    *_, last = _chain(error)
    return last


def _reason(cause: BaseException, seconds: float = STALL_SECONDS) -> str:
    if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
        return f"nothing came for {seconds:.0f} seconds"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "the connection was cut"
