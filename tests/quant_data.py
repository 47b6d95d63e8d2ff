"""Weights of many kinds for the quantization tests, and ggml's own quantizers to compare with."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from installed import llama_cpp
from llama_library import load

from mbuild.gguf.types import BLOCKS, GGMLType

G = GGMLType

X86_REFERENCE = [
    pytest.mark.oracle,
    # Builds for other machines fuse multiplication and addition and give other bytes.
    pytest.mark.skipif(
        platform.machine().lower() not in ("x86_64", "amd64") or sys.platform != "linux",
        reason="the reference's bytes are those of its x86-64 build",
    ),
]
"""Marks of tests that compare bytes with ggml's or llama.cpp's."""

FP4 = [G.MXFP4, G.NVFP4]
SIMPLE = [G.Q4_0, G.Q4_1, G.Q5_0, G.Q5_1, G.Q8_0, G.TQ1_0, G.TQ2_0, *FP4, G.Q1_0, G.Q2_0]
GRIDS = [G.IQ1_M, G.IQ2_S, G.IQ3_XXS, G.IQ3_S]
SEARCHED = [G.Q2_K, G.Q3_K, G.Q4_K, G.Q5_K, G.Q6_K, G.IQ4_NL, G.IQ4_XS, *GRIDS]
CASTS = [G.F16, G.BF16]
ONLY_WEIGHTED = [G.IQ1_S, G.IQ2_XXS, G.IQ2_XS]
WEIGHTED = [G.Q4_0, G.Q4_1, G.Q5_0, G.Q5_1, *SEARCHED, *ONLY_WEIGHTED]
ALL = [*CASTS, *SIMPLE, *SEARCHED]


def kinds(count: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """``count`` finite float32 weights of every kind, a multiple of 256 each."""
    r = np.random.default_rng(seed)
    normal = r.standard_normal
    blocks = normal((count // 32, 32)) * 10.0 ** r.integers(-9, 5, (count // 32, 1))
    signs = r.integers(0, 2, count) * 2.0 - 1
    made = {
        "normal": normal(count),
        "small": normal(count) * 0.02,
        "uniform": r.random(count),
        "negative": -r.random(count),
        "heavy": r.standard_t(2, count),
        "cauchy": r.standard_cauchy(count),
        "constant": np.full(count, 0.37),
        "constant negative": np.full(count, -0.37),
        "zero": np.zeros(count),
        "signed zeros": signs * 0.0,
        "zeros and positive": np.where(r.random(count) < 0.9, signs * 0.0, r.random(count)),
        "sparse": np.where(r.random(count) < 0.9, 0, normal(count)),
        "sparse rows": (normal((count // 256, 256)) * (r.random((count // 256, 1)) < 0.5)),
        "sparse sub-blocks": (normal((count // 16, 16)) * (r.random((count // 16, 1)) < 0.5)),
        "denormal": normal(count) * 1e-40,
        "tiny": normal(count) * 1e-15,
        "very tiny": normal(count) * 1e-25,
        "huge": normal(count) * 1e18,
        "very huge": normal(count) * 1e30,
        "largest": np.clip(normal(count) * 1e38, -3.4e38, 3.4e38),
        "mixed": normal(count) * 10.0 ** r.integers(-30, 30, count),
        "mixed blocks": blocks,
        "integers": r.integers(-8, 8, count),
        "halves": r.integers(-8, 8, count) * 0.5,
        "ternary": r.integers(-1, 2, count) * 0.013,
        "outliers": np.where(r.random(count) < 0.01, 3.0, -1.0),
        "offset": 10 + normal(count) * 0.01,
        "negative offset": -10 + normal(count) * 0.01,
        "float16": (normal(count) * 0.05).astype(np.float16),
        "bfloat16": to_bf16(normal(count) * 0.05).astype(np.uint32) << 16,
    }
    for name, values in made.items():
        if name == "bfloat16":
            yield name, values.view(np.float32)
        else:
            yield name, np.ascontiguousarray(values, np.float32).reshape(-1)


def to_bf16(values: Any) -> np.ndarray[Any, Any]:
    """The upper halves of float32 patterns."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def imatrix_bytes(values: dict[str, Any], keys: bool = True, type_: int = 0) -> bytes:
    """An importance matrix in GGUF form, as llama-imatrix writes it.

    ``values`` are sums (matrices, columns) and counts (matrices,) by the tensors' names.
    """
    kvs = [
        _string("general.type") + struct.pack("<I", 8) + _string("imatrix"),
        _string("imatrix.datasets") + struct.pack("<IIQ", 9, 8, 1) + _string("wiki.txt"),
        _string("imatrix.chunk_count") + struct.pack("<II", 4, 40),
        _string("imatrix.chunk_size") + struct.pack("<II", 4, 512),
    ][: 4 if keys else 1]
    infos, data = [], b""
    for name, (sums, counts) in values.items():
        shapes = {".in_sum2": (len(sums[0]), len(sums)), ".counts": (1, len(counts))}
        for suffix, flat in ((".in_sum2", np.ravel(sums)), (".counts", np.ravel(counts))):
            head = struct.pack("<IQQIQ", 2, *shapes[suffix], type_, len(data))
            infos.append(_string(name + suffix) + head)
            data += flat.astype("<f4").tobytes()
            data += bytes(-len(data) % 32)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(kvs)) + b"".join(kvs + infos)
    return header + bytes(-len(header) % 32) + data


class Reference:
    """ggml's quantizers of October 2026, through ctypes."""

    def __init__(self) -> None:
        self._lib = load(llama_cpp(), "ggml-base")
        self._lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self._lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]

    def __call__(self, type_: GGMLType, x: Any, row: int, q: Any = None) -> np.ndarray[Any, Any]:
        """Float32 rows of ``row`` values as blocks (blocks, size), importances ``q`` (row,)."""
        out = np.zeros(x.size // BLOCKS[type_].weights * BLOCKS[type_].size, np.uint8)
        self._lib.ggml_quantize_init(int(type_))
        self._lib.ggml_quantize_chunk(
            int(type_),
            x.ctypes.data,
            out.ctypes.data,
            0,
            x.size // row,
            row,
            None if q is None else q.ctypes.data,
        )
        return out.reshape(-1, BLOCKS[type_].size)
