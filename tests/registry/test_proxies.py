"""Behind a proxy: which one is asked, what is said when it fails, and that its connections end."""

from __future__ import annotations

import os
import random
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from forwarding_proxy import Certificate, ForwardingProxy, forwarding_proxy, secure_registry
from pulling import pulled
from registries import digest_of
from stand_in import Handler, StandIn, stand_in
from urllib3.exceptions import ConnectTimeoutError

from mbuild.core.errors import CancelledError, RegistryError, UnreachableError
from mbuild.registry.client import watched
from mbuild.registry.client.access import Access, Nearness
from mbuild.registry.client.answers import read_into
from mbuild.registry.client.failures import explained, wants_login
from mbuild.registry.client.proxies import Proxy, proxy_of
from mbuild.registry.client.registry import Registry
from mbuild.registry.client.web import Web
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.pull import pull
from mbuild.store import Store
from mbuild.work.cancel import Cancel

HOST = "registry.invalid"
"""A host that only the proxies of tests know: no name server has it (RFC 6761)."""

WEIGHTS = random.Random(7).randbytes((9 << 20) + 321)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests has no part in them."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    names = (f"DNS:{HOST}", "DNS:localhost", "IP:127.0.0.1")
    return Certificate(tmp_path_factory.mktemp("tls"), *names)


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    return certificate


def closed() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def failed(url: str, kind: type[RegistryError] = UnreachableError) -> RegistryError:
    """The error of a request, which shows no password."""
    with pytest.raises(kind) as caught:
        Web(Cancel()).ask("GET", url, {})
    assert "secret" not in caught.value.message + caught.value.hint
    return caught.value


# What is said.


@pytest.mark.parametrize(
    ("variable", "scheme"),
    [
        ("HTTPS_PROXY", "https"),
        ("https_proxy", "https"),
        ("HTTP_PROXY", "http"),
        ("http_proxy", "http"),
    ],
)
def test_a_proxy_that_nobody_reaches_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    """With the variable that has it, and how to do without it; without the password."""
    place = closed()
    monkeypatch.setenv(variable, f"http://me:secret@{place}")
    error = failed(f"{scheme}://{HOST}/v2/")
    assert error.message == (
        f"the proxy {place}, from {variable}, does not answer: Connection refused"
    )
    assert error.hint == (
        f"check its address, or do without it: unset {variable}, or name {HOST} in NO_PROXY"
    )


def test_a_proxy_that_has_no_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host was not even looked up."""
    monkeypatch.setenv("HTTPS_PROXY", "proxy.invalid:3128")
    assert failed(f"https://{HOST}/v2/").message.startswith(
        "the proxy proxy.invalid:3128, from HTTPS_PROXY, does not answer: "
    )


@pytest.mark.parametrize(
    ("status", "said", "hint", "again"),
    [
        (403, f"does not connect to {HOST}:443: status 403", "in NO_PROXY", False),
        (407, "does not take the login", "HTTPS_PROXY can have one: http://USER:", False),
        (502, f"does not connect to {HOST}:443: status 502", "check the host", True),
        (-1, f"does not connect to {HOST}:443: the connection was cut", "in NO_PROXY", True),
    ],
)
def test_a_proxy_that_does_not_connect_is_named(
    monkeypatch: pytest.MonkeyPatch, status: int, said: str, hint: str, again: bool
) -> None:
    """With its status; what it forbids is asked for once."""
    with forwarding_proxy() as (proxy, place):
        proxy.status = status
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{place}")
        error = failed(f"https://{HOST}/v2/")
        assert error.message == f"the proxy {place}, from HTTPS_PROXY, {said}"
        assert hint in error.hint
        assert isinstance(error, UnreachableError) and error.again == again
        assert [asked[:2] for asked in proxy.asked] == [("CONNECT", f"{HOST}:443")]


def test_a_proxy_that_wants_a_login_is_no_registry_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over http its answer comes in the registry's place."""
    with forwarding_proxy() as (proxy, place):
        proxy.status = 407
        monkeypatch.setenv("http_proxy", f"http://{place}")
        error = failed(f"http://{HOST}/v2/")
        assert error.message == f"the proxy {place}, from http_proxy, wants a login"
        assert error.hint == f"http_proxy can have one: http://USER:PASSWORD@{place}"


def test_a_connection_that_is_cut_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell who cut it: both are named."""
    with forwarding_proxy() as (proxy, place):
        proxy.status = -1
        monkeypatch.setenv("HTTP_PROXY", place)
        error = failed(f"http://{HOST}:81/v2/")
        assert error.message == (
            f"{HOST}:81 does not answer through the proxy {place}, from HTTP_PROXY:"
            " the connection was cut"
        )
        assert f"name {HOST} in NO_PROXY" in error.hint


def test_a_registry_that_cuts_the_connection_is_no_fault_of_the_proxy(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate
) -> None:
    """The tunnel stands; the other end hangs up."""
    with forwarding_proxy() as (proxy, place), secure_registry(trusted) as (registry, host):
        proxy.places = {f"{HOST}:443": host}

        def hang_up(handler: Handler) -> bool:
            handler.close_connection = True
            return True

        registry.before = hang_up
        monkeypatch.setenv("HTTPS_PROXY", place)
        error = failed(f"https://{HOST}/v2/")
        assert error.message.startswith(f"{HOST} does not answer through the proxy {place}, from")


class _Plain(socketserver.BaseRequestHandler):
    """Answers over http to whatever comes."""

    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.request.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


def test_a_proxy_that_speaks_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written as https://, and is another."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"https://{place}")
        error = failed(f"https://{HOST}/v2/")
        assert error.message == f"the proxy {place}, from HTTPS_PROXY, does not speak https"
        assert f"http://{place}" in error.hint
        server.shutdown()


def test_a_proxy_of_which_the_certificate_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    """It is the proxy's, not the registry's."""
    with forwarding_proxy(certificate) as (_, place):
        monkeypatch.setenv("HTTPS_PROXY", f"https://{place}")
        assert failed(f"https://{HOST}/v2/", RegistryError).message.startswith(
            f"the proxy {place}, from HTTPS_PROXY, has a certificate that is not trusted: self"
        )


def test_a_proxy_of_the_system_is_said_to_be_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no variable to unset."""
    place = closed()
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": f"http://{place}"})
    error = failed(f"https://{HOST}/v2/")
    assert f"{place}, from the system's settings, does not answer" in error.message
    assert error.hint.endswith(f"do without it: name {HOST} in NO_PROXY")


def test_what_failed_elsewhere_is_said_as_before() -> None:
    """Without a proxy, or as an error that has its words."""
    error = UnreachableError("gone")
    assert explained(error, f"https://{HOST}/", "--insecure") is error
    found = explained(TimeoutError(), f"https://u:secret@{HOST}:81/", "--insecure")
    assert found.message == f"{HOST}:81 does not answer: nothing came for 30 seconds"
    late = ConnectTimeoutError("no answer to SYN")
    found = explained(late, f"https://{HOST}:81/", "--insecure")
    assert found.message == f"{HOST}:81 does not answer: nothing came for 10 seconds"
    said = wants_login(Proxy("http://u:secret@[::1]:81", "HTTP_PROXY"))
    assert said.message == "the proxy [::1]:81, from HTTP_PROXY, does not take the login"
    assert said.hint == "HTTP_PROXY can have one: http://USER:PASSWORD@[::1]:81"


# Which proxy.


@pytest.mark.parametrize("kind", ["socks5", "SOCKS5H", "socks4", "ftp"])
def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """With the variable, and the kinds that there are."""
    monkeypatch.setenv("HTTPS_PROXY", f"{kind}://me:secret@proxy.invalid:1080")
    error = failed(f"https://{HOST}/v2/")
    assert error.message == (
        f"HTTPS_PROXY names a proxy of the kind '{kind.lower()}', which mbuild cannot use"
    )
    assert "http:// and https://" in error.hint
    assert isinstance(error, UnreachableError) and not error.again
    with pytest.raises(UnreachableError, match="HTTPS_PROXY names a proxy of the kind"):
        _ = Registry(ModelReference.parse(f"{HOST}/a/m"), Access(), Cancel()).near


@pytest.mark.parametrize(
    "text", ["http://", "http://me:secret@", "http://me:sec/ret@p:1", "http://me:1/s@p", "p:port"]
)
def test_what_is_no_address_of_a_proxy_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """It is not shown: part of a password may look like a host."""
    monkeypatch.setenv("HTTPS_PROXY", text)
    error = failed(f"https://{HOST}/v2/")
    assert error.message == "HTTPS_PROXY is not the address of a proxy"
    assert "http://HOST:PORT" in error.hint and "sec" not in error.hint.lower()


def test_a_proxy_without_a_scheme_has_http(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate
) -> None:
    """As for curl, for http and for https."""
    with (
        forwarding_proxy() as (proxy, place),
        stand_in() as (_, plain),
        secure_registry(trusted) as (_, secure),
    ):
        proxy.places = {HOST: plain, f"{HOST}:443": secure}
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"me:p%40ss@{place}")
        for scheme in ("http", "https"):
            assert Web(Cancel()).ask("GET", f"{scheme}://{HOST}/v2/", {}).status == 200
        login = "Basic bWU6cEBzcw=="
        assert proxy.asked == [
            ("GET", f"http://{HOST}/v2/", login),
            ("CONNECT", f"{HOST}:443", login),
        ]


def test_a_registry_over_http_that_only_the_proxy_knows(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    """The proxy of its scheme counts, and is no proxy for the other."""
    with forwarding_proxy() as (proxy, place), stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        proxy.places = {f"{HOST}:5000": host}
        monkeypatch.setenv("HTTP_PROXY", f"http://{place}")
        assert pulled(store, f"http://{HOST}:5000").size > len(WEIGHTS)
        plain = Access(plain=frozenset({f"{HOST}:5000"}))
        reference = ModelReference.parse(f"{HOST}:5000/a/m:v1")
        assert Registry(reference, plain, Cancel()).near is Nearness.PUBLIC
        with pytest.raises(UnreachableError, match="was not found"):
            _ = Registry(reference, Access(), Cancel()).near
        monkeypatch.setenv("NO_PROXY", f"{HOST}:5000")
        with pytest.raises(UnreachableError, match="was not found"):
            _ = Registry(reference, plain, Cancel()).near


@pytest.mark.parametrize(
    ("written", "url", "proxied"),
    [
        (f"{HOST}:5000", f"http://{HOST}:5000/", False),
        (f"{HOST}:5000", f"http://{HOST}:5001/", True),
        (f"{HOST}:80", f"http://{HOST}/", False),
        (f"{HOST}:443", f"http://{HOST}/", True),
        ("x.invalid, .invalid:5000", f"http://{HOST}:5000/", False),
        (HOST, f"http://{HOST}:5000/", False),
        ("192.0.2.1:5000", "http://192.0.2.1:5000/", False),
        ("192.0.2.1:5000", "http://192.0.2.1/", True),
        ("[2001:db8::1]:5000", "http://[2001:db8::1]:5000/", False),
        ("[2001:db8::1]:5000", "http://[2001:db8::1]:5001/", True),
        ("2001:db8::1", "http://[2001:db8::1]:5001/", False),
        ("x.invalid, 192.0.2.7/24", "http://192.0.2.1:5000/", False),
        ("192.0.3.0/24", "http://192.0.2.1/", True),
        ("192.0.2.0/99,a/b", "http://192.0.2.1/", True),
        ("192.0.2.0/24", f"http://{HOST}/", True),
        ("2001:db8::/32", "http://[2001:db8::1]/", False),
        (f"x.invalid, *.{HOST.partition('.')[2]}", f"http://{HOST}/", False),
        ("*.INVALID:5000", f"http://{HOST}:5000/", False),
        ("*.invalid:5000", f"http://{HOST}:5001/", True),
        (f"*.{HOST}", f"http://{HOST}/", True),
        ("x.invalid,*", f"http://{HOST}/", False),
    ],
)
def test_no_proxy_names_hosts_ports_and_networks(
    monkeypatch: pytest.MonkeyPatch, written: str, url: str, proxied: bool
) -> None:
    """What it names is asked without the proxy, and nothing else."""
    with forwarding_proxy() as (proxy, place):
        proxy.status = 407
        monkeypatch.setenv("HTTP_PROXY", f"http://{place}")
        monkeypatch.setenv("NO_PROXY", written)
        parts = urlsplit(url)
        found = proxy_of("http", parts.hostname or "", parts.port or 0)
        assert (found == Proxy(f"http://{place}", "HTTP_PROXY")) == proxied
        if proxied:
            assert "wants a login" in failed(url).message
        elif parts.hostname == HOST:  # the others lead nowhere, which takes time
            assert failed(url).message.startswith(f"{parts.netloc} does not answer: ")
        assert bool(proxy.asked) == proxied


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names that this machine's own lookup knows, as those of /etc/hosts, and where they lead."""
    known = {"here.invalid": "127.0.0.1"}
    looked_up = socket.getaddrinfo

    def lookup(host: Any, *arguments: Any, **named: Any) -> Any:
        return looked_up(known.get(host, host), *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known


def test_a_name_of_this_machine_has_no_proxy(
    monkeypatch: pytest.MonkeyPatch, here: dict[str, str], store: Store
) -> None:
    """As localhost has none: to the proxy the name is another machine's, or nobody's."""
    with forwarding_proxy() as (proxy, place), stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://{place}")
        port = host.rpartition(":")[2]
        assert pulled(store, f"here.invalid:{port}").size > len(WEIGHTS)
        assert proxy.asked == []


def test_a_refused_name_is_not_this_machine(
    monkeypatch: pytest.MonkeyPatch, here: dict[str, str], store: Store
) -> None:
    """Some name servers answer 0.0.0.0 for what they refuse; a server's strangers stay away."""
    with forwarding_proxy() as (proxy, place), stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        proxy.places = {"here.invalid": host}
        monkeypatch.setenv("HTTP_PROXY", f"http://{place}")
        here["here.invalid"] = "0.0.0.0"
        assert pulled(store, "http://here.invalid").size > len(WEIGHTS)
        assert proxy.asked
        here["here.invalid"] = "127.0.0.1"
        reference = ModelReference.parse("here.invalid/a/m:v1")
        access = Access(frozenset({"here.invalid"}), frozenset())
        registry_of_server = Registry(reference, access, Cancel())
        assert registry_of_server.near is Nearness.LOOPBACK and not registry_of_server.web.here


# Certificates.


def test_a_variable_without_certificates_is_named(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, tmp_path: Path
) -> None:
    """OpenSSL says nothing of a file or a folder that is not there, or has none."""
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.write_text("no certificate")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(certificate.file.read_bytes())  # OpenSSL wants its hash
    with secure_registry(certificate) as (_, host):
        url = f"https://{host}/v2/"
        plain = failed(url, RegistryError)
        assert plain.message.startswith(f"{host} has a certificate that is not trusted: self")
        assert "SSL_CERT" not in plain.message and "set SSL_CERT_FILE to it" in plain.hint
        for variable, path, fault in [
            ("SSL_CERT_FILE", str(absent), "which is not there"),
            ("SSL_CERT_FILE", str(empty), "which has no certificates"),
            ("SSL_CERT_FILE", "", "which is not there"),
            ("SSL_CERT_FILE", str(folder), "which cannot be read: Is a directory"),
            ("SSL_CERT_DIR", str(absent), "where OpenSSL finds none (openssl rehash names them)"),
            ("SSL_CERT_DIR", str(folder), "where OpenSSL finds none (openssl rehash names them)"),
        ]:
            with monkeypatch.context() as changed:
                changed.setenv(variable, path)
                error = failed(url, RegistryError)
                assert error.message == f"{plain.message}; {variable} names {path!r}, {fault}"
                assert error.hint == f"correct {variable}, or unset it"
        (folder / "01234567.0").write_bytes(certificate.file.read_bytes())
        monkeypatch.setenv("SSL_CERT_DIR", str(folder))
        assert failed(url, RegistryError).message == plain.message
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
        assert Web(Cancel()).ask("GET", url, {}).status == 200


def test_a_variable_is_not_blamed_for_another_name(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate, tmp_path: Path
) -> None:
    """A certificate for another host; behind a proxy it may be the proxy's own."""
    with forwarding_proxy() as (proxy, place), secure_registry(trusted) as (_, host):
        proxy.places = {"other.invalid:443": host}
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        monkeypatch.setenv("HTTPS_PROXY", place)
        error = failed("https://other.invalid/v2/", RegistryError)
        assert error.message.startswith("other.invalid has a certificate that is not trusted: ")
        assert "SSL_CERT_DIR" not in error.message
        assert error.hint.startswith(f"the proxy {place}, from HTTPS_PROXY, may have put its own")


# Whole transfers, and their ends.


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", False), ("https", True)])
def test_a_pull_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
    trusted: Certificate,
    store: Store,
    scheme: str,
    secure: bool,
) -> None:
    """Forwarded, through a tunnel, and through a tunnel that is in TLS itself."""
    served = secure_registry(trusted) if scheme == "https" else stand_in()
    proxied = forwarding_proxy(trusted if secure else None)
    with proxied as (proxy, place), served as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        proxy.places = {f"{HOST}:5000": host}
        address = f"https://localhost:{place.rpartition(':')[2]}" if secure else f"http://{place}"
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", address)
        assert pulled(store, f"{scheme}://{HOST}:5000").size > len(WEIGHTS)
        assert {method for method, _, _ in proxy.asked} == {
            "CONNECT" if scheme == "https" else "GET"
        }


KINDS = [("http", False), ("https", False), ("https", True)]


@contextmanager
def waiting(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, scheme: str, secure: bool
) -> Iterator[tuple[ForwardingProxy, StandIn, threading.Event, threading.Event]]:
    """A proxy and a registry behind it; an event that one of them waits, one that it may go on."""
    waits, go = threading.Event(), threading.Event()
    served = secure_registry(certificate) if scheme == "https" else stand_in()
    proxied = forwarding_proxy(certificate if secure else None)
    with proxied as (proxy, place), served as (registry, host):
        proxy.places = {f"{HOST}:5000": host}
        address = f"https://localhost:{place.rpartition(':')[2]}" if secure else f"http://{place}"
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", address)
        try:
            yield proxy, registry, waits, go
        finally:
            go.set()


def ended(
    asked: Web, waits: threading.Event, act: Callable[[], object], kind: type[Exception]
) -> None:
    """What waits for a connection ends soon after it is cut from another thread."""
    cut = threading.Thread(target=lambda: (waits.wait(30), time.sleep(0.1), asked.interrupt()))
    cut.start()
    start = time.monotonic()
    with pytest.raises(kind):
        act()
    assert time.monotonic() - start < 5
    cut.join()
    asked.close()


@pytest.mark.parametrize(("scheme", "secure"), KINDS)
def test_an_answer_that_does_not_come_is_given_up(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate, scheme: str, secure: bool
) -> None:
    """The connection is cut, forwarded or in a tunnel."""
    with waiting(monkeypatch, trusted, scheme, secure) as (_, registry, waits, go):

        def hang(handler: Handler) -> bool:
            waits.set()
            go.wait(30)
            return False

        registry.before = hang
        asked = Web(Cancel())
        url = f"{scheme}://{HOST}:5000/v2/"
        ended(asked, waits, lambda: asked.ask("GET", url, {}), CancelledError)


@pytest.mark.parametrize(("scheme", "secure"), KINDS)
def test_a_body_that_stops_is_given_up(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate, scheme: str, secure: bool
) -> None:
    """In the middle of a transfer."""
    with waiting(monkeypatch, trusted, scheme, secure) as (_, registry, waits, go):

        def half(handler: Handler) -> bool:
            handler.send_response(200)
            handler.send_header("Content-Length", str(1 << 20))
            handler.end_headers()
            handler.wfile.write(bytes(1000))
            waits.set()
            go.wait(30)
            return True

        registry.before = half
        asked = Web(Cancel())
        answer = asked.ask("GET", f"{scheme}://{HOST}:5000/v2/", {})
        room = memoryview(bytearray(1 << 20))

        def read() -> None:
            at = 0
            while count := read_into(answer, room[at:], HOST):
                at += count
            assert at < len(room)
            raise UnreachableError("it ends too soon")

        ended(asked, waits, read, UnreachableError)


@pytest.mark.parametrize(("scheme", "secure"), KINDS)
def test_a_pull_that_stops_can_be_ended(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate, store: Store, scheme: str, secure: bool
) -> None:
    """As a Ctrl-C does it: what is under way is not waited for."""
    with waiting(monkeypatch, trusted, scheme, secure) as (_, registry, waits, go):
        registry.model("a/m:v1", WEIGHTS)

        def hang(handler: Handler) -> bool:
            if handler.path.endswith(digest_of(WEIGHTS)):
                waits.set()
                go.wait(30)
            return False

        registry.before = hang
        reference = ModelReference.parse(f"{scheme}://{HOST}:5000/a/m:v1")
        pulling = pull(reference, reference.local, store, Access())
        next(pulling)
        late = threading.Thread(target=lambda: (waits.wait(30), time.sleep(0.1), _interrupt()))
        late.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            for _ in pulling:
                pass
        assert time.monotonic() - start < 5
        late.join()


def _interrupt() -> None:
    """A Ctrl-C for the main thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@pytest.mark.parametrize("secure", [False, True])
def test_a_tunnel_that_does_not_begin_is_given_up(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate, secure: bool
) -> None:
    """The proxy waits for the host; and TLS waits for a host that says nothing."""
    with waiting(monkeypatch, trusted, "https", secure) as (proxy, _, waits, go):

        def hold() -> None:
            waits.set()
            go.wait(30)

        monkeypatch.setattr(proxy, "hold", hold)
        asked = Web(Cancel())
        url = f"https://{HOST}:5000/v2/"
        ended(asked, waits, lambda: asked.ask("GET", url, {}), CancelledError)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        waiting(monkeypatch, trusted, "https", secure) as (proxy, _, waits, _),
    ):
        proxy.places = {f"{HOST}:5000": f"127.0.0.1:{silent.getsockname()[1]}"}
        monkeypatch.setattr(proxy, "hold", waits.set)
        asked = Web(Cancel())
        ended(asked, waits, lambda: asked.ask("GET", url, {}), CancelledError)


def test_what_connects_after_the_end_is_cut() -> None:
    """One thread may be about to connect when another ends them all."""
    connections = watched.Connections()
    connections.cut()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connections.add(ours)
        assert theirs.recv(1) == b""
        connections.remove(ours)
