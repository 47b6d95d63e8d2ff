"""What an adapter's conversion has to know about its base model.

The base is a checkpoint or a GGUF model; either gives the family's rules, the
numbers that they need (heads, layers) and the tensors to check against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families import of_gguf
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.rows.hyper import Hyper
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.row import Family
    from mbuild.gguf.model import Model

CONFIG_KEYS: dict[str, str] = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "num_kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "n_routed_experts": "expert_count",
    "vocab_size": "vocab_size",
}
"""Names in config.json that rules ask for, and GGUF's keys below the architecture."""


class Base(NamedTuple):
    """A base model: its family's row, its numbers, and its tensors' dims (fastest first)."""

    row: Family
    hp: Hyper
    tensors: Mapping[str, tuple[int, ...]]


def base_of_model(model: Model, row: Family | None = None) -> Base:
    """A GGUF model as a base; raises as :func:`base_from_facts` does.

    ``row`` is the family of the checkpoint that the model is converted from, if it is.
    """
    return base_from_facts(facts_of_base(model), row)


def facts_of_base(model: Model) -> dict[str, Any]:
    """What :func:`base_from_facts` has to know of a model, as JSON: nothing but its header."""
    arch = model.read("general.architecture")
    numbers = {key: _number(model.read(f"{arch}.{key}")) for key in CONFIG_KEYS.values()}
    return {
        "architecture": str(arch)[:60],
        "numbers": {key: number for key, number in numbers.items() if number},
        "tensors": {tensor.name: list(tensor.dims) for tensor in model.tensors},
    }


def base_from_facts(facts: Mapping[str, Any], row: Family | None = None) -> Base:
    """A base from :func:`facts_of_base`.

    Families that share GGUF's architecture (Llama and Mistral) share its
    rules too; the first row of it counts. Raises
    :class:`UnsupportedError` for an architecture without a row and
    :class:`FormatError` for metadata that no model has.
    """
    arch, numbers, tensors = facts["architecture"], facts["numbers"], facts["tensors"]
    row = row or of_gguf(arch, experts=bool(numbers.get("expert_count")))
    if row is None:
        raise UnsupportedError(f"adapters for {arch!r} models cannot be converted")
    config = {name: numbers[key] for name, key in CONFIG_KEYS.items() if key in numbers}
    blocks = config.get("num_hidden_layers")
    if blocks is None or blocks > len(tensors):
        raise FormatError(f"the base model's {arch}.block_count is {blocks}")
    hp = Hyper(row.gguf, row.names[0], config, {}, blocks, OutType.F32, CheckpointFiles({}))
    return Base(row, hp, {name: tuple(dims) for name, dims in tensors.items()})


def _number(value: Any) -> int | None:
    """A number, or the one that a list has for all layers; zeros are layers without."""
    if type(value) is int:
        return value
    if isinstance(value, str | bytes | float) or not hasattr(value, "__iter__"):
        return None
    different = {int(item) for item in value if hasattr(item, "__index__")} - {0}
    return different.pop() if len(different) == 1 else None
