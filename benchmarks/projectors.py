"""Images and sound through converted projectors in llama.cpp: what does a model make of them?

    python benchmarks/projectors.py [NAME...]

The encoders are those of ``tests/data/projectors``, each with the file's digest of llama.cpp's own
converter, so what runs here is what runs there. All have one text model, a Llama as wide as their
output; kinds that want more of it (positions in three dimensions, several layers at once) are not
among them. Of each the likeliest tokens are asked for without an image (or sound), with one, with
another and with the first one again, in a process of its own: another image has to give other
probabilities, the same one the same. Needs PyPI's ``xllamacpp``. Prints a line for each, and the
counts.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from checkpoints import files_of
from example_models import generator
from multimodal import digest, projector, spec

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import convert
from mbuild.gguf.writer import write

IMAGES = (
    *("gemma3", "gemma4", "internvl", "qwen2_5_vl", "pixtral", "smolvlm", "llama4", "lfm2_vl"),
    *("kimi_vl", "lighton_ocr"),
)
SOUNDS = ("qwen2_audio",)
_LONG = {"audio_tower.embed_positions.weight": "BF16 1500 32"}
"""Whisper hears half a minute at a time; the cases have fewer positions."""

WIDTH = 64
PIECES = (
    *("\n\n", "<fake_token_around_image>", "<global-img>", "<start_of_image>", "<end_of_image>"),
    *("<img>", "</img>", "<|vision_start|>", "<|vision_end|>", "[IMG_BREAK]", "[IMG_END]"),
    *("<|audio_bos|>", "<|audio_eos|>", "[BEGIN_AUDIO]", "<|image_start|>", "<|image_end|>"),
)
"""What llama.cpp puts around an image or a sound."""


def png(red: int, green: int, blue: int, side: int = 64) -> bytes:
    """A square of one color (PNG, 8 bits, RGB)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    rows = (b"\0" + bytes((red, green, blue)) * side) * side
    ends = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + ends


def wav(hertz: int, seconds: int = 1, rate: int = 16000) -> bytes:
    """A tone (RIFF, 16 bits, one channel)."""
    count = seconds * rate
    values = (round(9000 * math.sin(2 * math.pi * hertz * n / rate)) for n in range(count))
    data = struct.pack(f"<{count}h", *values)
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data


def seen(data: bytes, *, sound: bool) -> dict[str, Any]:
    """A part of a message."""
    text = base64.b64encode(data).decode()
    if sound:
        return {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}


def answers(job: dict[str, Any]) -> list[Any]:
    """The likeliest tokens of each message, with their probabilities, in this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = job["model"]
    params.mmproj.path, params.mmproj_use_gpu = job["projector"], False
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.port = 4096, 1, 0, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    found = []
    for parts in job["messages"]:
        content = [*parts, {"type": "text", "text": "What is this?"}]
        asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
        more = {"temperature": 0, "logprobs": True, "top_logprobs": 5, "cache_prompt": False}
        made = server.handle_chat_completions({**asked, **more})
        found.append(made["choices"][0]["logprobs"]["content"])
    return found


def outcome(folder: Path, name: str, model: Path) -> str:
    """What llama.cpp makes of one kind."""
    case, made = spec(name), projector(folder, spec(name))
    if case.get("digests") and digest(made) != case["digests"]["auto"]:
        return "another file than the converter's"
    whole = {n: _LONG.get(n, described) for n, described in case["tensors"].items()}
    if whole != case["tensors"]:
        made = projector(folder / "long", {**case, "tensors": whole})
    path = folder / f"{name}.gguf"
    with path.open("wb") as file:
        write(made, file.write)
    sound = name in SOUNDS
    first, second = (wav(440), wav(3000)) if sound else (png(255, 0, 0), png(0, 0, 255))
    given = [[], *([seen(data, sound=sound)] for data in (first, second, first))]
    job = {"model": str(model), "projector": str(path), "messages": given}
    done = subprocess.run(
        [sys.executable, __file__, "answer"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "rror" in line or "ASSERT" in line]
        return f"fails: {(lines or [f'status {done.returncode}'])[-1][-150:]}"
    none, one, other, again = json.loads(done.stdout.splitlines()[-1])
    if one != again:
        return "fails: the same gives something else"
    return ("hears" if sound else "sees") if one != none and one != other else "notices nothing"


def write_text(folder: Path) -> Path:
    """A Llama as wide as the encoders' output."""
    made = generator(POSITIONS=4096, WIDTH=WIDTH, HIDDEN=2 * WIDTH)
    *first, start, end = made.CHAT
    vars(made)["CHAT"] = [*first, *((piece, made.USER) for piece in PIECES), start, end]
    made.write_chat(folder / "text")
    path = folder / "text.gguf"
    with path.open("wb") as file:
        write(convert(open_checkpoint("text", files_of(folder / "text"))), file.write)
    return path


def main(names: list[str]) -> int:
    """Print what becomes of each; the exit status is 0 if five images and one sound are noticed."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as work:
        model = write_text(Path(work))
        for name in names or (*IMAGES, *SOUNDS):
            with tempfile.TemporaryDirectory() as folder:
                what = outcome(Path(folder), name, model)
            found[what.partition(":")[0]] += 1
            print(name, what, flush=True)
    print(dict(found))
    return 0 if names or (found["sees"] >= 5 and found["hears"] >= 1) else 1


if __name__ == "__main__" and sys.argv[1:] == ["answer"]:
    print(json.dumps(answers(json.load(sys.stdin))))
elif __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
