"""The store: blobs, manifests, locks and the action cache, in Ollama's layout on disk."""

from mbuild.core.environment import default_store
from mbuild.store.manifest import Layer, Manifest
from mbuild.store.manifests import StoredManifest
from mbuild.store.store import Store

__all__ = ["Layer", "Manifest", "Store", "StoredManifest", "default_store"]
