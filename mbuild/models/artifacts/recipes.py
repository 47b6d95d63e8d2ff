"""The Modelfile that a model was built from, with the files that it brings in, out of the log."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.build.again import record_of
from mbuild.build.history import modelfile_text
from mbuild.build.request import Posted
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError, SourceError, UsageError
from mbuild.core.values import NamedTuple
from mbuild.language.stages.opening import opens_stages
from mbuild.models.artifacts.jobs import ELSEWHERE, Written
from mbuild.models.artifacts.modelfiles import MODELFILE
from mbuild.models.artifacts.sharing import ExportTarget, writing

if TYPE_CHECKING:
    from mbuild.build.history import BuildRecord
    from mbuild.build.request import Script, Target
    from mbuild.build.sources.values import Material
    from mbuild.store import Store, StoredManifest


class BuiltFrom(NamedTuple):
    """The files of a recipe by their paths in its folder, and how they are built.

    ``arguments`` stand behind ``mbuild``, before the folder. ``materials`` are the files and
    folders that the build read beside these, ``outside`` those that the Modelfile brings in from
    elsewhere.
    """

    files: Mapping[str, bytes]
    arguments: tuple[str, ...]
    materials: tuple[Material, ...]
    outside: tuple[str, ...]


def built_from(store: Store, stored: StoredManifest) -> BuiltFrom:
    """What a model was last built from, byte for byte.

    Raises :class:`NameNotFoundError` where the log knows no build of it, :class:`UsageError` where
    no Modelfile made it, and :class:`SourceError` where the cache no longer has a file.
    """
    record, target = record_of(stored, store)
    script = record.request.script
    if script is None:
        asked = "by a request to the API" if isinstance(record.request.source, Posted) else ""
        raise UsageError(
            f"{stored.name} was not built from a Modelfile{asked and f', but {asked}'}",
            hint="--modelfile writes one that builds the same model",
        )
    data = _kept(store, script.name, script.text)
    inside, outside = {MODELFILE: data}, []
    for name, digest in script.brought.items():
        if posixpath.isabs(name) or name.split("/")[0] == "..":
            outside.append(name)
        else:
            inside[name] = _kept(store, name, digest)
    arguments = tuple(_arguments(record, script, target, staged=opens_stages(data)))
    read = (each for step in record.steps for each in step.materials)
    materials = dict.fromkeys(each for each in read if each.place)
    return BuiltFrom(inside, arguments, tuple(materials), tuple(outside))


def _kept(store: Store, name: str, digest: Digest) -> bytes:
    data = modelfile_text(digest, store)
    if data is None:
        raise SourceError(
            f"the cache no longer has {name}", hint="build the model again, then export it"
        )
    return data


def _arguments(
    record: BuildRecord, script: Script, target: Target, *, staged: bool
) -> Iterator[str]:
    """What the command line said, for this one target."""
    for name, value in script.arguments.items():
        yield from ("--build-arg", f"{name}={value}")
    if staged:
        yield from ("--target", target.stage)
    alone = target._replace(quantization=None) if target.beside else target
    for flag, value in record.request.flags(alone):
        yield from (flag, value) if value else (flag,)


def write_files(files: Mapping[str, bytes], folder: Path, *, replace: bool) -> list[Written]:
    """Write files below a folder; those that are there with these bytes stay.

    Raises :class:`MbuildError` for one that is there with others, unless ``replace`` is set.
    """
    paths = {folder / name: data for name, data in files.items()}
    missing = {path: data for path, data in paths.items() if not _has(path, data)}
    for path in missing:
        if path.is_dir() or (os.path.lexists(path) and not replace):
            raise MbuildError(f"{path} exists", hint=ELSEWHERE)
    for path, data in missing.items():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with ExportTarget.beside(path) as target, writing(path):
            target.write(data)
            target.publish(path)
    return [Written(path, len(data), 0) for path, data in paths.items()]


def _has(path: Path, data: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(data) + 1) == data
    except OSError:
        return False
