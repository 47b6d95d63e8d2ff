"""Pushes to a registry that remembers uploads, limits parts, loses them, forgets them."""

from __future__ import annotations

import os
import socketserver
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from registries import digest_of
from stand_in import Handler, StandIn, stand_in

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, DeniedError, RegistryError, UnreachableError
from mbuild.core.names import ModelName
from mbuild.core.transfers import Transferred
from mbuild.registry.auth.keeping import keep
from mbuild.registry.auth.login import Login
from mbuild.registry.client import attempts
from mbuild.registry.client.access import Access
from mbuild.registry.client.attempts import TRIES
from mbuild.registry.client.registry import Registry
from mbuild.registry.client.web import speaks_tls
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer import upload
from mbuild.registry.transfer.push import push, would_send
from mbuild.registry.transfer.record import Session, UploadRecord
from mbuild.registry.transfer.slices import Slice, read_at
from mbuild.store import Layer, Store
from mbuild.store.media import MODEL as WEIGHTS
from mbuild.work.cancel import Cancel

MODEL = ModelName.parse("large")
SIZE = (40 << 20) + 77
PART = 8 << 20


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No logins, no long waits, and small parts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setattr(attempts, "_FIRST_WAIT", 0.005)
    monkeypatch.setattr(upload, "ONE_REQUEST", 16 << 20)
    monkeypatch.setattr(upload, "PART", PART)


@pytest.fixture
def weights(tiny_store: Store) -> bytes:
    """The weights of the model ``large`` of the store."""
    data = os.urandom(SIZE)
    blob = tiny_store.blobs.put(data)
    stored = tiny_store.manifests.read(ModelName.parse("tiny")).manifest
    first, *others = stored.layers
    layers = (first._replace(digest=blob.digest, size=blob.size), *others)
    tiny_store.replace(MODEL, stored._replace(layers=layers).encode())
    return data


def pushed(store: Store, host: str) -> Transferred:
    *_, last = push(MODEL, ModelReference.parse(f"{host}/a/large:v1"), store, Access())
    assert isinstance(last, Transferred)
    return last


def check(registry: StandIn, store: Store, weights: bytes) -> None:
    """The registry has the model, byte for byte."""
    assert registry.blobs[digest_of(weights)] == weights
    assert registry.manifests["a/large:v1"] == store.manifests.read_bytes(MODEL)
    assert not list((store.private / "partial").glob("push-*"))


def test_a_large_blob_goes_in_parts(tiny_store: Store, weights: bytes) -> None:
    """The last one ends the upload, with no empty request behind it."""
    with stand_in() as (registry, host):
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        parts = [h["content-range"] for h in registry.asked("PATCH")]
        assert parts[:2] == [f"0-{PART - 1}", f"{PART}-{2 * PART - 1}"]
        assert len(parts) == 5
        puts = [int(h["content-length"]) for h in registry.asked("PUT") if "content-range" in h]
        assert puts == [77]
        assert pushed(tiny_store, host).moved == 0


def test_a_part_that_is_cut_goes_on(tiny_store: Store, weights: bytes) -> None:
    """Where the registry says that it is."""
    with stand_in() as (registry, host):
        registry.cut_upload_after = 20 << 20
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert registry.taken < SIZE * 1.05


def test_an_upload_that_is_lost_begins_anew(tiny_store: Store, weights: bytes) -> None:
    """As distribution 2.8 loses one whose part was cut."""
    with stand_in() as (registry, host):
        registry.cut_upload_after, registry.keeps_cut_parts = 20 << 20, False
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert len(registry.asked("POST")) == 3  # two for the weights, one for the config


@pytest.mark.parametrize("largest", [4 << 20, 1 << 20])
def test_parts_that_are_too_large_are_halved(
    tiny_store: Store, weights: bytes, largest: int
) -> None:
    """ghcr.io takes no part of more than 4 MiB."""
    with stand_in() as (registry, host):
        registry.largest_part = largest
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)


def test_a_registry_without_parts_gets_one_request(tiny_store: Store, weights: bytes) -> None:
    """Of any size."""
    with stand_in() as (registry, host):
        registry.parts = False
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert max(int(h["content-length"]) for h in registry.asked("PUT")) == SIZE


def test_a_single_request_that_is_too_large_is_divided(
    tiny_store: Store, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may limit bodies to less than what goes in one request."""
    monkeypatch.setattr(upload, "ONE_REQUEST", 1 << 30)
    with stand_in() as (registry, host):
        registry.largest_part = 10 << 20
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)


def test_a_registry_that_puts_parts_elsewhere_is_found_out(
    tiny_store: Store, weights: bytes
) -> None:
    """2.8 appends what has a gap before it: what it says it has is compared."""
    with stand_in() as (registry, host):
        lied: list[str] = []

        def lie(handler: Handler) -> bool:
            if handler.command == "PATCH" and not lied:
                lied.append(handler.path)
                handler.body()
                handler.answer(202, location=handler.path, range="0-99999999")
                return True
            return False

        registry.before = lie
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)


def test_a_token_that_ends_in_the_middle_is_renewed(tiny_store: Store, weights: bytes) -> None:
    """Uploads outlive tokens: the part is sent again with the new one."""
    with stand_in() as (registry, host):
        valid = ["Bearer t1"]
        given: list[str] = []

        def guard(handler: Handler) -> bool:
            if handler.path.startswith("/token"):
                given.append(f"t{len(given) + 1}")
                valid[:] = [f"Bearer {given[-1]}"]
                handler.answer(200, f'{{"token":"{given[-1]}","expires_in":3600}}'.encode())
                return True
            if handler.command == "PATCH" and len(registry.asked("PATCH")) == 3 and len(given) == 1:
                valid[:] = []
            if handler.headers.get("authorization") not in valid:
                handler.body()
                realm = f'Bearer realm="http://{host}/token",service="s"'
                handler.answer(401, www_authenticate=realm)
                return True
            return False

        registry.before = guard
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert given == ["t1", "t2"]


def stopped(store: Store, registry: StandIn, host: str, after: int) -> bytearray:
    """Stop a push once so many bytes have arrived; what the registry then has."""
    registry.pause = 0.005
    events = push(MODEL, ModelReference.parse(f"{host}/a/large:v1"), store, Access())
    for _ in events:
        if registry.taken > after:
            break
    events.close()
    registry.pause = 0
    (data,) = (upload for upload in registry.uploads.values() if len(upload) > PART)
    size = -1
    while size != len(data):  # until the last request's thread has all that was on its way
        size = len(data)
        time.sleep(0.3)
    return data


def test_a_push_that_was_stopped_goes_on(tiny_store: Store, weights: bytes) -> None:
    """The upload is written down; what the registry has is not sent again."""
    with stand_in() as (registry, host):
        stopped(tiny_store, registry, host, 20 << 20)
        before = registry.taken
        assert "a/large:v1" not in registry.manifests
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert registry.taken < SIZE * 1.05
        assert registry.taken - before < SIZE * 0.55


def test_what_was_on_its_way_still_arrives(tiny_store: Store, weights: bytes) -> None:
    """A registry that still writes the last part is waited for: nothing is sent twice."""
    with stand_in() as (registry, host):
        data = stopped(tiny_store, registry, host, 12 << 20)
        looks: list[int] = []

        def late(handler: Handler) -> bool:
            if handler.command != "GET" or "/uploads/" not in handler.path:
                return False
            looks.append(len(data))
            handler.stands(204, handler.path.partition("?")[0], data)
            if len(looks) < 4:
                data.extend(weights[len(data) : len(data) + (1 << 20)])
            return True

        registry.before = late
        before = len(data)
        assert pushed(tiny_store, host).moved == SIZE - before - (3 << 20)
        assert looks == [before + (more << 20) for more in (0, 1, 2, 3, 3)]
        check(registry, tiny_store, weights)


@pytest.mark.parametrize("after", [12 << 20, 35 << 20], ids=["a part", "the last part"])
def test_what_arrives_later_than_it_was_asked_for(
    tiny_store: Store, weights: bytes, after: int
) -> None:
    """The registry seemed to have all of it, and then has more: the push goes on behind that."""
    with stand_in() as (registry, host):
        data = stopped(tiny_store, registry, host, after)
        before = len(data)

        def late(handler: Handler) -> bool:
            if handler.command in ("PATCH", "PUT") and len(data) == before:
                data.extend(weights[before : before + 5])
            return False

        registry.before = late
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        begins = [int(h["content-range"].partition("-")[0]) for h in registry.asked("PATCH")]
        begins += [
            int(h.get("content-range", "0-").partition("-")[0]) for h in registry.asked("PUT")
        ]
        assert {before, before + 5} <= set(begins)
        assert len(registry.asked("POST")) == 2


def test_what_a_cut_left_may_be_wrong(tiny_store: Store, weights: bytes) -> None:
    """The registry refuses what was put together, and gets it whole: that is no damage here."""
    with stand_in() as (registry, host):
        data = stopped(tiny_store, registry, host, 12 << 20)
        data[5] ^= 1
        before = len(data)
        assert pushed(tiny_store, host).moved == 2 * SIZE - before
        check(registry, tiny_store, weights)


def test_two_pushes_at_once_have_an_upload_each(tiny_store: Store, weights: bytes) -> None:
    """The second does not go on with what the first is sending."""
    with stand_in() as (registry, host):
        second_ended = threading.Event()

        def hold(handler: Handler) -> bool:
            if handler.command == "PATCH" and len(registry.asked("PATCH")) == 2:
                assert second_ended.wait(60)
            return False

        registry.before = hold
        reference = ModelReference.parse(f"{host}/a/large:v1")
        first = push(MODEL, reference, tiny_store, Access())
        while len(registry.asked("PATCH")) < 2:
            next(first)
        assert pushed(tiny_store, host).moved >= SIZE
        second_ended.set()
        *_, last = first
        assert isinstance(last, Transferred) and last.moved >= SIZE
        check(registry, tiny_store, weights)


def test_a_record_ends_with_the_blob(tiny_store: Store, weights: bytes) -> None:
    """Also where somebody else brought it meanwhile."""
    with stand_in() as (registry, host):
        stopped(tiny_store, registry, host, 12 << 20)
        registry.add(weights)
        assert pushed(tiny_store, host).moved < 1000
        check(registry, tiny_store, weights)


def test_a_record_of_an_upload_leads_to_no_other_host(tiny_store: Store, weights: bytes) -> None:
    """Whoever changed it gets nothing."""
    with stand_in() as (other, there), stand_in() as (registry, host):
        stopped(tiny_store, registry, host, 12 << 20)
        (record,) = (tiny_store.private / "partial").glob("push-*")
        record.write_text(record.read_text().replace(host, there))
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert other.requests == []


def test_a_blob_that_is_kept_elsewhere_is_there(tiny_store: Store, weights: bytes) -> None:
    """A registry that leads to its storage has it; the storage's address is not for HEAD."""
    with stand_in() as (registry, host):
        pushed(tiny_store, host)
        registry.requests.clear()

        def lead(handler: Handler) -> bool:
            if handler.command == "HEAD" and "/blobs/" in handler.path:
                handler.answer(307, location="https://storage.invalid/signed-for-get")
                return True
            return False

        registry.before = lead
        assert pushed(tiny_store, host).moved == 0
        assert registry.asked("POST") == []


def test_no_right_to_push(tiny_store: Store, weights: bytes) -> None:
    """Is known before a byte is sent."""
    with stand_in() as (registry, host):

        def refuse(handler: Handler) -> bool:
            handler.body()
            handler.answer(403, b'{"errors":[{"message":"denied: no right"}]}')
            return True

        registry.before = refuse
        with pytest.raises(DeniedError):
            pushed(tiny_store, host)
        assert registry.taken == 0


def test_a_blob_that_is_damaged_here(tiny_store: Store, weights: bytes) -> None:
    """Is found out by the registry's digest, and the hint says how to look."""
    from mbuild.core.digest import Digest

    path = tiny_store.blobs.path(Digest.parse(digest_of(weights)))
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"other")
    with stand_in() as (registry, host):
        with pytest.raises(RegistryError, match="not that digest") as caught:
            pushed(tiny_store, host)
        assert "mbuild verify" in caught.value.hint
        assert "a/large:v1" not in registry.manifests


def test_a_registry_that_refuses_ranges_gets_one_request(tiny_store: Store, weights: bytes) -> None:
    """As ghcr does: 416 to the first part, and any size in one request."""
    with stand_in() as (registry, host):

        def refuse(handler: Handler) -> bool:
            if handler.command == "PATCH":
                handler.body()
                handler.answer(416)
                return True
            return False

        registry.before = refuse
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert len(registry.asked("PATCH")) == 1


def test_a_registry_that_forgets_parts_gets_one_request(tiny_store: Store, weights: bytes) -> None:
    """It takes the first part and answers 404 to the second, twice: not for ever."""
    with stand_in() as (registry, host):

        def forget(handler: Handler) -> bool:
            if handler.command == "PATCH" and not handler.headers["content-range"].startswith("0-"):
                handler.body()
                handler.answer(404)
                return True
            return False

        registry.before = forget
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert len(registry.asked("PATCH")) == 4
        assert registry.taken <= SIZE + 2 * PART + 2000


def test_a_registry_that_takes_neither_is_given_up(tiny_store: Store, weights: bytes) -> None:
    """Nothing larger than a part that is too small: an end, and no more bytes than a few tries."""
    with stand_in() as (registry, host):
        registry.largest_part = 1000
        with pytest.raises(RegistryError, match=f"cannot be pushed to {host}: status 413"):
            pushed(tiny_store, host)
        assert registry.taken < 200_000


def test_a_registry_that_cuts_and_forgets_is_given_up(tiny_store: Store, weights: bytes) -> None:
    """What was sent and lost again is no progress, so that the tries come to an end."""
    with stand_in() as (registry, host):
        registry.keeps_cut_parts = False

        def cut(handler: Handler) -> bool:
            if handler.command == "PATCH":
                registry.cut_upload_after = 20 << 20
            return False

        registry.before = cut
        with pytest.raises(UnreachableError):
            pushed(tiny_store, host)
        assert registry.taken <= TRIES * (21 << 20)
        assert "a/large:v1" not in registry.manifests


def test_a_busy_registry_says_when_to_go_on(tiny_store: Store, weights: bytes) -> None:
    """``Retry-After`` in the middle of an upload: not before, and the part is sent once more."""
    with stand_in() as (registry, host):
        busy: list[float] = []

        def wait(handler: Handler) -> bool:
            if handler.command == "PATCH" and len(registry.asked("PATCH")) == 2 and not busy:
                handler.body()
                busy.append(time.monotonic())
                handler.answer(429, retry_after="1")
                return True
            if busy and len(busy) == 1 and handler.command == "PATCH":
                busy.append(time.monotonic())
            return False

        registry.before = wait
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert busy[1] - busy[0] >= 1
        assert registry.taken < SIZE + 2000


def test_an_upload_elsewhere_never_sees_the_login(
    tiny_store: Store, weights: bytes, tmp_path: Path
) -> None:
    """Where the registry has the bytes sent to another host, the login stays behind."""
    with stand_in() as (storage, there), stand_in() as (registry, host):
        keep(host, Login("mario", "secret"))
        storage.blobs = registry.blobs

        def guard(handler: Handler) -> bool:
            if handler.headers.get("authorization") is None:
                handler.body()
                handler.answer(401, www_authenticate='Basic realm="x"')
                return True
            if handler.command == "POST":
                key = f"k{len(storage.uploads)}"
                storage.uploads[key] = bytearray()
                place = f"http://{there}/v2/a/large/blobs/uploads/{key}?sign=a%2Fb"
                handler.answer(202, location=place)
                return True
            return False

        registry.before = guard
        pushed(tiny_store, host)
        check(registry, tiny_store, weights)
        assert storage.requests and all(
            "sign=" in path or "state=" in path for _, path, _ in storage.requests
        )
        assert not any("authorization" in headers for _, _, headers in storage.requests)


# --- what the registry has is damaged -----------------------------------------------------------


def damaged(registry: StandIn, store: Store, weights: bytes, host: str) -> str:
    """Push the model and cut its weights in the registry; their digest."""
    pushed(store, host)
    digest = digest_of(weights)
    registry.blobs[digest] = weights[:-5]
    registry.requests.clear()
    return digest


def test_a_blob_with_another_size_is_sent_again(tiny_store: Store, weights: bytes) -> None:
    """To a registry that takes it."""
    with stand_in() as (registry, host):
        damaged(registry, tiny_store, weights, host)
        assert pushed(tiny_store, host).moved == SIZE
        check(registry, tiny_store, weights)


@pytest.mark.parametrize("status", [201, 400])
def test_a_registry_that_keeps_the_damaged_blob(
    tiny_store: Store, weights: bytes, status: int
) -> None:
    """It ignores the second copy, as distribution does, or refuses it: that is no success."""
    with stand_in() as (registry, host):
        digest = damaged(registry, tiny_store, weights, host)

        def ignore(handler: Handler) -> bool:
            if handler.command != "PUT" or digest not in handler.path:
                return False
            handler.body()
            handler.answer(status)
            return True

        registry.before = ignore
        with pytest.raises(RegistryError, match=f"has {SIZE - 5} bytes as blob {digest}") as caught:
            pushed(tiny_store, host)
        assert "remove it in the registry first" in caught.value.hint


def test_a_registry_that_says_no_sizes(tiny_store: Store, weights: bytes) -> None:
    """Every blob has 0 bytes there: nothing is held to be damaged, or sent again."""
    with stand_in() as (registry, host):

        def no_size(handler: Handler) -> bool:
            if handler.command != "HEAD" or handler.path.rpartition("/")[2] not in registry.blobs:
                return False
            handler.answer(200)
            return True

        registry.before = no_size
        pushed(tiny_store, host)
        assert pushed(tiny_store, host).moved == 0
        check(registry, tiny_store, weights)


def test_a_slice_of_a_blob(tmp_path: Path) -> None:
    """Counts what goes, begins again, and does not send what is not there."""
    (tmp_path / "blob").write_bytes(b"0123456789")
    sent: list[tuple[int, int]] = []
    with (tmp_path / "blob").open("rb") as file:
        read = partial(read_at, file.fileno())
        part = Slice(read, 2, 5, Digest.of(b"x"), lambda at, count: sent.append((at, count)))
        assert (part.read(3), part.read(9), part.read(1)) == (b"234", b"56", b"")
        assert sent == [(5, 3), (7, 2), (7, 0)]
        assert part.rewound().read() == b"23456"
        with pytest.raises(DamagedError, match="became shorter"):
            Slice(read, 8, 5, Digest.of(b"x"), lambda at, count: None).read()


def test_a_record_of_an_upload(tiny_store: Store, weights: bytes) -> None:
    """Is that of one blob on its way to one repository; what cannot be read is no record."""
    layer = Layer(WEIGHTS, Digest.of(weights), len(weights))
    with stand_in() as (_, host):
        registry = Registry(ModelReference.parse(f"{host}/a/b"), Access(), Cancel())
        record = UploadRecord(tiny_store, registry, layer)
        assert record.read() is None
        record.write(Session("http://there/upload", 5))
        another = UploadRecord(tiny_store, registry, layer)
        assert another.read() is None  # it is that of the push that has it
        another.write(Session("http://elsewhere/upload", 0))
        assert another.read() == Session("http://elsewhere/upload", 0)
        another.remove()
        record.write(Session("http://there/up", 6))
        record.release()
        assert record.read() == Session("http://there/up", 0)
        record.release()
        other = UploadRecord(tiny_store, registry, layer._replace(size=len(weights) + 1))
        assert other.read() is None
        other.release()
        (path,) = (p for p in tiny_store.blobs.partial_folder.iterdir() if "push-" in p.name)
        assert path.stat().st_mode & 0o077 == 0
        path.write_text("{")
        assert record.read() is None
        record.remove()
        assert not path.exists()
        assert record.read() is None
        record.release()
        assert not path.exists()
        if hasattr(os, "mkfifo"):
            os.mkfifo(path)
            assert record.read() is None  # and nobody waits for the pipe's other end
            record.release()


# --- what is no registry, or speaks another protocol ---------------------------------------------


def test_a_site_that_answers_all_with_a_page(tiny_store: Store, weights: bytes) -> None:
    """It has every blob, of another size: that is no damage."""
    page = b"<html>a page</html>"

    def site(handler: Handler) -> bool:
        handler.rfile.read(int(handler.headers.get("content-length", 0)))
        handler.send_response(200)
        handler.send_header("content-length", str(len(page)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(page)
        return True

    with stand_in() as (registry, host):
        registry.before = site
        with pytest.raises(RegistryError, match="is not a registry: its /v2/ is a web page"):
            pushed(tiny_store, host)
        reference = ModelReference.parse(f"{host}/a/large:v1")
        with pytest.raises(RegistryError, match="is not a registry"):
            would_send(MODEL, reference, tiny_store, Access())
        assert {command for command, *_ in registry.requests} <= {"HEAD", "GET"}


class _TlsOnly(socketserver.BaseRequestHandler):
    """Answers as Go's server does: an alert in TLS, and 400 to what is none."""

    def handle(self) -> None:
        first = self.request.recv(1)
        if first == b"\x16":
            self.request.sendall(b"\x15\x03\x01\x00\x02\x02\x28")
            return
        self.request.recv(1 << 16)
        said = b"Client sent an HTTP request to an HTTPS server.\n"
        head = f"HTTP/1.0 400 Bad Request\r\nContent-Length: {len(said)}\r\n\r\n"
        self.request.sendall(head.encode() + said)


def test_http_to_a_host_that_speaks_https(tiny_store: Store, weights: bytes) -> None:
    """It is named, and what to leave out; a dry run does not take 400 for a blob to send."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _TlsOnly) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        reference = ModelReference.parse(f"http://{host}/a/large:v1")
        for act in (push, would_send):
            with pytest.raises(RegistryError, match=f"{host} speaks https") as caught:
                list(act(MODEL, reference, tiny_store, Access()))
            assert "--insecure" in caught.value.hint
        assert speaks_tls("127.0.0.1", server.server_address[1])
        assert not speaks_tls(".127.0.0.1", server.server_address[1])
        server.shutdown()
    assert not speaks_tls("127.0.0.1", server.server_address[1])
