"""A checkpoint of any family that lacks a tensor, or has a strange one, is no model in silence."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from checkpoints import DATA, write_checkpoint

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.checks.layout import check_layout
from mbuild.convert.convert import convert_body, hyper_parameters
from mbuild.convert.model_tensors import is_skipped, renamed
from mbuild.convert.read.dtypes import OutType
from mbuild.core.errors import MbuildError

CASES = sorted(path.stem for path in DATA.glob("*.json"))
Case = dict[str, Any]

OPTIONAL = re.compile(
    # The output matrix, where the embedding may be one, and the embedding of a draft.
    r"(lm_head|embed_out|output_layer|ff_out|transformer\.wte|^decoder|^embed_tokens)\.\w+$"
    r"|^(encoder\.embed_tokens|shared)\.weight$"
    # What layers for multi-token prediction share with the model, or do without.
    r"|shared_head\.|mtp\.norm|final_layernorm|\.embed_tokens\.weight$|^mtp\.fc\."
    # Numbers that are computed, and what llama.cpp's converter leaves out.
    r"|inv_freq$|masked_bias$|attention\.bias$|slopes$|pooler\.|expert_bias$|experts\.bias$"
    r"|^t2d$|adapter_token_ids|^model\.switch\.|mtp_layers|^mtp\.0\.enorm|ffn\.gate\.bias$"
    r"|time_mixer\.v\d$|attention\.v\d$|^masked_embedding|^norm\.(weight|bias)$|mtp\.layers\.0\.norm"
    # What llama.cpp's loader takes or does without.
    r"|^confidence_|routed_expert_norm|e_score_correction_bias$"
)
"""Tensors without which a model is what it was, or one that llama.cpp allows."""


UNLOADABLE = {"ernie4_5_moe", "gemma3n", "lfm2_old", "olmoe", "phi2"}
"""Checkpoints of which ``test_convert_layouts.py`` shows why they are refused as they are."""


def spec(name: str) -> Case:
    return json.loads((DATA / f"{name}.json").read_text())  # type: ignore[no-any-return]


def loadable(name: str) -> Case:
    """A case without what alone makes llama.cpp's loader refuse some of them."""
    case = spec(name)
    if name.startswith(("bert", "roberta", "xlm_roberta")):
        del case["files"]["config.json"]["num_key_value_heads"]
    return case


def said(folder: Path, case: Case) -> tuple[str, list[str]]:
    """The error that refuses a checkpoint, or its warnings."""
    try:
        checkpoint = open_checkpoint("tiny", write_checkpoint(folder, case))
        body = convert_body(checkpoint)
        tokens = None if checkpoint.family.padded else body.hyper.optional_integer("vocab_size")
        return "", [*checkpoint.warnings, *check_layout(body.described, tokens)]
    except MbuildError as error:
        return error.message, []


def own(folder: Path, case: Case) -> list[tuple[str, str]]:
    """The shards and names of what the text model is made of and cannot do without."""
    checkpoint = open_checkpoint("tiny", write_checkpoint(folder, case))
    row, hyper = checkpoint.family, hyper_parameters(checkpoint, OutType.F32)

    def counts(name: str) -> bool:
        known = renamed(row, checkpoint.config, name)
        return known is not None and not is_skipped(row, hyper, known)

    return [
        (shard, name)
        for shard, tensors in case["tensors"].items()
        for name in tensors
        if not OPTIONAL.search(name) and counts(name)
    ]


@pytest.mark.parametrize("name", sorted(set(CASES) - UNLOADABLE))
def test_a_wrong_checkpoint_is_refused_or_warned_of(name: str, tmp_path: Path) -> None:
    """Two tensors of another shape, two that are missing, and one too many, drawn by the name."""
    drawn, case = random.Random(name), loadable(name)
    error, fine = said(tmp_path / "fine", case)
    assert not error
    places = own(tmp_path / "fine", case)
    for number, (shard, tensor) in enumerate(drawn.sample(places, min(4, len(places)))):
        wrong = loadable(name)
        tensors = wrong["tensors"][shard]
        if number % 2:
            del tensors[tensor]
        else:
            type_, *dims = tensors[tensor].split()
            dims = [*dims[:-1], str(int(dims[-1]) + 2)] if dims else ["3"]
            tensors[tensor] = " ".join([type_, *dims])
        assert said(tmp_path / str(number), wrong) != ("", fine), (tensor, number % 2)
    wrong = loadable(name)
    next(iter(wrong["tensors"].values()))["model.layers.0.made_up.weight"] = "BF16 4 4"
    error, _ = said(tmp_path / "more", wrong)
    assert "made_up" in error


def test_a_bias_of_the_router_that_config_promises_is_there(tmp_path: Path) -> None:
    """Without it llama.cpp would choose other experts."""
    wrong = spec("deepseek_v3")
    wrong["files"]["config.json"]["topk_method"] = "noaux_tc"
    assert not said(tmp_path / "fine", wrong)[0]
    (tensors,) = wrong["tensors"].values()
    for name in [name for name in tensors if name.endswith("e_score_correction_bias")]:
        del tensors[name]
    error, _ = said(tmp_path / "gone", wrong)
    assert 'config.json says topk_method: "noaux_tc"' in error


def test_token_types_that_config_speaks_of_are_warned_of(tmp_path: Path) -> None:
    """llama.cpp does without them in some models, and embeds other vectors."""
    wrong = spec("nomic_bert")
    del wrong["tensors"]["model.safetensors"]["embeddings.token_type_embeddings.weight"]
    error, warnings = said(tmp_path, wrong)
    assert not error and any("type_vocab_size: 2" in text for text in warnings)


@pytest.mark.parametrize("lost", ["d2t", "lm_head.weight"])
@pytest.mark.parametrize("name", ["eagle3", "dspark"])
def test_a_draft_of_few_tokens_says_which_they_are(name: str, lost: str, tmp_path: Path) -> None:
    """Its tokens are other ones than those of its target with the same numbers."""
    wrong = spec(name)
    del wrong["tensors"]["model.safetensors"][lost]
    error, _ = said(tmp_path, wrong)
    assert "draft_vocab_size 40 of 80" in error
