"""The conformance cases: Modelfiles, and what Ollama 0.32.15 made of each of them.

``data/conformance/modelfiles.json.xz`` holds 1,020 cases recorded from Ollama,
``data/conformance/store`` the store that each of them started from (its base
model is ``tiny``). Bytes are stored as Latin-1 text; a digest inside a manifest is
written ``@0``, ``@1``, ... for the config's and the layers', in that order.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data" / "conformance"
STORE = DATA / "store"

_LAYER = "application/vnd.ollama.image."


@dataclass(frozen=True, slots=True)
class RecordedLayer:
    """One layer that Ollama wrote; ``content`` is None for the weights, which the store has."""

    media_type: str
    digest: str
    size: int
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Case:
    """One Modelfile and its outcome.

    ``ok`` says whether Ollama built it; ``error`` is what it said otherwise.
    ``config``, ``layers`` and ``manifest`` (its exact bytes) are those of a built
    one. ``nonprintable`` marks a file with characters that Ollama drops.
    """

    id: str
    modelfile: bytes
    ok: bool
    error: str
    warnings: tuple[str, ...]
    nonprintable: bool
    config: RecordedLayer | None
    layers: tuple[RecordedLayer, ...]
    manifest: bytes

    def contents(self, kind: str) -> list[bytes]:
        """The contents of the layers of one kind (``system``, ``params``, ...), in order."""
        return [
            layer.content
            for layer in self.layers
            if layer.media_type == _LAYER + kind and layer.content is not None
        ]


@cache
def cases() -> tuple[Case, ...]:
    """All cases, in the order of their ids."""
    text = lzma.decompress((DATA / "modelfiles.json.xz").read_bytes()).decode()
    return tuple(_case(row) for row in json.loads(text))


def _case(row: dict) -> Case:
    parts = [_layer(*item) for item in row.get("parts", [])]
    manifest = re.sub(r"@(\d+)", lambda m: parts[int(m[1])].digest, row.get("manifest", ""))
    return Case(
        id=row["id"],
        modelfile=row["modelfile"].encode("latin-1"),
        ok=row["ok"],
        error=row.get("error", ""),
        warnings=tuple(row.get("warnings", ())),
        nonprintable=row.get("nonprintable", False),
        config=parts[0] if parts else None,
        layers=tuple(parts[1:]),
        manifest=manifest.encode("latin-1"),
    )


def _layer(media_type: str, content: str | None, digest: str = "", size: int = 0) -> RecordedLayer:
    if content is None:
        return RecordedLayer(media_type, digest, size, None)
    data = content.encode("latin-1")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return RecordedLayer(media_type, digest, len(data), data)
