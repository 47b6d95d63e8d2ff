"""Compares MERGE with PEFT's own merge_and_unload, value by value, on small models.

    python benchmarks/merge_oracle.py --python ENVIRONMENT/bin/python [--work FOLDER]

The other environment has torch, transformers and peft; mbuild has none of them. There a model of
each family is made with random weights, an adapter for its linear layers (rank 8, rank-stabilized,
ranks and alphas of their own for one module), and both are saved, with what PEFT merges of
them. Here the merged checkpoint is converted, the base is converted and the adapter merged into
it, and all tensors are compared. PEFT multiplies and adds in F32 and rounds the sum, mbuild adds
in doubles and rounds once: so a value may be the next one, and more is an error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SMALL = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 512,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 2}, "q_proj k_proj v_proj o_proj"
              " gate_proj up_proj down_proj"),
    "qwen2": ("Qwen2ForCausalLM", {"num_key_value_heads": 2}, "q_proj k_proj v_proj o_proj"
              " gate_proj up_proj down_proj"),
    "mixtral": ("MixtralForCausalLM", {"num_key_value_heads": 2, "num_local_experts": 4,
                "num_experts_per_tok": 2}, "q_proj o_proj w1 w2 w3"),
    "gemma": ("GemmaForCausalLM", {"num_key_value_heads": 1, "head_dim": 32}, "q_proj k_proj"
              " v_proj o_proj gate_proj up_proj down_proj"),
    "bert": ("BertModel", {"type_vocab_size": 2}, "query key value dense"),
}  # fmt: skip
"""Of each family the class, what its config has beside :data:`SMALL`, and what is trained."""

TYPES = ("float32", "float16", "bfloat16")


def make(folder: Path) -> None:
    """In the other environment: bases, adapters, and what PEFT merges."""
    import peft
    import torch
    import transformers

    for family, (name, further, trained) in FAMILIES.items():
        kind = getattr(transformers, name)
        for type_ in TYPES:
            torch.manual_seed(len(family))
            config = kind.config_class(**SMALL, **further)
            model = kind(config).to(getattr(torch, type_))
            place = folder / f"{family}-{type_}"
            model.save_pretrained(place / "base")
            targets = trained.split()
            settings = peft.LoraConfig(
                r=8, lora_alpha=20, use_rslora=True, init_lora_weights=False,
                target_modules=targets,
                rank_pattern={targets[0]: 4}, alpha_pattern={targets[0]: 6},
            )  # fmt: skip
            tuned = peft.get_peft_model(model, settings)
            tuned.save_pretrained(place / "adapter")
            tuned.merge_and_unload().save_pretrained(place / "merged")
    print(f"torch {torch.__version__}, transformers {transformers.__version__},"
          f" peft {peft.__version__}")  # fmt: skip


def compared(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    """Of each model its name, how many values there are, how many differ, and by how many steps."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "convert"))
    from test_merging import bytes_of, converted, merged

    from mbuild.gguf.types import GGMLType

    views = {GGMLType.F32: "<i4", GGMLType.F16: "<i2", GGMLType.BF16: "<i2"}
    for family in FAMILIES:
        for type_ in TYPES:
            place = folder / f"{family}-{type_}"
            base, wanted = converted(place / "base"), converted(place / "merged")
            made, theirs = bytes_of(merged(base, (place / "adapter", 1.0))), bytes_of(wanted)
            before = bytes_of(base)
            count = differing = most = 0
            for tensor in base.tensors:
                name = tensor.name
                if before[name] == theirs[name]:
                    assert made[name] == theirs[name], f"{family}: {name} was not to change"
                    continue
                ours, other = (
                    ordered(np.frombuffer(each[name], views[tensor.type]))
                    for each in (made, theirs)
                )
                steps = np.abs(ours - other)
                count += steps.size
                differing += int((steps != 0).sum())
                most = max(most, int(steps.max()) if tensor.type is not GGMLType.F32 else
                           int(beyond(made[name], theirs[name], before[name])))  # fmt: skip
            yield f"{family} {type_}", count, differing, most


def ordered(bits: Any) -> Any:
    """The bits of floating-point numbers as integers in the numbers' order."""
    wide = bits.astype(np.int64)
    low = -(1 << (bits.dtype.itemsize * 8 - 1))
    return np.where(wide < 0, low - wide, wide)


def beyond(made: bytes, theirs: bytes, before: bytes) -> float:
    """By how many steps of the largest term two sums in F32 differ: cancelling makes small sums."""
    ours, other, base = (np.frombuffer(each, "<f4").astype(np.float64)
                         for each in (made, theirs, before))  # fmt: skip
    term = np.maximum(np.abs(base), np.abs(ours - base)).astype(np.float32)
    return float(np.ceil((np.abs(ours - other) / np.spacing(np.maximum(term, 1e-30))).max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="a Python that has torch, transformers and peft")
    parser.add_argument("--work", type=Path, help="a folder to keep the models in")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make is not None:
        make(given.make)
        return
    if given.python is None:
        parser.error("--python is needed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        subprocess.run([given.python, __file__, "--make", str(folder)], check=True)
        print("| model | changed values | that differ | by at most |\n|---|---|---|---|")
        worst = 0
        for name, count, differing, most in compared(folder):
            print(f"| {name} | {count:,} | {differing:,} | {most} |")
            worst = max(worst, most if "float32" not in name else 0)
    if worst > 1:
        raise SystemExit("a value is more than one step away")


if __name__ == "__main__":
    main()
