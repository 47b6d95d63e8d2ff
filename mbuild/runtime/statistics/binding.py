"""llama.cpp's C interface, as the extension of the package xllamacpp exports it.

Structures as in ``llama.h`` and ``ggml.h`` of build 11549 (October 2026). They move between
versions, so :func:`open_library` checks what can be checked before anything is computed:
the default parameters must come back with the documented values in the fields where they are
expected, and a tensor must be as large as here.
"""

from __future__ import annotations

import ctypes as c
from functools import cache
from pathlib import Path
from typing import Any

from mbuild.runtime.failure import EngineError, NoEngineError

MAX_DIMS, MAX_SRC, MAX_NAME, MAX_OP_PARAMS = 4, 10, 64, 64
F32 = 0  # GGML_TYPE_F32
OBJECT_BYTES = 32  # sizeof(struct ggml_object), which ggml_tensor_overhead() counts too


class GGMLTensor(c.Structure):
    """``struct ggml_tensor``."""


GGMLTensor._fields_ = [
    ("type", c.c_int),
    ("buffer", c.c_void_p),
    ("ne", c.c_int64 * MAX_DIMS),
    ("nb", c.c_size_t * MAX_DIMS),
    ("op", c.c_int),
    ("op_params", c.c_int32 * (MAX_OP_PARAMS // 4)),
    ("flags", c.c_int32),
    ("src", c.POINTER(GGMLTensor) * MAX_SRC),
    ("view_src", c.c_void_p),
    ("view_offs", c.c_size_t),
    ("data", c.c_void_p),
    ("name", c.c_char * MAX_NAME),
    ("extra", c.c_void_p),
    ("padding", c.c_char * 8),
]

Watch = c.CFUNCTYPE(c.c_bool, c.POINTER(GGMLTensor), c.c_bool, c.c_void_p)
"""``ggml_backend_sched_eval_callback``: is asked about each node, then given those it wants."""


class ModelParams(c.Structure):
    """``struct llama_model_params``."""

    _fields_ = (
        ("devices", c.c_void_p),
        ("tensor_buft_overrides", c.c_void_p),
        ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int),
        ("load_mode", c.c_int),
        ("lazy_mode", c.c_int),
        ("main_gpu", c.c_int32),
        ("tensor_split", c.c_void_p),
        ("progress_callback", c.c_void_p),
        ("progress_callback_user_data", c.c_void_p),
        ("kv_overrides", c.c_void_p),
        ("vocab_only", c.c_bool),
        ("check_tensors", c.c_bool),
        ("use_extra_bufts", c.c_bool),
        ("no_host", c.c_bool),
        ("no_alloc", c.c_bool),
        ("load_mtp", c.c_bool),
    )


class ContextParams(c.Structure):
    """``struct llama_context_params``."""

    _fields_ = (
        ("n_ctx", c.c_uint32),
        ("n_batch", c.c_uint32),
        ("n_ubatch", c.c_uint32),
        ("n_seq_max", c.c_uint32),
        ("n_rs_seq", c.c_uint32),
        ("n_outputs_max", c.c_uint32),
        ("n_outputs_max_per_seq", c.c_uint32),
        ("n_threads", c.c_int32),
        ("n_threads_batch", c.c_int32),
        ("ctx_type", c.c_int),
        ("rope_scaling_type", c.c_int),
        ("pooling_type", c.c_int),
        ("attention_type", c.c_int),
        ("flash_attn_type", c.c_int),
        ("rope_freq_base", c.c_float),
        ("rope_freq_scale", c.c_float),
        ("yarn_ext_factor", c.c_float),
        ("yarn_attn_factor", c.c_float),
        ("yarn_beta_fast", c.c_float),
        ("yarn_beta_slow", c.c_float),
        ("yarn_orig_ctx", c.c_uint32),
        ("defrag_thold", c.c_float),
        ("cb_eval", Watch),
        ("cb_eval_user_data", c.c_void_p),
        ("type_k", c.c_int),
        ("type_v", c.c_int),
        ("moe_cache_size", c.c_size_t),
        ("abort_callback", c.c_void_p),
        ("abort_callback_data", c.c_void_p),
        ("embeddings", c.c_bool),
        ("offload_kqv", c.c_bool),
        ("no_perf", c.c_bool),
        ("op_offload", c.c_bool),
        ("swa_full", c.c_bool),
        ("kv_unified", c.c_bool),
        ("samplers", c.c_void_p),
        ("n_samplers", c.c_size_t),
        ("ctx_other", c.c_void_p),
    )


class Batch(c.Structure):
    """``struct llama_batch``."""

    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.POINTER(c.c_float)),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    )


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_tensor_overhead": (c.c_size_t, ()),
    "ggml_op_name": (c.c_char_p, (c.c_int,)),
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (c.c_void_p, (c.c_char_p, ModelParams)),
    "llama_model_get_vocab": (c.c_void_p, (c.c_void_p,)),
    "llama_model_n_ctx_train": (c.c_int32, (c.c_void_p,)),
    "llama_init_from_model": (c.c_void_p, (c.c_void_p, ContextParams)),
    "llama_vocab_n_tokens": (c.c_int32, (c.c_void_p,)),
    "llama_vocab_bos": (c.c_int32, (c.c_void_p,)),
    "llama_vocab_get_add_bos": (c.c_bool, (c.c_void_p,)),
    "llama_tokenize": (
        c.c_int32,
        (c.c_void_p, c.c_char_p, c.c_int32, c.c_void_p, c.c_int32, c.c_bool, c.c_bool),
    ),
    "llama_batch_init": (Batch, (c.c_int32, c.c_int32, c.c_int32)),
    "llama_batch_free": (None, (Batch,)),
    "llama_decode": (c.c_int32, (c.c_void_p, Batch)),
    "llama_get_memory": (c.c_void_p, (c.c_void_p,)),
    "llama_memory_clear": (None, (c.c_void_p, c.c_bool)),
    "llama_get_logits_ith": (c.POINTER(c.c_float), (c.c_void_p, c.c_int32)),
    "llama_free": (None, (c.c_void_p,)),
    "llama_model_free": (None, (c.c_void_p,)),
    "llama_log_set": (None, (c.c_void_p, c.c_void_p)),
}

_CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "yarn_ext_factor": -1.0,
    "type_k": 1,
    "type_v": 1,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "n_samplers": 0,
    "ctx_other": None,
}
_MODEL_DEFAULTS = {"split_mode": 1, "vocab_only": False, "check_tensors": False}


@cache
def open_library() -> Any:
    """The library with its functions declared.

    Raises :class:`NoEngineError` where the package is not installed, and :class:`EngineError`
    for a version of it whose structures are others.
    """
    try:
        import xllamacpp
    except ImportError:
        raise NoEngineError from None
    folder = Path(xllamacpp.__file__).parent
    path = next((p for p in folder.glob("xllamacpp*") if p.suffix in (".so", ".dylib")), None)
    if path is None:
        raise _unknown("its library exports nothing on this system")
    library = c.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is None:
            raise _unknown(f"it has no {name}")
        function.restype, function.argtypes = result, arguments
    _check(library)
    return library


def _check(library: Any) -> None:
    """Raise :class:`EngineError` where a structure is not as it is declared here."""
    if library.ggml_tensor_overhead() != c.sizeof(GGMLTensor) + OBJECT_BYTES:
        raise _unknown("its tensors have another size")
    for found, wanted in (
        (library.llama_context_default_params(), _CONTEXT_DEFAULTS),
        (library.llama_model_default_params(), _MODEL_DEFAULTS),
    ):
        for field, value in wanted.items():
            if getattr(found, field) != value:
                raise _unknown(f"its {field} is {getattr(found, field)!r}, not {value!r}")


def _unknown(why: str) -> EngineError:
    from importlib.metadata import version

    return EngineError(
        f"xllamacpp {version('xllamacpp')} is not known here: {why}",
        hint='install the version that mbuild was made with: pip install "xllamacpp==2026.10.*"',
    )
