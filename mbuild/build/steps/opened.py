"""A step's user files: opened as the context saw them, hashed while they are used."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.build.graph import StepContext
from mbuild.build.sources.values import SourceFile
from mbuild.core.digest import Digest
from mbuild.core.errors import SourceError
from mbuild.store.copying import OpenFile

if TYPE_CHECKING:
    from mbuild.work.cancel import Cancel


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
    """A source's files, open, while those without a digest are hashed in a thread.

    The conversion and the hashing read the same pages at about the same time,
    so that a file comes from the disk once. ``paths`` are what to read: they lead to
    the very files that are hashed, whatever their names come to mean meanwhile.
    ``by_name``: a blob of the store is known by its name, and not hashed for a second digest.
    """

    def __init__(
        self, files: Mapping[str, SourceFile], stack: ExitStack, *, by_name: bool = False
    ) -> None:
        from mbuild.work.beside import Beside

        self._sources = dict(files)
        self._by_name = by_name
        self._opened = {name: stack.enter_context(open_source(f)) for name, f in files.items()}
        self.paths = {name: file.reading_path for name, file in self._opened.items()}
        self._found: dict[str, tuple[SourceFile, int]] = {}
        self._hashing = stack.enter_context(Beside(self._hash, "mbuild-hash"))

    def _hash(self, cancel: Cancel) -> None:
        from mbuild.build.sources.reading import read_digests

        def check(completed: int, total: int) -> None:
            cancel.check()

        for name, file in self._opened.items():
            source = self._sources[name]
            if (source.content if self._by_name else source.digest) is None:
                started = file.start_of_hashing()
                self._found[name] = (read_digests(file, source, check), started)

    def finish(self, context: StepContext) -> None:
        """Wait for the hashing; the files must not have changed meanwhile."""
        self._hashing.wait(lambda: context.report(0, 0))
        for name, file in self._opened.items():
            file.check_unchanged(change_time=self._sources[name].stamp.ctime_ns is not None)

    def digests(self, context: StepContext) -> dict[str, Digest]:
        """Every file's digest by its path; new ones are remembered."""
        from mbuild.build.sources.reading import keep_text, remember

        for name, (file, started) in self._found.items():
            remember(context.store, self._opened[name], file, started)
        known = self.known()
        for name, file in self._sources.items():
            keep_text(context.store, file.name, self.paths[name], known[str(file.path)])
        return known

    def known(self) -> dict[str, Digest]:
        """Every file's digest by its path, once :meth:`finish` has returned."""
        files = self._sources | {name: file for name, (file, _) in self._found.items()}
        return {str(file.path): file.content for file in files.values() if file.content}
