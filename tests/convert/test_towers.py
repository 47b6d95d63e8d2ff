"""What encoders' rows are made of: parts of config.json, defaults, lines of tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hyper_parameters import lazy

from mbuild.convert.checks.towers import check_towers
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.layout import slots
from mbuild.convert.rows.tower_defaults import ENCODERS, ROOTS, completed
from mbuild.convert.rows.towers import Section
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

SECTION = Section({"n": 3, "x": 0.5, "t": "a", "f": True, "l": [1, 2], "o": {"n": 1}}, "c: v")


def test_a_section_reads_with_types() -> None:
    """The first name that is there; a default where none is."""
    assert SECTION.integer("m", "n") == 3
    assert SECTION.number("x") == 0.5
    assert SECTION.text("t") == "a"
    assert SECTION.flag("f")
    assert SECTION.integers("l") == [1, 2]
    assert SECTION.numbers("l") == [1.0, 2.0]
    assert SECTION.section("o").integer("n") == 1
    assert SECTION.integer("missing", default=7) == 7
    assert SECTION.section("missing").values == {}


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *(("integer", name) for name in "xtflo"),
        *(("number", name) for name in "tflo"),
        *(("text", name) for name in "nflo"),
        *(("flag", name) for name in "nxtl"),
        *(("integers", name) for name in "nxto"),
        *(("section", name) for name in "nxtfl"),
        ("numbers", "missing"),
        ("integer", "missing"),
    ],
)
def test_another_type_is_refused_by_its_place(method: str, name: str) -> None:
    """The file and the part of it are named."""
    with pytest.raises(FormatError, match="c: v"):
        getattr(SECTION, method)(name)


def test_parts_are_completed_by_their_own_type() -> None:
    """A part's model_type counts, else the one that the root's class has; given values stay."""
    config = {"model_type": "llava", "vision_config": {"model_type": "pixtral", "patch_size": 9}}
    vision = completed(config)["vision_config"]
    assert (vision["patch_size"], vision["image_size"]) == (9, 1024)
    assert completed({"model_type": "llava"})["vision_config"]["image_size"] == 224
    assert completed({"model_type": "unknown"}) == {"model_type": "unknown"}
    omni = {"model_type": "qwen2_5_omni", "thinker_config": {"vision_config": {"depth": 2}}}
    assert completed(omni)["thinker_config"]["vision_config"]["patch_size"] == 14
    named = {type_ for root in ROOTS.values() for type_ in root.parts.values()}
    assert named <= ENCODERS.keys()


def test_lines_of_a_layer() -> None:
    """Biases and norms as asked for."""
    names = [slot.name for slot in slots(p.block(attention="qkv", bias="qkv", feed="up down"))]
    assert names == [
        *("v.blk.attn_qkv.weight", "v.blk.attn_qkv.bias", "v.blk.attn_out.weight"),
        *("v.blk.ln1.weight", "v.blk.ln1.bias", "v.blk.ln2.weight", "v.blk.ln2.bias"),
        *("v.blk.ffn_up.weight", "v.blk.ffn_up.bias"),
        *("v.blk.ffn_down.weight", "v.blk.ffn_down.bias"),
    ]
    assert ".bias" not in p.PLAIN_GATED
    assert all(slot.name.startswith("a.") for slot in slots(p.block("a")))


@pytest.mark.parametrize(("said", "key"), [("gelu", "use_gelu"), ("silu", "use_silu")])
def test_the_activation_decides_a_key(said: str, key: str) -> None:
    """Another one is refused where llama.cpp would compute the wrong one."""
    rule = p.activation(needed=True)

    def towers(name: str) -> Any:
        return SimpleNamespace(first=Section({"hidden_act": name}))

    assert [kv.key for kv in rule(towers(said))] == [f"clip.{key}"]
    with pytest.raises(UnsupportedError, match="tanh"):
        list(rule(towers("tanh")))


def _check(needs: str, uneven: str = "", **shapes: tuple[int, ...]) -> None:
    row: Any = SimpleNamespace(needs=needs, names=("X",), uneven=uneven)
    sizes = {"embedding_length": 4, "block_count": 2, "projection_dim": 6}
    keys = [KV(f"clip.vision.{key}", ValueType.UINT32, value) for key, value in sizes.items()]
    tensors = {
        name.replace("__", "."): lazy(np.zeros(shape, np.float32)) for name, shape in shapes.items()
    }
    check_towers(row, keys, tensors)


def test_what_a_row_needs_is_there_in_every_layer() -> None:
    """Lines of layers count once for each; a leading one of a shape counts for none."""
    needs = "v.blk.ln1 width\nmm.0 width text\n?set mm.1 free\n?set mm.2 free\n"
    layers = {f"v__blk__{n}__ln1__weight": (4,) for n in range(2)}
    _check(needs, **layers, mm__0__weight=(1, 6, 4))
    for wrong, said in (
        ({"v__blk__0__ln1__weight": (4,), "mm__0__weight": (6, 4)}, "v.blk.1.ln1"),
        ({**layers, "mm__0__weight": (4, 6)}, r"\[6, 4\]"),
        ({**layers, "mm__0__weight": (6, 4), "mm__1__weight": (3,)}, "mm.2"),
        ({**layers, "mm__0__weight": (6, 4), "v__blk__2__ln1__weight": (4,)}, "layer 2"),
        ({**layers, "mm__0__weight": (6, 4), "v__blk__1__x__weight": (4,)}, "v.blk.0.x"),
    ):
        with pytest.raises(FormatError, match=said):
            _check(needs, **wrong)
    uneven = {**layers, "mm__0__weight": (6, 4), "v__blk__1__x__weight": (4,)}
    _check(needs, r"\.x\.", **uneven)
