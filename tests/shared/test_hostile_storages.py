"""Storages that lack something, lie, change under one's hands, or hold what nobody put there."""

from __future__ import annotations

import http.client
import http.server
import os
import subprocess
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import Run
from example_models import settle, write_chat
from fakes_shared import MemoryStorage
from fakes_store import MemoryBlobs
from filesystems import small_file_system
from inprocess import in_process
from shared_storages import TOKEN, bucket, storage
from typing_extensions import Buffer

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import DeniedError, UnreachableError, UsageError
from mbuild.shared.cache import TeamCache
from mbuild.shared.disk import clear
from mbuild.shared.folder import FolderStorage
from mbuild.shared.locations import Location
from mbuild.shared.naming import blob_name, lease_name, record_name
from mbuild.shared.storages import open_storage
from mbuild.store import records
from mbuild.store.records import ALIAS

KEY = "ab" * 32
DATA = b"bytes of a layer" * 1000
DIGEST = Digest.of(DATA)
LINKS = ("link", "link to nothing", "link to itself", "pipe", "folder", "device")


def put_there(path: Path, what: str, target: Path) -> None:
    """Something that is no file of the cache's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        leads = {"link to nothing": path.with_name("nothing"), "link to itself": path}
        path.symlink_to(leads.get(what, target))


@pytest.mark.parametrize("what", LINKS)
def test_what_is_no_file_of_the_folder_is_no_object(what: str, tmp_path: Path) -> None:
    """Nothing is read through it, nobody waits for it, and nothing behind it is written."""
    root, target = tmp_path / "cache", tmp_path / "secret"
    target.write_bytes(DATA)
    found = FolderStorage(root, "cache", writes=True)
    blob, record = blob_name(DIGEST), record_name(records.STEP, KEY)
    for name in (blob, record):
        put_there(found.path(name), what, target)
    assert found.read_many([record]) == {} == found.sizes([blob, record])
    assert found.read_range(blob, 0, 10) is None
    assert b"".join(found.stream(blob, len(DATA))) == b""
    if what != "folder":
        found.write_many({record: b"{}"})
        assert found.read_many([record]) == {record: b"{}"}
        assert clear(found, -3600).removed.objects == 2
        assert not os.path.lexists(found.path(blob))
    assert target.read_bytes() == DATA


def test_a_server_gives_nothing_through_a_link(tmp_path: Path) -> None:
    """Whoever may put a link into its folder shows nobody the server's files."""
    with storage("serve", tmp_path / "served") as (url, _):
        path = tmp_path / "served" / "cache" / "v1" / blob_name(DIGEST)
        (tmp_path / "secret").write_bytes(DATA)
        put_there(path, "link", tmp_path / "secret")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.get(f"{url}/cas/{DIGEST.hex}", headers=headers, trust_env=False)
        assert answer.status_code == 404
        for path_ in ("cas/../../secret", "ac/..%2f..%2fsecret", f"cas/{DIGEST.hex}/../x"):
            answer = httpx.get(f"{url}/{path_}", headers=headers, trust_env=False)
            assert answer.status_code in (404, 405) and DATA not in answer.content


# What S3 has and what only looks like it has not.


class _Like(http.server.BaseHTTPRequestHandler):
    """In front of a server of S3: ``If-None-Match`` is not known, or refused."""

    protocol_version = "HTTP/1.1"
    upstream: str
    refuses: bool

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("if-none-match") and self.refuses:
            text = b"<Error><Code>NotImplemented</Code><Message>no such header</Message></Error>"
            self._answer(501, {"content-type": "application/xml"}, text)
            return
        kept = {k: v for k, v in self.headers.items() if k.lower() != "if-none-match"}
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        connection.request(self.command, self.path, body, kept)
        answer = connection.getresponse()
        data = answer.read()
        fields = {k: v for k, v in answer.getheaders() if k.lower() not in _HOPS}
        size = answer.getheader("content-length") if self.command == "HEAD" else None
        self._answer(answer.status, fields, data, size)
        connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def _answer(
        self, status: int, fields: Mapping[str, str], data: bytes, size: str | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("content-length", size or str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


_HOPS = ("content-length", "connection", "transfer-encoding", "keep-alive")


@contextmanager
def like_s3(*, refuses: bool) -> Iterator[tuple[str, Mapping[str, str]]]:
    """moto's server behind one that knows no conditions."""
    url, environment = bucket()
    upstream = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    handler = type("Handler", (_Like,), {"upstream": upstream, "refuses": refuses})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield url, {**environment, "AWS_ENDPOINT_URL": place}
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("refuses", [False, True], ids=["ignored", "refused"])
def test_a_bucket_without_conditions_is_used_all_the_same(
    refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases are looked for before and after they are written, as where nobody can tell."""
    with like_s3(refuses=refuses) as (url, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        warnings: list[str] = []
        caches = [
            TeamCache(
                [], open_storage(Location.parse(url)), MemoryBlobs(tmp_path), warn=warnings.append
            )
            for _ in range(2)
        ]
        one, two = caches
        assert not one.exclusive and one.take(KEY) is not None
        assert two.take(KEY) is None and two.held(KEY) is not None
        one.put(ALIAS, "x", Digest("0" * 64, BLAKE3))
        list(one.drain())
        assert two.get_many(ALIAS, ["x"]) == {"x": Digest("0" * 64, BLAKE3)}
        for cache in caches:
            cache.close()
        assert warnings == []


def test_who_may_not_write_is_not_asked_without_a_condition(tmp_path: Path) -> None:
    """A refusal of the user is none of the condition: one warning, and reading goes on."""
    held, warnings = MemoryStorage(), list[str]()

    def refuse(*arguments: object) -> bool:
        raise DeniedError("403")

    held.create = held.write_many = refuse  # type: ignore[method-assign,assignment]
    cache = TeamCache([], held, MemoryBlobs(tmp_path), warn=warnings.append)
    cache.take(KEY)
    assert cache.reads and not cache.writes and len(warnings) == 1
    cache.close()


class Late(MemoryStorage):
    """What is written is there for others a number of questions later, as in old object stores."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self._questions = questions
        self._coming: list[tuple[int, str, bytes]] = []

    def _ask(self, what: str, names: Collection[str]) -> None:
        super()._ask(what, names)
        for row in [row for row in self._coming if row[0] <= len(self.asked)]:
            self._coming.remove(row)
            self.held[row[1]] = row[2]

    def write_many(
        self, objects: Mapping[str, Buffer], blobs: Mapping[str, Mapping[Digest, int]] = {}
    ) -> None:
        """Write, later."""
        self._ask("write", objects)
        when = len(self.asked) + self._questions
        self._coming += [(when, name, bytes(data)) for name, data in objects.items()]


@pytest.mark.parametrize("questions", [1, 5, 30])
def test_what_comes_late_is_a_miss_until_it_comes(questions: int, tmp_path: Path) -> None:
    """A record before its blob, or a blob before its record: neither is an error."""
    held, warnings = Late(questions), list[str]()
    machines = [TeamCache([], held, MemoryBlobs(tmp_path), warn=warnings.append) for _ in "12"]
    one, two = machines
    one.put_piece(KEY, DATA, Digest.of(DATA, BLAKE3))
    list(one.drain())
    data = None
    for _ in range(questions + 5):
        place = two.places([KEY], again=True).get(KEY)
        data = two.read_piece(place) if place is not None else None
        assert data in (None, DATA)
    assert data == DATA and warnings == []
    lease = one.take(KEY)
    assert lease is not None
    lease.release()
    list(one.drain())
    assert lease_name(KEY) not in held.held
    for each in machines:
        each.close()


# A folder that changes while builds use it.


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, over a small checkpoint."""
    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    settle()
    return in_process(tmp_path, monkeypatch)


def built(mbuild: Run, *options: str) -> tuple[str, list[str]]:
    """The id of a build that goes well, and what it warned of."""
    done = mbuild("-q", "q4_0", "-t", "m", *options, "--progress", "plain")
    assert done.returncode == 0, done.stderr
    shown = mbuild("list", "--format", "json", *options[-2:]).stdout
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    return shown.partition('"id"')[2][:80], warnings


def test_a_folder_that_is_full_or_read_only(mbuild: Run, tmp_path: Path) -> None:
    """One warning with the remedy, and the model that it would be without a cache."""
    plain, _ = built(mbuild, "--store", "plain")
    with small_file_system(tmp_path / "disk") as disk:
        (disk / "other").write_bytes(bytes((1 << 20) - (96 << 10)))
        found, warnings = built(mbuild, "--cache-to", str(disk / "cache"), "--store", "full")
        assert found == plain and len(warnings) == 1
        assert "No space left on device" in warnings[0] and "free space" in warnings[0]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        found, warnings = built(mbuild, "--cache-to", str(disk / "cache"), "--store", "readonly")
        assert found == plain and len(warnings) == 1 and "Read-only" in warnings[0]


@pytest.mark.parametrize("moment", [1, 2, 4])
def test_a_folder_that_is_removed_in_the_middle(
    moment: int, mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first objects are written, or others: the model is there all the same."""
    plain, _ = built(mbuild, "--store", "plain")
    count, write = 0, FolderStorage.write_many

    def removing(self: FolderStorage, *arguments: object) -> None:
        nonlocal count
        count += 1
        if count == moment:  # in one step: others go on writing meanwhile
            (tmp_path / "cache").rename(tmp_path / "removed")
        write(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FolderStorage, "write_many", removing)
        found, warnings = built(mbuild, "--cache-to", "cache", "--store", "other")
    assert found == plain and len(warnings) <= 1
    found, _ = built(mbuild, "--cache-from", "cache", "--store", "third")
    assert found == plain


@pytest.mark.parametrize(
    "text",
    [
        "https:/user:secret@host/cache",
        "https:user:secret@host",
        "s3:secret@bucket",
        "OCI:/user:secret@host/x",
        "sftp:/me:secret@host/srv",
        "http;//secret@host",
    ],
)
def test_a_url_with_a_slip_shows_no_secret(text: str) -> None:
    """It is no folder's name, which a message would quote."""
    with pytest.raises(UsageError) as caught:
        Location.parse(text)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


def test_a_storage_that_fails_is_unreachable_not_wrong(tmp_path: Path) -> None:
    """Where neither way of writing a lease is taken, nothing is claimed."""
    held, warnings = MemoryStorage(), list[str]()

    def fail(*arguments: object) -> bool:
        raise UnreachableError("500")

    held.create = held.write_many = fail  # type: ignore[method-assign,assignment]
    cache = TeamCache([], held, MemoryBlobs(tmp_path), warn=warnings.append)
    assert cache.take(KEY) is not None, "a lost lease only costs work"
    assert not cache.reads and len(warnings) == 1
    cache.close()
