"""A checkpoint converted by a checkout of llama.cpp, in a process of its own.

The converter sees a folder with links to the files that count for the step's key and no others,
so that nothing decides the result that the key does not know, but for the Python that runs it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mbuild.build.converter import SCRIPT, environment
from mbuild.convert.conversion import TARGET
from mbuild.core.errors import SourceError, UnsupportedError
from mbuild.store.files import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mbuild.build.converter import ConvertOptions, ForeignConverter
    from mbuild.build.graph import StepContext
    from mbuild.gguf.model import Model

_POLL = 0.2  # seconds
_SAID = 2000
"""Characters of the end of what a failed converter said."""


def foreign_model(
    name: str,
    converter: ForeignConverter,
    options: ConvertOptions,
    paths: Mapping[str, Path],
    context: StepContext,
    stack: ExitStack,
    *,
    projector: bool = False,
) -> Model:
    """The model that a converter makes of a checkpoint, whose files are ``paths``.

    The file that it writes lies in ``stack``; ``projector`` asks for that of the encoders. Raises
    :class:`UsageError` where only the converter's digest is known, :class:`UnsupportedError` with
    the end of what it said where it fails, :class:`CancelledError` when the build was stopped.
    """
    from mbuild.gguf.reader import open_gguf

    converter.check()
    Path(converter.scratch).mkdir(parents=True, exist_ok=True)
    folder = stack.enter_context(temporary_folder(Path(converter.scratch)))
    source, home, target = folder / name, folder / "home", folder / "model.gguf"
    home.mkdir()
    for file, path in paths.items():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).symlink_to(os.path.realpath(path))
    command = [converter.python, str(Path(converter.path) / SCRIPT), str(source)]
    command += ["--outfile", str(target), "--outtype", options.outtype, *_flags(options)]
    if projector:
        command.append("--mmproj")
    if options.conversion.metadata is not None:
        (folder / "metadata.json").write_text(options.conversion.metadata, encoding="utf-8")
        command += ["--metadata", str(folder / "metadata.json")]
    if (source / TARGET).is_dir():
        command += ["--target-model-dir", str(source / TARGET)]
    total = sum(path.stat().st_size for path in paths.values())

    def report() -> None:
        done = target.stat().st_size if target.exists() else 0
        context.report(min(done, total), total)

    _run(command, environment(home), home, report)
    if not target.is_file():
        raise UnsupportedError(f"{converter.path}: its converter wrote no file for {name}")
    return stack.enter_context(open_gguf(target, name=f"{name} as converted")).model()


def _flags(options: ConvertOptions) -> list[str]:
    """The options that llama.cpp's converter has too; raises :class:`UnsupportedError` for one
    that it has not."""
    flags = []
    if options.pre is not None:
        raise UnsupportedError("--pre and --converter cannot be combined", hint="leave one out")
    for flag, value in options.conversion.flags():
        if flag == "--metadata":  # a file, which is written when the converter runs
            continue
        if flag not in _THEIRS:
            raise UnsupportedError(
                f"{flag} and --converter cannot be combined: llama.cpp's converter has no such"
                " option",
                hint="leave one out",
            )
        flags += [flag, value] if value else [flag]
    return flags


_THEIRS = (
    *("--fp8-as-q8", "--fuse-gate-up-exps", "--fuse-qkv", "--mtp", "--no-mtp", "--model-name"),
    "--sentence-transformers-dense-modules",
)


def _run(
    command: list[str], env: Mapping[str, str], folder: Path, report: Callable[[], None]
) -> None:
    """Run a program until it ends or ``report`` raises; what it says is shown if it fails."""
    with (folder / "said").open("w+b") as said:
        try:
            process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise SourceError(
                f"--converter-python {command[0]}: {error.strerror or error}",
                hint="name the Python of an environment with torch and transformers",
            ) from None
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
                report()
        except BaseException:
            _stop(process)
            raise
        if process.returncode:
            raise UnsupportedError(
                f"llama.cpp's converter failed: {_end_of(said)}",
                hint="its environment needs torch, transformers and what the model asks for; name"
                " one with --converter-python PYTHON",
            )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_of(said: BinaryIO) -> str:
    """The last line of an output that says something, without what a terminal would act on."""
    said.seek(0, os.SEEK_END)
    said.seek(max(said.tell() - _SAID, 0))
    text = said.read().decode("utf-8", "replace")
    lines = ["".join(c for c in line if c.isprintable()) for line in text.splitlines()]
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no reason given")
