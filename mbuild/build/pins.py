"""What a build starts from and what came out, as a lock has it: JSON, every file by its digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.build.graph import in_order
from mbuild.build.request import BuildRequest
from mbuild.build.sources.values import (
    README,
    CheckpointSource,
    GGUFDirectory,
    GGUFSource,
    OtherModel,
    StoredModel,
)
from mbuild.core.digest import Digest
from mbuild.language.recipe import Recipe
from mbuild.quant.choose.options import Quantization
from mbuild.store import Manifest

if TYPE_CHECKING:
    from mbuild.build.plan import Plan
    from mbuild.build.prepare import Resolved
    from mbuild.build.sources.values import AdapterSource, ModelSource, SourceFile, Sources
    from mbuild.language.recipe import ModelChange


UNQUANTIZED = "unquantized"
"""The variant of a build without ``--quantize``."""

STAGES = "stages"
"""What a lock of a Modelfile with stages has in place of one recipe: one for each target."""

FILES = ("imatrix", "imatrix_from")
"""The options whose value is a file: a lock has its digest, too."""

_HUB = "hf.co/"
"""What the source of the Hub's files begins with."""


def inputs(found: Sequence[Resolved], plans: Sequence[Plan]) -> dict[str, Any]:
    """What decides a build's result, as a lock has it. Every file's digest must be known.

    Of a Modelfile with stages each target has its own.
    """
    steps = {"steps": dict(_versions(plans))}
    first = found[0].request.targets[0]
    if not first.stage:
        return {**_part(found[0]), **steps}
    return {STAGES: {part.request.variants[0]: _part(part) for part in found}, **steps}


def _part(found: Resolved) -> dict[str, Any]:
    recipe, sources, request = found
    return {
        "modelfile": _modelfile(recipe),
        "sources": {
            "from": [_source(source) for source in sources.models],
            "adapter": [_source(source) for source in sources.adapters],
            "draft": [_source(source) for source in sources.drafts],
            **_of_changes(sources),
        },
        "options": {
            "outtype": request.outtype,
            "pre": request.pre,
            "draft_quantize": request.draft_quantize.name if request.draft_quantize else None,
            "quantize": {
                target.variant: _quantization(target.quantization, sources)
                for target in request.targets
                if target.quantization is not None
            },
            **(request.splitting.to_json() if request.splitting else {}),
            **request.conversion.to_json(),
            **({"converter": request.converter.to_json()} if request.converter else {}),
            **request.halves.to_json(),
        },
    }


def _of_changes(sources: Sources) -> dict[str, Any]:
    """What MERGE and TAKE name, where there is something; of TAKE all that its model is made of."""
    found: dict[str, Any] = {}
    for change in sources.changes:
        if isinstance(change, OtherModel):
            own = change.sources
            named = [_source(source) for source in (*own.models, *own.adapters)]
            further = _of_changes(own)
            found.setdefault("take", []).extend(named)
            for rows in further.values():
                found["take"] += rows
        elif change is not None:
            found.setdefault("merge", []).append(_source(change))
    return found


def variants(request: BuildRequest) -> tuple[str, ...]:
    """The names of a build's variants, in its order."""
    return tuple(variant or UNQUANTIZED for variant in request.variants)


def _modelfile(recipe: Recipe) -> dict[str, Any]:
    """The instructions that name no file; texts by digest."""
    texts = {"template": recipe.template, "system": recipe.system}
    value: dict[str, Any] = {key: _digest(text) for key, text in texts.items() if text}
    messages = [json.dumps([part for part in turn if part != {}]) for turn in recipe.messages]
    lists = {"licenses": recipe.licenses, "messages": messages}
    value |= {key: [_digest(text) for text in items] for key, items in lists.items() if items}
    if recipe.parameters:
        value["parameters"] = dict(recipe.parameters)
    if recipe.changes:
        value["changes"] = [words for each in recipe.changes for words in _change(each)]
    if recipe.unset:
        value["unset"] = list(recipe.unset)
    return {**value, **recipe.config}


def _change(change: ModelChange) -> Iterator[str]:
    """A change of the weights or the metadata in words; what MERGE and TAKE name is a source.

    Behind TAKE are the changes of the model that the tensors are from.
    """
    match change.kind:
        case "merge":
            yield f"MERGE WEIGHT {change.value:g}"
        case "take":
            yield f"TAKE {change.name}"
            for other in Recipe.from_json(change.value[1]).changes:
                yield from (f"TAKE {change.name} {words}" for words in _change(other))
        case "set":
            yield f"SET {change.name} {_digest(change.value)}"
        case "drop":
            yield f"DROP LAYER {' '.join(map(str, change.value))}"
        case _:
            yield f"{change.kind.upper()} {change.name}"


def _digest(text: str) -> str:
    return str(Digest.of(text.encode()))


def _source(source: ModelSource | AdapterSource) -> dict[str, Any]:
    match source:
        case StoredModel(name, id_, _):
            return {"model": str(name), "manifest": str(id_)}
        case GGUFSource(files):
            digests = {file.name: str(file.locked) for file in files}
            return {"files": digests, **_revision(files), **_pulled(files)}
        case GGUFDirectory(model, projectors):
            return {**_source(model), "projectors": [_source(each) for each in projectors]}
        case CheckpointSource(name, _, card, _):
            digests = {name: str(file.locked) for name, file in source.whole.items()}
            if card is not None:
                digests[README] = str(card)
            return {"checkpoint": name, "files": digests, **_revision(source.files.values())}


def _revision(files: Iterable[SourceFile]) -> dict[str, str]:
    """The commit of the Hub that files belong to, if they are from there: ``ORG/REPO@COMMIT``.

    A file of a model of the Hub's registry has none: it is known by its digest alone.
    """
    sources = {file.remote.source for file in files if file.remote}
    found = next((s.removeprefix(_HUB) for s in sources if s.startswith(_HUB)), "")
    return {"revision": found} if is_revision(found) else {}


def _pulled(files: Iterable[SourceFile]) -> dict[str, Any]:
    """The registry's model that files are from, by its id; it is fetched again by that.

    It is not compared: the files' digests are.
    """
    named = {file.remote.manifest for file in files if file.remote and file.remote.manifest}
    return {"pulled": {str(name): str(id_) for name, id_ in named}} if named else {}


def is_revision(text: str) -> bool:
    """Whether a text is ``ORG/REPO@COMMIT``, and not a model of a registry by tag or digest.

    Locks of earlier versions have those too, where the model was not in the store.
    """
    return "@" in text and ":" not in text


def _quantization(quantization: Quantization, sources: Sources) -> dict[str, Any]:
    """Every option by its field, files with their digests; what few builds have if it is said."""
    fields = quantization.fields()
    del fields["file_type"]
    for name in FILES:
        named = getattr(quantization, name)
        file = sources.imatrices[named] if named else None
        if file is not None or name in fields:
            fields[name] = {file.name: str(file.locked)} if file else None
    if quantization.imatrix_chunks is not None:
        fields["imatrix_chunks"] = quantization.imatrix_chunks
    return fields


def _versions(plans: Sequence[Plan]) -> Iterator[tuple[str, int]]:
    """Kinds of steps and their versions; a conversion inside a quantization counts too.

    Downloads have none: which of them a plan has depends on the store.
    """
    for step in in_order([plan.manifest for plan in plans]):
        yield from step.versions


def results(request: BuildRequest, manifests: Sequence[bytes]) -> dict[str, Any]:
    """Each variant's result, as a lock has it, from its manifest's bytes."""
    return {
        variant: _result(data) for variant, data in zip(variants(request), manifests, strict=True)
    }


def _result(data: bytes) -> dict[str, Any]:
    manifest = Manifest.decode(data, "the new manifest")
    return {
        "id": str(Digest.of(data)),
        "config": manifest.config.to_json(),
        "layers": [layer.to_json() for layer in manifest.layers],
    }
