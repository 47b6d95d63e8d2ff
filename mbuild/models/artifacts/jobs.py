"""An export under way: what it is asked, what it reads, where it may write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import DamagedError, MbuildError
from mbuild.core.values import NamedTuple
from mbuild.models.artifacts.sharing import hashing
from mbuild.store.copying import OpenFile

if TYPE_CHECKING:
    from mbuild.build.splitting import Splitting
    from mbuild.store import Layer, Store
    from mbuild.store.contents import Contents

ELSEWHERE = "name another place, or replace it with --force"
"""What to do about a file that is there."""

THREADS = "mbuild-export"
"""What threads that copy are called."""


class ExportForm(StrEnum):
    """What an export makes."""

    GGUF = "gguf"
    DIRECTORY = "directory"
    LMSTUDIO = "lmstudio"
    TAR = "tar"


class ExportOptions(NamedTuple):
    """How to export.

    ``raw``: the weights byte for byte, without settings in their metadata.
    ``link``: hard links, hence raw too. ``overwrite``: replace files that exist.
    ``merge``: the shards of a model in one file; ``splitting``: the model in shards.
    ``again``: so that the Modelfile builds the very model, hence raw.
    """

    layout: ExportForm
    raw: bool = False
    link: bool = False
    overwrite: bool = False
    merge: bool = False
    splitting: Splitting | None = None
    again: bool = False


class Written(NamedTuple):
    """A file that was made: its bytes, and how many of them take no room of their own.

    ``media_type`` is that of the layer, of a file of weights.
    """

    path: Path
    size: int
    shared: int
    media_type: str = ""


class ExportJob(NamedTuple):
    """An export under way."""

    store: Store
    contents: Contents
    options: ExportOptions
    tell: Callable[[int], None]
    """Told how many bytes are done."""


def check_free(job: ExportJob, path: Path) -> None:
    """Raise :class:`MbuildError` for a file that is there and is to stay."""
    if path.is_dir() or (os.path.lexists(path) and not job.options.overwrite):
        raise MbuildError(f"{path} exists", hint=ELSEWHERE)


@contextmanager
def open_blobs(
    job: ExportJob, layers: Sequence[Layer], tick: Callable[[int], object]
) -> Iterator[tuple[list[OpenFile], Callable[[], None]]]:
    """Blobs, open, and hashed while the block runs."""
    store, name = job.store, job.contents.stored.name
    with ExitStack() as stack:
        sources = []
        for layer in layers:
            if not store.blobs.has(layer.digest, layer.size):
                raise DamagedError(
                    f"{name}: its blob {layer.digest} ({layer.kind}) is missing or cut short",
                    hint="mbuild verify reports how to repair it",
                )
            path = store.blobs.local_path(layer.digest)
            opened = OpenFile.open(path, f"{name} ({layer.kind})")
            sources.append(stack.enter_context(opened))
        digests = (layer.digest for layer in layers)
        with hashing(list(zip(sources, digests, strict=True)), tick) as show:
            yield sources, show
