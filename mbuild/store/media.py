"""What a layer can be: one row for each of Ollama's media types.

The names and their meaning are Ollama's (``server/images.go``, ``server/create.go``,
``manifest/layer.go``); ``embed``, ``tensor`` and ``json`` are in models that other
versions of it made.
"""

from __future__ import annotations

from enum import StrEnum

from mbuild.core.values import NamedTuple

PREFIX = "application/vnd.ollama.image."
"""What the media type of every layer begins with."""


class Inheritance(StrEnum):
    """What becomes of a base model's layers of a type when a Modelfile says something of it."""

    REPLACED = "replaced"
    """The new layer takes the place of the old ones, at the end."""
    ADDED = "added"
    """The new layer follows the old ones."""
    MERGED = "merged"
    """One layer of both takes the place of the old ones: what is new counts, key by key."""
    KEPT = "kept"
    """A Modelfile has no word for it: the old ones stay."""


class MediaType(NamedTuple):
    """A media type by its short name, the last part of its text.

    ``word`` is the instruction that gives such a layer, ``title`` what a page calls its
    text. ``file`` is the name of an exported file of weights: ``{stem}`` is the model's
    name and ``{n}`` the number from the second layer of the type on.
    """

    name: str
    rule: Inheritance
    word: str = ""
    title: str = ""
    file: str = ""

    @property
    def text(self) -> str:
        """The media type as a manifest writes it."""
        return PREFIX + self.name

    @property
    def is_gguf(self) -> bool:
        """Whether such a layer holds a GGUF file."""
        return bool(self.file)


ROWS: tuple[MediaType, ...] = (
    MediaType("model", Inheritance.ADDED, "FROM", file="{stem}{n}.gguf"),
    MediaType("projector", Inheritance.ADDED, "FROM", file="mmproj-{stem}{n}.gguf"),
    MediaType("adapter", Inheritance.ADDED, "ADAPTER", file="{stem}-adapter{n}.gguf"),
    MediaType("draft", Inheritance.ADDED, "DRAFT", file="{stem}-draft{n}.gguf"),
    MediaType("system", Inheritance.REPLACED, "SYSTEM", "System message"),
    MediaType("template", Inheritance.REPLACED, "TEMPLATE", "Template"),
    MediaType("prompt", Inheritance.KEPT, title="Template"),
    MediaType("params", Inheritance.MERGED, "PARAMETER"),
    MediaType("messages", Inheritance.REPLACED, "MESSAGE", "Messages"),
    MediaType("license", Inheritance.ADDED, "LICENSE", "License"),
    MediaType("embed", Inheritance.KEPT),
    MediaType("tensor", Inheritance.KEPT),
    MediaType("json", Inheritance.KEPT),
)
"""All of them, in the order in which weights are listed and texts are shown."""

MEDIA_TYPES: dict[str, MediaType] = {row.text: row for row in ROWS}
"""The rows by what a manifest writes."""

GGUF: tuple[str, ...] = tuple(row.text for row in ROWS if row.is_gguf)
"""The media types of layers that hold GGUF files."""

MODEL = PREFIX + "model"
PROJECTOR = PREFIX + "projector"
ADAPTER = PREFIX + "adapter"
DRAFT = PREFIX + "draft"
SYSTEM = PREFIX + "system"
TEMPLATE = PREFIX + "template"
PROMPT = PREFIX + "prompt"
PARAMS = PREFIX + "params"
MESSAGES = PREFIX + "messages"
LICENSE = PREFIX + "license"

SPLIT = (MODEL, DRAFT)
"""Of which a model can have several layers that are the shards of one GGUF (Ollama 0.35)."""
