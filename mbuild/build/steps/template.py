"""The Go template of a model that brings a chat template, found by what it renders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mbuild import __version__
from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.steps.layers import put_layer
from mbuild.core.digest import sha256
from mbuild.core.values import NamedTuple
from mbuild.store.media import MODEL, TEMPLATE
from mbuild.store.records import CHAT_TEMPLATE


class _Found(NamedTuple):
    """A detected template: its name, its text, and where generation stops."""

    name: str
    text: str
    stop: list[str]


class DetectTemplate(BaseStep):
    """The template layer of a model, if its chat template is one that a Go template can say.

    The one input makes the model's layer, or has read its chat template
    (:class:`ReadHeader`). ``facts["parameters"]`` are the stop parameters that belong to
    the template, ``facts["template"]`` is its name.
    """

    inputs: tuple[Step, ...]

    kind: ClassVar[str] = "detect-template"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 2
    label: ClassVar[str] = "detect template"
    input_name: ClassVar[str] = "detected template"
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {("mbuild",): "mbuild's version"}

    def key_fields(self) -> Mapping[str, Any]:
        """The templates known to this version; the model comes with the inputs."""
        return {"mbuild": __version__}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """A chat template that is not known is only mentioned."""
        chat = _chat_template(context, inputs[0])
        if not chat:
            return Made(Result())
        found = _detect_once(context, **chat)
        if found is None:
            context.warn(
                "no Go template matches this model's chat template; it stays in the GGUF file."
                " Add TEMPLATE to set one"
            )
            return Made(Result())
        facts = {
            "template": found.name,
            "parameters": {"stop": found.stop} if found.stop else {},
        }
        return put_layer(context, TEMPLATE, found.text.encode(), facts)


def _chat_template(context: StepContext, given: Result) -> Mapping[str, Any]:
    """What :func:`~mbuild.gguf.facts.chat_template_of` finds in a layer, or found in a header."""
    from mbuild.gguf.facts import chat_template_of
    from mbuild.gguf.reader import open_gguf

    if not given.layers:
        return given.facts
    layer = given.layers[0]  # of a split model the first has all metadata
    if layer.media_type != MODEL:
        return {}
    with open_gguf(context.store.blobs.local_path(layer.digest), name="the model") as file:
        return chat_template_of(file.model())


def _detect_once(
    context: StepContext, text: str, bos: str, eos: str, adds_bos: bool
) -> _Found | None:
    """As ``detect``, remembering what a chat template came to, for other models with it."""
    from mbuild.templates.detect import detect

    made_of = json.dumps([__version__, text, bos, eos, adds_bos])
    key = sha256(made_of.encode()).hexdigest()
    cache = context.store.cache
    remembered = cache.get(CHAT_TEMPLATE, key)
    if remembered is not None:
        return _Found(*remembered) if remembered else None
    detected = detect(text, bos, eos, adds_bos=adds_bos)
    found = _Found(detected.name, detected.template, list(detected.stop)) if detected else None
    cache.put(CHAT_TEMPLATE, key, list(found or ()))
    return found
