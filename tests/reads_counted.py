"""Counts how often the bytes of a checkpoint's tensors are read while they come in ranges."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbuild.build.steps.ranges import cut
from mbuild.convert.read import affine, lazy, once, packed, turned
from mbuild.convert.read.safetensors import StoredTensor
from mbuild.gguf.model import Tensor

RANGE = 2048
"""Bytes of a range: a tensor has 10,000, where a large model's has some hundred million."""

ALIKE = re.compile(r"a_lora\.lora\.|time_mixer\.a[0-2]$|attention\.a[0-2]$|att\.a[0-2]$")
"""What RWKV-7's first layer has once and llama.cpp wants twice: a thousandth of a real model."""

COMPARED = re.compile(
    r"(?:lm_head|embed\w*(?:\.tok\w*)?|shared|wte|output|word_embeddings)\.weight$"
)
"""An embedding and an output matrix, which are compared in 64 places before."""


class Counted:
    """How often each byte of each file of weights was read."""

    def __init__(self) -> None:
        self.files: dict[Path, Any] = {}

    def note(self, tensor: StoredTensor, start: int, stop: int) -> None:
        """Some bytes of a tensor were read."""
        size = tensor.shard.identity[2]
        counts = self.files.setdefault(tensor.shard.path, np.zeros(size, np.int32))
        counts[tensor.offset + start : tensor.offset + stop] += 1

    def of(self, tensor: StoredTensor) -> Any:
        """The counts of a tensor's bytes."""
        counts = self.files.get(tensor.shard.path, np.zeros(0, np.int32))
        return counts[tensor.offset : tensor.offset + tensor.nbytes]

    def again(self, tensors: Iterable[StoredTensor]) -> dict[str, int]:
        """The tensors of which a byte was read more than once, and how often."""
        often = {tensor.name: int(self.of(tensor).max(initial=0)) for tensor in tensors}
        known = (name for name in often if ALIKE.search(name) or COMPARED.search(name))
        allowed = dict.fromkeys(known, 2)
        return {name: count for name, count in often.items() if count > allowed.get(name, 1)}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Count reads from now on; what is large in a real model is small from now on."""
    found, read = Counted(), StoredTensor.read

    def noted(self: StoredTensor, start: int = 0, stop: int | None = None) -> Any:
        found.note(self, start, self.nbytes if stop is None else stop)
        return read(self, start, stop)

    monkeypatch.setattr(StoredTensor, "read", noted)
    monkeypatch.setattr(lazy, "_LONG_RUN", 16)
    monkeypatch.setattr(once, "GRAIN", 1)
    monkeypatch.setattr(turned, "LARGE", 1024)
    monkeypatch.setattr(turned, "STRIP", 256)
    for module in (packed, affine):
        monkeypatch.setattr(module, "_TOGETHER", 256)
    return found


def count_weights(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """Count what is read of safetensors files from now on, by whoever, for whatever purpose.

    What comes back tells how often the byte of the weights was read that was read most often,
    by the files' names.
    """
    counts: dict[str, Any] = {}
    for name in ("preadv", "pread"):
        read = getattr(os, name)

        def noted(fd: int, what: Any, offset: int, *more: int, read: Any = read) -> Any:
            found = read(fd, what, offset, *more)
            path = os.readlink(f"/proc/self/fd/{fd}")
            if path.endswith(".safetensors"):
                each = counts.setdefault(path, np.zeros(os.fstat(fd).st_size, np.int32))
                each[offset : offset + (found if isinstance(found, int) else len(found))] += 1
            return found

        monkeypatch.setattr(os, name, noted)

    def most() -> dict[str, int]:
        found = {}
        for path, each in counts.items():
            start = 8 + int.from_bytes(Path(path).read_bytes()[:8], "little")
            found[Path(path).name] = int(each[start:].max(initial=0))
        return found

    return most


def in_ranges(tensor: Tensor) -> Iterator[memoryview]:
    """A tensor's bytes as a build gets them."""
    for part in cut(0, tensor, RANGE):
        yield memoryview(part.load()).cast("B")
