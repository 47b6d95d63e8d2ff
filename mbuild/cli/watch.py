"""``mbuild watch``: each finished checkpoint of a training run becomes a tag of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.asking import (
    ModelfileText,
    build_options_without_context,
    default_name,
    progress_options,
    read_modelfile,
    read_request,
)
from mbuild.cli.build import run
from mbuild.cli.common import FolderType, model_name, open_store
from mbuild.core.errors import CancelledError, MbuildError, SourceError, UsageError
from mbuild.core.names import DEFAULT_TAG
from mbuild.models.watching import LAST_FILE, PATTERN, TrainedCheckpoint, look, unfinished

if TYPE_CHECKING:
    from mbuild.store import Store

DEFAULT_MODELFILE = b"FROM .\n"
"""What is built where neither ``-f`` nor the folder has a Modelfile: the checkpoint alone."""

EPILOG = """\
\b
Examples:
  mbuild watch runs/mario -t mario -q q4_K_M     mario:checkpoint-500 and so on
  mbuild watch runs/mario -t mario -f Modelfile.lora
  mbuild watch runs/mario -t mario --once        build what is finished, then end
"""


@click.command("watch", epilog=EPILOG)
@click.argument("folder", metavar="FOLDER", type=FolderType())
@build_options_without_context
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=10.0,
    help="How often to look; what does not change between two looks is at rest  [default: 10]",
)
@click.option("--once", is_flag=True, help="Build what is finished now, then end.")
@click.option(
    "--pattern",
    metavar="GLOB",
    default=PATTERN,
    help=f"Which folders are checkpoints  [default: {PATTERN}]",
)
@click.option(
    "--last-file",
    metavar="NAME",
    default=LAST_FILE,
    help=f"What the trainer writes last; empty for none  [default: {LAST_FILE}]",
)
@progress_options
@click.pass_context
def watch_command(
    ctx: click.Context,
    /,
    *,
    folder: Path,
    interval: float,
    once: bool,
    pattern: str,
    last_file: str,
    progress: str,
    quiet: bool,
    **options: Any,
) -> int:
    """Build each checkpoint of a training run once it is finished, as a tag of one model.

    The paths of the Modelfile start from the checkpoint: FROM . is its weights, ADAPTER . its
    LoRA. Without -f it is FOLDER/Modelfile, else FROM . alone. A checkpoint is finished when
    the trainer has written its last file, all weights are whole and nothing changes any more;
    one that has its tag already, and did not change since, is not built again. What cannot be
    built is said, and watching goes on. Ctrl-C ends it.
    """
    watcher = _Watcher(ctx, folder, options, "quiet" if quiet else progress, last_file)
    before: dict[Path, TrainedCheckpoint] = {}
    while True:
        try:
            now = {each.path: each for each in look(folder, pattern)}
        except OSError as error:
            raise SourceError(f"{folder} cannot be watched: {error.strerror}") from None
        watcher.at_rest([each for path, each in now.items() if before.get(path) == each])
        if once and before.keys() >= now.keys():
            return watcher.end()
        before = now
        time.sleep(interval)


class _Watcher:
    """Builds checkpoints, each once for each state that it is in."""

    def __init__(
        self, ctx: click.Context, folder: Path, options: Mapping[str, Any], style: str, last: str
    ) -> None:
        """Raises :class:`UsageError` and :class:`SourceError` for what no checkpoint can change."""
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder", hint="name the trainer's output_dir")
        self._ctx, self._options, self._style, self._last = ctx, options, style, last
        self._store = open_store(ctx, options["store"])
        self._modelfile = _modelfile(options["file"], folder)
        names = options["names"] or (default_name(folder).removesuffix(f":{DEFAULT_TAG}"),)
        for name in names:
            if model_name(name).tag != DEFAULT_TAG:
                raise UsageError(
                    f"-t {name}: the tag comes from the checkpoint's name",
                    hint="name the model alone",
                )
        self._names: tuple[str, ...] = tuple(map(str, names))
        self._done: dict[Path, TrainedCheckpoint] = {}
        self._failed: set[Path] = set()
        self._waiting: dict[Path, str] = {}

    def at_rest(self, checkpoints: list[TrainedCheckpoint]) -> None:
        """Build those of the checkpoints that are finished and new."""
        for each in checkpoints:
            if self._done.get(each.path) == each:
                continue
            reason = unfinished(each, self._last)
            if reason:
                if self._waiting.get(each.path) != reason:
                    self._waiting[each.path] = reason
                    click.echo(f"waiting for {each.path}: {reason}", err=True)
                continue
            self._done[each.path] = each
            self._build(each)

    def end(self) -> int:
        """The exit status: 1 where a checkpoint could not be built."""
        return 1 if self._failed else 0

    def _build(self, checkpoint: TrainedCheckpoint) -> None:
        names = tuple(f"{name}:{checkpoint.name}" for name in self._names)
        given = {**self._options, "names": names, "folder": checkpoint.path}
        self._failed.discard(checkpoint.path)
        try:
            modelfile = self._modelfile(checkpoint.path)
            wanted, store = read_request(self._ctx, given, modelfile=modelfile)
            if all(_is_newer(store, str(name), checkpoint) for name in wanted.request.names):
                return
            click.echo(f"building {checkpoint.path}", err=True)
            run(wanted, store, self._style)
        except CancelledError:
            raise
        except MbuildError as error:
            from mbuild.cli.errors import show_error

            self._failed.add(checkpoint.path)
            show_error(error)


def _is_newer(store: Store, name: str, checkpoint: TrainedCheckpoint) -> bool:
    """Whether a model of that name was made after the checkpoint changed last."""
    found = store.manifests.resolve(model_name(name))
    if store.manifests.read_bytes(found) is None:
        return False
    try:
        return store.manifests.read(found).modified_ns > checkpoint.changed_ns
    except MbuildError:
        return False


def _modelfile(file: str | None, folder: Path) -> Callable[[Path], ModelfileText]:
    """What gives the Modelfile for a checkpoint; it is read anew for each.

    Raises :class:`SourceError` where the one that is named is not there.
    """
    if file == "-":
        raise UsageError("watch reads its Modelfile more than once", hint="name a file with -f")
    path = file if file is not None else str(folder / "Modelfile")
    if file is None and not Path(path).exists():
        return lambda checkpoint: ModelfileText(DEFAULT_MODELFILE, "Modelfile", checkpoint)
    read_modelfile(path, None)
    return lambda checkpoint: read_modelfile(path, checkpoint)
