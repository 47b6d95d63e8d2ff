"""The recipes' tables: which tensors are never quantized, and which type the others get.

The rules are those of llama.cpp's ``llama-quant.cpp``, one row each. Within a table
the first row that fits decides; where none fits, the file type's default stays.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from mbuild.core.values import NamedTuple
from mbuild.gguf.types import GGMLType


class Category(Enum):
    """What a tensor is for, as its name tells."""

    OUTPUT = "output"
    TOKEN_EMBD = "token_embd"
    ATTN_V = "attn_v"
    ATTN_K = "attn_k"
    ATTN_Q = "attn_q"
    ATTN_OUTPUT = "attn_output"
    FFN_UP = "ffn_up"
    FFN_GATE = "ffn_gate"
    FFN_DOWN = "ffn_down"
    OTHER = "other"


EXACT = {
    "output.weight": Category.OUTPUT,
    "token_embd.weight": Category.TOKEN_EMBD,
    "per_layer_token_embd.weight": Category.TOKEN_EMBD,
}
CONTAINS: tuple[tuple[str, Category], ...] = (
    # attn_qkv and attn_kv_b count as attn_v: they hold the values too.
    ("attn_qkv.weight", Category.ATTN_V),
    ("attn_kv_b.weight", Category.ATTN_V),
    ("attn_v.weight", Category.ATTN_V),
    ("attn_k.weight", Category.ATTN_K),
    ("attn_q.weight", Category.ATTN_Q),
    ("attn_output.weight", Category.ATTN_OUTPUT),
    ("ffn_up", Category.FFN_UP),
    ("ffn_gate", Category.FFN_GATE),
    ("ffn_down", Category.FFN_DOWN),
)
"""Parts of names, in the order in which they are looked for."""

NEVER: tuple[str, ...] = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
"""A tensor whose name contains one of these keeps its type."""
NEVER_EXACT = frozenset({"position_embd.weight", "token_types.weight"})
NEVER_OF: dict[str, tuple[str, ...]] = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ),
}
"""The same for single architectures."""
AT_LEAST_Q8: dict[str, tuple[str, ...]] = {
    "glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj"),
}
"""Parts of names of tensors that an architecture wants in Q8_0 at least."""

FALLBACK: dict[GGMLType, GGMLType] = {
    GGMLType.IQ1_S: GGMLType.IQ4_NL,
    GGMLType.IQ1_M: GGMLType.IQ4_NL,
    GGMLType.IQ2_XXS: GGMLType.IQ4_NL,
    GGMLType.IQ2_XS: GGMLType.IQ4_NL,
    GGMLType.IQ2_S: GGMLType.IQ4_NL,
    GGMLType.IQ3_XXS: GGMLType.IQ4_NL,
    GGMLType.IQ3_S: GGMLType.IQ4_NL,
    GGMLType.IQ4_XS: GGMLType.IQ4_NL,
    GGMLType.Q2_0: GGMLType.Q4_0,
    GGMLType.Q2_K: GGMLType.Q4_0,
    GGMLType.Q3_K: GGMLType.Q4_0,
    GGMLType.TQ1_0: GGMLType.Q4_0,
    GGMLType.TQ2_0: GGMLType.Q4_0,
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
}
"""Where no whole blocks fill a row; F16 where those of 32 values do not either."""

NEEDS_IMPORTANCES = frozenset(
    {
        GGMLType.IQ3_XXS,
        GGMLType.IQ2_XXS,
        GGMLType.IQ2_XS,
        GGMLType.IQ2_S,
        GGMLType.IQ1_M,
        GGMLType.IQ1_S,
    }
)
"""Types that are only made with an importance matrix (except of embeddings and output)."""


class TensorPlace(NamedTuple):
    """A tensor's place among those of its kind, and the facts that conditions ask for.

    ``i`` of ``n``: its running number, or in models of experts its layer.
    """

    i: int
    n: int
    gqa: int
    experts: int
    falcon: bool
    importances: bool

    @property
    def more_bits(self) -> bool:
        """The first and last eighth, and every third between."""
        eighth = self.n // 8
        last = self.i >= 7 * self.n // 8
        # C's remainder keeps the sign, but i below an eighth is taken before.
        return self.i < eighth or last or (self.i - eighth) % 3 == 2

    @property
    def grouped(self) -> bool:
        """At least four heads share their keys and values."""
        return self.gqa >= 4


Condition = Callable[[TensorPlace], bool]


def always(place: TensorPlace) -> bool:
    """No condition."""
    return True


def _grouped(place: TensorPlace) -> bool:
    return place.grouped


def _more_bits(place: TensorPlace) -> bool:
    return place.more_bits


def _first_eighth(place: TensorPlace) -> bool:
    return place.i < place.n // 8


def _first_sixteenth(place: TensorPlace) -> bool:
    return place.i < place.n // 16


def _eight(place: TensorPlace) -> bool:
    return place.experts == 8


Row = tuple[str, Condition, GGMLType]
"""File types (names, spaces between), condition, type."""

_G = GGMLType
_IQ2 = "IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ1_S IQ1_M"
_EIGHT_OUT = "Q2_K IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS"

ROWS: dict[Category, tuple[Row, ...]] = {
    Category.TOKEN_EMBD: (
        ("IQ2_XXS IQ2_XS IQ1_S IQ1_M", always, _G.Q2_K),
        ("IQ2_S IQ2_M IQ3_XXS", always, _G.IQ3_S),
        ("TQ1_0 TQ2_0 Q2_0", always, _G.Q4_K),
    ),
    Category.ATTN_V: (
        (_IQ2, lambda p: p.grouped or p.experts >= 4, _G.Q4_K),
        ("IQ2_S IQ2_M", always, _G.IQ3_S),
        (_IQ2, always, _G.Q2_K),
        ("Q2_K Q2_K_S", _grouped, _G.Q4_K),
        ("Q2_K", always, _G.Q3_K),
        ("IQ3_XXS IQ3_XS IQ3_S", _grouped, _G.Q4_K),
        ("IQ3_XXS", lambda p: p.importances, _G.IQ3_XXS),
        ("IQ3_XXS", always, _G.IQ3_S),
        ("IQ3_M", always, _G.Q4_K),
        ("Q3_K_M", lambda p: p.i < 2, _G.Q5_K),
        ("Q3_K_M", always, _G.Q4_K),
        ("Q3_K_L", always, _G.Q5_K),
        ("IQ4_NL IQ4_XS", _grouped, _G.Q5_K),
        ("Q4_K_M Q5_K_M", _more_bits, _G.Q6_K),
        ("Q4_K_S", lambda p: p.i < 4, _G.Q5_K),
    ),
    Category.ATTN_K: (
        (_IQ2, _eight, _G.Q4_K),
        ("IQ3_XS", always, _G.IQ3_XXS),
        ("IQ3_XXS", always, _G.IQ2_S),
    ),
    Category.ATTN_Q: (
        ("IQ3_XS", always, _G.IQ3_XXS),
        ("IQ3_XXS", always, _G.IQ2_S),
    ),
    Category.FFN_DOWN: (
        ("IQ2_S IQ2_M", _first_eighth, _G.IQ3_S),
        (_IQ2, _first_eighth, _G.Q2_K),
        ("Q2_K", always, _G.Q3_K),
        ("Q2_K_S", _first_eighth, _G.Q4_K),
        ("IQ3_XXS", lambda p: not p.importances and _first_eighth(p), _G.Q4_K),
        ("IQ3_XXS", lambda p: not p.importances, _G.Q3_K),
        ("Q3_K_M", _first_sixteenth, _G.Q5_K),
        ("Q3_K_M", lambda p: not p.falcon or p.more_bits, _G.Q4_K),
        ("IQ3_M", lambda p: _first_eighth(p) or (p.experts == 8 and p.more_bits), _G.Q4_K),
        ("Q3_K_L", lambda p: p.falcon, _G.Q4_K),
        ("Q3_K_L", always, _G.Q5_K),
        ("Q4_K_M", lambda p: p.falcon and _first_sixteenth(p), _G.Q6_K),
        ("Q4_K_M", lambda p: p.falcon and p.more_bits, _G.Q5_K),
        ("Q4_K_M", lambda p: not p.falcon and p.more_bits, _G.Q6_K),
        ("IQ4_NL IQ4_XS", lambda p: not p.importances and _first_eighth(p), _G.Q5_K),
        ("Q5_K_M", _more_bits, _G.Q6_K),
        ("Q4_K_S", lambda p: not p.falcon and _first_eighth(p), _G.Q5_K),
        ("Q4_0", lambda p: p.importances and _first_eighth(p), _G.Q4_1),
        ("Q5_0", lambda p: p.importances and _first_eighth(p), _G.Q5_1),
    ),
    Category.ATTN_OUTPUT: (
        (_IQ2, _eight, _G.Q5_K),
        ("IQ1_S IQ1_M", always, _G.IQ2_XXS),
        ("IQ2_S IQ2_M", always, _G.IQ3_S),
        ("Q3_K_L", lambda p: p.falcon, _G.Q4_K),
        (_EIGHT_OUT, lambda p: not p.falcon and p.experts == 8, _G.Q5_K),
        ("Q2_K", lambda p: not p.falcon and p.experts != 8, _G.Q3_K),
        ("IQ3_XXS", lambda p: not p.falcon and p.experts != 8, _G.IQ3_S),
        ("Q3_K_M IQ3_M", lambda p: not p.falcon and p.experts != 8, _G.Q4_K),
        ("Q3_K_L", lambda p: not p.falcon and p.experts != 8, _G.Q5_K),
    ),
    Category.FFN_GATE: (("IQ3_XS", lambda p: p.n // 8 <= p.i < 7 * p.n // 8, _G.IQ3_XXS),),
    Category.FFN_UP: (("IQ3_XS", lambda p: p.n // 8 <= p.i < 7 * p.n // 8, _G.IQ3_XXS),),
}
"""The rows of each category."""

LOW_BIT = frozenset(_IQ2.split())
"""File types whose output is Q5_K and to which the rules for 70B and 8 experts do not apply."""

OLLAMA: tuple[tuple[frozenset[str], str, GGMLType], ...] = (
    (frozenset({"qwen35", "qwen35moe"}), r"^blk\.\d+\.nextn\.eh_proj\.weight$", _G.Q8_0),
    (frozenset({"gemma3n"}), r"^per_layer_token_embd\.weight$", _G.F16),
    (
        frozenset({"deepseek2"}),
        r"(attn_k_b|attn_q_a|attn_q_b|attn_v_b|attn_kv_a_mqa)\.weight$",
        _G.Q8_0,
    ),
    (frozenset({"glm4", "glmocr"}), r"^(token_embd|output)\.weight$", _G.F16),
)
"""Ollama's exceptions for architectures, of Q4_K_S and Q4_K_M only: names and types."""
OLLAMA_TYPES = frozenset({"Q4_K_S", "Q4_K_M"})
