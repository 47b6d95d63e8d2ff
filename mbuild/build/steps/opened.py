"""A step's user files: opened as the context saw them, digested by the reading that uses them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.build.graph import StepContext
from mbuild.build.sources.values import SourceFile
from mbuild.core.digest import Digest
from mbuild.core.errors import SourceError
from mbuild.core.system import allow_open_files
from mbuild.gguf.files import Arriving
from mbuild.store.copying import OpenFile

if TYPE_CHECKING:
    from mbuild.build.sources.spans import SpanPart, Spans
    from mbuild.build.steps.arriving import Arrival
    from mbuild.gguf.files import Seen
    from mbuild.work.cancel import Cancel

MUCH = 32 << 20
"""Bytes without a digest, in large files together, from which on what digests them is loaded."""

_LARGE = 1 << 20


def open_source(file: SourceFile) -> OpenFile:
    """Open a file that the context resolved; it must still be the same."""
    opened = OpenFile.open(file.path, file.name)
    if not file.stamp.fits(opened.info):
        opened.close()
        raise SourceError(f"{file.name} changed since the build began", hint="build again")
    return opened


def open_all(files: Mapping[str, SourceFile], stack: ExitStack) -> dict[str, Path]:
    """Open files to look into them, without hashing; what to read, by the files' names."""
    return {name: stack.enter_context(open_source(f)).reading_path for name, f in files.items()}


class OpenFiles:
    """A source's files, open; those without a digest get it from one reading.

    ``paths`` are what to read: they lead to the very files that are digested, whatever their
    names come to mean meanwhile. ``seen`` has, by the files' names, who is to be shown what is
    read of the weights in large ones: these bytes are digested where they are read. All
    else is read for its digest, small files at once on a thread, the rest in the end.
    ``by_name``: a blob of the store is known by its name, and not hashed for a second digest.
    Files that are on their way in the run of a ``context`` are opened unfinished; readers of
    them wait, and whoever brings them digests them.
    """

    def __init__(
        self,
        files: Mapping[str, SourceFile],
        stack: ExitStack,
        *,
        by_name: bool = False,
        context: StepContext | None = None,
    ) -> None:
        from mbuild.work.beside import Beside

        allow_open_files(len(files))
        self._sources = dict(files)
        self._arriving: dict[str, Arrival] = {}
        self._opened = {
            name: stack.enter_context(self._open(name, file, context))
            for name, file in files.items()
        }
        self.paths = {name: file.reading_path for name, file in self._opened.items()}
        self._started = {
            name: self._opened[name].start_of_hashing()
            for name, file in files.items()
            if (file.content if by_name else file.digest) is None and name not in self._arriving
        }
        self._found: dict[str, SourceFile] = {}
        self.more_follow = False
        """Whether other readers come after the one that finishes first."""
        self._spans = self._in_spans()
        self.seen: dict[str, Seen] = {
            name: partial(_show, spans) for name, spans in self._spans.items()
        }
        if context is not None:
            check = partial(context.report, 0, 0)
            self.seen |= {name: each.reader(check) for name, each in self._arriving.items()}
        self._hashing = stack.enter_context(Beside(self._hash, "mbuild-hash"))

    def _open(self, name: str, file: SourceFile, context: StepContext | None) -> OpenFile:
        arrival = None
        if file.is_absent and file.sha256 is not None and context is not None:
            arrival = (context.arriving or {}).get(file.sha256)
        if arrival is not None:
            with suppress(SourceError):  # it is whole by now, and has its name
                opened = OpenFile.open(arrival.path, file.name)
                self._arriving[name] = arrival
                return opened
        return open_source(file)

    def _in_spans(self) -> dict[str, Spans]:
        """The files to digest by what is read of them: where that is much, and can be done."""
        large = [name for name in self._started if self._opened[name].size >= _LARGE]
        large = [name for name in large if self._sources[name].sha256 is None]
        total = sum(self._opened[name].size for name in large)
        if total < MUCH or not hasattr(os, "preadv"):
            return {}
        from mbuild.build.sources.spans import Spans

        return {name: Spans(self._opened[name].size) for name in large}

    def _hash(self, cancel: Cancel) -> None:
        from mbuild.build.sources.reading import read_digests

        def check(completed: int, total: int) -> None:
            cancel.check()

        if self._spans and not _is_ready():
            self._spans = {}
        for name in self._started:
            if name not in self._spans:
                found = read_digests(self._opened[name], self._sources[name], check)
                self._found[name] = found

    @property
    def opened(self) -> Mapping[str, OpenFile]:
        """The files, by their names."""
        return self._opened

    @property
    def spanned(self) -> tuple[str, ...]:
        """The paths of the files that are digested by what is read of them."""
        return tuple(str(self._sources[name].path) for name in self._spans)

    def absorb(self, path: str, part: SpanPart) -> None:
        """Take what somebody else has read of a file for its digest."""
        for name, spans in self._spans.items():
            if str(self._sources[name].path) == path:
                spans.absorb(part)

    def read_last(self) -> None:
        """From now on nothing of the files is read twice: nobody reads them afterwards."""
        self.more_follow = False
        for seen in self.seen.values():
            if isinstance(seen, Arriving):
                seen.last = True

    def finish(self, context: StepContext) -> None:
        """Digest what nobody read, once all have read; the files must be as they were."""
        if self.more_follow:
            self._check_unchanged()
            return
        self._hashing.wait(lambda: context.report(0, 0))
        if self._spans:
            from mbuild.build.sources.spans import read_missing

            # Headers, and tensors that a model does not have.
            whole = {name: (self._opened[name], spans) for name, spans in self._spans.items()}
            read_missing(whole, lambda done, total: context.report(0, 0))
        for name, spans in self._spans.items():
            self._found[name] = self._sources[name].known_by(spans.digest())
        self._spans = {}
        for name, arrival in self._arriving.items():
            digest = arrival.result(lambda: context.report(0, 0))
            self._found[name] = self._sources[name].known_by(digest)
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        for name, file in self._opened.items():
            if name in self._arriving:
                continue
            file.check_unchanged(change_time=self._sources[name].stamp.ctime_ns is not None)

    def digests(self, context: StepContext) -> dict[str, Digest]:
        """Every file's digest by its path; new ones are remembered."""
        from mbuild.build.sources.reading import keep_text, remember

        for name, file in self._found.items():
            if name in self._arriving:
                continue
            remember(context.store, self._opened[name], file, self._started[name])
        known = self.known()
        for name, file in self._sources.items():
            keep_text(context.store, file.name, self.paths[name], known[str(file.path)])
        return known

    def known(self) -> dict[str, Digest]:
        """Every file's digest by its path, once :meth:`finish` has returned."""
        files = self._sources | self._found
        return {str(file.path): file.content for file in files.values() if file.content}


def _is_ready() -> bool:
    """Whether parts of files can be digested on this machine."""
    from mbuild.quant.compiled.chunks import why_unavailable

    return why_unavailable() is None


def _show(spans: Spans, start: int, data: memoryview) -> None:
    """Digest what was read of a file's weights, where that can be done."""
    if _is_ready():
        spans.add(start, data)
