"""llama.cpp's own quantizer: ``llama_model_quantize`` of October 2026, in its own process.

Run as a program, this file is that process. Its argument is the folder that has the wheel of
:mod:`llama_library`; it reads jobs as JSON from standard input, or has one file to quantize
in its other arguments (benchmarks):

    python tests/llama_quantize.py FOLDER [SOURCE TARGET FILE-TYPE THREADS]
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llama_library import load

NONE = 43
"""``GGML_TYPE_COUNT`` of that version: no type is asked for."""

METADATA_TYPES: dict[type, int] = {int: 0, str: 3}
"""``llama_model_kv_override_type`` of Python's types."""


class Job(NamedTuple):
    """One file to quantize; numbers are llama.cpp's (``llama_ftype``, ``ggml_type``).

    ``importances`` are the values of all columns (of all experts) by tensor; ``metadata``
    is set in the file, as ``llama-quantize`` does for an importance matrix. With
    ``keep_split`` the target is what the shards' names begin with.
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
    keep_split: bool = False
    prune_layers: Sequence[int] = ()


class Refused(Exception):
    """llama.cpp did not make a file."""


def quantize(jobs: Sequence[Job], folder: Path) -> None:
    """Run all jobs with the wheel in ``folder``.

    Raises :class:`Refused` with what llama.cpp said when it stops.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        input=json.dumps([job._asdict() for job in jobs]),
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
    """``llama_model_quantize_params``."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.POINTER(Importances)),
        ("kv_overrides", ctypes.POINTER(Metadata)),
        ("tt_overrides", ctypes.POINTER(TensorType)),
        ("prune_layers", ctypes.POINTER(ctypes.c_int32)),
        ("max_buf_size", ctypes.c_size_t),
    )


def opened(folder: Path) -> ctypes.CDLL:
    """The library with the two functions declared; raises OSError as :func:`load` does."""
    library = load(folder, "llama")
    library.llama_model_quantize_default_params.restype = Parameters
    library.llama_model_quantize.restype = ctypes.c_uint32
    library.llama_model_quantize.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.POINTER(Parameters),
    ]
    defaults = library.llama_model_quantize_default_params()
    assert defaults.output_tensor_type == defaults.token_embedding_type == NONE
    return library


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


def run(library: ctypes.CDLL, job: Job, threads: int) -> None:
    """Quantize one file; exits with status 1 where llama.cpp refuses it."""
    options = library.llama_model_quantize_default_params()
    imatrix = ended(Importances, [importances(*row) for row in job.importances.items()])
    entries = ended(Metadata, [metadata(*row) for row in job.metadata.items()])
    types = ended(
        TensorType, [TensorType(text.encode(), type_) for text, type_ in job.tensor_types]
    )
    if imatrix is not None:
        options.imatrix = imatrix
    if entries is not None:
        options.kv_overrides = entries
    if types is not None:
        options.tt_overrides = types
    if job.prune_layers:
        options.prune_layers = (ctypes.c_int32 * (len(job.prune_layers) + 1))(*job.prune_layers, -1)
    options.nthread, options.ftype = threads, job.file_type
    options.pure, options.keep_split = job.pure, job.keep_split
    options.quantize_output_tensor = not job.leave_output_tensor
    options.output_tensor_type = job.output_tensor_type
    options.token_embedding_type = job.token_embedding_type
    files = job.source.encode(), job.target.encode()
    if library.llama_model_quantize(*files, ctypes.byref(options)):
        raise SystemExit(1)


def main(folder: str, *words: str) -> None:
    """Quantize the one file, or those that standard input names on as many threads as cores."""
    library = opened(Path(folder))
    if words:
        source, target, file_type, threads = words
        run(library, Job(source, target, int(file_type)), int(threads))
        return
    for row in json.load(sys.stdin):
        run(library, Job(**row), os.cpu_count() or 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
