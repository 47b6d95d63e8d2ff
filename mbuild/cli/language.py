"""``fmt`` and ``check``: the Modelfile as text, without a store."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from mbuild.cli.common import open_store, read_limited, store_option, write_text
from mbuild.cli.errors import show_error
from mbuild.core.errors import MbuildError, ModelfileError
from mbuild.language.instructions import Problem, Severity
from mbuild.language.stages.opening import opens_stages
from mbuild.lint import check

MODELFILE = "Modelfile"

named_option = click.option(
    "-f", "--file", "named", metavar="FILE", multiple=True, help="A Modelfile, as for a build."
)


def _read(file: str) -> bytes:
    if file == "-":
        return read_limited(None, "standard input")
    path = _path(file)
    if not path.exists() and not path.is_symlink():
        from mbuild.cli.words import no_modelfile

        raise no_modelfile("" if path.name == MODELFILE else file, path.parent)
    return read_limited(path, str(path))


def _path(file: str) -> Path:
    """The Modelfile that an argument names: a folder stands for the one in it."""
    return Path(file) / MODELFILE if Path(file).is_dir() else Path(file)


FMT_EPILOG = """\
\b
Examples:
  mbuild fmt Modelfile               print it in canonical form
  mbuild fmt -w Modelfile            rewrite the file
  mbuild fmt --check Modelfile       exit 1 if it is not in canonical form
  mbuild fmt --check Modelfile Modelfile.dev
"""


@click.command("fmt", epilog=FMT_EPILOG)
@click.argument("files", metavar="[FILE]...", nargs=-1)
@named_option
@click.option("-w", "--write", is_flag=True, help="Rewrite the files instead of printing.")
@click.option("--check", "only_check", is_flag=True, help="Print a diff; exit 1 if there is one.")
def fmt_command(
    *, files: tuple[str, ...], named: tuple[str, ...], write: bool, only_check: bool
) -> None:
    """Print Modelfiles in their canonical form; they build the same models."""
    each = partial(_fmt, write=write, only_check=only_check)
    raise click.exceptions.Exit(_worst((*named, *files) or (MODELFILE,), each))


def _worst(files: Sequence[str], work: Callable[[str], bool]) -> int:
    """The status after work on each file; what is wrong with one does not hide the others."""
    good = True
    for file in files:
        try:
            good &= work(file)
        except MbuildError as error:
            if len(files) == 1:
                raise
            show_error(error)
            good = False
    return 0 if good else 1


def _fmt(file: str, *, write: bool, only_check: bool) -> bool:
    """Format one file; False if it was to be canonical and is not."""
    from mbuild.language.formatter import format
    from mbuild.language.parser import decode, parse, parse_stages

    data = _read(file)
    parsed = parse_stages(data, file) if opens_stages(data) else parse(data, file)
    formatted = format(parsed)
    if only_check:
        old, new = decode(data).splitlines(True), formatted.splitlines(True)
        diff = "".join(difflib.unified_diff(old, new, file, f"{file} (formatted)"))
        write_text(diff)
        return data == formatted.encode()
    if write and file != "-":
        if data != formatted.encode():
            _rewrite(_path(file), formatted)
    else:
        write_text(formatted)
    return True


def _rewrite(path: Path, text: str) -> None:
    """Replace a file in one piece, keeping its permissions."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text.encode())
    temporary.chmod(path.stat().st_mode & 0o7777)
    temporary.replace(path)


CHECK_EPILOG = """\
\b
Examples:
  mbuild check Modelfile
  mbuild check Modelfile Modelfile.dev
  mbuild check --format json Modelfile
"""

STYLES = ("text", "json", "github")


@click.command("check", epilog=CHECK_EPILOG)
@click.argument("files", metavar="[FILE]...", nargs=-1)
@named_option
@click.option(
    "--format",
    "style",
    type=click.Choice(STYLES),
    help="Output format  [default: text; github where GITHUB_ACTIONS is set]",
)
@click.option(
    "--build-arg", metavar="NAME=VALUE", multiple=True, help="The value of an ARG of the Modelfile."
)
@store_option
@click.pass_context
def check_command(
    ctx: click.Context,
    /,
    *,
    store: str | None,
    files: tuple[str, ...],
    named: tuple[str, ...],
    style: str | None,
    build_arg: tuple[str, ...],
) -> None:
    """Find mistakes in Modelfiles without building them; exit 1 if there are errors.

    Of a Modelfile with stages every stage is looked at.
    """
    style = style or ("github" if os.environ.get("GITHUB_ACTIONS") == "true" else "text")
    found: list[Problem] = []
    look = partial(_problems, given=build_arg, models=partial(_stored, ctx, store))
    each = partial(_check, style=style, found=found, look=look)
    status = _worst((*named, *files) or (MODELFILE,), each)
    if style == "json":
        click.echo(json.dumps([_as_json(problem) for problem in found], indent=2))
    raise click.exceptions.Exit(status)


def _stored(ctx: click.Context, option: str | None) -> frozenset[str]:
    """The names of the store's models; none where there is no store."""
    opened = open_store(ctx, option)
    with suppress(MbuildError, OSError):
        return frozenset(map(str, opened.manifests.names()))
    return frozenset()


def _problems(
    data: bytes,
    file: str,
    folder: Path,
    given: Sequence[str],
    models: Callable[[], frozenset[str]],
) -> list[Problem]:
    """The warnings about a file; raises :class:`ModelfileError` if there are errors."""
    if not opens_stages(data):
        return check(data, file, folder)[1]
    from mbuild.build.staged import arguments_of
    from mbuild.build.staging import FilesBeside
    from mbuild.lint.stages import check_stages

    bring, arguments = FilesBeside(folder), arguments_of(given)
    checked = check_stages(data, file, bring, arguments, folder=folder, models=models())
    return list(checked.warnings)


def _check(
    file: str,
    *,
    style: str,
    found: list[Problem],
    look: Callable[[bytes, str, Path], list[Problem]],
) -> bool:
    """Check one file and print what is wrong; False if there are errors."""
    data = _read(file)
    folder = Path() if file == "-" else _path(file).parent
    try:
        problems = look(data, file, folder)
    except ModelfileError as error:
        problems = list(error.problems)
    found += problems
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    for problem in problems if style != "json" else ():
        click.echo(_annotation(problem) if style == "github" else problem.render() + "\n")
    if style != "json":
        warnings = _count(len(problems) - errors, "warning")
        click.echo(f"{file}: {_count(errors, 'error')}, {warnings}")
    return not errors


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _annotation(problem: Problem) -> str:
    """A workflow command of GitHub Actions, which marks the line in a pull request.

    Format: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    place = {"file": str(_path(problem.filename)) if problem.filename else MODELFILE}
    if problem.span is not None:
        place |= {"line": str(problem.span.line), "col": str(problem.span.column)}
    place["title"] = f"mbuild {problem.code}" if problem.code else "mbuild"
    values = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in place.items())
    hint = f" ({problem.suggestion})" if problem.suggestion else ""
    return f"::{problem.severity.value} {values}::{_escaped(problem.message + hint)}"


def _escaped(text: str, further: str = "") -> str:
    """A text as a workflow command carries it: what would end it is written as %XX."""
    return "".join(f"%{ord(c):02X}" if c in f"%\r\n{further}" else c for c in text)


def _as_json(problem: Problem) -> dict[str, object]:
    span = problem.span
    return {
        "severity": problem.severity.value,
        "code": problem.code,
        "message": problem.message,
        "file": problem.filename,
        "line": span.line if span else None,
        "column": span.column if span else None,
        "suggestion": problem.suggestion,
    }
