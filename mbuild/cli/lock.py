"""``mbuild lock`` writes ``Modelfile.lock``; ``mbuild build --locked`` holds a build to it."""

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
from mbuild.cli.build import (
    asked_for,
    build_options,
    context_folder,
    from_stdin,
    progress_options,
    run,
)
from mbuild.cli.common import read_limited, write_file
from mbuild.cli.progress import failures
from mbuild.cli.quantizing import distinct, file_type_name, spelled
from mbuild.core.errors import FormatError, MissingFileError, ModelfileError, UsageError
from mbuild.core.names import InvalidNameError, ModelName

if TYPE_CHECKING:
    from mbuild.build.history import Script
    from mbuild.build.plan import Plan, Sources
    from mbuild.language.instructions import Span
    from mbuild.store import Store

EPILOG = """\
\b
Examples:
  mbuild lock                        write ./Modelfile.lock
  mbuild lock -q q4_K_M -q q8_0      lock two variants
  mbuild lock -t mario               the same, and name the model
  mbuild build --locked -t mario     build exactly what is locked, or nothing
"""


@click.command("lock", epilog=EPILOG)
@build_options
@progress_options
@click.pass_context
def lock_command(ctx: click.Context, /, *, progress: str, quiet: bool, **options: Any) -> None:
    """Pin a build's inputs and results, by digest, in Modelfile.lock.

    The lock file lies beside the Modelfile and is called like it, with .lock
    at the end. What is not built yet is built, so that the result is known; it
    gets a name only with -t. mbuild build --locked then builds what is locked,
    with the same options, and refuses anything else.
    """
    style = "quiet" if quiet else progress
    with failures(style):
        _lock(ctx, style, options)


def _lock(ctx: click.Context, style: str, options: dict[str, Any]) -> None:
    """Build what is asked for, and write down what it is made from and what came out."""
    named = bool(options["names"])
    options["names"] = options["names"] or (_what_to_call(context_folder(options["folder"])),)
    request, store = asked_for(ctx, hash_files=True, **options)
    path = lock_path(request.script, from_stdin(options["file"], options["folder"]))
    writing = _Writing(request)
    request = request._replace(gate=writing, named=named)
    run(request, store, style)
    text = Lock(writing.inputs, writing.results).to_text()
    same = read_lock(path) == text
    if not same:
        write_file(path, text)
    if style != "quiet":
        click.echo(f"{path} {'is up to date' if same else 'written'}", err=True)


def _what_to_call(folder: Path) -> str:
    """A build that is not named is called like its folder, if that is a name."""
    try:
        return str(ModelName.parse(folder.resolve().name))
    except InvalidNameError:
        return "unnamed"


def with_locked_options(ctx: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """A command's options, and from the lock file what the command line does not say.

    So ``--locked`` builds all that is locked, or of several variants those that ``-q`` names.
    """
    given = dict(options)
    script = Path(given["file"] or context_folder(given["folder"]) / "Modelfile")
    if from_stdin(given["file"], given["folder"]):
        return given
    path = script.with_name(f"{script.name}.lock")
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


class _Writing:
    """A gate that lets everything pass and keeps what a lock says of it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.inputs: dict[str, Any] = {}
        self.results: dict[str, Any] = {}

    def before(self, sources: Sources, plans: Sequence[Plan]) -> None:
        """Keep what the build starts from."""
        self.inputs = inputs(self._request.recipe, sources, self._request.options, plans)

    def after(self, manifests: Sequence[bytes]) -> None:
        """Keep what came out."""
        self.results = results(self._request.options, manifests)


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
