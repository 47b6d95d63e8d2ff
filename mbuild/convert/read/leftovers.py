"""What a checkpoint may hold beside its weights: adapters, quantization, training's own tensors.

One table tells them apart by their names. Some are left out with a warning,
because the model is the same without them; the others mean that the weights
are not what they seem, and the build stops with the way to keep the fine-tune.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mbuild.convert.read.safetensors import StoredTensor


class Verdict(Enum):
    """What becomes of a tensor that a row of the table describes."""

    DROP = auto()
    """Left out with a warning."""
    REFUSE = auto()
    """The build stops."""
    BY_WEIGHT = auto()
    """Left out where its weight is stored in 16 or 32 bits; otherwise the build stops."""


MERGE = (
    "merge it before saving: model = model.merge_and_unload(), then model.save_pretrained(FOLDER);"
    " or save the adapter alone and name its folder with ADAPTER"
)
DEQUANTIZE = (
    "to keep a fine-tune, merge its adapter into the unquantized base model, or dequantize"
    " before saving: model.dequantize(), then model.save_pretrained(FOLDER);"
    " --quantize makes the result small"
)
UNQUANTIZED = (
    "to keep a fine-tune, merge its adapter into the unquantized base model, or dequantize the"
    " weights with the tool that quantized them; --quantize makes the result small"
)
MLX = (
    "dequantize it: mlx_lm.convert --hf-path FOLDER --mlx-path NEW --dequantize"
    " (for an adapter: mlx_lm.fuse --dequantize); --quantize makes the result small"
)

REMEDIES: Mapping[str, str] = {
    "bitsandbytes": DEQUANTIZE,
    "fp8": DEQUANTIZE,
    "fbgemm_fp8": DEQUANTIZE,
    "mxfp4": DEQUANTIZE,
    "hqq": DEQUANTIZE,
    "compressed-tensors": DEQUANTIZE,
}
"""By ``quant_method``; all others cannot be dequantized by transformers."""


class IgnoredTensor(NamedTuple):
    """A kind of tensor that is no weight of the model.

    Attributes:
        pattern: searched in the name; the group ``base`` is the layer that it belongs to.
        what: what it is, after "is".
        verdict: what becomes of it.
        remedy: how to get a checkpoint without it.
        methods: values of quant_method whose reader takes these tensors.
        archs: GGUF's names of families that have such tensors of their own.
    """

    pattern: re.Pattern[str]
    what: str
    verdict: Verdict
    remedy: str = ""
    methods: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()


def _row(
    pattern: str,
    what: str,
    verdict: Verdict,
    remedy: str = "",
    methods: tuple[str, ...] = (),
    archs: tuple[str, ...] = (),
) -> IgnoredTensor:
    return IgnoredTensor(regex(pattern), what, verdict, remedy, methods, archs)


_BASE = r"^(?P<base>.+?)(?:\.weight)?\."

LEFTOVERS: tuple[IgnoredTensor, ...] = (
    _row(
        r"(?:^|\.)(?:base_layer|lora_\w+|modules_to_save|original_module|token_adapter"
        r"|trainable_tokens_\w+|hada_w\d\w*|lokr_w\d\w*|vera_lambda_[bd]|b?oft_[a-zA-Z]+|ia3_l"
        r"|prompt_embeddings|dora_scale)(?:\.|$)",
        "part of a LoRA adapter (PEFT) that was not merged",
        Verdict.REFUSE,
        MERGE,
        archs=("graniteswitch",),
    ),
    _row(
        r"\.parametrizations\.|\.weight_[gv]$",
        "a parametrization (torch.nn.utils.parametrize) that is still applied",
        Verdict.REFUSE,
        "call torch.nn.utils.parametrize.remove_parametrizations on every layer before saving",
    ),
    _row(
        _BASE + r"(?:nested_)?(?:absmax|quant_map)$|"
        r"^(?P<outer>.+?)(?:\.weight)?\.(?:quant_state\.\w+|nested_offset|blocksize)$",
        "of bitsandbytes' 4-bit quantization",
        Verdict.BY_WEIGHT,
        DEQUANTIZE,
        ("bitsandbytes",),
    ),
    _row(
        _BASE + r"(?:SCB|weight_format|CB|SCBt)$",
        "of bitsandbytes' 8-bit quantization",
        Verdict.BY_WEIGHT,
        DEQUANTIZE,
        ("bitsandbytes",),
    ),
    _row(r"\.g_idx$", "of GPTQ's quantization", Verdict.REFUSE, UNQUANTIZED, ("gptq",)),
    _row(
        r"\.(?:qweight|qzeros)$",
        "of a quantization such as AWQ's or GPTQ's",
        Verdict.REFUSE,
        UNQUANTIZED,
        ("gptq", "awq"),
    ),
    _row(r"\.biases$", "of MLX's quantization", Verdict.REFUSE, MLX, ("mlx",)),
    _row(r"\.weight_scales$", "of EETQ's 8-bit quantization", Verdict.REFUSE, UNQUANTIZED),
    _row(
        r"\.(?:W_q|nbits|unpack_view_dtype|view_as_float|channel_wise)$",
        "of HQQ's quantization",
        Verdict.REFUSE,
        DEQUANTIZE,
        ("hqq",),
    ),
    _row(r"\.(?:codes|codebooks)$", "of AQLM's quantization", Verdict.REFUSE, UNQUANTIZED),
    _row(
        r"\.(?:Qidxs\w*|SU|SV|codebook_id|Wscale)$",
        "of QuIP#'s quantization",
        Verdict.REFUSE,
        UNQUANTIZED,
    ),
    _row(
        r"\.(?:\w+_)?(?:centroids|indices)(?:\.weight)?$",
        "of VPTQ's quantization",
        Verdict.REFUSE,
        UNQUANTIZED,
    ),
    _row(
        r"\.(?:dense_weights|row_offsets|col_ptrs|col_vals)$",
        "of SpQR's quantization",
        Verdict.REFUSE,
        UNQUANTIZED,
    ),
    _row(
        r"\.(?:q_weight|q_scale_max|q_groups|q_perm|q_invperm|trellis|suh|svh)$",
        "of ExLlama's quantization (EXL2, EXL3)",
        Verdict.REFUSE,
        UNQUANTIZED,
        archs=("plamo2", "plamo3"),
    ),
    _row(r"\.(?:B|B_24|B_meta|workspace)$", "of Marlin's format", Verdict.REFUSE, UNQUANTIZED),
    _row(
        _BASE + r"(?:_data|_scale|_shift|_scale_shift)$",
        "of Quanto's quantization",
        Verdict.BY_WEIGHT,
        DEQUANTIZE,
    ),
    _row(
        r"\.(?:weight_(?:packed|shape|zero_point|g_idx|global_scale|scale_2)|input_global_scale)$",
        "of a quantization such as compressed-tensors' or ModelOpt's",
        Verdict.REFUSE,
        DEQUANTIZE,
        ("compressed-tensors", "modelopt"),
    ),
    _row(
        r"\.(?:pre_quant_scale|smooth_scale|smooth_factor|smoother\.\w+)$|\.act(?:_fn)?\.scales$",
        "a factor by which activations are smoothed (SmoothQuant, AWQ)",
        Verdict.REFUSE,
        UNQUANTIZED,
    ),
    _row(
        r"\.weight_scale(?:_inv)?$|\.qscale_weight$|_scale_inv$",
        "the scale of a quantized weight",
        Verdict.REFUSE,
        "if the weights are dequantized already, save them without their scales; otherwise "
        + DEQUANTIZE,
        ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "bitnet"),
    ),
    _row(
        r"_(?:blocks|scales)$",
        "of MXFP4's quantization",
        Verdict.REFUSE,
        DEQUANTIZE,
        ("mxfp4",),
    ),
    _row(
        r"\.scales$",
        "of a quantization that the checkpoint does not name",
        Verdict.REFUSE,
        UNQUANTIZED,
        ("gptq", "awq", "mxfp4", "mlx"),
    ),
    _row(
        r"\.(?:k|v|q|kv|p|attn|prob)_scale$|\.[qkv]_proj\.output_scale$|kv_cache_scaling_factor$"
        r"|\.(?:[kqv]_zero_point|[kqv]_bmm_quantizer\.\w+)$",
        "a scale of a quantized key-value cache, left over from an FP8 export",
        Verdict.DROP,
    ),
    _row(
        r"\.input_(?:global_)?scale$",
        "a scale of quantized activations, left over from an export or from training",
        Verdict.DROP,
        methods=("compressed-tensors", "modelopt"),
    ),
    _row(
        r"\.(?:output|act|activation)_(?:global_)?(?:scale|zero_point|amax)$|\.qscale_act$"
        r"|\.input_(?:global_)?(?:zero_point|amax)$|\.input_scale_ub$"
        r"|quantizer\._\w+$|\.(?:activation_post_process|\w*fake_quant\w*)\.",
        "a scale of quantized activations, left over from an export or from training",
        Verdict.DROP,
    ),
    _row(
        r"^(?:v_head|value_head|reward_head|critic_head|regression_head|score|rm_head)\.",
        "a value or reward head, which a language model does not use",
        Verdict.DROP,
    ),
    _row(r"^medusa_heads?\.", "a head of Medusa for speculative decoding", Verdict.DROP),
    _row(
        r"^(?:optimizer|optim|lr_scheduler|scheduler|scaler)\.|^(?:model_)?ema\."
        r"|(?:^|\.)(?:exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer|num_batches_tracked)$",
        "training state",
        Verdict.DROP,
    ),
    _row(
        r"\.(?:cos_cached|sin_cached|original_inv_freq|causal_mask|attn_mask)$|^rope\.freqs$",
        "a buffer that is recomputed",
        Verdict.DROP,
    ),
)
"""The first row whose pattern is found counts."""

SUPPORTED = (
    *("fp8", "fbgemm_fp8", "mxfp4", "gptq", "compressed-tensors", "awq", "modelopt", "mlx"),
    *("bitsandbytes", "bitnet"),
)
"""Values of quant_method whose weights are read."""

_FLOATS = (DType.F16, DType.BF16, DType.F32, DType.F64)
_EIGHT_BITS = (DType.F8_E4M3, DType.F8_E5M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ)
INTEGERS = (DType.U8, DType.I8, DType.I16, DType.U16, DType.I32, DType.U32, DType.I64, DType.U64)
_PACKED = regex(r"(?:weight|weight_packed|qweight|_blocks|W_q|_data|codes|Qidxs|trellis)$")
_WEIGHT_SCALES = ("weight_scale_inv", "weight_scale", "qscale_weight", "scale_inv", "scale")


def weights_alone(
    tensors: Sequence[StoredTensor], config: Mapping[str, Any], arch: str
) -> tuple[tuple[StoredTensor, ...], dict[str, Any], list[str]]:
    """The tensors without what is left over, the config without a note that is not true, warnings.

    ``arch`` is GGUF's name of the family. Raises :class:`UnsupportedError` for
    weights that are quantized in a way that is not read and for adapters that
    were not merged, :class:`FormatError` for a note that is no object and a
    weight whose scale is missing.
    """
    checked, warnings = dict(config), list[str]()
    method, _ = quantization(config)
    if method == TORCHAO:
        raise UnsupportedError(
            "checkpoints quantized with 'torchao' are not supported", hint=_PLAIN
        )
    packed = any(t.dtype not in _FLOATS and _PACKED.search(t.name) for t in tensors)
    reads = method if method in SUPPORTED and (method != "mxfp4" or arch == "gpt-oss") else None
    if not packed:
        reads = None
    kept, more = _sorted_out(tensors, reads, arch)
    warnings += more
    if method is not None or config.get("quantization_config"):
        if packed and method is not None and reads is None:
            raise UnsupportedError(
                f"checkpoints quantized with {method!r} are not supported",
                hint=REMEDIES.get(method, UNQUANTIZED),
            )
        if not packed:
            for note in _NOTES:
                checked.pop(note, None)
            said = f" with {method}" if method else ""
            warnings.append(
                f"config.json says that the model is quantized{said}, but no weight is;"
                " quantization_config is ignored"
            )
    warnings += _check_scales(kept)
    return kept, checked, warnings


_NOTES = ("quantization_config", "quantization")

TORCHAO = "torchao"
"""Its tensors are Python objects around others: what a file has of them depends on its version."""

_PLAIN = (
    "dequantize before saving: model.dequantize(), then model.save_pretrained(FOLDER); if the"
    " weights are in 16 bits already, remove quantization_config from config.json"
)


def quantization(config: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """The method that config.json names and its settings.

    MLX names none, and has its settings under one name or both. Raises :class:`FormatError` for a
    note that is no object.
    """
    for note in _NOTES:
        settings = config.get(note)
        if settings is None:
            continue
        if not isinstance(settings, dict):
            raise FormatError(f"config.json: {note} is not an object")
        method = settings.get("quant_method")
        if method is not None:
            return str(method)[:60], settings
        if type(settings.get("group_size")) is int and type(settings.get("bits")) is int:
            return "mlx", settings
    return None, {}


def _sorted_out(
    tensors: Sequence[StoredTensor], reads: str | None, arch: str
) -> tuple[tuple[StoredTensor, ...], list[str]]:
    rows = [row for row in LEFTOVERS if reads not in row.methods and arch not in row.archs]
    kept: list[StoredTensor] = []
    dropped: dict[str, list[str]] = {}
    stored = {tensor.name: tensor for tensor in tensors}
    for tensor in tensors:
        row = _described(tensor.name, rows)
        if row is None:
            kept.append(tensor)
        elif row.verdict is Verdict.DROP or (
            row.verdict is Verdict.BY_WEIGHT and _has_float_weight(row, tensor.name, stored)
        ):
            dropped.setdefault(row.what, []).append(tensor.name)
        else:
            raise UnsupportedError(
                f"{tensor.shard.name}: tensor {tensor.name!r} is {row.what}", hint=row.remedy
            )
    return tuple(kept), [
        f"{names[0]} is left out{_and_more(names)}: it is {what}" for what, names in dropped.items()
    ]


def _and_more(names: Sequence[str]) -> str:
    return f", like {len(names) - 1} more" if len(names) > 1 else ""


def _described(name: str, rows: Sequence[IgnoredTensor]) -> IgnoredTensor | None:
    return next((row for row in rows if row.pattern.search(name)), None)


def _has_float_weight(row: IgnoredTensor, name: str, stored: Mapping[str, StoredTensor]) -> bool:
    match = row.pattern.search(name)
    base = "" if match is None else next((text for text in match.groupdict().values() if text), "")
    weight = stored.get(f"{base}.weight")
    return weight is not None and weight.dtype in _FLOATS


def _check_scales(tensors: Sequence[StoredTensor]) -> list[str]:
    """Of 8-bit floats either every matrix has a scale or none has, which is worth a warning."""
    matrices = [t for t in tensors if t.dtype in _EIGHT_BITS and len(t.shape) == 2]
    eight = [t for t in matrices if not t.name.endswith(("scale", "scales", "scale_inv"))]
    names = {tensor.name for tensor in tensors} if eight else set()
    without = [
        tensor
        for tensor in eight
        if not any(
            f"{tensor.name.removesuffix('weight')}{scale}" in names for scale in _WEIGHT_SCALES
        )
    ]
    if without and len(without) < len(eight):
        raise FormatError(
            f"{without[0].shard.name}: tensor {without[0].name!r} is {without[0].dtype} and has no "
            "scale, but other weights have one",
            hint="a shard is missing or damaged: download or save the checkpoint again",
        )
    if without:
        return [f"weights of type {without[0].dtype} have no scales and are used as they are"]
    return []
