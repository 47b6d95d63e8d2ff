"""How a command ends that does not go well: stopped, failed, or by a fault of mbuild itself.

Loaded only then.
"""

from __future__ import annotations

import os
import platform
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild import __version__
from mbuild.core.errors import CancelledError, MbuildError
from mbuild.core.events import Warned
from mbuild.core.failures import failed
from mbuild.core.names import DEFAULT_TAG, ModelName
from mbuild.core.units import human_size

if TYPE_CHECKING:
    import click

    from mbuild.build.request import BuildRequest
    from mbuild.store import Store

TRACEBACK_VARIABLE = "MBUILD_TRACEBACK"
"""Set to 1, an internal error prints its traceback instead of writing it to a file."""

_BLOCK = 512


def meant(error: click.NoSuchOption) -> None:
    """Where an option of other tools was given, name ours in the error, not one spelled alike."""
    formats = error.ctx and any("--format" in param.opts for param in error.ctx.command.params)
    if error.option_name == "--json" and formats and error.possibilities is not None:
        error.possibilities[:] = ["--format json"]


def interrupted(store: Store, names: Sequence[str]) -> CancelledError:
    """What a build that a signal ended says: which models are there, and what is kept of it."""
    made = ", ".join(name for name in names if name)
    kept = _kept(store)
    words = f"{made} was built, nothing else" if made else "no model was changed"
    more = f"; {human_size(kept)} of finished work kept" if kept else ""
    return CancelledError(f"interrupted: {words}{more}")


def _kept(store: Store) -> int:
    """Bytes on the disk of unfinished files that the next build goes on with."""
    size = 0
    with suppress(OSError):
        for entry in os.scandir(store.blobs.partial_folder):
            found = entry.stat(follow_symlinks=False)
            size += min(found.st_size, getattr(found, "st_blocks", 0) * _BLOCK or found.st_size)
    return size


def left_behind(request: BuildRequest, store: Store) -> Iterator[Warned]:
    """A warning for each name that the variants took their tags beside, and that is older."""
    said: set[ModelName] = set()
    built = set(request.names)
    for target in request.targets:
        for name in target.names:
            plain = _without(name, target.variant) if target.variant else None
            if plain is None or plain in said | built:
                continue
            said.add(plain)
            if _differs(store, plain, built):
                yield Warned(
                    f"{plain} was not rebuilt: it is still the model of an earlier build"
                    f" (mbuild cp {name} {plain} would replace it)"
                )


def _without(name: ModelName, file_type: str) -> ModelName | None:
    """The name that got the type as its tag or behind it; None where it did not."""
    tag = name.tag.lower()
    if tag == file_type.lower():
        return name._replace(tag=DEFAULT_TAG)
    if tag.endswith(f"-{file_type.lower()}"):
        return name._replace(tag=name.tag[: -len(file_type) - 1])
    return None


def _differs(store: Store, plain: ModelName, built: set[ModelName]) -> bool:
    """Whether there is a model of that name which is none of those that were built."""
    with suppress(MbuildError):
        read = store.manifests.read_bytes
        data = read(store.manifests.resolve(plain))
        return data is not None and all(
            data != read(store.manifests.resolve(name)) for name in built
        )
    return False


# For GitHub's log (https://docs.github.com/actions/reference/workflow-commands-for-github-actions).


def workflow_commands(error: MbuildError) -> Iterator[str]:
    """Lines that mark the places of an error in GitHub's view of the files."""
    for problem in failed(error).problems:
        fields = {"file": _from_workspace(problem.file), "line": problem.line}
        fields |= {"col": problem.column, "title": "mbuild"}
        given = ",".join(f"{key}={_property(value)}" for key, value in fields.items() if value)
        text = f"{problem.message}\nhint: {problem.hint}" if problem.hint else problem.message
        yield f"::error {given}::{_data(text)}"


def _from_workspace(file: str) -> str:
    """A file's path from the root of the repository, as GitHub names files."""
    root = os.environ.get("GITHUB_WORKSPACE", "")
    if not file or not root or not os.path.exists(file):
        return file
    path = os.path.relpath(os.path.realpath(file), os.path.realpath(root))
    return file if path.startswith("..") else path


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: object) -> str:
    return _data(str(value)).replace(":", "%3A").replace(",", "%2C")


# Faults of mbuild itself.


def bug(error: Exception, arguments: Sequence[str]) -> str:
    """What to say of an error that mbuild did not expect, and where its traceback is."""
    trace = "".join(traceback.format_exception(error))
    facts = (
        f"mbuild {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"command line: mbuild {' '.join(arguments)}\n"
    )
    what = " ".join(str(error).split())[:200]
    name = type(error).__name__
    lines = [f"error: internal error: {name}: {what}" if what else f"error: internal error: {name}"]
    lines.append("  This is a bug in mbuild, not in what you build.")
    if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        return "\n".join([trace, facts, *lines, "  hint: report it with the lines above"])
    path = _written(f"{facts}\n{trace}")
    if path:
        remedy = f"report it with {path}, which holds the traceback and the versions"
    else:
        remedy = f"report it with what {TRACEBACK_VARIABLE}=1 prints"
    return "\n".join([*lines, f"  hint: {remedy}"])


def _written(text: str) -> str:
    """A new temporary file's path, "" where none can be written."""
    with suppress(OSError):
        fd, path = tempfile.mkstemp(prefix="mbuild-", suffix=".txt")
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return path
    return ""
