"""Docker Model Runner's form of a manifest (docker/model-spec, config v0.1 and v0.2).

It runs GGUF weights in one or several files and one projector, and reads the size of the context
from the config; its own chat template is Jinja's. Other files come along for Ollama and mbuild.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mbuild.core.errors import RegistryError
from mbuild.core.units import human_size
from mbuild.registry.dialects.files import STEM, NamedLayer, PlainModel
from mbuild.registry.dialects.roles import CHAT, LEFT_OUT, is_other_weights, role_of_file
from mbuild.store.media import LICENSE, MEDIA_TYPES, MODEL, PREFIX, PROJECTOR

CONFIG = "application/vnd.docker.ai.model.config.v0.1+json"
CONFIG_OF_FILES = "application/vnd.docker.ai.model.config.v0.2+json"

_PREFIX = "application/vnd.docker.ai."
_FILE = _PREFIX + "model.file"
_TYPES = {
    MODEL: _PREFIX + "gguf.v3",
    PROJECTOR: _PREFIX + "mmproj",
    LICENSE: _PREFIX + "license",
}
_ROLES = {
    **{text: media_type for media_type, text in _TYPES.items()},
    _PREFIX + "chat.template.jinja": CHAT,
}
_FIRST_PROJECTOR = MEDIA_TYPES[PROJECTOR].file.format(stem=STEM, n="")
_OTHER_WEIGHTS = frozenset({_PREFIX + "safetensors", _PREFIX + "dduf"})


def layer_type(named: NamedLayer) -> str:
    """What Docker calls a file; of several projectors its runner takes none."""
    media_type = named.layer.media_type
    if media_type == PROJECTOR and named.path != _FIRST_PROJECTOR:
        return _FILE
    return _TYPES.get(media_type, _FILE)


def config(model: PlainModel, digests: Sequence[str]) -> Mapping[str, Any]:
    """The config, without dates, so that equal models have equal ones."""
    said = model.config
    size = sum(named.layer.size for named in model.files if named.layer.media_type == MODEL)
    about = {
        "format": said.get("model_format") or "gguf",
        "quantization": said.get("file_type"),
        "parameters": said.get("model_type"),
        "architecture": said.get("model_family"),
        "size": human_size(size),
        "context_size": model.context,
    }
    return {
        "config": {key: value for key, value in about.items() if value},
        "descriptor": {},
        "rootfs": {"type": "rootfs", "diff_ids": list(digests)},
    }


def role(media_type: str, path: str) -> str:
    """What a layer is to Ollama; raises :class:`RegistryError` for weights that it cannot be."""
    if media_type in _ROLES:
        return _ROLES[media_type]
    if media_type in _OTHER_WEIGHTS or is_other_weights(path):
        raise RegistryError(
            f"its weights {path or media_type!r} are not a GGUF file",
            hint="docker model package has models in GGUF, too; or build from the checkpoint",
        )
    if media_type.startswith(PREFIX):
        return media_type if media_type in MEDIA_TYPES else LEFT_OUT
    return role_of_file(path) if media_type == _FILE else LEFT_OUT


def context(said: Mapping[str, Any]) -> int:
    """The size of the context that the config gives, 0 where it gives none."""
    about = said.get("config")
    value = about.get("context_size") if isinstance(about, dict) else None
    is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if is_number and isinstance(value, int) else 0
