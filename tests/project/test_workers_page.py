"""docs/workers.md: its commands run, and its table is what the simulation computes."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from documents import DOCS, documented
from example_models import settle, write_chat

PAGE = DOCS / "workers.md"


@pytest.fixture
def simulation() -> ModuleType:
    """``benchmarks/simulate_workers.py`` as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "simulate_workers.py"
    spec = importlib.util.spec_from_file_location("simulate_workers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_workers"] = module
    spec.loader.exec_module(module)
    return module


def test_the_documented_session(tmp_path: Path) -> None:
    """Workers on this machine, then two parts and the build that assembles them."""
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    write_chat(tmp_path / "work" / "chat")
    (tmp_path / "work" / "Modelfile").write_text("FROM ./chat\n")
    settle()
    documented("workers.md", tmp_path)


def test_the_table_is_what_the_simulation_computes(simulation: ModuleType) -> None:
    """Word for word."""
    found = re.search(r"<!-- table -->\n(.*?)\n<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert found is not None
    assert found[1].strip() == simulation.text().strip()


def test_the_simulation_obeys_what_is_known(simulation: ModuleType) -> None:
    """No way is faster than its slowest stage, and none gets slower by more or faster machines."""
    minutes = {
        (machines, link): simulation.row(machines, link)
        for machines in (1, 16)
        for link in (1.0, 5.0)
    }
    for (machines, link), row in minutes.items():
        slowest = max(
            simulation.SOURCE / (machines * link * 1e9),
            simulation.RESULT / simulation.SHA256,
            simulation.WEIGHTS / simulation.QUANTIZE / (machines * simulation.CORES),
        )
        formula, on, split, parts, _, unread = row
        assert on >= split
        assert on * 60 > slowest
        assert unread >= parts
        assert 1 <= on / formula < 1.1
    for way in range(6):
        assert minutes[16, 1.0][way] <= minutes[1, 1.0][way]
        assert minutes[1, 5.0][way] <= minutes[1, 1.0][way]
