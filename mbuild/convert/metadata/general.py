"""``general.*`` metadata: names, sizes and origins of a checkpoint, by llama.cpp's heuristics.

Sources, the first that says something counts: README.md's front matter (YAML),
``_name_or_path`` of config.json, the folder's name. Identifiers such as
``meta-llama/Llama-3.2-1B-Instruct`` are taken apart into organization, base
name, size, finetune and version (``gguf-py/gguf/metadata.py``, 1 October
2026). Sampling settings come from generation_config.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mbuild.convert.metadata.card import model_card
from mbuild.convert.metadata.name import Name, parse_name, title
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.vocabulary.entries import Entries
from mbuild.core.errors import FormatError
from mbuild.core.values import FrozenValue
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from pathlib import Path

QUANTIZATION_VERSION = KV("general.quantization_version", ValueType.UINT32, 2)
"""Written after an architecture's own keys (``GGML_QUANT_VERSION``)."""

_INTEGER, _FLOAT, _STRING = ValueType.INT32, ValueType.FLOAT32, ValueType.STRING

SAMPLING: tuple[tuple[str, tuple[str, ...], ValueType], ...] = (
    ("sequence", ("sequence",), _STRING),
    ("top_k", ("top_k",), _INTEGER),
    ("top_p", ("top_p",), _FLOAT),
    ("min_p", ("min_p",), _FLOAT),
    ("xtc_probability", ("xtc_probability",), _FLOAT),
    ("xtc_threshold", ("xtc_threshold",), _FLOAT),
    ("temp", ("temperature",), _FLOAT),
    ("penalty_last_n", ("penalty_last_n",), _INTEGER),
    ("penalty_repeat", ("penalty_repeat", "repetition_penalty"), _FLOAT),
    ("mirostat", ("mirostat",), _INTEGER),
    ("mirostat_tau", ("mirostat_tau",), _FLOAT),
    ("mirostat_eta", ("mirostat_eta",), _FLOAT),
)
"""Keys below ``general.sampling.``, names in generation_config.json, types."""

_CARD_FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("name", ("name", "model_name")),
    ("author", ("author", "model_author", "model_creator")),
    ("version", ("version", "model_version")),
    ("organization", ("organization", "model_organization")),
    ("finetune", ("finetune", "model_finetune")),
    ("basename", ("basename", "model_basename", "model_type")),
    ("description", ("description", "model_description")),
    ("quantized_by", ()),
    ("size_label", ("size_label", "model_size_label")),
    ("license", ("license",)),
    ("license.name", ("license_name",)),
    ("license.link", ("license_link",)),
    ("url", ()),
    ("doi", ()),
    ("uuid", ()),
    ("repo_url", ()),
    ("source.url", ("url", "model_url")),
    ("source.doi", ("doi", "model_doi")),
    ("source.uuid", ("uuid", "model_uuid")),
    ("source.repo_url", ("repo_url", "model_repo_url")),
)
"""Keys below ``general.`` in the order they are written, and names in the front matter."""

_ORIGIN_FIELDS = (
    *("name", "author", "version", "organization", "description"),
    *("url", "doi", "uuid", "repo_url"),
)


class Parameters(FrozenValue):
    """How many weights a model has: in all, outside experts, in one expert, and how many experts.

    ``total`` is negative for an adapter, whose size is not the model's.
    """

    total: int
    shared: int = 0
    expert: int = 0
    experts: int = 0

    @classmethod
    def count(cls, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> Parameters:
        """Count over names and dims (fastest first) of GGUF tensors, in file order.

        ``GGUFWriter.get_total_parameter_count``: stacked experts count once as
        one expert, a LoRA pair as the matrix it stands for.
        """
        total = shared = expert = stacked = experts = 0
        last_a: tuple[str, tuple[int, ...]] | None = None
        for name, dims in tensors:
            if name.endswith(".lora_a"):
                last_a = (name, dims)
                continue
            if name.endswith(".lora_b"):
                if last_a is None or last_a[0] != name[:-1] + "a":
                    return cls(0)
                dims = (last_a[1][0], *dims[1:])
            size = _product(dims)
            total += size
            if "_exps." in name and len(dims) >= 3:
                count = dims[1 if ".bias" in name else 2]
                expert += size // count if count else 0
                experts += count
                stacked += 1
            else:
                shared += size
        count = experts // stacked if stacked else 0
        return cls(total if last_a is None else -total, shared, expert, count)

    def label(self) -> str:
        """``135M``, or ``8x7B`` for a mixture of experts."""
        if self.experts > 0:
            return f"{self.experts}x{_rounded(abs(self.shared) + abs(self.expert))}"
        return _rounded(abs(self.total))


def _product(dims: Iterable[int]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size


def _rounded(count: int) -> str:
    """A number of weights with at least two digits and a letter."""
    scales = ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (-1.0, 1e-3, "K"))
    factor, letter = next((f, s) for above, f, s in scales if count > above)
    scaled = count * factor
    digits = len(str(round(scaled)).lstrip("0"))
    return f"{scaled:.{max(2 - digits, 0)}f}{letter}"


def general(
    folder: str,
    files: Mapping[str, Path],
    arch: str,
    parameters: Parameters,
    *,
    kind: str = "model",
    model_name: str | None = None,
    override: Mapping[str, Any] = MappingProxyType({}),
) -> list[KV]:
    """The ``general.*`` entries that stand before an architecture's own.

    ``folder`` is the name of the checkpoint's folder, ``files`` maps names in
    it to readable files (README.md, config.json and generation_config.json
    are looked at), ``arch`` is GGUF's name of the architecture, ``model_name``
    overrides the name, ``override`` other entries by their keys. ``kind`` is ``general.type``:
    ``model``, ``mmproj`` for a projector, or ``adapter``, which ``adapter.type`` follows and no
    size is made up for.

    Raises :class:`FormatError` for a malformed config.json. A broken front
    matter or generation_config.json counts as none.
    """
    read = CheckpointFiles(files)
    card = model_card(read)
    entries = Entries()
    entries.string("general.architecture", arch)
    entries.string("general.type", kind)
    if kind == "adapter":
        entries.string("adapter.type", "lora")
    _write_sampling(entries, read, override)
    fields = _fields(card, read, folder, parameters.total)
    fields |= {
        key: str(override[k]) for key, _ in _CARD_FIELDS if (k := f"general.{key}") in override
    }
    fields["name"] = model_name or fields.get("name") or folder
    if not fields.get("size_label") and parameters.total > 0:
        fields["size_label"] = parameters.label()
    for key, _ in _CARD_FIELDS:
        entries.string(f"general.{key}", fields.get(key, ""))
    for key, aliases in (("base_model", BASE_MODELS), ("dataset", DATASETS)):
        own = override.get(f"general.{key}s")
        found = _origins(card, aliases, parameters.total) if own is None else [*map(_given, own)]
        _write_origins(entries, key, found)
    for key, names in (("tags", ("tags", "pipeline_tag")), ("languages", LANGUAGES)):
        texts = override.get(f"general.{key}") or _texts(card, names)
        entries.array(f"general.{key}", texts, ValueType.STRING)
    return entries.list()


LANGUAGES = ("languages", "language")
BASE_MODELS = ("base_model", "base_models", "base_model_sources")
DATASETS = ("datasets", "dataset", "dataset_sources")


def _given(origin: Mapping[str, Any]) -> dict[str, str]:
    """A base model or dataset as somebody describes it."""
    return {key: _scalar(origin[key]) for key in _ORIGIN_FIELDS if key in origin}


def _write_sampling(entries: Entries, files: CheckpointFiles, override: Mapping[str, Any]) -> None:
    try:
        config = files.json_object("generation_config.json") or {}
    except FormatError:
        config = {}
    for key, names, type_ in SAMPLING:
        value = next((config[name] for name in names if name in config), None)
        key = f"general.sampling.{key}"
        value = override.get(key, value)
        match type_, value:
            case _, bool():
                continue
            case ValueType.STRING, str():
                entries.string(key, value)
            case ValueType.INT32, int():
                entries.int32(key, value)
            case ValueType.FLOAT32, int() | float() if abs(value) < 3e38:
                entries.float32(key, float(value))


def _fields(
    card: Mapping[str, Any], files: CheckpointFiles, folder: str, total: int
) -> dict[str, str]:
    """The texts of :data:`_CARD_FIELDS`, from the card, config.json and the folder's name."""
    fields: dict[str, str] = {}
    for key, names in _CARD_FIELDS:
        name = next((name for name in names if card.get(name) is not None), None)
        if name is not None and (text := _joined(card[name])):
            fields[key] = text
    path = (files.json_object("config.json") or {}).get("_name_or_path")
    if isinstance(path, str) and path.count("/") <= 1:
        _fill(fields, parse_name(path, total))
    _fill(fields, parse_name(folder, total))
    return fields


def _fill(fields: dict[str, str], name: Name) -> None:
    """Take from a parsed name what is not known yet."""
    found = {
        "name": title(name.full),
        "organization": title(name.organization),
        "basename": name.basename,
        "finetune": name.finetune,
        "version": name.version,
        "size_label": name.size_label,
    }
    for key, value in found.items():
        if value:
            fields.setdefault(key, value)


def _joined(value: object) -> str:
    """A card's value as one text; several licences are joined by commas."""
    if isinstance(value, list):
        return ",".join(text for item in value if (text := _scalar(item)))
    return _scalar(value)


def _scalar(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(card: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        value = card.get(name)
        items = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        found += [text for item in items if (text := _scalar(item))]
    return found


def _origins(
    card: Mapping[str, Any], names: tuple[str, ...], total: int
) -> list[dict[str, str]] | None:
    """Base models or datasets as fields; None when the card names none."""
    name = next((name for name in names if name in card), None)
    if name is None:
        return None
    value = card[name]
    items = value if isinstance(value, list) else [value] if isinstance(value, str) else []
    return [_origin(item, total) for item in items]


def _origin(item: object, total: int) -> dict[str, str]:
    if isinstance(item, dict):
        return {key: _scalar(item[key]) for key in _ORIGIN_FIELDS if key in item}
    if not isinstance(item, str):
        return {}
    origin: dict[str, str] = {}
    id_ = item
    if item.startswith(("http://", "https://", "ssh://")):
        origin["repo_url"] = item
        id_ = _hub_id(item)
        if not id_:
            return origin
    name = parse_name(id_, total)
    origin |= {"name": title(name.full), "organization": title(name.organization)}
    origin["version"] = name.version
    if id_ is item and name.organization:
        origin["repo_url"] = f"https://huggingface.co/{name.organization}/{name.full}"
    return origin


def _hub_id(url: str) -> str:
    """``owner/name`` of a model's address on the Hugging Face hub, else empty."""
    scheme, _, rest = url.partition("://")
    parts = rest.split("/")
    hub = scheme in ("http", "https") and len(parts) == 3 and parts[0] == "huggingface.co"
    return f"{parts[1]}/{parts[2]}" if hub and parts[1] and parts[2] else ""


def _write_origins(entries: Entries, key: str, origins: list[dict[str, str]] | None) -> None:
    if origins is None:
        return
    entries.uint32(f"general.{key}.count", len(origins))
    for number, origin in enumerate(origins):
        for field in _ORIGIN_FIELDS:
            entries.string(f"general.{key}.{number}.{field}", origin.get(field, ""))
