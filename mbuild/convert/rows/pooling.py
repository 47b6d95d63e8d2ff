"""Pooling of embedding models, from the files that sentence-transformers writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import SMALL_LIMIT
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.hyper import Hyper

POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
"""``pooling_type`` (``llama_pooling_type`` of llama.h)."""

_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}


def pooling(hp: Hyper) -> Iterator[KV]:
    """``pooling_type``, where modules.json names a pooling module.

    Raises :class:`UnsupportedError` for a kind that GGUF has no number for.
    """
    folder = _pooling_folder(hp)
    if folder is None:
        return
    name = f"{folder}/config.json" if folder else "config.json"
    settings = hp.files.json_object(name)
    if settings is None:
        raise FormatError(f"modules.json names {name}, which is missing")
    mode = next((kind for flag, kind in _FLAGS.items() if settings.get(flag)), None)
    mode = mode or settings.get("pooling_mode")
    if not isinstance(mode, str) or mode not in POOLING:
        raise UnsupportedError(
            f"{name}: this kind of pooling is not supported",
            hint=f"supported: {', '.join(POOLING)}",
        )
    yield KV(f"{hp.arch}.pooling_type", ValueType.UINT32, POOLING[mode])


def unused_modules(hp: Hyper) -> Iterator[str]:
    """A warning of the layers that sentence-transformers would put behind the model."""
    folders = dense_folders(hp)
    if folders:
        yield (
            f"modules.json: {', '.join(folders)} is left out: embeddings are those before it"
            + ("; add --sentence-transformers-dense-modules to have it" if _takes_dense(hp) else "")
        )


def _takes_dense(hp: Hyper) -> bool:
    return hp.arch == "gemma-embedding"


def dense_folders(hp: Hyper) -> list[str]:
    """The folders of the dense layers that modules.json names, in its order."""
    return [str(path)[:40] for kind, path in _modules(hp) if kind.endswith("Dense")]


def _pooling_folder(hp: Hyper) -> str | None:
    for kind, folder in _modules(hp):
        if kind.endswith("Pooling"):
            if not isinstance(folder, str):
                raise FormatError("modules.json has a pooling module without a path")
            return folder
    return None


def _modules(hp: Hyper) -> Iterator[tuple[str, Any]]:
    """The kind and the folder of each module."""
    for module in _json_list(hp, "modules.json"):
        if not isinstance(module, dict):
            raise FormatError("modules.json has an item that is not an object")
        kind = module.get("type")
        yield kind if isinstance(kind, str) else "", module.get("path")


def _json_list(hp: Hyper, name: str) -> list[Any]:
    import json

    if name not in hp.files:
        return []
    try:
        items = json.loads(hp.files.read(name, SMALL_LIMIT))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: not valid JSON") from error
    if not isinstance(items, list):
        raise FormatError(f"{name}: a list is needed")
    return items
