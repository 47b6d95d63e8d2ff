"""An importance matrix: of each weight's columns, the sums of squares that they were met with.

The rules are llama-imatrix' (``tools/imatrix/imatrix.cpp`` of llama.cpp b11549): matrix
products whose weights are called ``blk.*`` and whose other factor is float32 of at least 16
rows, and every product with chosen experts, of which each has sums and a count of its own.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType
from mbuild.gguf.writer import write
from mbuild.runtime.failure import EngineError
from mbuild.runtime.statistics.binding import F32, open_library
from mbuild.runtime.statistics.passes import Network, TextChunks

_LEAST_ROWS = 16
_OUTPUTS = frozenset({"output.weight", "token_embd.weight"})


class Sums:
    """Of one weight: sums of squares (matrices, columns) float32, and counts of rows."""

    def __init__(self, matrices: int, columns: int, counts: int) -> None:
        self.squares = np.zeros((matrices, columns), np.float32)
        self.counts = np.zeros(counts, np.int64)


class Collector:
    """Sees the products of a pass and adds up what their weights were multiplied with."""

    def __init__(self, sums: dict[str, Sums], *, outputs: bool = False) -> None:
        """``sums`` are gone on with; ``outputs``: the output layer, too."""
        self.sums = sums
        self.failure: BaseException | None = None
        self._outputs = outputs
        library = open_library()
        names = {library.ggml_op_name(number): number for number in range(100)}
        self._product, self._chosen = names[b"MUL_MAT"], names[b"MUL_MAT_ID"]

    def watch(self, node: Any, ask: bool, data: object) -> bool:
        """llama.cpp's callback: whether a node is wanted, then the node with its factors."""
        try:
            tensor = node.contents
            if ask:
                return self._wanted(tensor)
            if tensor.op == self._chosen:
                self._add_experts(tensor)
            else:
                self._add_rows(tensor)
        except BaseException as error:  # must not go through llama.cpp's code
            self.failure = self.failure or error
            return ask
        return True

    def _wanted(self, tensor: Any) -> bool:
        if tensor.op == self._chosen:
            return True
        if tensor.op != self._product:
            return False
        factor = tensor.src[1].contents
        if factor.ne[1] < _LEAST_ROWS or factor.type != F32:
            return False
        name = _name(tensor.src[0].contents)
        return name.startswith("blk.") or (self._outputs and name in _OUTPUTS)

    def _of(self, weight: Any, columns: int, matrices: int, counts: int) -> Sums:
        name = _name(weight)
        if name not in self.sums:
            self.sums[name] = Sums(matrices, columns, counts)
        return self.sums[name]

    def _add_rows(self, tensor: Any) -> None:
        """A plain product: rows of a batch of matrices go to the weight's matrix of that number."""
        weight, factor = tensor.src[0].contents, tensor.src[1].contents
        values = _values(factor)
        matrices = weight.ne[2] * weight.ne[3]
        sums = self._of(weight, factor.ne[0], matrices, 1)
        for outer in range(factor.ne[3]):
            for inner in range(factor.ne[2]):
                number = outer % weight.ne[3] * weight.ne[2] + inner % weight.ne[2]
                rows = values[outer, inner]
                sums.squares[number] += np.einsum("ij,ij->j", rows, rows)
        sums.counts[0] += factor.ne[1] * factor.ne[2] * factor.ne[3] // matrices

    def _add_experts(self, tensor: Any) -> None:
        """A product with chosen experts: each row goes to those that it was sent to."""
        weight, factor = tensor.src[0].contents, tensor.src[1].contents
        chosen = _values(tensor.src[2].contents, np.int32)[0, 0]  # (rows, experts a row)
        rows = _values(factor)[0]  # (rows, 1 or experts a row, columns)
        sums = self._of(weight, factor.ne[0], weight.ne[2], weight.ne[2])
        for place in range(chosen.shape[1]):
            values = rows[:, place % rows.shape[1]]
            for expert in np.unique(chosen[:, place]):
                own = values[chosen[:, place] == expert]
                sums.squares[expert] += np.einsum("ij,ij->j", own, own)
                sums.counts[expert] += len(own)


def _name(tensor: Any) -> str:
    """A weight's name without what a backend put around it (``CPU#blk.0.attn_q.weight#0``)."""
    parts: list[str] = tensor.name.decode("utf-8", "replace").split("#")
    return parts[1] if len(parts) > 1 else parts[0]


def _values(tensor: Any, kind: Any = np.float32) -> NDArray[Any]:
    """A tensor's values where they lie, slowest dimension first."""
    if not tensor.data or tensor.nb[0] != 4:
        raise EngineError("a value of the model does not lie where it can be read")
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    size = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 4
    memory = (c.c_char * size).from_address(tensor.data)
    return np.ndarray(shape, kind, buffer=memory, strides=strides)


def collect(
    path: str,
    text: bytes,
    n_ctx: int,
    most: int,
    threads: int,
    *,
    special: bool = False,
    kept: tuple[int, dict[str, Sums]] | None = None,
) -> Iterator[tuple[int, TextChunks, Collector]]:
    """Run a text through a model; after each chunk its number, all chunks, and the sums.

    ``kept`` is how many chunks are done, and the sums that they came to, which grow. Raises
    :class:`UsageError`, :class:`EngineError`.
    """
    done, sums = kept or (0, {})
    collector = Collector(sums)
    network = Network(path, n_ctx, threads, collector.watch)
    try:
        chunks = network.chunks(text, most, special=special)
        for number, chunk in enumerate(chunks.tokens[done:], done + 1):
            # All positions are asked for: of the others the last layers would not be computed.
            next(network.run(chunk))
            if collector.failure is not None:
                raise collector.failure
            yield number, chunks, collector
    finally:
        network.close()


def unseen_experts(sums: dict[str, Sums]) -> dict[str, list[int]]:
    """By weight the experts that the text never reached."""
    found = {name: np.flatnonzero(entry.counts == 0).tolist() for name, entry in sums.items()}
    return {name: experts for name, experts in sorted(found.items()) if experts}


def write_importances(
    path: Path, sums: dict[str, Sums], dataset: str, chunks: int, n_ctx: int
) -> None:
    """A file as llama-quantize reads it (the short form: sums and counts, sorted by name)."""
    metadata = (
        KV("general.type", ValueType.STRING, "imatrix"),
        KV("imatrix.datasets", ValueType.ARRAY, [dataset], ValueType.STRING),
        KV("imatrix.chunk_count", ValueType.UINT32, chunks),
        KV("imatrix.chunk_size", ValueType.UINT32, n_ctx),
    )
    tensors: list[Tensor] = []
    for name, entry in sorted(sums.items()):
        counts = entry.counts.astype("<f4")
        squares = np.ascontiguousarray(entry.squares, "<f4")
        for suffix, values in ((".in_sum2", squares), (".counts", counts.reshape(-1, 1))):
            dims = values.shape[::-1]
            tensors.append(Tensor(name + suffix, dims, GGMLType.F32, values.tobytes))
    model = Model(metadata, tuple(tensors))
    parts: list[bytes] = []
    write(model, lambda piece: parts.append(bytes(piece)))
    path.write_bytes(b"".join(parts))
