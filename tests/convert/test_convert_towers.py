"""What a multimodal checkpoint loses on its way to a text model is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import DATA, write_checkpoint
from hyper_parameters import lazy

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.checks.layout import check_layout
from mbuild.convert.convert import convert_body
from mbuild.convert.model_tensors import left_out
from mbuild.convert.rows.rules import paired
from mbuild.core.errors import FormatError


def spec(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ("qwen3_vl", "smol_vlm", "gemma4", "qwen3_5"))
def test_encoders_that_are_left_out_are_named(name: str, tmp_path: Path) -> None:
    """How many tensors, one of them, and that the model reads text only."""
    checkpoint = open_checkpoint("tiny", write_checkpoint(tmp_path / "tiny", spec(name)))
    (warning,) = left_out(checkpoint)
    assert warning[0].isdigit()
    assert "text only" in warning
    body = convert_body(checkpoint)
    assert len(body.tensors) < len(checkpoint.tensors)


def test_a_text_model_has_nothing_to_say(tmp_path: Path) -> None:
    """Nothing is left out, so nothing is said."""
    checkpoint = open_checkpoint("tiny", write_checkpoint(tmp_path / "tiny", spec("llama")))
    assert [*left_out(checkpoint)] == []


def test_the_root_may_say_that_the_embedding_is_the_output_matrix(tmp_path: Path) -> None:
    """A nested text_config contradicts the root of published models; one of the two is enough."""
    case = spec("qwen3_vl")
    config = case["files"]["config.json"]
    config["text_config"]["tie_word_embeddings"] = False
    for root, refused in ((True, False), (False, True)):
        config["tie_word_embeddings"] = root
        files = write_checkpoint(tmp_path / str(root) / "tiny", case)
        described = convert_body(open_checkpoint("tiny", files)).described
        if refused:
            with pytest.raises(FormatError, match="lm_head"):
                check_layout(described, 80)
        else:
            assert check_layout(described, 80) == []


def test_rows_of_pairs_become_halves() -> None:
    """Two heads of six rows, of which four turn: even ones first, then odd ones, then the rest."""
    moved = paired(lazy(np.arange(12).reshape(12, 1)), 6, 4).load()
    assert moved[:, 0].tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]
    assert paired(lazy(np.arange(6)), 6, 4).load().tolist() == [0, 2, 1, 3, 4, 5]


@pytest.mark.parametrize(("rows", "turned"), ((7, 4), (12, 3), (12, 8)))
def test_rows_that_are_no_heads_are_refused(rows: int, turned: int) -> None:
    """Another number of rows, or half a pair, contradicts the config."""
    with pytest.raises(FormatError, match="rows are not heads of 6"):
        paired(lazy(np.arange(rows)), 6, turned)
