"""In which other repository of a registry a blob is: what it has it need not be sent again."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mbuild.store.records import REPOSITORY

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Layer, Store


def mount_sources(
    layers: Collection[Layer], target: ModelReference, store: Store
) -> dict[Digest, str]:
    """The repositories from which a registry can take blobs for ``target``, by their digests.

    One that a layer was inherited from, else one that the blob was pushed to or pulled from
    last. The registry decides: a blob that is not there any more has to be sent.
    """
    keys = {layer.digest: _key(target, layer.digest) for layer in layers}
    known = store.database.get_many(REPOSITORY, keys.values())
    found = {
        layer.digest: _inherited(layer, target) or known.get(keys[layer.digest], "")
        for layer in layers
    }
    return {digest: path for digest, path in found.items() if path not in ("", target.path)}


def remember(digests: Collection[Digest], reference: ModelReference, store: Store) -> None:
    """Record that a repository has these blobs."""
    for digest in digests:
        store.database.put(REPOSITORY, _key(reference, digest), reference.path)
    store.database.flush()


def _key(reference: ModelReference, digest: Digest) -> str:
    return f"{reference.endpoint} {digest}"


def _inherited(layer: Layer, target: ModelReference) -> str:
    """The repository of the target's registry that a layer was inherited from, or ""."""
    if not layer.origin:
        return ""
    from mbuild.core.names import InvalidNameError, ModelName
    from mbuild.registry.reference import ModelReference as Source

    try:
        source = Source.of(ModelName.parse(layer.origin))
    except InvalidNameError:
        return ""
    return source.path if source.endpoint == target.endpoint else ""
