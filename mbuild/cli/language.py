"""``fmt`` and ``check``: the Modelfile as text, without a store."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

import click

from mbuild.cli.common import read_limited
from mbuild.errors import ModelfileError
from mbuild.lint import check
from mbuild.modelfile.instructions import Problem, Severity


def _read(file: str) -> bytes:
    if file == "-":
        return read_limited(None, "standard input")
    path = Path(file) / "Modelfile" if Path(file).is_dir() else Path(file)
    return read_limited(path, str(path))


FMT_EPILOG = """\
\b
Examples:
  mbuild fmt Modelfile               print it in canonical form
  mbuild fmt -w Modelfile            rewrite the file
  mbuild fmt --check Modelfile       exit 1 if it is not in canonical form
"""


@click.command("fmt", epilog=FMT_EPILOG)
@click.argument("file", default="Modelfile")
@click.option("-w", "--write", is_flag=True, help="Rewrite the file instead of printing.")
@click.option("--check", "only_check", is_flag=True, help="Print a diff; exit 1 if there is one.")
def fmt_command(*, file: str, write: bool, only_check: bool) -> None:
    """Print a Modelfile in its canonical form; it builds the same model."""
    from mbuild.modelfile.formatter import format
    from mbuild.modelfile.parser import decode, parse

    data = _read(file)
    formatted = format(parse(data, file))
    if only_check:
        old, new = decode(data).splitlines(True), formatted.splitlines(True)
        diff = "".join(difflib.unified_diff(old, new, file, f"{file} (formatted)"))
        click.echo(diff, nl=False)
        raise click.exceptions.Exit(1 if data != formatted.encode() else 0)
    if write and file != "-":
        if data != formatted.encode():
            _rewrite(Path(file) / "Modelfile" if Path(file).is_dir() else Path(file), formatted)
    else:
        click.echo(formatted, nl=False)


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
  mbuild check --format json Modelfile
"""


@click.command("check", epilog=CHECK_EPILOG)
@click.argument("file", default="Modelfile")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def check_command(*, file: str, style: str) -> None:
    """Find mistakes in a Modelfile without building it; exit 1 if there are errors."""
    try:
        problems = check(_read(file), file)[1]
    except ModelfileError as error:
        problems = list(error.problems)
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    if style == "json":
        click.echo(json.dumps([_as_json(problem) for problem in problems], indent=2))
    else:
        for problem in problems:
            click.echo(problem.render() + "\n")
        warnings = len(problems) - errors
        click.echo(f"{file}: {errors} errors, {warnings} warnings")
    raise click.exceptions.Exit(1 if errors else 0)


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
