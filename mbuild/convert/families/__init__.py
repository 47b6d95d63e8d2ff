"""The families that can be converted: one row each, found by the class name in config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.bert import (
    BERT,
    CAMEMBERT_HF,
    DISTILBERT,
    ROBERTA,
    XLM_ROBERTA,
)
from mbuild.convert.families.cohere import COHERE2, COMMAND_R
from mbuild.convert.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from mbuild.convert.families.ernie import ERNIE, ERNIE_MOE
from mbuild.convert.families.exaone import EXAONE, EXAONE4
from mbuild.convert.families.gemma import EMBEDDING_GEMMA, GEMMA, GEMMA2, GEMMA3
from mbuild.convert.families.gemma3n import GEMMA3N
from mbuild.convert.families.glm import GLM4
from mbuild.convert.families.gpt import FALCON, GPT2, GPT_BIGCODE, GPT_NEOX, STARCODER2
from mbuild.convert.families.gpt_oss import GPT_OSS
from mbuild.convert.families.internlm import INTERNLM2, INTERNLM3
from mbuild.convert.families.lfm2 import LFM2
from mbuild.convert.families.llama import (
    APERTUS,
    ARCEE,
    GRANITE,
    GRANITE_MOE,
    GRANITE_MOE_SHARED_HF,
    LLAMA,
    LLAMA_MODEL,
    MISTRAL,
    MIXTRAL,
    SMOLLM3,
)
from mbuild.convert.families.minicpm import MINICPM
from mbuild.convert.families.nemotron import NEMOTRON
from mbuild.convert.families.nomic import NOMIC_BERT
from mbuild.convert.families.olmo import OLMO, OLMO2, OLMO3, OLMOE
from mbuild.convert.families.phi import PHI2, PHI3
from mbuild.convert.families.qwen import (
    QWEN2,
    QWEN2_MODEL,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    SEED_OSS,
)
from mbuild.convert.families.stablelm import STABLELM
from mbuild.convert.rows.row import NO_HF_CONFIG, Architecture
from mbuild.core.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.hyper import HFConfig

ARCHITECTURES: tuple[Architecture, ...] = (
    LLAMA,
    LLAMA_MODEL,
    MISTRAL,
    MIXTRAL,
    ARCEE,
    SMOLLM3,
    APERTUS,
    GRANITE,
    GRANITE_MOE,
    QWEN2,
    QWEN2_MODEL,
    QWEN3,
    QWEN2_MOE,
    QWEN3_MOE,
    SEED_OSS,
    GEMMA,
    GEMMA2,
    GEMMA3,
    EMBEDDING_GEMMA,
    GEMMA3N,
    PHI2,
    PHI3,
    BERT,
    DISTILBERT,
    ROBERTA,
    XLM_ROBERTA,
    NOMIC_BERT,
    COMMAND_R,
    COHERE2,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    FALCON,
    GPT2,
    GPT_BIGCODE,
    GPT_NEOX,
    STARCODER2,
    GPT_OSS,
    OLMO,
    OLMO2,
    OLMO3,
    OLMOE,
    STABLELM,
    GLM4,
    LFM2,
    NEMOTRON,
    INTERNLM2,
    INTERNLM3,
    MINICPM,
    EXAONE,
    EXAONE4,
    ERNIE,
    ERNIE_MOE,
)


CONFIGS: tuple[HFConfig, ...] = (
    *(row.hf for row in ARCHITECTURES if row.hf.model_type),
    CAMEMBERT_HF,
    GRANITE_MOE_SHARED_HF,
)
"""The defaults of every ``model_type``: a checkpoint may name another family's class."""


def config_class(model_type: object) -> HFConfig:
    """The defaults of a ``model_type``, none for one that transformers does not have."""
    return next((hf for hf in CONFIGS if hf.model_type == model_type), NO_HF_CONFIG)


def by_name() -> Mapping[str, Architecture]:
    """Every class name that config.json may have, with its row."""
    return {name: row for row in ARCHITECTURES for name in row.names}


def find(name: str) -> Architecture:
    """The row of a class; raises :class:`UnsupportedError` with the nearest names."""
    rows = by_name()
    if name in rows:
        return rows[name]
    from mbuild.core.suggest import did_you_mean, near

    hint = did_you_mean(
        near(name, rows, 5), "the families that are supported are listed in docs/convert.md"
    )
    raise UnsupportedError(f"checkpoints of {name[:100]!r} are not supported", hint=hint)
