"""Exchanges recorded from Ollama 0.32.15, replayed: the same statuses, keys, types and lines.

``data/recordings`` holds each exchange's request and the form of its answer. Where this
server answers otherwise on purpose, :data:`DIFFERENCES` says so and why; the
documentation lists the same reasons.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from gguf_files import gguf_bytes, tiny_model
from live_server import Server, serving_here

from mbuild.gguf.model import Tensor
from mbuild.gguf.types import GGMLType

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"

DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")

F16_BLOB = "sha256:96ac03d7ab501636eb7674974e78770f3bc609aac33d54ac3529849feb49ebce"
CHATML_BLOB = "sha256:d6fea09a450af89a4572779a3c63eba38b9f4792c560ab80f7dc08bd543fb59a"
F32_BLOB = "sha256:c4c41ccbb92536619f94109fba5c5f56506153af7386f15460e3e1ec9f0ae430"
RECORDED_SIZE = 2701280  # of the F16 model, which the cut ones were cut from


class Difference(NamedTuple):
    """What this server answers instead, and why; ``text`` is part of its answer."""

    status: int
    reason: str
    text: str = ""


def small_model(type_: GGMLType, **metadata: Any) -> bytes:
    """A model whose matrices have rows that every quantization can take."""
    dtype = {GGMLType.F16: np.float16, GGMLType.F32: np.float32}
    rows = (
        ("token_embd.weight", (256, 4), type_),
        ("blk.0.attn_norm.weight", (256,), GGMLType.F32),
        ("blk.0.attn_q.weight", (256, 4), type_),
        ("output_norm.weight", (256,), GGMLType.F32),
    )
    tensors = []
    for number, (name, dims, kind) in enumerate(rows):
        values = np.sin(np.arange(math.prod(dims)) + number).astype(dtype[kind])
        tensors.append(Tensor(name, dims, kind, values.tobytes))
    return gguf_bytes(tiny_model(metadata=metadata, tensors=tensors))


CHAT_TEMPLATE = """\
{%- for turn in messages -%}
    <|im_start|>{{ turn.role }}
{{ turn.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
    <|im_start|>assistant
{% endif -%}
"""
"""A template of our own for the format that Ollama calls chatml."""

F16_MODEL = small_model(GGMLType.F16)
KNOWN = {
    F16_BLOB: F16_MODEL,
    F32_BLOB: small_model(GGMLType.F32, **{"general.file_type": 0}),
    CHATML_BLOB: small_model(GGMLType.F16, **{"tokenizer.chat_template": CHAT_TEMPLATE}),
}


def stand_in(size: int, title: str) -> bytes:
    """Bytes of the kind that the recorded request sent."""
    if "GGUF version" in title:
        return F16_MODEL[:4] + (9).to_bytes(4, "little") + F16_MODEL[8:]
    if "huge counts" in title:
        return F16_MODEL[:8] + b"\xff" * 16 + F16_MODEL[24:]
    if size <= 5:
        return {0: b"", 3: b"abc", 4: F16_MODEL[:4], 5: b"hello"}[size]
    if "cut" in title:
        return F16_MODEL[
            : min(size, max(100 + size // 1000, size * len(F16_MODEL) // RECORDED_SIZE))
        ]
    return b"x" * size


class Replay:
    """Sends one file's requests, with the digests of our own files in place of the recorded."""

    def __init__(self, server: Server, exchanges: list[dict[str, Any]]) -> None:
        self.server = server
        self.exchanges = exchanges
        self.contents = dict(KNOWN)
        for number, exchange in enumerate(exchanges):
            if "blob" in exchange and exchange["blob"][1] not in self.contents:
                size, digest = exchange["blob"]
                following = exchanges[number + 1 :][:1]
                title = following[0]["title"] if following else ""
                if not exchange["path"].endswith("/create"):
                    self.contents[digest] = stand_in(size, title)

    def translate(self, text: str) -> str:
        """A text with our digests."""
        for recorded, data in self.contents.items():
            ours = hashlib.sha256(data).hexdigest()
            text = text.replace(recorded[7:], ours).replace(recorded[7:].upper(), ours.upper())
        return text

    def answer(self, exchange: dict[str, Any]) -> httpx.Response:
        """What our server says to one request."""
        body: bytes | None = None
        if "blob" in exchange:
            body = self.contents.get(exchange["blob"][1])
            if body is None:  # the bodies of 16-headers were not written down
                body = b'{"model":"h1","from":"tiny","stream":false}'
        elif "body" in exchange:
            body = self.translate(exchange["body"]).encode()
        headers = {k: v for k, v in exchange["headers"].items() if k != "Content-Length"}
        path = self.translate(exchange["path"])
        if ".." in path:  # httpx would tidy it up
            return self._raw(exchange["method"], path, body or b"")
        request = httpx.Request(exchange["method"], self.server.url, content=body, headers=headers)
        request.url = request.url.copy_with(raw_path=path.encode())
        return self.server.http.send(request)

    def _raw(self, method: str, path: str, body: bytes) -> httpx.Response:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        answer = self.server.raw(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        lines, _, content = answer.partition(b"\r\n\r\n")
        status, *fields = lines.decode().split("\r\n")
        pairs = [(name, value) for name, _, value in (f.partition(": ") for f in fields)]
        return httpx.Response(int(status.split()[1]), headers=pairs, content=content)


def form(value: Any, key: str = "") -> Any:
    """The keys and types of a JSON value, as the recordings keep them."""
    match value:
        case _ if key in ("model_info", "projector_info"):
            return "object"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
        case list():
            return [form(value[0])] if value else []
        case Mapping():
            return {name: form(item, name) for name, item in value.items()}
    raise TypeError(type(value))


def got_lines(response: httpx.Response) -> list[str]:
    """The stream's statuses without digests and without progress, errors as ``ERROR``."""
    lines = [json.loads(line) for line in response.text.splitlines()]
    return [
        "ERROR" if "error" in line else DIGEST.sub("DIGEST", line["status"])
        for line in lines
        if "completed" not in line
    ]


def mismatch(exchange: dict[str, Any], response: httpx.Response) -> str:
    """What differs from the recorded answer; empty when nothing does."""
    if response.status_code != exchange["status"]:
        return (
            f"status {response.status_code}, recorded {exchange['status']}: {response.text[:200]}"
        )
    if "lines" in exchange:
        lines = got_lines(response)
        return "" if lines == exchange["lines"] else f"{lines}, recorded {exchange['lines']}"
    if "json" in exchange:
        found = form(response.json())
        return "" if found == exchange["json"] else f"{found}, recorded {exchange['json']}"
    if "text" in exchange and response.text != exchange["text"]:
        return f"{response.text!r}, recorded {exchange['text']!r}"
    wanted = exchange.get("answer_headers", {})
    for name in ("Location", "Access-Control-Allow-Origin"):
        if name in wanted and response.headers.get(name) != wanted[name]:
            return f"{name}: {response.headers.get(name)}, recorded {wanted[name]}"
    return ""


TYPES = "parameters are checked: names and types"
EARLY = "an error known before the build begins has its status, streaming or not"
NO_PATHS = "paths on the server are never shown"
NAMES = "names of files are plain relative paths on every system"
LEVELS = "every type of llama-quantize is known, by its names"
STORED = "an uploaded GGUF file is the layer, byte for byte; Ollama rewrites it"

DIFFERENCES: dict[tuple[str, str], Difference] = {
    ("00-basics", "/v1/models"): Difference(200, "an empty list is a list, not null", "[]"),
    ("01-blobs", "malformed digest sha256:" + "A" * 64): Difference(
        400, "a digest is lower case: two spellings would be two files"
    ),
    ("01-blobs", "POST with a sha256- digest (dash) that matches"): Difference(
        201, "both spellings of a digest are taken everywhere"
    ),
    ("02-create-from-gguf", "two GGUF files, not shards"): Difference(
        200, "one model has one file of weights", "FROM gives 2 models"
    ),
    ("03-create-from-model", 'license ["",null]'): Difference(
        200, "layers that no model uses leave `blobs/` at once", "creating new layer"
    ),
    **{
        ("03-create-from-model", f"license {what}"): Difference(
            400, "a wrong request gets 400, not 500"
        )
        for what in ("an object", "a number", "a list of numbers")
    },
    ("03-create-from-model", "case of names"): Difference(
        200, "`from` finds a model in any spelling, as show, copy and delete do"
    ),
    ("03-create-from-model", "both from and files"): Difference(
        400, "`from` and `files` together are an error; Ollama forgets the files"
    ),
    **{
        ("04-parameters", f"parameters {what}"): Difference(400, TYPES)
        for what in (
            '{"temperature": "hot"}',
            '{"temperature": "0.5"}',
            '{"nonsense": 1}',
            '{"num_ctx": 4096.5}',
            '{"num_ctx": "4096"}',
            '{"stop": [1]}',
            '{"use_mmap": "maybe"}',
            '{"top_k": true}',
            '{"seed": 12345678901234567890}',
        )
    },
    **{
        ("04-parameters", f"parameters {what}"): Difference(
            200, "null counts as not given", "success"
        )
        for what in ('{"stop": null}', '{"temperature": null}')
    },
    ("04-parameters", 'parameters {"mirostat": 1}'): Difference(
        200, "a parameter without effect is not stored, and a warning says so", "deprecated"
    ),
    ("05-create-errors", "from an unknown model (no network: pull fails)"): Difference(
        404, "a model without a host that is not there is 404"
    ),
    ("05-create-errors", "from an unknown model on a loopback registry (https)"): Difference(
        403, "one with a host is 403 unless the operator allows that registry", "--registry"
    ),
    ("05-create-errors", "malformed digest"): Difference(400, EARLY, "invalid digest format"),
    ("05-create-errors", "malformed digest, stream false"): Difference(400, EARLY),
    ("05-create-errors", "blob that is not there"): Difference(400, NO_PATHS, "is not there"),
    ("05-create-errors", "safetensors blob that is not there"): Difference(400, NO_PATHS),
    **{
        ("05-create-errors", f"file name {what}"): Difference(400, NAMES)
        for what in (r"'a\\..\\x.gguf'", "'.'", r"'a\x00b.gguf'", r"'C:\\x.gguf'")
    },
    ("05-create-errors", "modelfile (old field) alone"): Difference(
        200, "the text of a Modelfile builds, as it did before Ollama 0.5.5"
    ),
    ("05-create-errors", "requires not a version"): Difference(400, "`requires` is checked"),
    ("07-quantize", "F16 GGUF, quantize f16"): Difference(200, STORED, "creating new layer"),
    **{
        ("07-quantize", f"F16 GGUF, quantize {what}"): Difference(200, LEVELS, "success")
        for what in ("q4_0", "q4_1", "q5_0", "q5_1", "q2_K", "q3_K_M", "q5_K_M", "q6_K", "iq4_nl")
    },
    **{
        ("07-quantize", f"F16 GGUF, quantize {what}"): Difference(400, EARLY, "unknown quantiz")
        for what in ("mxfp4", "nope", "q4", "int4", "nvfp4", "mxfp8")
    },
    ("07-quantize", "from a model already quantized"): Difference(
        400, "a wrong request gets 400, not 500"
    ),
    ("07-quantize", "from a model already quantized to that type"): Difference(
        200, "a model that has the type asked for is taken as it is", "using existing layer"
    ),
    **{
        ("07-quantize", f"F32 to {what}"): Difference(200, "F32 models are quantized", "success")
        for what in ("f16", "q8_0")
    },
}
"""Where this server answers otherwise, by file and by the exchange's title, else its path."""


def prepare(server: Server, file: str) -> None:
    """What the recorded server had before the file's first request."""
    if file[:2] in ("00", "01"):
        return
    digest = server.upload(F16_MODEL)
    if file[:2] == "02":
        return
    server.create(model="tiny", files={"t.gguf": digest}, stream=False).raise_for_status()
    if file[:2] == "03":
        server.upload(KNOWN[CHATML_BLOB])
    if file[:2] == "05":
        server.upload(b"")
    if file[:2] == "09":
        mario = {"from": "tiny", "system": "You are Mario.", "license": ["MIT", "Apache"]}
        texts = {"template": "{{ .System }} {{ .Prompt }}", "parameters": {"stop": ["<a>"]}}
        talk = [{"role": "user", "content": "Hi"}]
        server.create(model="mario", **mario, **texts, messages=talk).raise_for_status()


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_exchanges(path: Path, tmp_path: Path) -> None:
    """Every recorded request is answered in the recorded form, or as DIFFERENCES says."""
    exchanges = json.loads(path.read_text())
    wrong = []
    used = set()
    with serving_here(tmp_path / "store") as server:
        prepare(server, path.stem)
        replay = Replay(server, exchanges)
        for exchange in exchanges:
            response = replay.answer(exchange)
            found = mismatch(exchange, response)
            key = (path.stem, exchange["title"] or exchange["path"])
            expected = DIFFERENCES.get(key)
            if found and expected and response.status_code == expected.status:
                used.add(key)
                found = "" if expected.text in response.text else response.text
            if found:
                wrong.append(f"{exchange['title']}: {exchange['method']} {found}")
    assert not wrong, "\n".join(wrong)
    assert used == {key for key in DIFFERENCES if key[0] == path.stem}


def test_differences_are_documented() -> None:
    """The documentation gives every reason for which an answer differs from Ollama's."""
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    flat = " ".join(text.split())
    missing = {d.reason for d in DIFFERENCES.values()} - {
        d.reason for d in DIFFERENCES.values() if d.reason in flat
    }
    assert not missing
