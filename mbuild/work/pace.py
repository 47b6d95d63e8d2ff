"""How fast something goes, by how fast it went: what comes from a storage, what is made here."""

from __future__ import annotations

import threading

_LEAST = 64 << 10  # bytes that tell a bandwidth and not a latency


class Pace:
    """Bytes and the seconds that they took. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0
        self._seconds = 0.0

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return self._bytes > 0

    def add(self, size: int, seconds: float) -> None:
        """So many bytes took so many seconds; few of them tell nothing."""
        if size >= _LEAST:
            with self._lock:
                self._bytes += size
                self._seconds += seconds

    def seconds(self, size: int) -> float:
        """How long so many bytes will take; 0 while nobody knows."""
        with self._lock:
            return size * self._seconds / self._bytes if self._bytes else 0.0
