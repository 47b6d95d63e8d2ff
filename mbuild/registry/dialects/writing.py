"""A model's manifest in another form: an OCI image manifest that names the same blobs.

Its ``subject`` is Ollama's manifest, so that a registry can list the forms of one model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mbuild.core.digest import Digest
from mbuild.registry.client.registry import OCI_MANIFEST
from mbuild.registry.dialects.files import MANIFEST_FILE, NamedLayer, PlainModel
from mbuild.registry.dialects.received import FILE_PATH, TITLE
from mbuild.registry.dialects.values import ManifestForm, WrittenManifest
from mbuild.store.manifest import MANIFEST_TYPE, Layer


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON without spaces, in the order of the keys: equal values, equal bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def written(form: ManifestForm, model: PlainModel) -> WrittenManifest:
    """The manifest of a model in that form."""
    layers = [_descriptor(form, named) for named in model.files]
    config = as_json(form.config(model, [layer["digest"] for layer in layers]))
    config_layer = Layer(form.configs[0], Digest.of(config), len(config))
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
    if form.artifact_type:
        value["artifactType"] = form.artifact_type
    value["config"] = config_layer.to_json()
    value["layers"] = layers
    value["subject"] = Layer(MANIFEST_TYPE, Digest.of(model.data), len(model.data)).to_json()
    contents = {config_layer.digest: config}
    contents |= {x.layer.digest: model.data for x in model.files if x.path == MANIFEST_FILE}
    return WrittenManifest(
        as_json(value),
        OCI_MANIFEST,
        form.artifact_type or form.configs[0],
        (*(named.layer for named in model.files), config_layer),
        contents,
    )


def _descriptor(form: ManifestForm, named: NamedLayer) -> dict[str, Any]:
    return {
        "mediaType": form.layer_type(named),
        "digest": str(named.layer.digest),
        "size": named.layer.size,
        "annotations": {FILE_PATH: named.path, TITLE: named.path},
    }
