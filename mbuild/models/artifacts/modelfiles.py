"""A Modelfile beside exported weights that builds the same model again, and what it builds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.errors import ModelfileError, StoreError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.language.quoting import quote
from mbuild.language.stages.opening import SYNTAX_LINE, opens_stages
from mbuild.models import library
from mbuild.store.media import ADAPTER, MEDIA_TYPES, SPLIT

if TYPE_CHECKING:
    from mbuild.build.prepare import Build
    from mbuild.store import Layer, Manifest, Store
    from mbuild.store.contents import Contents

MODELFILE = "Modelfile"
WRITTEN_BY = ", written by mbuild export"
"""How the first line of a Modelfile ends that an export made."""


class Rebuilding(NamedTuple):
    """A Modelfile, the texts that it brings in by their files' names, and what it builds.

    ``manifest`` is what a build of it comes to, with ``keep`` under ``--keep-split``; None where
    nothing was tried.
    """

    text: str
    brought: Mapping[str, str] = {}
    manifest: Manifest | None = None
    keep: bool = False

    @property
    def id(self) -> Digest | None:
        """The id of the model that a build of it makes."""
        return Digest.of(self.manifest.encode()) if self.manifest else None

    def differences(self, model: Manifest) -> list[str]:
        """The kinds of layers that a build makes otherwise; where they come from says nothing."""
        made = self.manifest
        if made is None:
            return []
        kinds = dict.fromkeys(layer.media_type for layer in (*model.layers, *made.layers))
        found = [
            model_layer(kind)
            for kind in kinds
            if [x.digest for x in model.of_kind(kind)] != [x.digest for x in made.of_kind(kind)]
        ]
        if model.config.digest != made.config.digest:
            found.append("config")
        order = [x.digest for x in model.layers] != [x.digest for x in made.layers]
        return found or (["order of layers"] if order else [])


def model_layer(media_type: str) -> str:
    """What people call a layer of that type."""
    known = MEDIA_TYPES.get(media_type)
    return known.name if known else media_type


def modelfile_of(store: Store, model: Contents, files: Mapping[Digest, str]) -> str:
    """The model's Modelfile with exported files in place of the store's."""
    return _plain(model, _beside(store, files))


def rebuilding(store: Store, model: Contents, files: Mapping[Digest, str], stem: str) -> Rebuilding:
    """The Modelfile that builds the model again from exported files, in as few words as can be.

    That is Ollama's language where it says everything, else mbuild's, which brings texts in from
    files whose names begin with ``stem``. Each is built, in memory, before it is believed. The
    caller holds the store.
    """
    kinds = [layer.media_type for layer in model.stored.manifest.layers]
    keep = any(kinds.count(kind) > 1 for kind in SPLIT)
    first = None
    for write in (_in_plain, _in_stages):
        try:
            text, brought = write(model, _beside(store, files), stem)
            by_digest, _ = write(model, library.by_digest, stem)
        except ModelfileError:  # plain words cannot say it
            continue
        try:
            manifest = _built(store, model, by_digest, brought, keep=keep)
        except StoreError:  # it cannot be written
            return Rebuilding(text, brought, keep=keep)
        layers = tuple(_as_exported(layer, files) for layer in manifest.layers)
        found = Rebuilding(text, brought, manifest._replace(layers=layers), keep)
        if not found.differences(model.stored.manifest):
            return found
        first = first or found
    assert first is not None  # mbuild's language says any text
    return first


def origin_name(layer: Layer) -> str:
    """The file name that an adapter's layer has from its source, if a file can be called so."""
    fits = layer.media_type == ADAPTER and _FILE.fullmatch(layer.origin)
    return layer.origin if fits else ""


_FILE = regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _as_exported(layer: Layer, files: Mapping[Digest, str]) -> Layer:
    """A layer with the name of the exported file, where it carries one."""
    named = layer.media_type == ADAPTER and layer.digest in files
    return layer._replace(origin=files[layer.digest]) if named else layer


def _beside(store: Store, files: Mapping[Digest, str]) -> library.Reference:
    """References to exported files, else to the store's own."""
    stored = library.by_path(store)

    def reference(layer: Layer) -> str:
        if layer.digest not in files:
            return stored(layer)
        return quote(f"./{files[layer.digest]}") if files[layer.digest] else ""

    return reference


def _plain(model: Contents, reference: library.Reference) -> str:
    _, _, rest = library.modelfile_of(model, reference).partition("\n")
    return f"# {model.stored.name}{WRITTEN_BY}\n{rest}"


def _in_plain(
    model: Contents, reference: library.Reference, stem: str
) -> tuple[str, Mapping[str, str]]:
    """In Ollama's language; raises :class:`ModelfileError` for a text that it cannot hold."""
    return _plain(model, reference), {}


def _in_stages(
    model: Contents, reference: library.Reference, stem: str
) -> tuple[str, Mapping[str, str]]:
    """In mbuild's language: texts from files, and no template but the one that is named."""
    brought: dict[str, str] = {}

    def from_file(word: str, value: str) -> str:
        name = f"{stem}-{word.lower()}-{len(brought) + 1}.txt"
        brought[name] = f"{value}\n"  # the line end that closes a file is no part of the value
        return f"@./{name}"

    said = library.modelfile_of(model, reference, from_file).splitlines()
    first = f"# {model.stored.name}{WRITTEN_BY}"
    start = next((n for n, line in enumerate(said) if line.startswith("TEMPLATE ")), len(said))
    lines = [SYNTAX_LINE, first, *said[1:start], "UNSET TEMPLATE", *said[start:]]
    return "\n".join(lines) + "\n", brought


def _built(
    store: Store, model: Contents, text: str, brought: Mapping[str, str], *, keep: bool
) -> Manifest:
    """What a Modelfile comes to whose weights are blobs of the store; nothing is named."""
    from mbuild.build.engine import BuildEngine
    from mbuild.build.prepare import plans_of
    from mbuild.build.results import Outcome
    from mbuild.build.steps.manifest import Assembled

    (planned,) = plans_of(_wanted(store, model, text.encode(), brought, keep=keep), store)
    outcome = Outcome()
    for _ in BuildEngine(store).run([planned.manifest], outcome):
        pass
    return Assembled.of(outcome.results[planned.manifest]).manifest


def _wanted(
    store: Store, model: Contents, data: bytes, brought: Mapping[str, str], *, keep: bool
) -> Build:
    """The build of a Modelfile whose paths start from the store."""
    from mbuild.build.prepare import Build, read_recipe
    from mbuild.build.request import BuildRequest, Script, Target
    from mbuild.build.sources.resolve import LocalContext
    from mbuild.build.splitting import Splitting
    from mbuild.build.staging import FilesGiven, read_stages

    script = Script(MODELFILE, Digest.of(data), str(store.root))
    target = Target((model.stored.name,))
    splitting = Splitting(keep=True) if keep else None
    request = BuildRequest((target,), script, named=False, splitting=splitting)
    context = LocalContext(Path(store.root), store)
    if not opens_stages(data):
        return Build(request, read_recipe(data, MODELFILE, store)[0], context)
    bring = FilesGiven({name: text.encode() for name, text in brought.items()})
    (stage,) = read_stages(data, MODELFILE, store, bring, {}, ()).stages
    request = request._replace(targets=(target._replace(stage=stage.name),))
    return Build(request, stage.recipe, context, stages={stage.name: stage})
