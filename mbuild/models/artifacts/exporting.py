"""``export``: a model as GGUF files for others to load, or as an OCI image layout in a tar.

Every blob is hashed on its way out; a damaged one is refused. Files appear
whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, MbuildError, StoreError, UnsupportedError, UsageError
from mbuild.models.artifacts.oci import INDEX_FILE, LAYOUT, LAYOUT_FILE, blob_name, encode_index
from mbuild.models.artifacts.places import WeightsPlace, places_of
from mbuild.models.artifacts.settings import align, in_one_file, with_settings
from mbuild.models.artifacts.sharing import ExportTarget, clear_leftovers, hashing, writing
from mbuild.models.artifacts.tar import END, header, padding
from mbuild.store.contents import Contents, open_group, read_contents
from mbuild.store.copying import OpenFile
from mbuild.store.files import temporary_folder
from mbuild.store.media import MODEL

if TYPE_CHECKING:
    from mbuild.build.splitting import Splitting
    from mbuild.store import Layer, Store, StoredManifest

    Progress = Callable[[int, int], None]
    MakeModelfile = Callable[[Mapping[Digest, str]], str]

_ALIGNED_FROM = 64 << 10
"""Bytes from which a blob in a tar starts with a block, to share its extents."""


MODELFILE = "Modelfile"
WRITTEN_BY = ", written by mbuild export"
"""How the first line of a Modelfile ends that an export made."""

_LONGEST = 16 << 20


class ExportForm(StrEnum):
    """What an export makes."""

    GGUF = "gguf"
    DIRECTORY = "directory"
    LMSTUDIO = "lmstudio"
    TAR = "tar"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How to export.

    ``raw``: the weights byte for byte, without settings in their metadata.
    ``link``: hard links, hence raw too. ``overwrite``: replace files that exist.
    ``merge``: the shards of a model in one file; ``splitting``: the model in shards.
    """

    layout: ExportForm
    raw: bool = False
    link: bool = False
    overwrite: bool = False
    merge: bool = False
    splitting: Splitting | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was made: its bytes, and how many of them take no room of their own."""

    path: Path
    size: int
    shared: int


@dataclass(frozen=True, slots=True)
class _Job:
    """An export under way."""

    store: Store
    contents: Contents
    options: ExportOptions
    tick: Callable[[int], None]


def export(
    store: Store,
    stored: StoredManifest,
    target: Path,
    options: ExportOptions,
    modelfile: MakeModelfile | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Written]:
    """Write a model to ``target``: a file, or for the directory layouts a folder.

    ``modelfile``, for a directory, writes a Modelfile given what each layer that was
    exported is called there, nothing for what a name before stands for. Raises
    :class:`MbuildError` for a file that exists, :class:`UnsupportedError` for weights that
    are not GGUF, :class:`DamagedError` for a blob that is not what its digest says,
    :class:`StoreError` where the system says no. The caller holds the store
    (:meth:`mbuild.store.Store.reading`). ``progress``: bytes done, bytes in all.
    """
    total = sum({layer.digest: layer.size for layer in stored.manifest.blobs()}.values())
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, max(total, done))

    contents = read_contents(store.blobs, stored)
    job = _Job(store, in_one_file(contents) if options.merge else contents, options, tick)
    _check_options(options)
    if options.layout is ExportForm.TAR:
        return [_write_tar(job, target)]
    places = _places(job, target)
    texts: dict[Path, str] = {}
    if options.layout is ExportForm.DIRECTORY:
        names = {digest: name for place in places for digest, name in place.references.items()}
        texts = _beside(job, target, _texts(job.contents, modelfile(names) if modelfile else ""))
    found = [written for place in places for written in _write_weights(job, place)]
    return found + [_write_text(job, path, text) for path, text in texts.items()]


def _check_options(options: ExportOptions) -> None:
    """Raise :class:`UsageError` for options that exclude each other."""
    cut = next(iter(options.splitting.flags()), ("", ""))[0] if options.splitting else ""
    anew = "--merge" if options.merge else cut
    if options.merge and cut:
        raise UsageError(f"--merge and {cut} cannot be combined", hint="choose one of them")
    if options.layout is ExportForm.TAR:
        if options.link:
            raise UsageError("--link cannot make a tar archive", hint="leave --link out")
        if anew:
            raise UsageError(
                f"{anew} has no effect on a tar archive, which has the model as it is stored",
                hint="name a .gguf file or a folder",
            )
    elif options.link and anew:
        raise UsageError(f"{anew} writes new files, which --link does not", hint="leave one out")


# Which files.


def _places(job: _Job, target: Path) -> list[WeightsPlace]:
    """The GGUF layers with their files; checks first that all of them can be made."""
    stored, options = job.contents.stored, job.options
    name = stored.name
    if not stored.manifest.of_kind(MODEL):
        raise UnsupportedError(
            f"{name} has no GGUF weights", hint="export it to a .tar, which takes any model"
        )
    folder, stem = target, _stem(job)
    if options.layout is ExportForm.LMSTUDIO:
        folder = target / name.namespace / name.model
    elif options.layout is ExportForm.GGUF:
        folder, stem = target.parent, target.name.removesuffix(".gguf")
    merge, splitting = options.merge, options.splitting
    found = places_of(job.store, stored, folder, stem, merge=merge, splitting=splitting)
    places = list(found)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for place in places:
        for path in place.paths:
            _check_free(job, path)
    return places


def _stem(job: _Job) -> str:
    """What the files of a model in a folder begin with."""
    name = job.contents.stored.name
    return name.model if name.tag == "latest" else f"{name.model}-{name.tag}"


def _check_free(job: _Job, path: Path) -> None:
    if path.is_dir() or (os.path.lexists(path) and not job.options.overwrite):
        raise MbuildError(f"{path} exists", hint="name another place, or replace it with --force")


def _texts(contents: Contents, modelfile: str) -> dict[str, str]:
    """Small files beside the weights.

    ``template``, ``system`` and ``params`` are what ``ollama run hf.co/...``
    reads from a repository with that content.
    """
    from mbuild.core import gojson

    texts = {
        MODELFILE: modelfile,
        "template": contents.template,
        "system": contents.system,
        "params": gojson.dumps(dict(contents.parameters)).decode() if contents.parameters else "",
    }
    for number, text in enumerate(contents.licenses, start=1):
        texts["LICENSE" if number == 1 else f"LICENSE-{number}"] = text
    return {name: text for name, text in texts.items() if text}


def _beside(job: _Job, folder: Path, texts: Mapping[str, str]) -> dict[Path, str]:
    """Where each text goes; those that are there already are left out.

    A folder can hold several quantizations of a model, as repositories do: the Modelfile
    of a further one is called like its weights.
    """
    found: dict[Path, str] = {}
    for name, text in texts.items():
        path = folder / name
        there = "" if job.options.overwrite else _text_of(path)
        if there == text:
            continue
        if name == MODELFILE and there.partition("\n")[0].endswith(WRITTEN_BY):
            path = folder / f"{_stem(job)}.{MODELFILE}"
        _check_free(job, path)
        found[path] = text
    return found


def _text_of(path: Path) -> str:
    """A small file's text, "" where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST + 1).decode()
    except (OSError, ValueError):
        return ""


def _write_text(job: _Job, path: Path, text: str) -> Written:
    _check_free(job, path)
    with ExportTarget.beside(path) as target, writing(path):
        target.write(text.encode())
        target.publish(path)
    return Written(path, target.size, 0)


# Weights.


@contextmanager
def _blob(job: _Job, layer: Layer) -> Iterator[tuple[OpenFile, Callable[[], None]]]:
    """A blob, open, and hashed while the block runs."""
    store, name = job.store, job.contents.stored.name
    if not store.blobs.has(layer.digest, layer.size):
        raise DamagedError(
            f"{name}: its blob {layer.digest} ({layer.kind}) is missing or cut short",
            hint="mbuild verify reports how to repair it",
        )
    with (
        OpenFile.open(store.blobs.local_path(layer.digest), f"{name} ({layer.kind})") as source,
        hashing(source, layer.digest, job.tick) as show,
    ):
        yield source, show


def _write_weights(job: _Job, place: WeightsPlace) -> Iterator[Written]:
    """Write one model's files, or another part's."""
    if place.counts:
        yield from _write_anew(job, place)
        return
    for number, (layer, path) in enumerate(zip(place.layers, place.paths, strict=True)):
        # Of a split model the first shard has all metadata, so the settings too.
        yield _write_layer(job, layer, path, settings=number == 0)


def _write_layer(job: _Job, layer: Layer, path: Path, *, settings: bool) -> Written:
    if job.options.link:
        return _link(job, layer, path)
    with ExportTarget.beside(path) as target, writing(path):
        with _blob(job, layer) as (source, show):
            if job.options.raw or layer.media_type != MODEL or not settings:
                target.append(source, 0, source.size, lambda count: show())
            else:
                _write_gguf(job, source, target, show)
        target.publish(path)
    return Written(path, target.size, target.shared)


def _write_anew(job: _Job, place: WeightsPlace) -> list[Written]:
    """Shards in one file, or weights in shards; all appear once every blob was found good."""
    from mbuild.gguf.split import split
    from mbuild.gguf.writer import write

    with ExitStack() as stack:
        targets = [stack.enter_context(ExportTarget.beside(path)) for path in place.paths]
        with ExitStack() as blobs:
            shows = [blobs.enter_context(_blob(job, layer))[1] for layer in place.layers]
            name = str(job.contents.stored.name)
            model = blobs.enter_context(open_group(job.store.blobs, place.layers, name)).model()
            if not job.options.raw and place.layers[0].media_type == MODEL:
                model = with_settings(model, job.contents)

            def tell(done: int) -> None:
                for show in shows:
                    show()

            files = split(model, place.counts) if len(place.counts) > 1 else (model,)
            for file, target, path in zip(files, targets, place.paths, strict=True):
                with writing(path):
                    write(file, target.write, progress=tell)
        for target, path in zip(targets, place.paths, strict=True):
            target.publish(path)
        return [
            Written(path, target.size, target.shared)
            for target, path in zip(targets, place.paths, strict=True)
        ]


def _write_gguf(
    job: _Job, source: OpenFile, target: ExportTarget, show: Callable[[], None]
) -> None:
    """The weights with another header; their data follows as it is, in one piece."""
    from mbuild.gguf.reader import open_gguf
    from mbuild.gguf.writer import layout, write

    with open_gguf(source.path, name=source.name) as file:
        model = align(with_settings(file.model(), job.contents), file.data_start)
        plan = layout(model)
        old = [tensor.offset - file.data_start for tensor in file.tensors]
        if old != [offset - len(plan.header) for offset in plan.offsets]:
            write(model, target.write, progress=lambda done: show())  # gaps between tensors
            return
        target.write(plan.header)
        start = min(file.data_start, source.size)
        target.append(source, start, source.size - start, lambda count: show())


def _link(job: _Job, layer: Layer, path: Path) -> Written:
    """Give the blob a second name."""
    with _blob(job, layer) as (source, _):
        pass
    try:
        with temporary_folder(path.parent, clear_leftovers(path)) as folder:
            temporary = folder / "linked"
            os.link(os.path.realpath(source.path), temporary)
            temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be a hard link to the store: {error.strerror}",
            hint="choose a place on the store's disk, or leave --link out",
        ) from error
    return Written(path, source.size, source.size)


# OCI image layout.


def _write_tar(job: _Job, path: Path) -> Written:
    """The archive, its files in the order of their names."""
    stored = job.contents.stored
    data = job.store.manifests.read_bytes(stored.name)
    if data is None or Digest.of(data) != stored.id:
        raise StoreError(f"{stored.name} changed during the export", hint="export it again")
    small = {
        LAYOUT_FILE: LAYOUT,
        INDEX_FILE: encode_index([(stored.name, data)]),
        blob_name(stored.id): data,
    }
    blobs = {blob_name(layer.digest): layer for layer in stored.manifest.blobs()}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _check_free(job, path)
    with ExportTarget.beside(path) as target, writing(path):
        for name in sorted(small.keys() | blobs.keys()):
            if name in small:
                _add(target, name, small[name])
            else:
                _add_blob(job, target, name, blobs[name])
        target.write(END)
        target.publish(path)
    return Written(path, target.size, target.shared)


def _add(target: ExportTarget, name: str, data: bytes) -> None:
    target.write(header(name, len(data), target.size, align=False))
    target.write(data + padding(len(data)))


def _add_blob(job: _Job, target: ExportTarget, name: str, layer: Layer) -> None:
    align = layer.size >= _ALIGNED_FROM
    target.write(header(name, layer.size, target.size, align=align))
    with _blob(job, layer) as (source, show):
        target.append(source, 0, source.size, lambda count: show())
    target.write(padding(layer.size))
