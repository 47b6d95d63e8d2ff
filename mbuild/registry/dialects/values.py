"""The values that forms of manifest are read to, and written as."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.core.values import NamedTuple
from mbuild.store.manifest import Layer

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.registry.dialects.files import NamedLayer, PlainModel
    from mbuild.store import Store


class ManifestForm(NamedTuple):
    """How a form says what it says; Ollama's own has none of it.

    ``configs`` are the media types of its config, the first for what is written.
    ``layer_type`` gives the media type of a file, ``config`` the config's JSON for the digests
    of the layers. ``role`` says what a layer is to Ollama: its media type there, or one of
    :mod:`~mbuild.registry.dialects.roles`; ``context`` the size of the context in a config.
    """

    configs: tuple[str, ...]
    artifact_type: str
    layer_type: Callable[[NamedLayer], str]
    config: Callable[[PlainModel, Sequence[str]], Mapping[str, Any]]
    role: Callable[[str, str], str]
    context: Callable[[Mapping[str, Any]], int]


class WrittenManifest(NamedTuple):
    """A manifest to push: its bytes, its type, and what the store does not have of its blobs.

    ``layers`` are all blobs that it names. ``contents`` are the bytes of those that are made
    here. ``artifact_type`` is what a list of referrers says of it.
    """

    data: bytes
    media_type: str
    artifact_type: str
    layers: tuple[Layer, ...]
    contents: dict[Digest, bytes]


class LocalManifest(NamedTuple):
    """The bytes of the store's manifest, and files of archives that the store has no place for."""

    data: bytes
    left_out: tuple[str, ...] = ()


class Reading(NamedTuple):
    """A manifest that was understood: the blobs to bring, and what then has to be done.

    ``finish`` makes the store's manifest, once the blobs are there; it raises
    :class:`RegistryError` for blobs that make no model. ``left_out`` are files that the store
    has no place for, as far as the manifest names them. ``is_ollama``: the registry's manifest
    is the store's. ``foreign`` is the digest of a manifest that another tool wrote.
    """

    layers: tuple[Layer, ...]
    finish: Callable[[Store], LocalManifest]
    left_out: tuple[str, ...] = ()
    is_ollama: bool = False
    foreign: Digest | None = None


Fetch = Callable[[Layer, int], bytes]
"""Gets a small blob from the registry: at most so many bytes, checked by digest and size."""
