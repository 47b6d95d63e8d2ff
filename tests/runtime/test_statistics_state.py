"""What computes, told without loading it, and what outlives a kill of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mbuild.runtime.failure import NoEngineError
from mbuild.runtime.process import has_engine
from mbuild.runtime.statistics import identity, state
from mbuild.runtime.statistics.importances import Sums


@pytest.fixture
def sums() -> dict[str, Sums]:
    """Of a plain weight and of one with three experts."""
    plain, experts = Sums(1, 4, 1), Sums(3, 2, 3)
    plain.squares[:], plain.counts[:] = [[1, 2, 3, 0.1]], [512]
    experts.squares[1], experts.counts[:] = [5, 7], [0, 9, 0]
    return {"blk.0.attn_q.weight": plain, "blk.0.ffn_up_exps.weight": experts}


def test_sums_come_back_as_they_were(
    tmp_path: Path, sums: dict[str, Sums], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with how many chunks they are of; and nothing lies beside the file."""
    kept = state.KeptSums(tmp_path / "imatrix-x")
    assert kept.read() == (0, {})
    kept.write(3, sums)
    assert kept.read() == (0, {})  # too soon: a small model would write all the time
    monkeypatch.setattr(state, "_SECONDS", 0)
    kept.write(3, sums)
    done, found = state.KeptSums(tmp_path / "imatrix-x").read()
    assert done == 3 and found.keys() == sums.keys()
    for name, entry in sums.items():
        assert found[name].squares.dtype == np.float32
        np.testing.assert_array_equal(found[name].squares, entry.squares)
        np.testing.assert_array_equal(found[name].counts, entry.counts)
    assert [path.name for path in tmp_path.iterdir()] == ["imatrix-x"]


def test_damaged_sums_count_as_none(
    tmp_path: Path, sums: dict[str, Sums], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any byte that is another one, and a file that is cut short."""
    monkeypatch.setattr(state, "_SECONDS", 0)
    path = tmp_path / "imatrix-x"
    state.KeptSums(path).write(3, sums)
    whole = path.read_bytes()
    for place in (0, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert state.KeptSums(path).read() == (0, {})
    path.write_bytes(whole[:-5])
    assert state.KeptSums(path).read() == (0, {})


@pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")
def test_the_engine_is_known_without_loading_it() -> None:
    """Its version, the machine and features of the processor; the package is not imported."""
    code = (
        "import sys; from mbuild.runtime.statistics.identity import engine_identity;"
        " print(engine_identity(), 'xllamacpp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from importlib.metadata import version

    assert done.stdout.startswith(f"xllamacpp {version('xllamacpp')} {sys.platform} ")
    assert done.stdout.endswith("False\n")


def test_another_processor_is_another_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that llama.cpp uses count, others and their order do not."""
    found = []
    for flags in ("sse avx2 fma", "fma avx2", "avx2 fma avx512f"):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
        monkeypatch.setattr(identity, "_CPUINFO", str(tmp_path / "cpuinfo"))
        found.append(identity._features())
    assert found == [["avx2", "fma"], ["avx2", "fma"], ["avx2", "avx512f", "fma"]]
    monkeypatch.setattr(identity, "_CPUINFO", str(tmp_path / "none"))
    assert identity._features() == []


def test_no_engine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to get one."""
    identity.engine_identity.cache_clear()
    monkeypatch.setattr(identity, "find_spec", lambda name: None)
    with pytest.raises(NoEngineError) as caught:
        identity.engine_identity()
    assert "pip install" in caught.value.hint
    identity.engine_identity.cache_clear()
