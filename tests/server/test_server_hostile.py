"""Hostile requests and files: always a JSON error, nothing left, no path told, the server alive."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gguf_files import gguf_bytes, tiny_model
from live_server import LiveServer, files_below, serving
from stores import copy_tiny_store

DATA = Path(__file__).parents[1] / "data"
BAD_GGUF = DATA / "bad_gguf"
BAD_SAFETENSORS = DATA / "bad_safetensors"

MEMORY_LIMIT = 150 << 20

END = b" HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all attacks; afterwards it has neither grown nor gathered files."""
    folder = tmp_path_factory.mktemp("hostile")
    root = copy_tiny_store(folder / "store")
    with serving(root) as server:
        for _ in range(3):
            server.http.get("/api/tags")
        idle = server.memory()
        before = files_below(folder)
        yield server
        assert server.http.get("/api/version").is_success
        assert server.memory() - idle < MEMORY_LIMIT
        new = files_below(folder) - before
        assert not [path for path in new if "/.mbuild/tmp/" in path or "manifests" in path]
        assert all(path.startswith("store/") for path in new)


def check_refusal(server: LiveServer, answer: httpx.Response) -> str:
    """A 4xx with JSON, or an error line at the end of a stream; no path of the machine in it."""
    text = answer.text
    for word in (str(server.root), os.path.expanduser("~") + "/", "Traceback", ".py"):
        assert word not in text, text
    last = json.loads(text.splitlines()[-1])
    assert list(last) == ["error"], text
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, text
    return str(last["error"])


NAMES = [
    "../../../tmp/x", "/etc/x", "a/b/c/d", "a//b", "a:b:c", ".", "..", "a:..", "x" * 81,
    "é", "a\0b", "a\nb", "-a", "a b", "a\\b", "",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_models(server: LiveServer, name: str) -> None:
    """No name leads out of the store, whatever the request."""
    bodies = (
        ("POST", "/api/create", {"model": name, "from": "tiny"}),
        ("POST", "/api/create", {"model": "x", "from": name}),
        ("POST", "/api/show", {"model": name}),
        ("POST", "/api/copy", {"source": "tiny", "destination": name}),
        ("POST", "/api/copy", {"source": name, "destination": "x"}),
        ("DELETE", "/api/delete", {"model": name}),
        ("POST", "/api/pull", {"model": name}),
        ("POST", "/api/push", {"model": name}),
        ("POST", "/api/generate", {"model": name, "keep_alive": 0}),
    )
    for method, path, body in bodies:
        answer = server.http.request(method, path, json=body)
        none = path == "/api/generate" and not name  # Ollama finds no model of that name
        assert answer.status_code == (404 if none else 400), (path, answer.text)
        check_refusal(server, answer)


def test_device_names_are_only_names(server: LiveServer) -> None:
    """``CON`` is a model's name like any other, and is not there."""
    answer = server.http.request("DELETE", "/api/delete", json={"model": "CON"})
    assert answer.status_code == 404


@pytest.mark.parametrize("name", ["../x.gguf", "/etc/x.gguf", "a/../x.gguf", "a\\..\\x.gguf", ".",
                                  "..", "", "x/", "a\0b", "C:\\x.gguf", "a//b", "\u202ex.gguf"],
                         ids=ascii)  # fmt: skip
def test_names_of_files(server: LiveServer, name: str) -> None:
    """``files``, ``adapters`` and ``draft_files`` take plain relative names only."""
    digest = server.upload(gguf_bytes(tiny_model()))
    for key in ("files", "adapters", "draft_files"):
        body = {"model": "x", **({"from": "tiny"} if key != "files" else {}), key: {name: digest}}
        answer = server.create(**body)
        assert answer.status_code == 400
        check_refusal(server, answer)


def test_no_oracle_for_files(server: LiveServer) -> None:
    """Existing and missing paths get the same answer everywhere."""
    for key in ("path", "from", "modelfile"):
        texts = set()
        for path in ("/etc/passwd", "/etc/no-such-file"):
            value = f"FROM {path}" if key == "modelfile" else path
            answer = server.create(model="x", **{key: value})
            texts.add((answer.status_code, check_refusal(server, answer).replace(path, "PATH")))
        assert len(texts) == 1 and texts.pop()[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"[" * 200_000,
        b'{"model":' * 100_000,
        b'{"model": NaN}',
        b'{"model": 1}',
        b'{"model": "x", "from": "tiny", "parameters": {"num_ctx": ' + b"9" * 5000 + b"}}",
        b'{"model": "x", "from": "tiny", "parameters": {"temperature": 1e999}}',
        b'{"model": "x", "from": "tiny", "template": "' + b"{{if .X}}" * 4_000 + b'"}',
        b'{"model": "x", "from": "tiny", "template": "{{ nofunc }}"}',
        b'{"model": "x", "from": "tiny", "messages": [1]}',
        b'{"model": "x", "from": "tiny", "license": {"a": 1}}',
        b'{"model": "x", "from": "tiny", "quantize": "../../x"}',
        b'{"model": "x", "from": "tiny", "requires": "' + b"1." * 50_000 + b'"}',
        b'{"model": "x", "modelfile": "' + b"\\n" * 50_000 + b'"}',
        b'{"model": "x", "modelfile": "FROM tiny\\nTEMPLATE \\"\\"\\"{{"}',
        b'{"model": "x", "files": {"a.gguf": null}}',
        b'{"model": "x", "from": "tiny", "info": {"capabilities": [1]}}',
        b"\xff\xfe{}",
        b"\0" * 1000,
    ],
    ids=lambda body: body[:40].decode("ascii", "replace"),
)  # fmt: skip
def test_bodies(server: LiveServer, body: bytes) -> None:
    """Every body that is wrong is refused, with JSON, after little work, and builds nothing."""
    before = server.worked()
    answer = server.http.post("/api/create", content=body)
    assert 400 <= answer.status_code < 500
    check_refusal(server, answer)
    assert server.worked() - before < 5
    assert not list((server.root / "manifests").rglob("x"))


def test_bodies_that_are_too_large(server: LiveServer) -> None:
    """A declared or a sent gigabyte, and millions of values, are 413 before they are in memory."""
    head = b"POST /api/create HTTP/1.1\r\nHost: localhost\r\n"
    declared = server.raw(head + b"Content-Length: 1073741824\r\n\r\n")
    assert declared.startswith(b"HTTP/1.1 413") and b'{"error":' in declared

    def pieces() -> Iterator[bytes]:
        for _ in range(70):
            yield b" " * (1 << 20)

    sent = server.http.post("/api/show", content=pieces())
    assert sent.status_code == 413
    many = b'{"model": [' + b"[]," * 2_000_000 + b"1]}"
    assert server.http.post("/api/show", content=many).status_code == 413


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /api/show" + END + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/show" + END + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello",
        b"GET /" + END + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + END + b"Host: evil.com\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /\0" + END + b"\r\n",
    ],
    ids=["two lengths", "negative chunk", "huge header", "two hosts", "no HTTP", "NUL"],
)
def test_framing(server: LiveServer, request_: bytes) -> None:
    """What is not one well-formed request is refused and the connection closed."""
    try:
        answer = server.raw(request_)
    except (BrokenPipeError, ConnectionResetError):
        answer = b""
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert server.http.get("/api/version").is_success


def test_a_length_and_chunks_at_once(server: LiveServer) -> None:
    """Refused, and the rest is not taken for a second request: the connection ends."""
    head = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
    body = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/tags HTTP/1.1\r\n\r\n"
    answer = server.raw(head + body)
    assert answer.count(b"HTTP/1.1") == 1 and answer.startswith(b"HTTP/1.1 400")


def test_slow_clients_hold_up_nobody(server: LiveServer) -> None:
    """Many that send a byte now and then do not keep others from being answered."""
    socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    head = b"POST /api/blobs/sha256:" + b"0" * 64 + b" HTTP/1.1\r\nHost: localhost\r\n"
    for number, sock in enumerate(socks):
        sock.sendall(head + b"Content-Length: 100\r\n\r\nx" if number % 2 else b"POST /api/cr")
    began = time.monotonic()
    assert server.http.get("/api/tags").is_success
    assert time.monotonic() - began < 2
    for sock in socks:
        sock.close()


def _bad(folder: Path) -> list[Path]:
    index = json.loads((folder / "index.json").read_text())
    return [folder / name for name, row in index.items() if row["expect"] == "refuse"]


@pytest.mark.parametrize("path", _bad(BAD_GGUF), ids=lambda path: path.stem)
def test_bad_gguf(server: LiveServer, path: Path) -> None:
    """Uploaded and created: an error that names the file as the request did."""
    digest = server.upload(path.read_bytes())
    for fields in ({"files": {"m.gguf": digest}}, {"modelfile": f"FROM @{digest}"}):
        check_refusal(server, server.create(model="bad", **fields))
        answer = server.create(model="bad", stream=False, **fields)
        assert answer.status_code == 400
        check_refusal(server, answer)


@pytest.mark.parametrize("path", _bad(BAD_SAFETENSORS), ids=lambda path: path.stem)
def test_bad_safetensors(server: LiveServer, path: Path) -> None:
    """As weights and as an adapter: an error, and the server lives."""
    spec = json.loads((DATA / "convert" / "llama.json").read_text())
    texts = {name: json.dumps(value).encode() for name, value in spec["files"].items()}
    files = {name: server.upload(data) for name, data in texts.items()}
    digest = server.upload(path.read_bytes())
    answer = server.create(model="bad", files={**files, "model.safetensors": digest}, stream=False)
    assert answer.status_code == 400
    check_refusal(server, answer)
    config = server.upload(b'{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    adapters = {"adapter_model.safetensors": digest, "adapter_config.json": config}
    answer = server.create(model="bad", **{"from": "tiny"}, adapters=adapters, stream=False)
    assert answer.status_code == 400
    check_refusal(server, answer)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ 'x' * 10**9 }}",
        "{{",
        "{%" * 20_000,
        "x" * (2 << 20),
        *(path.read_text() for path in sorted((DATA / "bad_jinja").glob("*.jinja"))),
    ],
    ids=lambda text: text[:30],
)
def test_chat_templates_are_data(server: LiveServer, template: str) -> None:
    """A model's own template runs nowhere: it builds in a moment, or is an error."""
    digest = server.upload(gguf_bytes(tiny_model(metadata={"tokenizer.chat_template": template})))
    before = server.worked()
    answer = server.create(model="templated", files={"m.gguf": digest}, stream=False)
    assert answer.status_code in (200, 400)
    assert server.worked() - before < 5
    assert "root:" not in server.http.post("/api/show", json={"model": "templated"}).text
    server.http.request("DELETE", "/api/delete", json={"model": "templated"})
