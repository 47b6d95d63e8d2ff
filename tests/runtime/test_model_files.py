"""What else a model has beside its weights, in the engine: adapters, and drafts of answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smollm import build_models, smollm

from mbuild.core.names import ModelName
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType
from mbuild.gguf.writer import write
from mbuild.runtime.pool import Pool
from mbuild.runtime.process import has_engine
from mbuild.runtime.runner import Runner
from mbuild.runtime.spec import LoadedModel
from mbuild.store import Store

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

OPTIONS = {"num_ctx": 256, "num_batch": 64, "num_thread": 1, "num_gpu": -1, "use_mmap": True,
           "main_gpu": 0}  # fmt: skip
ASKED = {"prompt": "The capital of France is", "n_predict": 12, "temperature": 0, "n_probs": 1}


def write_adapter(path: Path) -> None:
    """A LoRA adapter that changes queries and values of one layer of SmolLM2 (576 and 192 wide)."""
    random = np.random.default_rng(1)
    tensors = []
    for name, width in (("attn_q", 576), ("attn_v", 192)):
        for part, dims in (("lora_a", (576, 2)), ("lora_b", (2, width))):
            values = random.standard_normal(dims[::-1]).astype("<f4")
            row = Tensor(f"blk.3.{name}.weight.{part}", dims, GGMLType.F32, values.tobytes)
            tensors.append(row)
    metadata = (
        KV("general.architecture", ValueType.STRING, "llama"),
        KV("general.type", ValueType.STRING, "adapter"),
        KV("adapter.type", ValueType.STRING, "lora"),
        KV("adapter.lora.alpha", ValueType.FLOAT32, 2.0),
    )
    with path.open("wb") as file:
        write(Model(metadata, tuple(tensors)), lambda piece: file.write(piece) and None)


async def _answer(runner: Runner, name: str) -> dict[str, Any]:
    """The engine's own answer by the files of a stored model."""
    model = runner.model(ModelName.parse(name))
    spec = model.spec({**OPTIONS, "draft_num_predict": 4})
    async with runner.pool.use(spec, LoadedModel(name), 0, 0.0) as engine:
        answer = await engine.ask("/completion", ASKED)
        found: dict[str, Any] = await answer.json()
        assert answer.status == 200, found
    return found


def test_adapters_and_drafts_are_used(tmp_path: Path) -> None:
    """An adapter changes what the next word is; a draft makes the same text, its words accepted."""
    write_adapter(tmp_path / "lora.gguf")
    models = {
        "plain": "",
        "tuned": f"ADAPTER {tmp_path}/lora.gguf",
        "drafted": f"DRAFT {smollm()}",
    }
    root = build_models(tmp_path, models).root
    runner = Runner(lambda: Store(root), Pool())
    loop = asyncio.new_event_loop()
    plain, tuned, drafted = (loop.run_until_complete(_answer(runner, name)) for name in models)
    loop.run_until_complete(runner.pool.close())
    loop.close()
    assert "draft_n" not in plain["timings"] and "Paris" in plain["content"]
    assert tuned["completion_probabilities"][0] != plain["completion_probabilities"][0]
    assert drafted["content"] == plain["content"]
    assert drafted["timings"]["draft_n_accepted"] == drafted["timings"]["draft_n"] > 3
