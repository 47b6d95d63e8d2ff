"""Every kernel gives, bit for bit, what ggml's ``ggml_quantize_chunk`` gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from quant_data import ALL, GRIDS, ONLY_WEIGHTED, WEIGHTED, X86_REFERENCE, Reference, kinds

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.engine import Weights
from mbuild.quant.quantize import engine, fallback

G = GGMLType

pytestmark = X86_REFERENCE

ROW = 1280
SCALE = int(os.environ.get("MBUILD_QUANT_WEIGHTS", "1"))
COUNT = ROW * 264 * SCALE
"""Weights of each of the 30 kinds: 10 million a type, times the environment's number."""


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@cache
def _drawn(count: int, seed: int) -> tuple[tuple[str, Any], ...]:
    """All kinds of weights, drawn once for all types."""
    return tuple(kinds(count, seed))


def _kinds(type_: GGMLType, count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """All kinds of weights; of types on grids those whose squares float32 holds, fewer of them.

    Elsewhere ggml stops the process, and what it does is slow. IQ3_S, the one of these that
    users get without an importance matrix, has its ten million where that is asked for.
    """
    if type_ not in GRIDS and type_ not in ONLY_WEIGHTED:
        return iter(_drawn(count, seed))
    held = {"huge", "very huge", "largest", "mixed"}
    fewer = max(1, min(16 * SCALE, count // (8 * ROW))) * ROW
    if type_ is G.IQ3_S and count == COUNT:
        fewer = ROW * 304 * SCALE
    return (kind for kind in _drawn(fewer, seed) if kind[0] not in held)


def _blocks(using: Any, type_: GGMLType, x: Any, weights: Any = None) -> Any:
    out = np.empty(x.size // BLOCKS[type_].weights * BLOCKS[type_].size, np.uint8)
    assert using.blocks(type_, x.view(np.uint8), GGMLType.F32, out, weights)
    return out.reshape(-1, BLOCKS[type_].size)


def _differing(ours: Any, theirs: Any) -> int:
    return int((ours != theirs).any(axis=1).sum())


@pytest.mark.parametrize("type_", ALL, ids=lambda t: t.name)
def test_a_type_equals_the_reference(reference: Reference, type_: GGMLType) -> None:
    """Without importances no block of any kind of weights differs from ggml's."""
    engine().prepare(type_, False)

    def compare(kind: tuple[str, Any]) -> tuple[str, int]:
        name, x = kind
        return name, _differing(_blocks(engine(), type_, x), reference(type_, x, ROW))

    with ThreadPoolExecutor(2) as pool:
        found = dict(pool.map(compare, _kinds(type_, COUNT, 0)))
    assert len(found) >= 26
    assert not any(found.values()), found


def importances(row: int, seed: int) -> dict[str, Any]:
    """Three kinds of importances: even, concentrated on few columns, and half of them zero."""
    r = np.random.default_rng(seed)
    made = {
        "even": r.random(row) ** 2,
        "concentrated": r.random(row) ** 8 * 100,
        "with zeros": r.random(row) * (r.random(row) < 0.5),
    }
    return {name: values.astype(np.float32) for name, values in made.items()}


def given(type_: GGMLType, x: Any, q: Any) -> Any:
    """The importances of every value and the rows' mean squares, as engines take them."""
    with np.errstate(all="ignore"):
        sums = np.add.accumulate((x * x).reshape(-1, ROW), axis=1, dtype=np.float32)[:, -1]
        means = np.repeat(sums / np.float32(ROW), ROW // BLOCKS[type_].weights)
    return Weights(np.tile(q, x.size // ROW), means)


@pytest.mark.parametrize("type_", WEIGHTED, ids=lambda t: t.name)
def test_a_weighted_type_equals_the_reference(reference: Reference, type_: GGMLType) -> None:
    """With an importance matrix no block differs from ggml's either."""
    engine().prepare(type_, True)
    # Types that need importances are looked at with them alone: a million weights of each.
    rows = 88 if type_ in (G.IQ1_M, G.IQ2_S, G.IQ3_XXS, *ONLY_WEIGHTED) else 16

    def compare(kind: tuple[str, Any]) -> list[tuple[tuple[str, str], int]]:
        name, x = kind
        return [
            ((name, weights), _differing(ours, reference(type_, x, ROW, q)))
            for weights, q in importances(ROW, 2).items()
            for ours in [_blocks(engine(), type_, x, given(type_, x, q))]
        ]

    with ThreadPoolExecutor(2) as pool:
        made = pool.map(compare, _kinds(type_, ROW * rows * SCALE, 1))
        found = dict(pair for pairs in made for pair in pairs)
    assert len(found) >= 78
    assert not any(found.values()), {k: v for k, v in found.items() if v}


@pytest.mark.parametrize("type_", ALL, ids=lambda t: t.name)
def test_numpy_equals_the_reference(reference: Reference, type_: GGMLType) -> None:
    """The numpy engine gives ggml's bytes too."""
    x = np.concatenate([values for _, values in _kinds(type_, ROW * 8, 3)])
    assert x.size >= ROW * 26
    assert _differing(_blocks(fallback(), type_, x), reference(type_, x, ROW)) == 0


def test_mxfp4_exponents_near_powers_of_two(reference: Reference) -> None:
    """The exponent is that of ``log2f``, which rounds up just below a power of two."""
    powers = np.exp2(np.arange(-140.0, 127.0)).astype(np.float32).view(np.int32)
    near = (powers[:, None] + np.arange(-40, 5)).astype(np.int32).view(np.float32).reshape(-1)
    x = np.zeros((near.size, 32), np.float32)
    x[:, 3], x[:, 5] = near, near / 3
    theirs = reference(GGMLType.MXFP4, x.reshape(-1), 32)
    assert _differing(_blocks(fallback(), GGMLType.MXFP4, x.reshape(-1)), theirs) == 0
    assert _differing(_blocks(engine(), GGMLType.MXFP4, x.reshape(-1)), theirs) == 0
