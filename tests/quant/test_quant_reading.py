"""Blocks are read again, and a type's row is all that making it takes: Q2_0, NVFP4."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from gguf_files import tiny_gguf
from inprocess import in_process
from installed import llama_cpp
from llama_library import load

import mbuild
from mbuild.core.errors import UnsupportedError
from mbuild.gguf.model import Tensor
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.choose.types import file_type, tensor_type
from mbuild.quant.decode import decoded
from mbuild.quant.quantize import engine, fallback, quantize
from mbuild.quant.search import simple
from mbuild.quant.search.columns import WHOLE_HEAD
from mbuild.quant.table import TYPES
from mbuild.quant.types import modules, q2

G = GGMLType
RANDOM = np.random.default_rng(29)


READ = {"gguf/types.py", "gguf/facts.py", "quant/compiled/repacking.py"}
"""Where NVFP4 stood before it could be made: its number, its file type's name, and what copies the
weights of checkpoints that are stored in it."""


@pytest.mark.parametrize(
    ("type_", "module", "others"),
    [(G.Q2_0, "q2", {"gguf/types.py", "quant/choose/rules.py"}), (G.NVFP4, "fp4", READ)],
)
def test_what_makes_a_type_is_one_row(type_: GGMLType, module: str, others: set[str]) -> None:
    """All follows from it: names, both engines, reading, tables, kernels of the wheel.

    Elsewhere stand GGUF's number, which a type has whether or not it can be made, and what
    llama-quantize's recipe says of Q2_0, where all that it says stands.
    """
    assert [m.__name__ for m in modules() if type_ in m.ROWS] == [f"mbuild.quant.types.{module}"]
    package = Path(mbuild.__file__).parent
    folders = [package / folder for folder in ("gguf", "quant", "build", "cli", "server", "editor")]
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    text = rf"GGMLType\.{type_.name}\b|_G\.{type_.name}\b|\b{type_.name}( = |[ \"])"
    found = [path for path in sources if re.search(text, path.read_text())]
    named = {str(path.relative_to(package)) for path in found}
    assert named == {f"quant/types/{module}.py", *others}


def test_its_names_and_sizes_follow_from_the_row() -> None:
    """What users write, the number in files, and how many bytes a block has."""
    assert tensor_type("q2_0") is G.Q2_0
    assert (file_type("q2_0").number, file_type("41").default) == (41, G.Q2_0)
    assert BLOCKS[G.Q2_0] == (64, 18)


def test_four_values_share_a_byte_the_first_in_the_lowest_bits() -> None:
    """Behind the scale; where the scale has no finite inverse all codes are 0."""
    codes = np.zeros((1, 64), np.uint8)
    codes[0, :4], codes[0, 63] = [1, 2, 0, 1], 2
    it = np.full((WHOLE_HEAD, 1), 0x3C00, np.int32)
    packed = q2.pack_q2_0(codes, it)
    assert packed.tolist() == [[0, 0x3C, 1 | 2 << 2 | 1 << 6, *[0] * 14, 2 << 6]]
    st = np.zeros((simple.ROWS, 2), np.float32)
    st[simple.TOP] = 2.0, 1e-40
    with np.errstate(all="ignore"):
        q2.scale_q2_0(None, st, np.zeros((WHOLE_HEAD, 2), np.int32))
    x = np.array([[2.0, -1.5, 0.5], [1e-40, 0.0, -1e-40]], np.float32)
    assert q2.choose_q2_0(st, x).tolist() == [[2, 0, 1], [0, 0, 0]]


def test_both_engines_make_it_and_it_is_read_again() -> None:
    """Weights of three levels come back as they were, from the same bytes of either engine."""
    scales = np.float32(2.0) ** RANDOM.integers(-9, 9, (300, 1))
    x = (RANDOM.integers(-1, 2, (300, 64)) * scales).astype(np.float32)
    made = []
    for each in (engine(), fallback()):
        out = np.empty(300 * 18, np.uint8)
        assert each.blocks(G.Q2_0, x.reshape(-1).view(np.uint8), G.F32, out)
        made.append(out.tobytes())
    assert made[0] == made[1] == quantize(G.Q2_0, G.F32, x, 64).tobytes()
    assert np.array_equal(decoded(np.frombuffer(made[0], np.uint8), G.Q2_0), x.reshape(-1))


def test_a_build_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of it has its file type, is compared with what it was made of, and is exported."""
    run = in_process(tmp_path, monkeypatch)
    data = RANDOM.standard_normal((64, 64)).astype(np.float32).tobytes()
    tensor = Tensor("blk.0.ffn_up.weight", (64, 64), G.F32, lambda: data)
    tiny_gguf(tmp_path / "tiny.gguf", tensors=[tensor])
    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf\n")
    done = run("-t", "m", "-q", "q2_0")
    assert done.returncode == 0, done.stderr
    assert "Q2_0" in run("show", "m").stdout
    done = run("export", "m", "-o", "out.gguf", "--raw")
    assert done.returncode == 0, done.stderr
    done = run("diff", "tiny.gguf", "out.gguf")
    assert "Q2_0" in done.stdout and "cannot be read" not in done.stdout


@pytest.mark.parametrize("type_", [t for t, row in TYPES.items() if row.decode])
@pytest.mark.oracle
def test_rows_read_as_ggml_does(type_: GGMLType) -> None:
    """All bytes that blocks can hold, scales of all signs and sizes among them."""
    block = BLOCKS[type_]
    blocks = RANDOM.integers(0, 256, (5000, block.size)).astype(np.uint8)
    wanted = np.empty(5000 * block.weights, np.float32)
    read = load(llama_cpp(), "ggml-base")[f"dequantize_row_{type_.name.lower()}"]
    read.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    read(blocks.ctypes.data, wanted.ctypes.data, wanted.size)
    found = decoded(blocks.reshape(-1), type_)
    finite = np.isfinite(wanted)
    assert np.array_equal(found[finite], wanted[finite])
    assert np.array_equal(np.isfinite(found), finite)


def test_what_nobody_reads_is_said() -> None:
    """Types that only computing uses have no reader."""
    with pytest.raises(UnsupportedError, match="the values of Q8_K cannot be read"):
        decoded(np.zeros(BLOCKS[G.Q8_K].size, np.uint8), G.Q8_K)
