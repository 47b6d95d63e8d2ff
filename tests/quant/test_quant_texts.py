"""The texts that mbuild writes for LLVM: loops over rows, and codes of four bits moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.core.environment import HOME_VARIABLE
from mbuild.quant.compiled import written

pytest.importorskip("llvmlite", reason="texts are compiled by llvmlite")


def test_a_loop_carries_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers below 100 add up, and so do those below 1."""
    from mbuild.quant.compiled.row_text import LONG, RowText

    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))

    def text() -> str:
        row = RowText("total", (), ("count",))
        with row.loop(LONG(0), row.counts["count"], 1, [LONG(0)]) as (index, (total,), end):
            end([row.at.add(total, index)])
        row.at.ret(row.results[0])
        return str(row.module)

    call = written.load("total-of-numbers", "total", text)
    assert [call(count) for count in (1, 2, 100)] == [0, 1, 4950]


@pytest.mark.parametrize(("scales", "half"), [(1, 16), (4, 8)])
def test_moved_codes_are_a_text_that_llvm_takes(scales: int, half: int) -> None:
    """The same text each time, and sound, for the blocks of MXFP4 and of NVFP4."""
    from llvmlite import binding

    from mbuild.quant.compiled.repack_text import RepackText

    one, two = (RepackText("moved", scales, half).write() for _ in range(2))
    assert one == two and f"<{scales * half} x i8>" in one
    binding.parse_assembly(one).verify()
