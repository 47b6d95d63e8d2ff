"""From a recipe's changes and what they name to weights that are changed on their way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mbuild.build.sources.values import AdapterSource, CheckpointSource, GGUFSource
from mbuild.build.steps.changed import ChangeWeights
from mbuild.build.steps.changes import (
    Alteration,
    ChangedOrigin,
    DropLayers,
    MergeAdapter,
    SetMetadata,
    TakeTensors,
)

if TYPE_CHECKING:
    from mbuild.build.splitting import Splitting
    from mbuild.build.steps.origins import Origin
    from mbuild.language.recipe import ModelChange


def altered(
    origin: Origin,
    changes: Sequence[ModelChange],
    named: Sequence[AdapterSource | Origin | None],
) -> ChangedOrigin:
    """The weights with all changes; ``named`` has for each the adapter or model that it names."""
    pairs = zip(changes, named, strict=True)
    return ChangedOrigin(origin, tuple(_alteration(change, each) for change, each in pairs))


def pruned(origin: Origin, layers: Sequence[int]) -> ChangedOrigin:
    """The weights without some layers, which are counted as those of ``origin``."""
    base, changes = (origin, ()) if not isinstance(origin, ChangedOrigin) else origin
    return ChangedOrigin(base, (*changes, DropLayers(tuple(layers), "--prune-layers")))


def changed_weights(origin: Origin, splitting: Splitting | None) -> ChangeWeights:
    """The step that writes changed weights as they are."""
    assert isinstance(origin, ChangedOrigin)
    return ChangeWeights(origin, splitting)


def _alteration(change: ModelChange, named: AdapterSource | Origin | None) -> Alteration:
    if change.kind == "take":
        assert named is not None
        assert not isinstance(named, (CheckpointSource, GGUFSource))
        return TakeTensors(change.name, change.value[0], named)
    if change.kind == "merge":
        assert isinstance(named, (CheckpointSource, GGUFSource))
        return MergeAdapter(named, change.value)
    if change.kind == "drop":
        return DropLayers(tuple(change.value))
    return SetMetadata(change.name, change.value)
