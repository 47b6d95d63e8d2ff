"""The bill of materials of a model: CycloneDX 1.6, whose components may be models and data sets.

It is made of the model alone (the metadata of its weights, its licenses, its layers) and of the
statement about how it was made, so the same two give the same bytes. The format:
https://cyclonedx.org/docs/1.6/json/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild import __version__
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple
from mbuild.store.contents import MAX_SMALL, open_group, read_object
from mbuild.store.media import LICENSE, MODEL

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.gguf.weights import GGUFWeights
    from mbuild.store import Layer, Manifest
    from mbuild.store.ports import BlobStore

SPEC = "1.6"
SCHEMA = f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json"
MODEL_TYPE = "machine-learning-model"
_ROOT = "model"
_MOST = 64
"""Base models and data sets that are listed; metadata with more of them are no metadata."""

SPDX: Mapping[str, str] = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0",
    "gpl-3.0": "GPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "mpl-2.0": "MPL-2.0",
    "unlicense": "Unlicense",
}
"""The Hub's names of licenses that are in SPDX's list; of others only the name is given."""


class Subject(NamedTuple):
    """The model that a bill is about, by its name, its id and its manifest."""

    name: ModelName
    identity: Digest
    manifest: Manifest


def bill(blobs: BlobStore, subject: Subject, statement: Mapping[str, Any]) -> dict[str, Any]:
    """The bill of materials, as JSON."""
    facts = _facts(blobs, subject)
    run = statement["predicate"]["runDetails"]
    bases, data = list(_bases(facts)), list(_data_sets(facts))
    materials = list(_materials(statement))
    model = _model(blobs, subject, facts, bases, data)
    further = [*bases, *materials, *data]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": serial_of(subject.identity, run["metadata"]["invocationId"]),
        "version": 1,
        "metadata": {
            "timestamp": run["metadata"]["finishedOn"],
            "tools": {"components": [_tool()]},
            "component": model,
        },
        "components": further,
        "dependencies": [{"ref": _ROOT, "dependsOn": [each["bom-ref"] for each in further]}],
    }


def _tool() -> dict[str, Any]:
    """What wrote the bill."""
    purl = f"pkg:pypi/mbuild-models@{__version__}"
    return {"type": "application", "name": "mbuild", "version": __version__, "purl": purl}


def serial_of(identity: Digest, build: str) -> str:
    """A UUID that is this model's of this build, and the same whenever it is asked for."""
    digits = Digest.of(f"{identity} {build}".encode()).hex
    # Version 8 of RFC 9562 is for what is made in a way of one's own.
    parts = digits[:8], digits[8:12], f"8{digits[13:16]}", f"8{digits[17:20]}", digits[20:32]
    return f"urn:uuid:{'-'.join(parts)}"


def _facts(blobs: BlobStore, subject: Subject) -> dict[str, Any]:
    """What the weights' metadata say of the model under ``general.``; nothing for no GGUF."""
    layers = subject.manifest.of_kind(MODEL)
    if not layers:
        return {}
    with suppress(MbuildError), open_group(blobs, layers, str(subject.name)) as weights:
        return dict(_general(weights))
    return {}


def _general(weights: GGUFWeights) -> Iterator[tuple[str, Any]]:
    keys = ["architecture", "name", "description", "license", "license.name", "license.link"]
    keys += ["author", "organization", "size_label", "repo_url", "base_model.count"]
    keys += ["dataset.count", "datasets"]
    for key in keys:
        if (value := weights.get(f"general.{key}")) is not None:
            yield key, value
    for part in ("base_model", "dataset"):
        count = weights.get(f"general.{part}.count")
        for number in range(min(count, _MOST) if isinstance(count, int) else 0):
            for field in ("name", "organization", "version", "repo_url", "url", "doi"):
                key = f"{part}.{number}.{field}"
                if (value := weights.get(f"general.{key}")) is not None:
                    yield key, value


def _model(
    blobs: BlobStore,
    subject: Subject,
    facts: Mapping[str, Any],
    bases: list[dict[str, Any]],
    data: list[dict[str, Any]],
) -> dict[str, Any]:
    """The model itself, with its layers, its card and where it comes from."""
    config = read_object(blobs, subject.manifest.config)
    family = str(facts.get("architecture") or config.get("model_family") or "")
    parameters: dict[str, Any] = {}
    if family:
        parameters["architectureFamily"] = family
    if data:
        parameters["datasets"] = [{"ref": each["bom-ref"]} for each in data]
    found: dict[str, Any] = {
        "type": MODEL_TYPE,
        "bom-ref": _ROOT,
        "group": f"{subject.name.host}/{subject.name.namespace}",
        "name": subject.name.model,
        "version": subject.name.tag,
        "hashes": [_hash(subject.identity)],
        "components": [_layer(number, x) for number, x in enumerate(subject.manifest.layers)],
    }
    for key, name in (("description", "description"), ("author", "author")):
        if facts.get(name):
            found[key] = str(facts[name])
    if licenses := list(_licenses(blobs, subject, facts)):
        found["licenses"] = licenses
    if facts.get("repo_url"):
        found["externalReferences"] = [_website(str(facts["repo_url"]))]
    if bases:
        own = ("type", "name", "version", "group", "externalReferences")
        found["pedigree"] = {
            "ancestors": [{key: each[key] for key in own if key in each} for each in bases]
        }
    if parameters:
        found["modelCard"] = {"modelParameters": parameters}
    sizes = {"parameters": config.get("model_type"), "quantization": config.get("file_type")}
    found["properties"] = [
        {"name": f"mbuild:{key}", "value": str(value)} for key, value in sizes.items() if value
    ]
    return found


def _hash(digest: Digest) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest.hex}


def _layer(number: int, layer: Layer) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"layer-{number}",
        "name": layer.kind,
        "mime-type": layer.media_type.partition(";")[0],
        "hashes": [_hash(layer.digest)],
    }


def _website(url: str) -> dict[str, str]:
    return {"type": "website", "url": url}


# Licenses.


def _licenses(
    blobs: BlobStore, subject: Subject, facts: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """What the weights' metadata say, then the first line of each LICENSE."""
    seen = set[str]()
    said = facts.get("license")
    link = str(facts.get("license.link") or "")
    texts = said if isinstance(said, (list, tuple)) else [said] if said else []
    for text in [str(each) for each in texts]:
        shown = str(facts.get("license.name") or text) if text == "other" else text
        seen.add(shown)
        yield _license(shown, link)
    for layer in subject.manifest.of_kind(LICENSE):
        text = blobs.read(layer.digest, MAX_SMALL).decode("utf-8", "replace").strip()
        first = text.partition("\n")[0].strip()[:200]
        if first and first not in seen:
            seen.add(first)
            yield _license(first, "")


def _license(name: str, url: str) -> dict[str, Any]:
    known = SPDX.get(name.lower())
    value = {"id": known} if known else {"name": name}
    return {"license": {**value, **({"url": url} if url else {})}}


# What it comes from.


def _bases(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The base models that the weights' metadata name."""
    for number, row in _numbered(facts, "base_model"):
        yield {"type": MODEL_TYPE, "bom-ref": f"base-model-{number}", **row}


def _data_sets(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The data sets that they name, one by one or as a list."""
    for number, row in _numbered(facts, "dataset"):
        yield {"type": "data", "bom-ref": f"data-set-{number}", **row}
    names = facts.get("datasets")
    for number, name in enumerate(list(names)[:_MOST] if isinstance(names, (list, tuple)) else ()):
        yield {"type": "data", "bom-ref": f"data-set-named-{number}", "name": str(name)}


def _numbered(facts: Mapping[str, Any], part: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number in range(_MOST):
        name = facts.get(f"{part}.{number}.name")
        url = facts.get(f"{part}.{number}.repo_url") or facts.get(f"{part}.{number}.url")
        if not (name or url):
            return
        row: dict[str, Any] = {"name": str(name or url)}
        for key, field in (("group", "organization"), ("version", "version")):
            if value := facts.get(f"{part}.{number}.{field}"):
                row[key] = str(value)
        if url:
            row["externalReferences"] = [_website(str(url))]
        yield number, row


def _materials(statement: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The files and stored models that it was made from."""
    found = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    for number, each in enumerate(found):
        notes = each["annotations"]
        is_model = bool(notes.get("model")) or notes["role"] in ("adapter", "draft", "merge")
        row: dict[str, Any] = {
            "type": MODEL_TYPE if is_model else "file",
            "bom-ref": f"source-{number}",
            "name": str(each.get("name") or notes["role"]),
        }
        hashes = [
            {"alg": alg, "content": each["digest"][key]}
            for key, alg in (("sha256", "SHA-256"), ("blake3", "BLAKE3"))
            if key in each["digest"]
        ]
        row |= {"hashes": hashes, "properties": [{"name": "mbuild:role", "value": notes["role"]}]}
        if str(each.get("uri", "")).startswith("pkg:"):
            row["purl"] = each["uri"]
        yield row
