"""Machine code for the tree of BLAKE3: bit for bit the package's digests."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from mbuild.core.environment import HOME_VARIABLE
from mbuild.quant.compiled import chunk_text, chunks, llvm, needs
from mbuild.quant.compiled.chunks import CHUNK, VALUE
from mbuild.quant.engine import Unavailable


@pytest.fixture(autouse=True)
def ready() -> None:
    """The code is loaded; on a machine that cannot, these tests have nothing to look at."""
    assert chunks.why_unavailable() is None


@pytest.mark.parametrize("count", [2, 4, 8, 16, 64, 1024])
def test_whole_chunks_and_their_parents_are_the_packages_digest(count: int) -> None:
    """As many as there are lanes, fewer and more; parents are made in the chunks' own memory."""
    data = random.Random(count).randbytes(count * CHUNK)
    values = chunks.chunks(np.frombuffer(data, np.uint8), 0)
    assert values.size == count * VALUE
    while values.size > 2 * VALUE:
        values = chunks.parents(values)
    assert chunks.parents(values, root=True).tobytes() == blake3(data).digest()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 128, 1000, 1023, 1024])
def test_the_last_chunk_need_not_be_whole(size: int) -> None:
    """Of any number of bytes, behind a whole one."""
    data = random.Random(size).randbytes(CHUNK + size)
    first = chunks.chunks(np.frombuffer(data[:CHUNK], np.uint8), 0)
    pair = np.concatenate([first, chunks.last_chunk(data[CHUNK:], 1)])
    assert chunks.parents(pair, root=True).tobytes() == blake3(data).digest()


def test_numbers_of_chunks_may_be_large() -> None:
    """Beyond 32 bits too, which is in files from 4 TiB on; each lane has its own."""
    data = np.frombuffer(random.Random(0).randbytes(9 * CHUNK), np.uint8)
    first = (1 << 32) - 4
    together = chunks.chunks(data, first).reshape(9, VALUE)
    for number in range(9):
        one = chunks.chunks(data[number * CHUNK : (number + 1) * CHUNK], first + number)
        last = chunks.last_chunk(
            data[number * CHUNK : (number + 1) * CHUNK].tobytes(), first + number
        )
        assert together[number].tobytes() == one.tobytes() == last.tobytes()
    assert together[0].tobytes() != chunks.chunks(data[:CHUNK], 0).tobytes()


def test_the_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process makes it, the next one finds it and makes nothing."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    chunks._load()
    (kept,) = (tmp_path / "kernels").iterdir()
    assert kept.name.startswith(chunks.kernel_name())
    monkeypatch.setattr(llvm, "compiled", lambda text: pytest.fail("made again"))
    chunks._load()


def test_another_text_is_kept_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has a digest of the module whose text it is; the function is called as is asked."""
    usual = chunks.kernel_name()
    assert '@"another"(' in chunk_text.ChunksText("another").write()
    monkeypatch.setattr(Path, "read_bytes", lambda path: path.name.encode())
    assert chunks.kernel_name() == f"chunks-{hashlib.sha256(b'chunk_text.py').hexdigest()[:16]}"
    assert chunks.kernel_name() != usual


def test_a_machine_without_llvm_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then files are digested in order, by the package; the reason is asked for once."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))

    def missing() -> None:
        raise Unavailable("llvmlite is not installed", "pip install llvmlite")

    monkeypatch.setattr(needs, "need_llvmlite", missing)
    monkeypatch.setattr(chunks, "_loaded", [])
    for _ in range(2):
        reason = chunks.why_unavailable()
        assert reason is not None and reason.reason == "llvmlite is not installed"
