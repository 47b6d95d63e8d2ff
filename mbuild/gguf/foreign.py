"""Recognizing files that are not GGUF by what they are instead."""

from __future__ import annotations

import re
from collections.abc import Callable

from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import NamedTuple
from mbuild.gguf.files import FileBytes

HEAD = 512
"""Bytes from the start of a file that recognition looks at."""

MAGIC = b"GGUF"


class Foreign(NamedTuple):
    """One kind of other file: how it starts (a regular expression), its name, a remedy."""

    pattern: bytes
    what: str
    hint: str
    error: Callable[..., FormatError | UnsupportedError]


QUANTIZE_WITH_IT = "quantize with it: --quantize TYPE --imatrix FILE"
"""What to do with an importance matrix, of either form."""


FOREIGN: tuple[Foreign, ...] = (
    Foreign(
        rb"version https://git-lfs",
        "a git-lfs pointer, not the model itself",
        "fetch the content with 'git lfs pull', or download the file again",
        FormatError,
    ),
    Foreign(
        rb"(?i:(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head))",
        "an HTML page, not a model: the download got a web page",
        "download it again, and check that the link needs no login",
        FormatError,
    ),
    Foreign(
        rb"(?i)\s*(?:entry|repository|revision|model|file|page|object|resource|not)? ?not found\b"
        rb"|\s*(?:40[0-9]|50[0-9])\b|\s*(?:invalid (?:username|credentials)|unauthorized|forbidden)"
        rb"|\s*access (?:to|denied)|\s*(?:internal server error|bad gateway|too many requests)"
        rb"|\s*error\b",
        "a server's error message, not a model: the download failed",
        "download it again, and check the address and whether it needs a login",
        FormatError,
    ),
    Foreign(
        rb'\s*\{\s*"(?:error|message|detail|errors)"',
        "JSON text, a server's error message and not a model: the download failed",
        "download it again, and check the address and whether it needs a login",
        FormatError,
    ),
    Foreign(
        rb"\s*<(?:\?xml|error\b)",
        "an XML document, not a model: perhaps a server's error message",
        "download it again, and check that the link is still valid",
        FormatError,
    ),
    Foreign(
        rb"FUGG",
        "a big-endian GGUF file",
        "convert it with gguf-convert-endian of the gguf package",
        UnsupportedError,
    ),
    Foreign(
        rb"lmgg|fmgg|tjgg|algg|ggml|ggmf|ggjt|ggla",
        "a model in the old GGML format that GGUF replaced",
        "convert the original checkpoint to GGUF with llama.cpp",
        UnsupportedError,
    ),
    Foreign(
        rb"PK\x03\x04",
        "a zip archive (a PyTorch checkpoint?), not a GGUF file",
        "convert the checkpoint to safetensors or GGUF, or unpack the archive",
        FormatError,
    ),
    Foreign(
        rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ",
        "a compressed file, not a GGUF file",
        "unpack it first",
        FormatError,
    ),
    Foreign(
        rb"..\0\0.\0\0\0[a-z]\w+\.",  # how many tensors, then the first one's name
        "an importance matrix of llama-imatrix, not a model",
        QUANTIZE_WITH_IT,
        FormatError,
    ),
    Foreign(
        rb".{8}\{",
        "a safetensors file, not a GGUF file",
        "name the directory that holds the checkpoint's config.json instead",
        FormatError,
    ),
    Foreign(
        rb"\s*[{\[]",
        "JSON text, not a GGUF file",
        "name the model file itself",
        FormatError,
    ),
)
"""What is often found in a GGUF file's place; the first match is named."""


def refuse_foreign(file: FileBytes, head: bytes) -> None:
    """Raise unless ``head``, the file's first bytes, is the start of a GGUF file."""
    if head.startswith(MAGIC):
        return
    if not head:
        raise FormatError(
            f"{file.name}: the file is empty", hint="download it again: the transfer failed"
        )
    for kind in FOREIGN:
        if re.match(kind.pattern, head, re.S):
            raise kind.error(f"{file.name}: {kind.what}", hint=kind.hint)
    raise file.error(
        f"not a GGUF file: it starts with {_shown(head)}, not with {MAGIC.decode()}",
        0,
        hint="name a file in GGUF format",
    )


def _shown(head: bytes) -> str:
    """The start of a file for people: its text, else its first bytes in hexadecimal."""
    line = head.split(b"\n", 1)[0][:40]
    text = line.decode("ascii", "replace").rstrip("\r")
    if len(text) > 3 and text.isprintable() and text.isascii():
        return f"the text {text!r}"
    return "the bytes " + head[:4].hex(" ")
