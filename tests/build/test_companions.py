"""What stands beside a model's weights: a checkpoint's projector, its draft, its adapters."""

from __future__ import annotations

import pytest
from planned import Q4, asked_for, checkpoint, gguf, layer, stored

from mbuild.build.companions import (
    check_projector_alone,
    converted_adapter,
    projector,
    with_target,
)
from mbuild.build.sources.values import Sources
from mbuild.build.splitting import Splitting
from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.store.media import MODEL, SYSTEM

SEEING = checkpoint("sees")._replace(encoders=("config.json",))


def test_a_projector_alone_is_a_checkpoint_s_and_nothing_else() -> None:
    """No other source, no quantization, and nothing that belongs to a whole model."""
    check_projector_alone(Sources((SEEING,)), asked_for())
    with pytest.raises(UsageError, match="FROM names none"):
        check_projector_alone(Sources((checkpoint("blind"),)), asked_for())
    with pytest.raises(UsageError, match="FROM names none"):
        check_projector_alone(Sources((gguf("a.gguf"),)), asked_for())
    with pytest.raises(UsageError, match="not quantized"):
        check_projector_alone(Sources((SEEING,)), asked_for((Q4,)))
    with pytest.raises(UsageError, match="adapters, drafts or shards"):
        check_projector_alone(Sources((SEEING,), (checkpoint("lora"),)), asked_for())
    split = asked_for(splitting=Splitting.parse({"split": "2GB"}))
    with pytest.raises(UsageError, match="adapters, drafts or shards"):
        check_projector_alone(Sources((SEEING,)), split)


def test_a_projector_beside_its_text_is_another_step_than_one_alone() -> None:
    """Its metadata says whose it is where both are built."""
    one, two = (projector(SEEING, asked_for(), beside=beside) for beside in (True, False))
    assert one.group != two.group


def test_a_draft_without_a_tokenizer_gets_its_target_s() -> None:
    """That of the checkpoint that FROM names; of a GGUF there is none to be had."""
    draft = checkpoint("draft")
    target = checkpoint("chat")
    assert with_target(draft, Sources((gguf("a.gguf"),))) == draft
    assert with_target(draft, Sources((target,))) == draft.drafting_for(target)


def test_an_adapter_is_for_the_weights_of_its_base() -> None:
    """Of a stored model these are its layers; without them nothing can be converted."""
    source = checkpoint("lora")
    first, second = (
        converted_adapter(source, stored(layer(MODEL, text)), (), ()) for text in ("w", "v")
    )
    assert first != second
    with pytest.raises(UnsupportedError, match="has no weights"):
        converted_adapter(source, stored(layer(SYSTEM, "s")), (), ())
