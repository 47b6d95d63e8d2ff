"""Some bytes of a blob as a stream that urllib3 sends."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from mbuild.core.errors import DamagedError

if TYPE_CHECKING:
    from mbuild.core.digest import Digest

ReadAt = Callable[[int, int], bytes]
"""Gives so many bytes from a place."""


class Slice:
    """``size`` bytes of a blob from ``start`` on.

    ``sent`` is told before each piece goes, where it ends and how many bytes it has; what it
    raises ends the sending.
    """

    def __init__(
        self,
        read: ReadAt,
        start: int,
        size: int,
        digest: Digest,
        sent: Callable[[int, int], object],
    ) -> None:
        self.start, self.size = start, size
        self._read, self._digest, self._sent = read, digest, sent
        self._at = 0

    def rewound(self) -> Slice:
        """The same from its first byte on."""
        return Slice(self._read, self.start, self.size, self._digest, self._sent)

    def read(self, count: int = -1) -> bytes:
        """The next bytes; raises :class:`DamagedError` if the blob's file was cut short."""
        count = self.size - self._at if count < 0 else min(count, self.size - self._at)
        data = self._read(count, self.start + self._at)
        if len(data) < count:
            raise DamagedError(
                f"blob {self._digest} became shorter while it was sent",
                hint="build or pull the model again",
            )
        self._at += len(data)
        self._sent(self.start + self._at, len(data))
        return data


def read_at(fd: int, count: int, offset: int) -> bytes:
    """Bytes of a file from a place, without moving where others read it."""
    if hasattr(os, "pread"):
        return os.pread(fd, count, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, count)
