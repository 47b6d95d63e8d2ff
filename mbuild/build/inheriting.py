"""Which layers a model has from its base, and what it adds or puts in their place.

The rule of each type of layer is Ollama's; :mod:`mbuild.store.media` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mbuild.build.sources.values import StoredModel
from mbuild.build.steps.layers import MergeParameters, PutLayer
from mbuild.core import gojson
from mbuild.core.digest import Digest
from mbuild.store import Layer
from mbuild.store.media import (
    ADAPTER,
    DRAFT,
    LICENSE,
    MEDIA_TYPES,
    MESSAGES,
    MODEL,
    PARAMS,
    SPLIT,
    SYSTEM,
    TEMPLATE,
    Inheritance,
)

if TYPE_CHECKING:
    from mbuild.build.graph import Step
    from mbuild.language.recipe import Recipe, Turn

UNSET_LAYERS = {
    "template": TEMPLATE,
    "system": SYSTEM,
    "license": LICENSE,
    "message": MESSAGES,
    "adapter": ADAPTER,
    "draft": DRAFT,
}
"""Which inherited layers UNSET leaves out, by its word."""

UNSET_CONFIG = ("renderer", "parser", "requires", "draft")
"""Which keys of an inherited config it leaves out."""

_PARAMETER = "parameter "


class ModelLayers:
    """The layers of the model to be: inherited ones first, replaced and added to as Ollama does."""

    def __init__(self, base: StoredModel | None, unset: Sequence[str] = ()) -> None:
        self.unset = frozenset(UNSET_LAYERS[word] for word in unset if word in UNSET_LAYERS)
        self._entries: list[tuple[str, Layer | Step]] = []
        for layer in base.manifest.layers if base else ():
            if layer.media_type in self.unset:
                continue
            inherited = Layer(layer.media_type, layer.digest, layer.size, str(base.name))  # type: ignore[union-attr]
            self._entries.append((layer.media_type, inherited))

    def append(self, step: Step, media_type: str = "") -> None:
        """Add a step's layers at the end."""
        self._entries.append((media_type, step))

    def put(self, step: Step, media_type: str) -> None:
        """Add a step's layers at the end, beside or instead of those of their type: its rule."""
        if MEDIA_TYPES[media_type].rule in (Inheritance.REPLACED, Inheritance.MERGED):
            self._entries = [entry for entry in self._entries if entry[0] != media_type]
        self.append(step, media_type)

    def put_in_place(self, step: Step, media_type: str) -> None:
        """Put a step where the layer of that type stands, or the first of several."""
        places = [place for place, (kind, _) in enumerate(self._entries) if kind == media_type]
        for place in reversed(places[1:]):
            del self._entries[place]
        for place in places[:1]:
            self._entries[place] = media_type, step

    def several(self, base: StoredModel | None) -> bool:
        """Whether weights are in several layers, of a step or of the base."""
        steps = [entry for _, entry in self._entries if not isinstance(entry, Layer)]
        if any(step.several_layers for step in steps):
            return True
        kept = [self.inherited(kind) for kind in SPLIT] if base else []
        return any(len(layers) > 1 for layers in kept)

    def inherited(self, media_type: str) -> list[Layer]:
        """The base's layers of that type."""
        return [e for kind, e in self._entries if kind == media_type and isinstance(e, Layer)]

    def weights(self) -> Step | tuple[Layer, ...] | None:
        """The step that makes the model's weights, or the layers that are inherited."""
        inherited = self.inherited(MODEL)
        if inherited:
            return tuple(inherited)
        steps = (entry for _, entry in self._entries if not isinstance(entry, Layer))
        return next((step for step in steps if step.makes_weights), None)

    def steps(self) -> tuple[Step, ...]:
        """The steps so far."""
        return tuple(e for _, e in self._entries if not isinstance(e, Layer))

    def all(self) -> tuple[Layer | Step, ...]:
        """Layers and steps in order."""
        return tuple(entry for _, entry in self._entries)


def add_texts(
    entries: ModelLayers, recipe: Recipe, detected: tuple[Step, ...], needs: tuple[Step, ...]
) -> None:
    """Template, system, licenses, parameters, messages: replaced, added or merged."""
    if recipe.template:
        entries.put(PutLayer(TEMPLATE, recipe.template), TEMPLATE)
    if recipe.system:
        entries.put(PutLayer(SYSTEM, recipe.system), SYSTEM)
    carried = {layer.digest for layer in entries.inherited(LICENSE)}
    for text in recipe.licenses:
        if Digest.of(text.encode()) not in carried:  # Ollama adds it again at every build
            entries.put(PutLayer(LICENSE, text), LICENSE)
    inherited = entries.inherited(PARAMS)
    if recipe.parameters or inherited or detected:
        base = inherited[-1] if inherited else None
        without = tuple(w.partition(" ")[2] for w in recipe.unset if w.startswith(_PARAMETER))
        entries.put(MergeParameters(recipe.parameters, base, detected, without, needs), PARAMS)
    if recipe.messages:
        messages = [_message(turn) for turn in recipe.messages]
        text = gojson.dumps(messages).decode()
        entries.put(PutLayer(MESSAGES, text), MESSAGES)


def _message(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": turn.content, **turn.further}
