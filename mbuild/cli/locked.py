"""``mbuild build --locked``: the lock file of a Modelfile, and its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mbuild.build.asked import distinct, types_asked
from mbuild.build.lock import ASKED, BuildLock, locked_quantization
from mbuild.build.locked import Locked
from mbuild.build.pins import STAGES, UNQUANTIZED
from mbuild.build.splitting import HALVES, SPLITTING
from mbuild.cli.common import CACHE_OPTIONS, read_limited
from mbuild.cli.quantizing import file_type_of
from mbuild.convert.conversion import CONVERSION
from mbuild.core.errors import FormatError, MissingFileError, UsageError
from mbuild.quant.choose.options import OPTIONS, spelled

if TYPE_CHECKING:
    from mbuild.build.prepare import Build
    from mbuild.build.request import Script
    from mbuild.store import Store


def with_locked_options(
    ctx: click.Context, options: Mapping[str, Any], modelfile: Path
) -> dict[str, Any]:
    """A command's options, and from ``modelfile``'s lock what the command line does not say.

    So ``--locked`` builds all that is locked, or of several variants those that ``-q`` names.
    """
    given = dict(options)
    path = modelfile.with_name(f"{modelfile.name}.lock")
    text = read_lock(path)
    if text is None:
        return given
    lock = BuildLock.from_text(text, str(path))
    said = {name for name in given if ctx.get_parameter_source(name) in _SAID}
    if STAGES in lock.inputs:
        asked = {name: _as_given(value) for name, value in lock.inputs.get(ASKED, {}).items()}
        return {**given, **{n: v for n, v in asked.items() if n in given and n not in said}}
    locked = locked_options(lock, distinct(types_asked(given)) or tuple(lock.results))
    return {**given, **{name: value for name, value in locked.items() if name not in said}}


def _as_given(value: Any) -> Any:
    """An option as the command line gives it."""
    return tuple(value) if isinstance(value, list) else value


_NOT_ASKED = frozenset(
    {"names", "store", "file", "folder", "pull", "no_cache", "threads", "link", "progress"}
    | {*CACHE_OPTIONS}
)
"""Options that say nothing of what a build makes."""


def asked_options(ctx: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line says of a build's result, for a lock of a Modelfile with stages."""
    return {
        name: value
        for name, value in options.items()
        if name not in _NOT_ASKED and ctx.get_parameter_source(name) in _SAID
    }


_SAID = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def locked_options(lock: BuildLock, variants: Sequence[str]) -> dict[str, Any]:
    """The arguments of ``mbuild build`` that ask for some variants of a lock, by their names."""
    options = lock.inputs["options"]
    found = {name: options[name] for name in ("outtype", "pre", "draft_quantize")}
    tables = (*SPLITTING.values(), *CONVERSION.values(), *HALVES.values())
    found |= {row.name: options[row.name] for row in tables if row.name in options}
    types = [type_ for name in variants if name != UNQUANTIZED and (type_ := file_type_of(name))]
    known = (locked_quantization(lock, type_.name) for type_ in types)
    quantization = next((each for each in known if each is not None), None)
    if quantization is None:
        return found
    for field, option in OPTIONS.items():
        written = option.write(getattr(quantization, field))
        found[option.name] = tuple(written) if option.kind.repeats else written
    found["quantize"] = tuple(spelled(type_.name) for type_ in types)
    return found


def hold_to_lock(wanted: Build, store: Store, *, stdin: bool = False) -> Build:
    """The same build, held to its lock file.

    Raises :class:`MissingFileError` when there is none and :class:`FormatError`
    when it cannot be read.
    """
    path = lock_path(wanted.request.script, stdin)
    text = read_lock(path)
    if text is None:
        raise MissingFileError(
            f"--locked: there is no {path}", hint="write it with mbuild lock and the same options"
        )
    gate = Locked(BuildLock.from_text(text, str(path)), path, wanted, store)
    fetching = wanted.fetching._replace(pinned=gate.pinned, commits=gate.commits)
    return wanted._replace(gate=gate, fetching=fetching)


def lock_path(script: Script | None, stdin: bool) -> Path:
    """Where a Modelfile's lock lies; raises :class:`UsageError` for standard input."""
    if script is None or stdin:
        raise UsageError(
            "a Modelfile from standard input has no lock file", hint="name a file with -f FILE"
        )
    return Path(f"{script.name}.lock")


def read_lock(path: Path) -> str | None:
    """A lock's text, or None when there is none."""
    try:
        return read_limited(path, str(path)).decode()
    except MissingFileError:
        return None
    except UnicodeDecodeError:
        raise FormatError(
            f"{path} is not a lock file", hint="write it again with mbuild lock"
        ) from None
