"""Manifests: a config and layers, as the JSON that Ollama writes and reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import DamagedError
from mbuild.core.values import NamedTuple

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_LAYERS = 100_000

CONFIG_KEYS = (
    "model_format",
    "model_family",
    "model_families",
    "model_type",
    "file_type",
    "renderer",
    "parser",
    "requires",
    "remote_host",
    "remote_model",
    "capabilities",
    "context_length",
    "embedding_length",
    "base_name",
    "draft",
    "architecture",
    "os",
)
"""Ollama's ConfigV2 in the order in which Go writes it; empty values are left out."""

PLATFORM = {"architecture": "amd64", "os": "linux"}
"""What Ollama up to 0.33 writes whatever the machine, and expects in a model's id."""

LEAST_OLLAMA = "0.35.0"
"""The first version of Ollama that runs a model with several layers of weights."""


class Layer(NamedTuple):
    """One content-addressed blob of a model.

    ``origin`` is Ollama's ``from`` field: the model that a layer was inherited
    from, or the file name of an adapter; empty where there is none.
    """

    media_type: str
    digest: Digest
    size: int
    origin: str = ""

    @property
    def kind(self) -> str:
        """What the layer is, in a word: ``model``, ``template``, ``params``, ``config`` and so on.

        The last word of the media type that is not its version (``v1+json``, ``v0.1+json``).
        """
        if self.media_type == CONFIG_TYPE:
            return "config"
        words = self.media_type.removesuffix("+json").rpartition("/")[2].split(".")
        while len(words) > 1 and words[-1].removeprefix("v").isdigit():
            words.pop()
        return words[-1]

    def to_json(self) -> dict[str, Any]:
        """The layer as Ollama orders its keys."""
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.origin:
            value["from"] = self.origin
        return value

    @classmethod
    def from_json(cls, value: Any) -> Layer:
        """Read one layer; raises ValueError or :class:`DigestError` when it is malformed."""
        if not isinstance(value, dict):
            raise ValueError("a layer is not an object")
        size, media_type, origin = value.get("size"), value.get("mediaType"), value.get("from", "")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"layer size {size!r}")
        if not isinstance(media_type, str) or not isinstance(origin, str):
            raise ValueError("layer mediaType or from is not a string")
        return cls(media_type, Digest.parse(value.get("digest")), size, origin)


class Blob(NamedTuple):
    """A stored blob; ``existed`` tells whether the store had it before.

    ``linked``: it is the user's own file under a second name. ``blake3`` is the content's
    other digest, where it was computed. ``limits`` are the seconds in which each resource
    held up whoever made it (:mod:`mbuild.work.limits`), where that was looked at.
    """

    digest: Digest
    size: int
    existed: bool
    linked: bool = False
    blake3: Digest | None = None
    limits: Mapping[str, float] = {}


class Manifest(NamedTuple):
    """A model: its config blob and its layers, in order."""

    config: Layer
    layers: tuple[Layer, ...]

    def encode(self) -> bytes:
        """The file's exact bytes: Go's compact JSON with a final newline.

        Their SHA-256 is the model's id. Digests, media types and names hold no
        character that Go escapes and Python does not.
        """
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, where: str) -> Manifest:
        """Read a manifest's bytes; raises :class:`DamagedError` naming ``where``."""
        hint = "build or pull the model again, or delete the file"
        if not data.strip(b" \t\r\n\0"):
            how = "is empty" if not data else "holds nothing but zeros or spaces"
            raise DamagedError(f"{where} {how}", hint=hint)
        try:
            if len(data) > MAX_MANIFEST_BYTES:
                raise ValueError(f"{len(data)} bytes; the limit is {MAX_MANIFEST_BYTES}")
            value = _parse(data)
            if not isinstance(value, dict) or not isinstance(value.get("layers"), list):
                raise ValueError("no layers")
            if len(value["layers"]) > MAX_LAYERS:
                raise ValueError("too many layers")
            layers = tuple(Layer.from_json(layer) for layer in value["layers"])
            return cls(Layer.from_json(value.get("config")), layers)
        except (ValueError, RecursionError, DigestError) as error:
            raise DamagedError(f"{where} is not a manifest: {error}", hint=hint) from None

    def blobs(self) -> tuple[Layer, ...]:
        """The config and every layer: all blobs that the model needs."""
        return (self.config, *self.layers)

    def of_kind(self, media_type: str) -> tuple[Layer, ...]:
        """The layers of one media type, in order."""
        return tuple(layer for layer in self.layers if layer.media_type == media_type)


def _parse(data: bytes) -> Any:
    """JSON's value; raises ValueError that says what it is instead."""
    try:
        return json.loads(data)
    except UnicodeDecodeError:
        raise ValueError("its bytes are not text") from None
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated string")
        if cut or error.pos >= len(error.doc.rstrip()):
            raise ValueError(f"it ends in the middle, after {len(data)} bytes") from None
        raise ValueError(f"it is not JSON (line {error.lineno}, column {error.colno})") from None
