"""Images in prompts: a small model with its projector, both built here, run by llama.cpp."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import Server, serving_here
from multimodal_models import layers, write_vlm
from smollm import CHATML

from mbuild.runtime.process import has_engine

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

OPTIONS = {"num_predict": 2, "temperature": 0}
LOOK = {"role": "user", "content": "What is this?"}


def png(red: int, green: int, blue: int, side: int = 16) -> bytes:
    """A square of one color (PNG, 8 bits, RGB)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    rows = (b"\0" + bytes((red, green, blue)) * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


RED, BLUE = png(255, 0, 0), png(0, 0, 255)


def by_gguf_package(source: Path, target: Path) -> None:
    """The same file as llama.cpp's own package writes it."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    writer = GGUFWriter(target, "clip")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, *inner = field.types
        sub = inner[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store: ``sees`` as one build makes it, ``other`` with a foreign projector."""
    folder = tmp_path_factory.mktemp("images")
    write_vlm(folder / "vlm")

    def build(name: str, *lines: str) -> None:
        settings = f'TEMPLATE """{CHATML}"""\nPARAMETER num_thread 1\nPARAMETER num_ctx 2048\n'
        (folder / "Modelfile").write_text("\n".join([*lines, settings]))
        command = [sys.executable, "-m", "mbuild", "--store", str(folder / "store"), "-t", name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    build("sees", "FROM ./vlm")
    made = layers(folder, "sees/latest")
    by_gguf_package(made["projector"], folder / "mmproj.gguf")
    build("other", f"FROM {made['model']}", "FROM ./mmproj.gguf")
    build("blind", f"FROM {made['model']}")
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with serving_here(root / "store", engine="") as running:
        yield running


def chat(server: Server, model: str, *images: bytes, status: int = 200) -> dict[str, Any]:
    """The answer about images."""
    message = {**LOOK, "images": [text(image) for image in images]}
    body = {"model": model, "messages": [message], "options": OPTIONS, "stream": False}
    answer = server.http.post("/api/chat", json={**body, "logprobs": True, "top_logprobs": 5})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("model", ["sees", "other"])
def test_a_model_looks_at_images(server: Server, model: str) -> None:
    """Each is some tokens of the prompt; other colors give other probabilities, the same the same.

    So it is with a projector of mbuild's, and with one that the package gguf wrote.
    """
    assert "vision" in server.http.post("/api/show", json={"model": model}).json()["capabilities"]
    none, red, blue = chat(server, model), chat(server, model, RED), chat(server, model, BLUE)
    both = chat(server, model, RED, BLUE)
    one = red["prompt_eval_count"] - none["prompt_eval_count"]
    assert one >= 1 and blue["prompt_eval_count"] == red["prompt_eval_count"]
    assert both["prompt_eval_count"] > red["prompt_eval_count"] + one * 0.9  # blanks may join
    assert red["logprobs"] != none["logprobs"] and red["logprobs"] != blue["logprobs"]
    assert chat(server, model, RED)["logprobs"] == red["logprobs"]


def test_a_projector_of_another_tool_gives_the_same(server: Server) -> None:
    """Its bytes differ, its tensors do not."""
    assert chat(server, "sees", RED)["logprobs"] == chat(server, "other", RED)["logprobs"]


def test_a_prompt_takes_images(server: Server) -> None:
    """/api/generate as /api/chat, and OpenAI's form."""
    body = {"model": "sees", "prompt": LOOK["content"], "options": OPTIONS, "stream": False}
    plain = server.http.post("/api/generate", json=body).json()
    seen = server.http.post("/api/generate", json={**body, "images": [text(RED)]}).json()
    assert seen["done"] and seen["prompt_eval_count"] > plain["prompt_eval_count"]
    url = {"url": f"data:image/png;base64,{text(RED)}"}
    parts = [{"type": "text", "text": LOOK["content"]}, {"type": "image_url", "image_url": url}]
    asked = {"model": "sees", "messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    answer = server.http.post("/v1/chat/completions", json=asked).json()
    assert answer["usage"]["prompt_tokens"] == seen["prompt_eval_count"]


def test_webp_is_looked_at_as_png(server: Server) -> None:
    """The engine reads none: the same picture in either form gives the same answer."""
    from PIL import Image

    made = io.BytesIO()
    with Image.open(io.BytesIO(RED)) as opened:
        opened.save(made, "WEBP", lossless=True)
    assert (
        chat(server, "sees", made.getvalue())["logprobs"] == chat(server, "sees", RED)["logprobs"]
    )


def test_what_cannot_be_looked_at_is_said(server: Server) -> None:
    """A file that is no image, a model without a projector; the next request is answered."""
    refused = chat(server, "sees", b"RIFF\0\0\0\0WEBPVP8 ", status=400)["error"]
    assert "begins like WebP" in refused
    assert "does not support vision" in chat(server, "blind", RED, status=400)["error"]
    assert chat(server, "sees", RED)["done"]


def test_the_command_line_takes_paths_of_images(root: Path) -> None:
    """``mbuild run NAME PROMPT image.png``: the path leaves the prompt, the image joins it."""
    (root / "red.png").write_bytes(RED)

    def tokens(*prompt: str) -> int:
        command = [sys.executable, "-m", "mbuild", "run", "sees", *prompt, "--verbose"]
        environment = {**os.environ, "OLLAMA_MODELS": str(root / "store")}
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=120,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (line,) = [row for row in done.stderr.splitlines() if row.startswith("prompt eval count")]
        return int(line.split()[3])

    alone = tokens("What is this?")
    assert tokens("What is this?", "red.png") > alone
    assert tokens("What is this? ./red.png") > alone
