"""What was computed of an importance matrix so far, in a file that outlives a kill.

After some chunks the sums are written under another name and renamed, so that the file is
always whole. It begins with the digest of the rest; what is damaged or foreign counts as
nothing. The sums are float32 that grow in the order of the chunks: going on gives the very
bytes that one run gives.
"""

from __future__ import annotations

import hashlib
import io
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from mbuild.runtime.statistics.importances import Sums

_SECONDS = 2.0  # between two writes; a chunk of a large model takes longer
_DIGEST = 32  # bytes
_DONE = "done"


class KeptSums:
    """The file of one matrix."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = time.monotonic()

    def read(self) -> tuple[int, dict[str, Sums]]:
        """How many chunks are done, and their sums; nothing where there is no such file."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return 0, {}
        if _digest(data[_DIGEST:]) != data[:_DIGEST]:
            return 0, {}
        found: dict[str, Sums] = {}
        with np.load(io.BytesIO(data[_DIGEST:]), allow_pickle=False) as arrays:
            done = int(arrays[_DONE])
            for name in arrays.files:
                if name.endswith(".squares"):
                    weight = name.removesuffix(".squares")
                    squares, counts = arrays[name], arrays[f"{weight}.counts"]
                    matrices, columns = squares.shape
                    sums = Sums(matrices, columns, len(counts))
                    sums.squares[:], sums.counts[:] = squares, counts
                    found[weight] = sums
        return done, found

    def write(self, done: int, sums: dict[str, Sums]) -> None:
        """Keep the sums of so many chunks, if the last write is a while ago.

        A disk that takes no more costs the chunks since, should the build be killed.
        """
        if time.monotonic() - self._written < _SECONDS:
            return
        held = io.BytesIO()
        arrays = {f"{name}.squares": entry.squares for name, entry in sums.items()}
        counts = {f"{name}.counts": entry.counts for name, entry in sums.items()}
        np.savez(held, **{_DONE: np.array(done)}, **arrays, **counts)  # type: ignore[arg-type]
        data = held.getvalue()
        temporary = self._path.with_name(f"{self._path.name}.new")
        with suppress(OSError):
            temporary.write_bytes(_digest(data) + data)
            temporary.replace(self._path)
        self._written = time.monotonic()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()
