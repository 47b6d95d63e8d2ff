"""Recurrent layers: what is done to their tensors, and arithmetic to torch's last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hyper_parameters import hyper, lazy

from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows import mamba, recurrent
from mbuild.convert.rows.rules import apply_rules
from mbuild.convert.rows.torch_math import exp32, mean32
from mbuild.core.errors import FormatError

NET = hyper(
    "qwen35",
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=1,
    linear_value_head_dim=3,
)


def test_value_heads_are_moved_from_groups_to_tiles() -> None:
    """Two key heads with two value heads each: the first of both, then the second of both."""
    moved = recurrent.tiled(NET, lazy(range(12)), 3).load()
    assert moved.tolist() == [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]
    tail = recurrent.tiled(NET, lazy([[7.0] * 5, [8.0, 0, 1, 2, 3]]), 1, axis=1, start=1).load()
    assert tail.tolist() == [[7, 7, 7, 7, 7], [8, 0, 2, 1, 3]]


def test_as_many_value_heads_as_key_heads_stay_where_they_are() -> None:
    """There is nothing to repeat, so nothing to move."""
    same = hyper("qwen35", linear_num_key_heads=4, linear_num_value_heads=4)
    source = lazy(range(12))
    assert recurrent.tiled(same, source, 3) is source


@pytest.mark.parametrize("count", (11, 13))
def test_value_heads_of_another_width_contradict_the_config(count: int) -> None:
    """The message names the tensor; nothing is cut or filled up."""
    with pytest.raises(FormatError, match="cannot be split"):
        recurrent.tiled(NET, lazy(range(count)), 3)


def test_heads_that_do_not_divide_are_refused() -> None:
    """Five value heads cannot be shared out among two key heads."""
    odd = hyper("qwen35", linear_num_key_heads=2, linear_num_value_heads=5)
    with pytest.raises(FormatError, match="5 value heads for 2 key heads"):
        recurrent.tiled(odd, lazy(range(5)), 1)


def test_mamba_2_has_columns_and_norms_by_group() -> None:
    """A is the negative exponential of its logarithm; A and D become columns."""
    hp = hyper("mamba2", n_groups=2)

    def made(name: str, values: list[float]) -> np.ndarray:  # type: ignore[type-arg]
        rule = next(rule for rule in mamba.MAMBA2_RULES if rule.pattern.search(name))
        ((_, item),) = apply_rules(rule, hp, name, lazy(values))
        assert item.load().shape == item.shape
        return item.load()

    assert made("backbone.layers.0.mixer.A_log", [0.0, 0.0]).tolist() == [[-1.0], [-1.0]]
    assert made("backbone.layers.0.mixer.D", [3.0]).tolist() == [[3.0]]
    assert made("backbone.layers.0.mixer.norm.weight", [1, 2, 3, 4]).shape == (2, 2)


def test_the_exponential_is_torchs_to_the_last_bit() -> None:
    """Values of which torch 2.13 on x86-64 rounds some wrongly; these results are its own."""
    values = np.array([0.5, 7.0, -3.25, -0.4743329882621765, 1.643251657485962], np.float32)
    said = [1.6487212181091309, 1096.6331787109375, 0.03877420723438263]
    said += [0.6222999691963196, 5.171959400177002]
    assert exp32(values).tolist() == said
    rounded = np.exp(values.astype(np.float64)).astype(np.float32).tolist()
    assert [a == b for a, b in zip(said, rounded, strict=True)] == [True, True, True, False, False]
    exact = np.exp(np.linspace(-79, 79, 4001))
    close = exp32(np.linspace(-79, 79, 4001, dtype=np.float32)).astype(np.float64)
    np.testing.assert_allclose(close, exact, rtol=1e-5)


def test_exponentials_out_of_reach_are_infinite_or_nothing() -> None:
    """A number that no model has does not stop the build here; the check of values does."""
    assert exp32(np.array([-300.0, 300.0], np.float32)).tolist() == [0.0, np.inf]
    half = exp32(np.array([1.0, 20.0], np.float16))
    assert half.dtype == np.float16
    assert half.tolist() == [2.71875, np.inf]


@pytest.mark.parametrize("count", (1, 5, 8, 13, 64, 100))
def test_a_mean_is_near_the_exact_one(count: int) -> None:
    """Whatever the order of adding, every value counts once."""
    values = np.linspace(-1, 2, count, dtype=np.float32) ** 3
    assert mean32(values) == pytest.approx(values.astype(np.float64).mean(), rel=1e-5, abs=1e-6)


def test_a_mean_is_added_in_torchs_order() -> None:
    """Lanes of eight, four sums, the rest first: another order gives another last bit."""
    values = np.array([1e8, 1, 1, 1, 1, 1, 1, 1, -1e8, 1, 1, 1, 3], np.float32)
    assert mean32(values).item() == np.float32(7) / np.float32(13)


def test_halves_are_computed_as_halves() -> None:
    """An F16 tensor stays one, as torch leaves it."""
    item = recurrent.negative_exp(NET, lazy(np.zeros(2, np.float16), DType.F16))
    assert item.dtype is DType.F16
    assert item.load().tolist() == [-1.0, -1.0]
