"""What is remembered of a source's file once it was read: its digests, and a small JSON text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import DamagedError
from mbuild.store.records import TEXT
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from mbuild.build.sources.values import SourceFile
    from mbuild.store.copying import OpenFile
    from mbuild.store.ports import BuildStore

MAX_TEXT_BYTES = 64 << 10

HUGE = 1 << 30
"""Bytes of a file that is digested on all cores."""

_FEW = 2  # cores on which one that digests in order is as fast


def read_digests(
    opened: OpenFile, file: SourceFile, report: Callable[[int, int], None], *, twice: bool = False
) -> SourceFile:
    """Read a file for its BLAKE3; ``twice``: also for its SHA-256, in the same pass.

    A SHA-256 that is known already is checked so, because two digests become aliases only
    when they are of the very same bytes. Raises :class:`DamagedError` for a blob of the
    store that is not what its name says.
    """
    from mbuild.store.copying import hash_file, hash_twice

    if not twice and file.sha256 is None:
        if opened.size >= HUGE and cores() > _FEW:
            from mbuild.build.sources.spans import digest_of

            if (digest := digest_of(opened, report)) is not None:
                return file.known_by(digest)
        return file.known_by(hash_file(opened.fd, opened.size, report, BLAKE3))
    sha256, blake3 = hash_twice(opened.fd, opened.size, report)
    if file.stamp.ctime_ns is None and file.sha256 != sha256:
        raise DamagedError(
            f"{file.name}: blob {file.sha256} is damaged", hint="build or pull that model again"
        )
    return file._replace(digest=blake3, sha256=sha256)


def remember(store: BuildStore, opened: OpenFile, file: SourceFile, started: int) -> None:
    """Keep what :func:`read_digests` gave, by the file's ``stat`` and by each other.

    ``started`` is the time just before the first byte was hashed
    (:meth:`OpenFile.start_of_hashing`).
    """
    assert file.digest is not None
    store.files.remember_file(opened.info, file.digest, started)
    if file.sha256 is not None:
        store.files.remember_alias(file.sha256, file.digest)
    keep_text(store, file.name, opened.reading_path, file.digest)


def keep_text(store: BuildStore, name: str, path: Path, digest: Digest) -> None:
    """Keep a small JSON file's text, so that a later build can tell which value changed."""
    if not name.endswith(".json") or read_text(store, digest) is not None:
        return
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        text = data.decode()
    except (OSError, ValueError):
        return
    if len(data) <= MAX_TEXT_BYTES and Digest.of(data, digest.algorithm) == digest:
        store.cache.put(TEXT, str(digest), text)


def read_text(store: BuildStore, digest: Digest) -> str | None:
    """The text of a small JSON file by its digest, if it was kept."""
    return store.cache.get(TEXT, str(digest))
