"""The statement about one model of a build: in-toto's form, with SLSA's provenance in it.

Of https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1. What it names of files is
what was digested by the build. Paths below the Modelfile's folder are given from there; of other
files only digests, because their places say something about whose machine it was. Values of
``--build-arg`` that may be secrets are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mbuild.build.history import BuildRecord
from mbuild.build.pins import inputs as locked_inputs
from mbuild.build.provenance.machine import machine_class
from mbuild.build.request import BuildRequest, Posted, Script
from mbuild.build.sources.values import (
    README,
    CheckpointSource,
    GGUFDirectory,
    GGUFSource,
    OtherModel,
    StoredModel,
)
from mbuild.core.digest import Digest
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.build.plan import Plan
    from mbuild.build.prepare import Resolved
    from mbuild.build.request import Target
    from mbuild.build.sources.values import (
        AdapterSource,
        ChangeSource,
        ModelSource,
        SourceFile,
        Sources,
    )
    from mbuild.store import Layer, Manifest

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILDER = "pkg:pypi/mbuild-models"
"""Who built: this program, on the machine of whoever says so. Nobody else vouches for it."""
BUILD_TYPE = f"{BUILDER}#build/v1"

_HUB = "hf.co/"
_MATRICES = ("imatrix", "imatrix_from")
"""The options whose value is a file: an importance matrix, or the text that one is made on."""

Alias = Callable[[Digest], Digest | None]
"""The other digest of a content, where it is known."""


class MadeModel(NamedTuple):
    """One model of a build: its target, what that comes from, and what came out."""

    target: Target
    place: int
    found: Resolved
    plan: Plan
    identity: Digest
    manifest: Manifest


def statement(record: BuildRecord, made: MadeModel, alias: Alias) -> dict[str, Any]:
    """The statement, as JSON; ``record`` is the whole build's line in the log."""
    request = record.request._replace(targets=(made.target,))
    places = _Places(request)
    return {
        "_type": STATEMENT,
        "subject": list(_subjects(made)),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"request": shown_request(request)},
                "internalParameters": {
                    "lock": _lock(made, places),
                    "steps": _steps(record, made.place),
                    "machine": machine_class(),
                },
                "resolvedDependencies": list(_dependencies(request, made, places, alias)),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"mbuild": record.version}},
                "metadata": {
                    "invocationId": record.id,
                    "startedOn": _time(record.time / 1e9),
                    "finishedOn": _time(record.time / 1e9 + record.seconds),
                },
            },
        },
    }


def _time(seconds: float) -> str:
    """A time as RFC 3339 has it, in UTC and whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _subjects(made: MadeModel) -> Iterator[dict[str, Any]]:
    """The manifest, then its config and layers."""
    names = [str(name) for name in made.target.names]
    yield {"name": names[0], "digest": {"sha256": made.identity.hex}}
    for layer in made.manifest.blobs():
        yield {**_layer(layer), "name": layer.kind}


def _layer(layer: Layer) -> dict[str, Any]:
    return {"digest": {"sha256": layer.digest.hex}, "mediaType": layer.media_type}


# What was asked.


class _Places:
    """What may be said of where a file lies: its path from the Modelfile's folder, or nothing."""

    def __init__(self, request: BuildRequest) -> None:
        script = request.script
        self._folder = Path(script.folder).absolute() if script else None
        self._posted = isinstance(request.source, Posted)

    def of(self, file: SourceFile) -> str:
        """The path of a file below the folder, or the client's name for what it sent."""
        if self._posted:
            return file.name
        if self._folder is None or file.remote is not None:
            return ""
        return self.below(file.path.absolute())

    def below(self, path: Path) -> str:
        """The path from the folder; "" for one that leads elsewhere."""
        if self._folder is None or not path.is_relative_to(self._folder):
            return ""
        return path.relative_to(self._folder).as_posix()


def shown_request(request: BuildRequest) -> dict[str, Any]:
    """A request without what is nobody's business: folders, other paths, secret arguments."""
    value = request.to_json()
    source = request.source
    if isinstance(source, Script):
        brought = {_plain(name, digest): str(digest) for name, digest in source.brought.items()}
        value["modelfile"] = {
            "name": Path(source.name).name,
            "text": str(source.text),
            **_arguments(source.arguments),
            **({"brought": brought} if brought else {}),
        }
    for target in value["targets"]:
        quantize = target.get("quantize")
        for name in _MATRICES:
            if quantize and quantize.get(name):
                quantize[name] = _plain(quantize[name])
    return value


def _arguments(given: Mapping[str, str]) -> dict[str, Any]:
    """Values of arguments, and the names of those whose values are nobody's business."""
    if not given:
        return {}
    from mbuild.build.provenance.secrets import withheld

    kept = sorted(name for name, value in given.items() if withheld(name, value))
    said = {name: given[name] for name in sorted(given) if name not in kept}
    return {**({"arguments": said} if said else {}), **({"withheld": kept} if kept else {})}


def _plain(name: str, digest: Digest | None = None) -> str:
    """A path that says nothing of a machine, else the content's digest, or that there is one."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name.startswith("~") or ":" in name:
        return str(digest) if digest else "elsewhere"
    return path.as_posix()


def _lock(made: MadeModel, places: _Places) -> dict[str, Any]:
    """What a lock has but for its sources, which are the statement's dependencies."""
    request = made.found.request._replace(targets=(made.target,))
    found = made.found._replace(request=request)
    value = locked_inputs([found], [made.plan])
    part = value.get("stages", {}).get(made.target.variant, value)
    for options in part["options"]["quantize"].values():
        for name in _MATRICES:
            if options.get(name):
                options[name] = _plain(next(iter(options[name])))
    kept = {"modelfile": part["modelfile"], "options": part["options"], "steps": value["steps"]}
    layers = [layer.to_json() for layer in made.manifest.layers]
    result = {"id": str(made.identity), "config": made.manifest.config.to_json(), "layers": layers}
    return {**kept, "results": result}


# What was done.


def _steps(record: BuildRecord, place: int) -> list[dict[str, Any]]:
    """The steps that one model needs, inputs before users, with their keys and layers."""
    order = {number: new for new, number in enumerate(_needed(record, place))}
    rows = []
    for number in order:
        step = record.steps[number]
        row: dict[str, Any] = {
            "kind": step.kind,
            "role": step.role,
            "key": step.key,
            "status": step.status,
            "inputs": [order[each] for each in step.inputs],
            "layers": [str(layer.digest) for layer in step.layers],
        }
        rows.append({key: item for key, item in row.items() if item})
    return rows


def _needed(record: BuildRecord, place: int) -> dict[int, None]:
    """The places of a step and all before it: the same order whatever else was built with it."""
    order: dict[int, None] = {}
    stack = [(place, False)]
    while stack:
        number, expanded = stack.pop()
        if expanded:
            order[number] = None
        elif number not in order:
            stack.append((number, True))
            stack += ((each, False) for each in reversed(record.steps[number].inputs))
    return order


# What it was made from.


def _dependencies(
    request: BuildRequest, made: MadeModel, places: _Places, alias: Alias
) -> Iterator[dict[str, Any]]:
    """The Modelfile and what it includes, then every source, each once."""
    source = request.source
    if isinstance(source, Script):
        yield {
            "name": Path(source.name).name,
            "digest": {"sha256": source.text.hex},
            "annotations": {"role": "modelfile"},
        }
        for name, digest in source.brought.items():
            shown = _plain(name, digest)
            named = {} if shown == str(digest) else {"name": shown}
            yield {**named, "digest": {"sha256": digest.hex}, "annotations": {"role": "included"}}
    elif isinstance(source, Posted):
        digests = {"sha256": source.recipe.hex}
        yield {"name": "request", "digest": digests, "annotations": {"role": "modelfile"}}
    wanted = made.target.quantization
    matrix = (wanted.imatrix or wanted.imatrix_from) if wanted else None
    seen: list[dict[str, Any]] = []
    for role, each in _sources(made.found.sources, matrix):
        if isinstance(each, StoredModel):
            row = _stored(role, each)
        else:
            row = _file(role, each, places.of(each), alias)
        if row["digest"] and row not in seen:
            seen.append(row)
            yield row


def _sources(
    sources: Sources, matrix: str | None
) -> Iterator[tuple[str, SourceFile | StoredModel]]:
    """Every file and every stored model that is used, with what it is used as."""
    for model in sources.models:
        yield from _of_source("from", model)
    for adapter in sources.adapters:
        yield from _of_source("adapter", adapter)
    for draft in sources.drafts:
        yield from _of_source("draft", draft)
    for change in sources.changes:
        yield from _of_change(change)
    for name, file in sources.imatrices.items():
        if name == matrix:
            yield _MATRICES[0], file


def _of_change(change: ChangeSource) -> Iterator[tuple[str, SourceFile | StoredModel]]:
    if isinstance(change, OtherModel):
        for _, each in _sources(change.sources, None):
            yield "take", each
    elif change is not None:
        yield from _of_source("merge", change)


def _of_source(
    role: str, source: ModelSource | AdapterSource
) -> Iterator[tuple[str, SourceFile | StoredModel]]:
    match source:
        case StoredModel():
            yield role, source
        case GGUFSource(files):
            yield from ((role, file) for file in files)
        case GGUFDirectory(model, projectors):
            for each in (model, *projectors):
                yield from _of_source(role, each)
        case CheckpointSource():
            for name, file in source.files.items():
                if name == README:  # of which only the front matter counts
                    file = file._replace(digest=None, sha256=source.card)
                yield role, file


def _stored(role: str, model: StoredModel) -> dict[str, Any]:
    return {
        "name": str(model.name),
        "digest": {"sha256": model.id.hex},
        "annotations": {"role": role, "model": True},
    }


def _file(role: str, file: SourceFile, name: str, alias: Alias) -> dict[str, Any]:
    """A file by every digest of its content that is known, and where it is to be had."""
    digests = {each.algorithm: each for each in (file.sha256, file.digest) if each is not None}
    if len(digests) == 1 and file.name != README:
        other = alias(next(iter(digests.values())))
        digests |= {other.algorithm: other} if other is not None else {}
    row: dict[str, Any] = {"name": name} if name else {}
    if file.remote is not None:
        row["name"], row["uri"] = file.name, _uri(file.remote.source)
    row["digest"] = {kind: digests[kind].hex for kind in sorted(digests)}
    row["annotations"] = {"role": role, "size": file.stamp.size}
    return row


def _uri(source: str) -> str:
    """Where a file of another machine is from: a repository of the Hub as its package URL."""
    if source.startswith(_HUB):
        return f"pkg:huggingface/{source.removeprefix(_HUB)}"
    return f"oci://{source}"
