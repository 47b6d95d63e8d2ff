"""Models in llama.cpp (PyPI's ``xllamacpp``), and vocabularies for the generated checkpoints.

Run as a program, this file is the process that a model runs in: a model that llama.cpp cannot
run may abort it. It reads a job as JSON from standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from example_models import generator

PROMPT = (5, 6, 7, 8)

BPE = [
    *("qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "falcon_7b", "falcon_40b", "gpt2", "gpt_neox"),
    *("olmo", "olmo2", "stablelm", "starcoder2", "command_r", "cohere2", "granite", "granite_moe"),
    *("smollm3", "deepseek_v3", "gpt_oss", "lfm2", "apertus", "seed_oss", "exaone4", "llama3"),
]
"""Generated families that get a vocabulary of bytes."""
SPM = [
    *("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "internlm2", "minicpm"),
    *("ernie4_5", "nemotron", "phi3"),
]
"""Generated families that get a SentencePiece vocabulary."""


def byte_level_tokenizer(count: int) -> dict[str, Any]:
    """A tokenizer.json of single bytes in GPT-2's notation, and one merge."""
    texts = [*(chr(33 + number) for number in range(count - 2)), "hi", "<|endoftext|>"]
    vocab = {text: number for number, text in enumerate(texts)}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    bytewise["use_regex"] = True
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": count - 1,
                "content": "<|endoftext|>",
                "special": True,
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
        ],
        "normalizer": None,
        "pre_tokenizer": bytewise,
        "decoder": bytewise,
        "post_processor": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": ["h i"]},
    }


def write_vocabulary(folder: Path, family: str, count: int) -> None:
    """``count`` tokens for a generated checkpoint; of ``BPE`` families the pre-tokenizer is
    gpt-2's, which has to be said (``--pre gpt-2``)."""
    if family in BPE:
        (folder / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(count)))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    else:
        make = generator()
        pieces = [*make.CHAT[:3], *((chr(0x100 + i), make.NORMAL) for i in range(count - 3))]
        (folder / "tokenizer.model").write_bytes(make.sentencepiece(pieces, model_type=2))
        settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def generate(
    model: Path,
    prompts: Sequence[Sequence[int]] = (PROMPT,),
    count: int = 8,
    adapters: Sequence[Path] = (),
) -> list[list[dict[str, Any]]]:
    """The greedy tokens after each prompt of token ids, with the ten likeliest of each step."""
    paths = [str(path) for path in adapters]
    asked = [list(prompt) for prompt in prompts]
    return _run({"model": str(model), "adapters": paths, "prompts": asked, "count": count})  # type: ignore[no-any-return]


def embed(model: Path, texts: Sequence[str]) -> list[list[float]]:
    """The texts' embeddings."""
    return _run({"model": str(model), "adapters": [], "texts": list(texts)})  # type: ignore[no-any-return]


def loadable(models: Sequence[Path]) -> dict[Path, bool]:
    """Which models llama.cpp loads; one that aborts the process is none of them."""
    found: dict[Path, bool] = {}
    while left := [path for path in models if path not in found]:
        done = subprocess.run(
            [sys.executable, __file__, "load"],
            input="\n".join(str(path) for path in left),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
        answers = [(Path(line[1]), line[0]) for line in lines if line[0] in ("yes", "no")]
        found |= {path: answer == "yes" for path, answer in answers}
        if len(answers) < len(left):
            found[left[len(answers)]] = False
    return found


def loads_with(model: Path, projector: Path) -> bool:
    """Whether llama.cpp loads a model together with a projector."""
    done = subprocess.run(
        [sys.executable, __file__, "load"],
        input=f"{model}\t{projector}",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout.startswith("yes ")


def load_all(paths: Sequence[str]) -> None:
    """Print for each model whether it loads, and end the process.

    No server is taken down: one that has hardly begun can hang then.
    """
    alive = []
    for path in paths:
        try:
            model, _, projector = path.partition("\t")
            alive.append(server({"model": model, "adapters": [], "projector": projector}))
        except Exception:
            print("no", path, flush=True)
        else:
            print("yes", path, flush=True)
    os._exit(0)


def _run(job: Mapping[str, Any]) -> Any:
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def server(job: Mapping[str, Any]) -> Any:
    """A job's model, loaded in this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = job["model"]
    for path in job["adapters"]:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = path, 1.0
        params.lora_adapters = [lora]
    if job.get("projector"):
        params.mmproj.path, params.mmproj_use_gpu = job["projector"], False
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.port = 64, 1, 0, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.embedding = False, "texts" in job
    return xllamacpp.Server(params)


def answer(job: Mapping[str, Any]) -> Any:
    """What :func:`generate` or :func:`embed` asks for, in this process."""
    loaded = server(job)
    if "texts" in job:
        found = loaded.handle_embeddings({"input": job["texts"], "model": "m"})
        return [row["embedding"] for row in found["data"]]
    asked = {"n_predict": job["count"], "temperature": 0, "n_probs": 10, "ignore_eos": True}
    made = [loaded.handle_completions({"prompt": p, **asked}) for p in job["prompts"]]
    return [one["choices"][0]["logprobs"]["content"] for one in made]


if __name__ == "__main__" and sys.argv[1:] == ["load"]:
    load_all(sys.stdin.read().splitlines())
elif __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
