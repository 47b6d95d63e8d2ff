"""llama.cpp's own quantizer: ``llama_model_quantize`` of PyPI's ``cyllama``, in its own process.

The wheel (16 MB, needs nothing else) is installed once. Run as a program, this file is that
process: it reads jobs as JSON from standard input and needs ``cyllama`` on its path.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "cyllama==0.2.18"
NONE = 42
"""``GGML_TYPE_COUNT`` of that version: no type is asked for."""

METADATA_TYPES: dict[type, int] = {int: 0, str: 3}
"""``llama_model_kv_override_type`` of Python's types."""


class Job(NamedTuple):
    """One file to quantize; numbers are llama.cpp's (``llama_ftype``, ``ggml_type``).

    ``importances`` are the values of all columns (of all experts) by tensor; ``metadata``
    is set in the file, as ``llama-quantize`` does for an importance matrix.
    """

    source: str
    target: str
    file_type: int
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: int = NONE
    token_embedding_type: int = NONE
    tensor_types: Sequence[tuple[str, int]] = ()
    importances: Mapping[str, Sequence[float]] = {}
    metadata: Mapping[str, int | str] = {}


class Refused(Exception):
    """llama.cpp did not make a file."""


def quantize(
    jobs: Sequence[Job], *, python: str | Path = sys.executable, path: Path | None = None
) -> None:
    """Run all jobs; ``path`` is a folder that has ``cyllama`` where ``python`` lacks it.

    Raises :class:`Refused` with what llama.cpp said when it stops.
    """
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [str(python), __file__],
        input=json.dumps([job._asdict() for job in jobs]),
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise Refused(done.stderr[-2000:])


# The process.


class TensorType(ctypes.Structure):
    """``llama_model_tensor_override``."""

    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


class Importances(ctypes.Structure):
    """``llama_model_imatrix_data``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.POINTER(ctypes.c_float)),
        ("size", ctypes.c_size_t),
    )


class Value(ctypes.Union):
    """The value of a ``llama_model_kv_override``."""

    _fields_ = (("number", ctypes.c_int64), ("text", ctypes.c_char * 128))


class Metadata(ctypes.Structure):
    """``llama_model_kv_override``."""

    _fields_ = (("type", ctypes.c_int), ("key", ctypes.c_char * 128), ("value", Value))


class Parameters(ctypes.Structure):
    """``llama_model_quantize_params``, up to the pointers."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("switches", ctypes.c_bool * 6),
        ("imatrix", ctypes.POINTER(Importances)),
        ("kv_overrides", ctypes.POINTER(Metadata)),
        ("tt_overrides", ctypes.POINTER(TensorType)),
    )


def inside(options: Any) -> Parameters:
    """The C structure in cyllama's object, which lets everything be set but the pointers."""
    options.nthread, options.ftype = 0x2F6B3C1D, 18
    size = type(options).__basicsize__
    at = ctypes.string_at(id(options), size).index(struct.pack("ii", options.nthread, 18))
    assert at + ctypes.sizeof(Parameters) <= size
    return Parameters.from_address(id(options) + at)


def ended(type_: Any, rows: Sequence[Any]) -> Any:
    """A C array with an empty element at its end; a null pointer where there are no rows."""
    return (type_ * (len(rows) + 1))(*rows) if rows else None


def importances(name: str, values: Sequence[float]) -> Importances:
    """One tensor's importances."""
    return Importances(name.encode(), (ctypes.c_float * len(values))(*values), len(values))


def metadata(key: str, value: int | str) -> Metadata:
    """One key to set."""
    held = Value(number=value) if isinstance(value, int) else Value(text=value.encode())
    return Metadata(METADATA_TYPES[type(value)], key.encode(), held)


def run(job: Job) -> None:
    """Quantize one file, with as many threads as there are cores."""
    from cyllama.llama import llama_cpp

    options = llama_cpp.LlamaModelQuantizeParams()
    set_ = inside(options)
    imatrix = ended(Importances, [importances(*row) for row in job.importances.items()])
    entries = ended(Metadata, [metadata(*row) for row in job.metadata.items()])
    types = ended(
        TensorType, [TensorType(text.encode(), type_) for text, type_ in job.tensor_types]
    )
    if imatrix is not None:
        set_.imatrix = imatrix
    if entries is not None:
        set_.kv_overrides = entries
    if types is not None:
        set_.tt_overrides = types
    options.nthread, options.ftype = os.cpu_count() or 1, job.file_type
    options.pure = job.pure
    options.quantize_output_tensor = not job.leave_output_tensor
    options.output_tensor_type = job.output_tensor_type
    options.token_embedding_type = job.token_embedding_type
    llama_cpp.model_quantize(job.source, job.target, options)


if __name__ == "__main__":
    for row in json.load(sys.stdin):
        run(Job(**row))
