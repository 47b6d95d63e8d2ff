"""From a call's arguments to a build that can run, as the command line makes one of its options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.api.keywords import with_defaults
from mbuild.build.asked import Asked, script_of, targets
from mbuild.build.prepare import Build, check_unasked_names, read_recipe
from mbuild.build.request import BuildRequest
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.splitting import HALVES, SPLITTING, Halves, Splitting
from mbuild.convert.conversion import CONVERSION, Conversion
from mbuild.core.environment import CACHE_VARIABLE, default_store
from mbuild.core.errors import MissingFileError, SourceError, UsageError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.values import NamedTuple
from mbuild.language.stages.opening import SYNTAX_LINE, opens_stages
from mbuild.quant.choose.options import Option
from mbuild.registry.stored import local_name
from mbuild.store import Store

if TYPE_CHECKING:
    from mbuild.build.staging import StagesRead
    from mbuild.quant.choose.types import FileType

StrPath = str | os.PathLike[str]

TEXT = "Modelfile (text)"
"""What messages call a Modelfile that is in no file."""

_LONGEST = 16 << 20


Caches = tuple[tuple[str, ...], str | None, tuple[str, ...]]


class PythonCall(NamedTuple):
    """What a call asks for, before its Modelfile is read.

    ``named`` tells whether the models get their names. ``arguments`` are the values of ARG;
    ``given`` are the options by their names; ``caches`` the shared ones: where from, where to,
    whose signatures count.
    """

    data: bytes
    label: str
    folder: Path
    names: tuple[str, ...]
    types: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    arguments: Mapping[str, str] = {}
    use_cache: bool = True
    named: bool = True
    given: Mapping[str, Any] = {}
    caches: Caches = ((), None, ())


def open_store(store: StrPath | None, said: list[str]) -> Store:
    """The store in a folder, or the usual one; what it warns of is added to ``said``."""
    return Store(Path(store).expanduser() if store is not None else default_store(), said.append)


def sharing(caches: Caches, store: Store, said: list[str]) -> AbstractContextManager[object]:
    """The shared caches of a call, attached to a store; raises :class:`UsageError`."""
    if not any(caches) and not os.environ.get(CACHE_VARIABLE):
        return nullcontext()
    from mbuild.shared.attach import attached
    from mbuild.shared.locations import CacheOptions

    return attached(store, CacheOptions.of(*caches), said.append)


def read_text(path: Path, name: str) -> bytes:
    """A Modelfile's bytes; raises :class:`SourceError` for what is none."""
    from mbuild.store.copying import OpenFile

    try:
        opened = OpenFile.open(path, name)
    except SourceError as error:
        kind = MissingFileError if isinstance(error.__cause__, FileNotFoundError) else SourceError
        raise kind(f"the Modelfile {error.message}", hint=error.hint) from None
    with opened, open(opened.fd, "rb", closefd=False) as file:
        data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise SourceError(f"the Modelfile {name} is larger than {_LONGEST >> 20} MiB")
    return data


def wanted_build(call: PythonCall, store: Store) -> Build:
    """The build that is asked for; raises :class:`MbuildError` for whatever is wrong with it."""
    given = {**with_defaults(call.given), "quantize": call.types}
    found = (_staged if opens_stages(call.data) else _plain)(call, given, store)
    request = BuildRequest(
        found.targets,
        found.script,
        given["outtype"],
        given["pre"],
        _file_type(given["draft_quantize"]),
        given["link"],
        call.named,
        Splitting.parse(_of(SPLITTING, given)),
        Conversion.parse(_of(CONVERSION, given)),
        halves=Halves.parse(_of(HALVES, given)),
        checks=tuple(given["check"]),
    )
    if call.named and not call.names:
        check_unasked_names(request, store)
    wanted = found.build(
        request, given, LocalContext(call.folder, store), store, use_cache=call.use_cache
    )
    return wanted._replace(warnings=(*found.warnings, *found.overruled))


def _plain(call: PythonCall, given: Mapping[str, Any], store: Store) -> Asked:
    """A Modelfile in Ollama's language."""
    for name, value in (("arguments", call.arguments), ("target", call.stages)):
        if value:
            raise UsageError(
                f"{name} has no effect: this Modelfile has no arguments and no stages",
                hint=f"make {SYNTAX_LINE} its first line to use them",
            )
    recipe, warnings = read_recipe(call.data, call.label, store)
    made = targets(call.names, partial(_default_name, call.folder), given, local_name)
    return Asked(made, script_of(call.label, call.data, call.folder), recipe, warnings)


def _staged(call: PythonCall, given: Mapping[str, Any], store: Store) -> Asked:
    """A Modelfile with stages."""
    from mbuild.build.staged import staged_targets
    from mbuild.build.staging import FilesBeside, read_stages

    read: StagesRead = read_stages(
        call.data,
        call.label,
        store,
        FilesBeside(call.folder),
        call.arguments,
        call.stages,
    )
    default = partial(_default_name, call.folder)
    made, notes = staged_targets(read.stages, call.names, default, given, local_name)
    script = script_of(call.label, call.data, call.folder)._replace(
        arguments=call.arguments, brought=read.brought
    )
    stages = {stage.name: stage for stage in read.stages}
    return Asked(made, script, read.stages[0].recipe, read.warnings, stages, notes)


def _of(table: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    return {row.name: given[row.name] for row in table.values()}


def _file_type(text: str | None) -> FileType | None:
    if text is None:
        return None
    from mbuild.quant.choose.types import file_type

    return file_type(text)


def _default_name(folder: Path) -> str:
    name = folder.resolve().name
    try:
        return str(ModelName.parse(name))
    except InvalidNameError:
        raise UsageError(
            f"cannot make a model name from the folder name {name!r}", hint="give one: name=NAME"
        ) from None


def modelfile_of(
    modelfile: StrPath | None, text: str | None, folder: StrPath | None
) -> tuple[bytes, str, Path]:
    """The bytes of the Modelfile that a call names, what it is called, and where its paths start.

    Raises :class:`UsageError` for two of them, :class:`SourceError` for one that is not there.
    """
    if text is not None:
        if modelfile is not None:
            raise UsageError("modelfile and text name two Modelfiles", hint="leave one out")
        return text.encode(), TEXT, Path(folder) if folder is not None else Path()
    path = Path(modelfile) if modelfile is not None else Path(folder or ".") / "Modelfile"
    return (
        read_text(path, str(path)),
        str(path),
        Path(folder) if folder is not None else path.parent,
    )


def as_value(value: StrPath) -> str:
    """What an instruction calls a model: a text as it is, a path in full."""
    return value if isinstance(value, str) else str(Path(value).absolute())
