"""``export``: a model as GGUF files for others to load, or as an OCI image layout in a tar.

Every blob is hashed on its way out; a damaged one is refused. Files appear
whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.errors import StoreError, UnsupportedError, UsageError
from mbuild.core.system import allow_open_files
from mbuild.core.values import NamedTuple, replace
from mbuild.models.artifacts.archive import write_tar
from mbuild.models.artifacts.jobs import (
    THREADS,
    ExportForm,
    ExportJob,
    ExportOptions,
    Written,
    check_free,
    open_blobs,
)
from mbuild.models.artifacts.modelfiles import MODELFILE, WRITTEN_BY, origin_name
from mbuild.models.artifacts.places import WeightsPlace, places_of
from mbuild.models.artifacts.settings import align, in_one_file, with_settings
from mbuild.models.artifacts.sharing import ExportTarget, clear_leftovers, writing
from mbuild.store.contents import Contents, open_group, read_contents
from mbuild.store.copying import OpenFile
from mbuild.store.files import temporary_folder
from mbuild.store.media import MODEL
from mbuild.work.spread import Part, spread

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.store import Layer, Store, StoredManifest

    Progress = Callable[[int, int], None]
    MakeModelfile = Callable[[Mapping[Digest, str]], Mapping[str, str]]

_LONGEST = 16 << 20


def export(
    store: Store,
    stored: StoredManifest,
    target: Path,
    options: ExportOptions,
    modelfile: MakeModelfile | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Written]:
    """Write a model to ``target``: a file, or for the directory layouts a folder.

    ``modelfile``, for a directory, writes the Modelfile and what that brings in, each text by
    its file's name, given what each layer that was exported is called there, nothing for what
    a name before stands for. Raises
    :class:`MbuildError` for a file that exists, :class:`UnsupportedError` for weights that
    are not GGUF, :class:`DamagedError` for a blob that is not what its digest says,
    :class:`StoreError` where the system says no. The caller holds the store
    (:meth:`mbuild.store.Store.reading`). ``progress``: bytes done, bytes in all.
    """
    total = sum({layer.digest: layer.size for layer in stored.manifest.blobs()}.values())

    def tell(done: int) -> None:
        progress(done, max(total, done))

    contents = read_contents(store.blobs, stored)
    job = ExportJob(store, in_one_file(contents) if options.merge else contents, options, tell)
    _check_options(options)
    if options.layout is ExportForm.TAR:
        return [write_tar(job, target)]
    places = _places(job, target)
    texts: dict[Path, str] = {}
    if options.layout is ExportForm.DIRECTORY:
        names = {digest: name for place in places for digest, name in place.references.items()}
        made = modelfile(names) if modelfile else {}
        texts = _beside(job, target, {**made, **texts_of(job.contents)})
    return _write_weights(job, places) + [
        _write_text(job, path, text) for path, text in texts.items()
    ]


def _check_options(options: ExportOptions) -> None:
    """Raise :class:`UsageError` for options that exclude each other."""
    cut = next(iter(options.splitting.flags()), ("", ""))[0] if options.splitting else ""
    anew = "--merge" if options.merge else cut
    if options.again and options.layout is not ExportForm.DIRECTORY:
        raise UsageError("--modelfile makes a folder", hint="name it with a slash: -o NAME/")
    if options.again and anew:
        raise UsageError(
            f"--modelfile exports the weights as they are stored, {anew} does not",
            hint="choose one of them",
        )
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


def _places(job: ExportJob, target: Path) -> list[WeightsPlace]:
    """The GGUF layers with their files; checks first that all of them can be made."""
    stored, options = job.contents.stored, job.options
    name = stored.name
    if not stored.manifest.of_kind(MODEL):
        raise UnsupportedError(
            f"{name} has no GGUF weights", hint="export it to a .tar, which takes any model"
        )
    folder, stem = target, stem_of(name)
    if options.layout is ExportForm.LMSTUDIO:
        folder = target / name.namespace / name.model
    elif options.layout is ExportForm.GGUF:
        folder, stem = target.parent, target.name.removesuffix(".gguf")
    merge, splitting = options.merge, options.splitting
    found = places_of(job.store, stored, folder, stem, merge=merge, splitting=splitting)
    places = _by_origin(list(found), folder) if options.again else list(found)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for place in places:
        for path in place.paths:
            check_free(job, path)
    return places


def _by_origin(places: list[WeightsPlace], folder: Path) -> list[WeightsPlace]:
    """The same with adapters called as their layers say, which is a part of the model's id."""
    taken = {path.name for place in places for path in place.paths}
    found = []
    for place in places:
        name = origin_name(place.layers[0])
        if name and name not in taken:
            taken.add(name)
            place = place._replace(paths=(folder / name,))
        found.append(place)
    return found


def stem_of(name: ModelName) -> str:
    """What the files of a model in a folder begin with."""
    return name.model if name.tag == "latest" else f"{name.model}-{name.tag}"


def texts_of(contents: Contents) -> dict[str, str]:
    """Small files beside the weights and the Modelfile.

    ``template``, ``system`` and ``params`` are what ``ollama run hf.co/...``
    reads from a repository with that content.
    """
    from mbuild.core import gojson

    texts = {
        "template": contents.template,
        "system": contents.system,
        "params": gojson.dumps(dict(contents.parameters)).decode() if contents.parameters else "",
    }
    for number, text in enumerate(contents.licenses, start=1):
        texts["LICENSE" if number == 1 else f"LICENSE-{number}"] = text
    return {name: text for name, text in texts.items() if text}


def _beside(job: ExportJob, folder: Path, texts: Mapping[str, str]) -> dict[Path, str]:
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
            path = folder / f"{stem_of(job.contents.stored.name)}.{MODELFILE}"
        check_free(job, path)
        found[path] = text
    return found


def _text_of(path: Path) -> str:
    """A small file's text, "" where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST + 1).decode()
    except (OSError, ValueError):
        return ""


def _write_text(job: ExportJob, path: Path, text: str) -> Written:
    check_free(job, path)
    with ExportTarget.beside(path) as target, writing(path):
        target.write(text.encode())
        target.publish(path)
    return Written(path, target.size, 0)


# Weights.


class _Copy(NamedTuple):
    """A layer that becomes a file of its own; ``settings``: with them in its metadata."""

    layer: Layer
    path: Path
    settings: bool


def _write_weights(job: ExportJob, places: Sequence[WeightsPlace]) -> list[Written]:
    """Write all models' files, in the places' order."""
    # Of a split model the first shard has all metadata, so the settings too.
    copies = [
        _Copy(layer, path, number == 0)
        for place in places
        if not place.counts
        for number, (layer, path) in enumerate(zip(place.layers, place.paths, strict=True))
    ]
    made = _link_all(job, copies) if job.options.link else _copy_all(job, copies)
    found = {written.path: written for written in made}
    done = sum(copy.layer.size for copy in copies)
    for place in places:
        if place.counts:
            found |= {written.path: written for written in _write_anew(job, place, done)}
            done += sum(layer.size for layer in place.layers)
    return [
        replace(found[path], media_type=place.layers[0].media_type)
        for place in places
        for path in place.paths
    ]


def _copy_all(job: ExportJob, copies: Sequence[_Copy]) -> list[Written]:
    """Copy layers, several at once; the files appear when all are known good."""
    allow_open_files(len(copies))
    with ExitStack() as stack:
        pairs = [(copy, stack.enter_context(ExportTarget.beside(copy.path))) for copy in copies]
        targets = {copy.path: target for copy, target in pairs}

        def fill(copy: _Copy, part: Part) -> None:
            _fill(job, copy, targets[copy.path], part.add)

        _at_once(job, fill, copies)
        for path, target in targets.items():
            target.publish(path)
        return [Written(path, target.size, target.shared) for path, target in targets.items()]


def _fill(job: ExportJob, copy: _Copy, target: ExportTarget, tick: Callable[[int], object]) -> None:
    with writing(copy.path), open_blobs(job, [copy.layer], tick) as ((source,), show):
        if (
            job.options.raw
            or job.options.again
            or copy.layer.media_type != MODEL
            or not copy.settings
        ):
            target.append(source, 0, source.size, lambda count: show())
        else:
            _write_gguf(job, source, target, show)


def _at_once(job: ExportJob, work: Callable[[_Copy, Part], None], copies: Sequence[_Copy]) -> None:
    total = sum(copy.layer.size for copy in copies)
    spread(work, copies, total, lambda done, total: job.tell(done), name=THREADS)


def _write_anew(job: ExportJob, place: WeightsPlace, before: int) -> list[Written]:
    """Shards in one file, or weights in shards; all appear once every blob was found good.

    ``before`` are the bytes that were done by then.
    """
    from mbuild.gguf.split import split
    from mbuild.gguf.writer import write

    done = before

    def tick(count: int) -> None:
        nonlocal done
        done += count
        job.tell(done)

    with ExitStack() as stack:
        targets = [stack.enter_context(ExportTarget.beside(path)) for path in place.paths]
        with ExitStack() as blobs:
            _, show = blobs.enter_context(open_blobs(job, place.layers, tick))
            name = str(job.contents.stored.name)
            model = blobs.enter_context(open_group(job.store.blobs, place.layers, name)).model()
            if not job.options.raw and place.layers[0].media_type == MODEL:
                model = with_settings(model, job.contents)
            files = split(model, place.counts) if len(place.counts) > 1 else (model,)
            for file, target, path in zip(files, targets, place.paths, strict=True):
                with writing(path):
                    write(file, target.write, progress=lambda written: show())
        for target, path in zip(targets, place.paths, strict=True):
            target.publish(path)
        return [
            Written(path, target.size, target.shared)
            for target, path in zip(targets, place.paths, strict=True)
        ]


def _write_gguf(
    job: ExportJob, source: OpenFile, target: ExportTarget, show: Callable[[], None]
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


def _link_all(job: ExportJob, copies: Sequence[_Copy]) -> list[Written]:
    """Give blobs second names, once all of them are known good."""

    def look(copy: _Copy, part: Part) -> None:
        with open_blobs(job, [copy.layer], part.add):
            pass

    _at_once(job, look, copies)
    return [_link(job, copy) for copy in copies]


def _link(job: ExportJob, copy: _Copy) -> Written:
    path, blob = copy.path, job.store.blobs.local_path(copy.layer.digest)
    try:
        with temporary_folder(path.parent, clear_leftovers(path)) as folder:
            temporary = folder / "linked"
            os.link(os.path.realpath(blob), temporary)
            temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be a hard link to the store: {error.strerror}",
            hint="choose a place on the store's disk, or leave --link out",
        ) from error
    return Written(path, copy.layer.size, copy.layer.size)
