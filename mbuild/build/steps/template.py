"""The Go template of a model that brings a chat template, found by what it renders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mbuild import __version__
from mbuild.build.graph import BaseStep, Result, Step, StepContext, variant_label
from mbuild.build.steps.layers import put_layer
from mbuild.store.media import MODEL, TEMPLATE
from mbuild.store.records import CHAT_TEMPLATE

if TYPE_CHECKING:
    from mbuild.gguf.reader import GGUFFile


class _Found(NamedTuple):
    """A detected template: its name, its text, and where generation stops."""

    name: str
    text: str
    stop: list[str]


@dataclass(frozen=True, eq=False)
class DetectTemplate(BaseStep):
    """The template layer of a model, if its chat template is one that a Go template can say.

    ``facts["parameters"]`` are the stop parameters that belong to it.
    ``facts["template"]`` is its name.
    """

    inputs: tuple[Step, ...]
    target: str = ""

    kind: ClassVar[str] = "detect-template"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 2

    @property
    def label(self) -> str:
        """What is made, and for which of several variants."""
        return variant_label("detect template", self.target)

    def key_fields(self) -> Mapping[str, Any]:
        """The templates known to this version; the model comes with the inputs."""
        return {"mbuild": __version__}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Result:
        """Look into the weights' header; a chat template that is not known is only mentioned."""
        from mbuild.gguf.reader import open_gguf

        (layer,) = inputs[0].layers
        if layer.media_type != MODEL:
            return Result()
        path = context.store.blobs.local_path(layer.digest)
        with open_gguf(path, name="the model") as file:
            text = file.get("tokenizer.chat_template")
            if not isinstance(text, str) or not text:
                return Result()
            adds_bos = file.get("tokenizer.ggml.add_bos_token") is not False
            found = _detect_once(context, text, _token(file, "bos"), _token(file, "eos"), adds_bos)
        if found is None:
            context.warn(
                "no Go template matches this model's chat template; it stays in the GGUF file."
                " Add TEMPLATE to set one"
            )
            return Result()
        result = put_layer(context, TEMPLATE, found.text.encode())
        facts = {
            "template": found.name,
            "parameters": {"stop": found.stop} if found.stop else {},
        }
        return result._replace(facts=facts)


def _token(file: GGUFFile, which: str) -> str:
    """The text of the token that begins or ends a sequence, or nothing."""
    number = file.get(f"tokenizer.ggml.{which}_token_id")
    tokens = file.get("tokenizer.ggml.tokens")
    known = isinstance(number, int) and isinstance(tokens, list) and 0 <= number < len(tokens)
    return str(tokens[number]) if known else ""


def _detect_once(
    context: StepContext, text: str, bos: str, eos: str, adds_bos: bool
) -> _Found | None:
    """As ``detect``, remembering what a chat template came to: variants share it."""
    from mbuild.templates.detect import detect

    made_of = json.dumps([__version__, text, bos, eos, adds_bos])
    key = hashlib.sha256(made_of.encode()).hexdigest()
    cache = context.store.cache
    remembered = cache.get(CHAT_TEMPLATE, key)
    if remembered is not None:
        return _Found(*remembered) if remembered else None
    detected = detect(text, bos, eos, adds_bos=adds_bos)
    found = _Found(detected.name, detected.template, list(detected.stop)) if detected else None
    cache.put(CHAT_TEMPLATE, key, list(found or ()))
    return found
