"""``mbuild build --locked``: the lock file of a Modelfile, its options, and the gate it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mbuild.build.history import modelfile_text
from mbuild.build.lock import (
    UNQUANTIZED,
    Drift,
    Lock,
    Place,
    drift_of_inputs,
    drift_of_results,
    inputs,
    results,
    variants,
)
from mbuild.build.request import Request
from mbuild.cli.common import read_limited
from mbuild.cli.quantizing import distinct, file_type_name, spelled
from mbuild.core.errors import FormatError, MissingFileError, ModelfileError, UsageError

if TYPE_CHECKING:
    from mbuild.build.history import Script
    from mbuild.build.plan import Plan, Sources
    from mbuild.language.instructions import Span
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
    lock = Lock.from_text(text, str(path))
    said = {name for name in given if ctx.get_parameter_source(name) in _SAID}
    locked = locked_options(lock, distinct(given["quantize"]) or tuple(lock.results))
    return {**given, **{name: value for name, value in locked.items() if name not in said}}


_SAID = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def locked_options(lock: Lock, variants: Sequence[str]) -> dict[str, Any]:
    """The options of ``mbuild build`` that ask for some variants of a lock, by their names."""
    options = lock.inputs["options"]
    found = {name: options[name] for name in ("outtype", "pre", "draft_quantize")}
    quantized = [file_type_name(name) for name in variants if name != UNQUANTIZED]
    fields = next((options["quantize"][n] for n in quantized if n in options["quantize"]), None)
    if fields is None:
        return found
    found |= {name: value for name, value in fields.items() if name != "tensor_types"}
    found["tensor_type"] = tuple(fields["tensor_types"])
    found["imatrix"] = next(iter(fields["imatrix"] or ()), None)
    found["quantize"] = tuple(spelled(name) for name in quantized)
    return found


def held_to_lock(request: Request, store: Store, *, stdin: bool = False) -> Request:
    """The same request, held to its lock file.

    Raises :class:`MissingFileError` when there is none and :class:`FormatError`
    when it cannot be read.
    """
    path = lock_path(request.script, stdin)
    text = read_lock(path)
    if text is None:
        raise MissingFileError(
            f"--locked: there is no {path}", hint="write it with mbuild lock and the same options"
        )
    return request._replace(gate=_Locked(Lock.from_text(text, str(path)), path, request, store))


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


class _Locked:
    """A gate that lets pass what a lock says and nothing else."""

    def __init__(self, lock: Lock, path: Path, request: Request, store: Store) -> None:
        self._lock = lock
        self._path = path
        self._request = request
        self._store = store

    def before(self, sources: Sources, plans: Sequence[Plan]) -> None:
        """Raise :class:`ModelfileError` for every input that drifted."""
        options = self._request.options
        now = inputs(self._request.recipe, sources, options, plans)
        self._refuse(
            drift_of_inputs(self._lock, now, variants(options)),
            f"nothing was built: undo the change, or accept it with mbuild lock"
            f" (which writes {self._path})",
        )

    def after(self, manifests: Sequence[bytes]) -> None:
        """Raise :class:`ModelfileError` for every result that differs."""
        self._refuse(
            drift_of_results(self._lock, results(self._request.options, manifests)),
            f"the inputs are those of {self._path}, which mbuild {self._lock.mbuild} wrote, the"
            " result is not; nothing was named",
        )

    def _refuse(self, drifts: Sequence[Drift], hint: str) -> None:
        if not drifts:
            return
        from mbuild.language.instructions import Problem
        from mbuild.language.parser import decode

        script = self._request.script
        data = modelfile_text(script.text, self._store) if script else None
        spans = _spans(data, [drift.place for drift in drifts])
        text = "" if data is None else decode(data)
        problems = [
            Problem(drift.message, span, code="drift").located(text, script.name if script else "")
            for drift, span in zip(drifts, spans, strict=True)
        ]
        last = problems[-1]
        problems[-1] = Problem(
            last.message, last.span, last.severity, last.code, hint, last.filename, last.line_text
        )
        raise ModelfileError(problems)


def _spans(data: bytes | None, places: Iterable[Place]) -> list[Span | None]:
    """Where the instructions of some places stand in a Modelfile, as far as they do."""
    if data is None:
        return [None for _ in places]
    from mbuild.language.instructions import TYPES, Parameter
    from mbuild.language.parser import parse

    modelfile = parse(data, "")
    found = []
    for word, number, label in places:
        items = [item for item in modelfile.instructions if item.word == word]
        if word and issubclass(TYPES[word], Parameter):
            items = [i for i in items if isinstance(i, Parameter) and i.name.lower() == label]
        some = items[number : number + 1 or None]
        found.append(some[0].span if some else None)
    return found
