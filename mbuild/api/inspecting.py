"""``inspect``: what a model, a GGUF file or a checkpoint holds, without reading its weights."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.api.asking import StrPath, as_value, open_store
from mbuild.api.verbs import verb
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.sources.values import CheckpointSource, GGUFDirectory, GGUFSource, StoredModel
from mbuild.core.digest import Digest
from mbuild.core.events import BuildEvent, Warned
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.build.sources.values import ModelSource
    from mbuild.build.steps.origins import Origin
    from mbuild.gguf.model import Model
    from mbuild.store import Store


class InspectedTensor(NamedTuple):
    """A tensor: ``shape`` is fastest first, as in the file; ``size`` in bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int


class Inspection(NamedTuple):
    """What a model holds: of a checkpoint what it would be converted to.

    ``architecture``, ``parameters`` (how many weights there are) and ``file_type`` are those of
    its weights; ``metadata`` are their values by keys. ``name`` and ``id`` are those of a model
    of the store, empty and None for files; so are ``template``, ``system``, ``options`` (those of
    PARAMETER) and ``licenses``.
    """

    architecture: str
    parameters: int
    file_type: str
    tensors: tuple[InspectedTensor, ...]
    metadata: Mapping[str, Any]
    name: str = ""
    id: Digest | None = None
    template: str = ""
    system: str = ""
    options: Mapping[str, Any] = {}
    licenses: tuple[str, ...] = ()


@verb
def inspect(
    model: StrPath, *, store: StrPath | None = None
) -> Generator[BuildEvent, None, Inspection]:
    """Look at a model of the store, a GGUF file or a checkpoint's folder: what FROM could name."""
    said: list[str] = []
    opened = open_store(store, said)
    source = LocalContext(Path(), opened).model(as_value(model))
    with opened.reading(), ExitStack() as stack:
        weights = _weights(source, opened, stack)
        found = _described(weights)
    if isinstance(source, StoredModel):
        found = _with_texts(found, source, opened)
    for text in said:
        yield Warned(text)
    return found


def _weights(source: ModelSource, store: Store, stack: ExitStack) -> Model:
    """The model, whose tensors nobody loads; raises :class:`MbuildError`."""
    from mbuild.build.converter import ConvertOptions
    from mbuild.build.request import OUTTYPE
    from mbuild.build.steps.origins import CheckpointOrigin, GGUFOrigin, LayerOrigin, open_quietly
    from mbuild.store.contents import grouped
    from mbuild.store.media import MODEL

    origin: Origin
    if isinstance(source, StoredModel):
        layers = source.manifest.of_kind(MODEL)
        first, *_ = grouped(store.blobs, layers, str(source.name)) or [()]
        if not first:
            from mbuild.core.errors import UnsupportedError

            raise UnsupportedError(f"{source.name} has no GGUF weights")
        origin = LayerOrigin(first)
    elif isinstance(source, CheckpointSource):
        origin = CheckpointOrigin(source, ConvertOptions(OUTTYPE, None))
    else:
        assert isinstance(source, (GGUFDirectory, GGUFSource))
        files = source.model.files if isinstance(source, GGUFDirectory) else source.files
        origin = GGUFOrigin(files)
    return open_quietly(origin, store, stack)


def _described(model: Model) -> Inspection:
    from mbuild.gguf.facts import describe

    facts = describe(model)
    tensors = tuple(
        InspectedTensor(each.name, each.type.name, each.dims, each.nbytes) for each in model.tensors
    )
    metadata = {entry.key: model.read(entry.key) for entry in model.metadata}
    return Inspection(facts.architecture, facts.parameter_count, facts.file_type, tensors, metadata)


def _with_texts(found: Inspection, source: StoredModel, store: Store) -> Inspection:
    from mbuild.models import library

    model = library.view(store, source.name)
    return found._replace(
        name=str(source.name),
        id=source.id,
        template=model.template,
        system=model.system,
        options=model.parameters,
        licenses=model.licenses,
    )
