"""The config blob: what kind of model this is, for ``ollama list`` and for the runner."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext, variant_label
from mbuild.build.steps.layers import put_layer
from mbuild.core import gojson
from mbuild.core.errors import SourceError
from mbuild.core.values import aside
from mbuild.store import Layer
from mbuild.store.manifest import CONFIG_KEYS, CONFIG_TYPE, PLATFORM
from mbuild.store.media import DRAFT, MODEL


class MakeConfig(BaseStep):
    """The config of a model: its base's, or what its GGUF files say, and what was asked for.

    ``overrides`` holds ``renderer``, ``parser`` and ``requires`` where given, and
    what else a request sets. ``least`` is the first version of Ollama that can run a model
    of such layers, empty where any can. ``lifted`` is the version that the base asks for
    only because its weights are in several layers, where those of this model are in one.
    ``without`` are keys that the base's config has and this one must not inherit.
    ``projector``: there is to be no model, only a projector.
    """

    base: Layer | None
    inputs: tuple[Step, ...]
    overrides: Mapping[str, str]
    target: str = aside(default="")
    least: str = ""
    lifted: str = ""
    without: tuple[str, ...] = ()
    projector: bool = False
    needs: tuple[Step, ...] = aside(default=())

    trivial: ClassVar[bool] = True
    kind: ClassVar[str] = "config"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 3
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("base",): "base config",
        ("overrides",): "",
        ("least",): "least version of Ollama",
        ("projector",): "--mmproj",
        ("lifted",): "version of Ollama that only the base needs",
        ("without",): "what UNSET leaves out",
    }

    @property
    def label(self) -> str:
        """What is made, and for which of several variants."""
        return variant_label("config", self.target)

    def key_fields(self) -> Mapping[str, Any]:
        """The base's config and the overrides; the files' facts come with the inputs."""
        base = str(self.base.digest) if self.base else None
        least = {"least": self.least} if self.least else {}
        lifted = {"lifted": self.lifted} if self.lifted else {}
        without = {"without": list(self.without)} if self.without else {}
        projector = {"projector": True} if self.projector else {}
        special = {**least, **lifted, **without, **projector}
        return {"base": base, "overrides": dict(self.overrides), **special}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Merge and store."""
        from mbuild.store.contents import read_object

        merged: dict[str, Any] = {}
        if self.base is not None:
            merged.update(read_object(context.store.blobs, self.base))
            if self.lifted and merged.get("requires") == self.lifted:
                del merged["requires"]
            merged = {key: item for key, item in merged.items() if key not in self.without}
        if self.base is None and not self.projector:
            check_one_model(self.inputs, inputs)
        for result in inputs:
            if not result.layers:
                continue
            if result.layers[0].media_type == DRAFT:
                merged["draft"] = _draft_facts(result)
            else:
                _add_facts(merged, result)
        merged.update(PLATFORM)
        if self.overrides.get("model_family"):  # Ollama puts it before what the files say
            families = merged.get("model_families") or ()
            family = self.overrides["model_family"]
            merged["model_families"] = [family, *(f for f in families if f != family)]
        merged.update(self.overrides)
        if self.least:
            merged["requires"] = _required(str(merged.get("requires") or ""), self.least)
        ordered = {key: merged[key] for key in CONFIG_KEYS if merged.get(key)}
        return put_layer(context, CONFIG_TYPE, gojson.dumps(ordered))


def check_one_model(steps: Sequence[Step], results: Sequence[Result]) -> None:
    """Raise :class:`SourceError` unless exactly one step gave a model's weights."""
    pairs = list(zip(steps, results, strict=True))
    kinds = [(step, result.layers[0].media_type) for step, result in pairs if result.layers]
    models = [step for step, kind in kinds if kind == MODEL]
    if len(models) != 1:
        names = ", ".join(step.label for step in models or steps)
        what = "no model" if not models else f"{len(models)} models"
        raise SourceError(
            f"FROM gives {what}: {names}",
            hint="name the one GGUF file that holds the model's weights",
        )


def _required(said: str, least: str) -> str:
    """The later of two versions of Ollama; a text that is none does not count."""
    return said if _version(said) >= _version(least) else least


def _version(text: str) -> tuple[int, ...]:
    """The numbers of a version, of one before a release smaller ones; none for no version."""
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(-.*)?(?:\+.*)?", text.strip())
    if match is None:
        return ()
    return (*(int(part or 0) for part in match.groups()[:3]), 0 if match[4] else 1)


def _add_facts(config: dict[str, Any], result: Result) -> None:
    """Lay a GGUF file's facts under what the config has; families add up.

    New weights (a quantization of the base's) are of their own type.
    """
    facts = result.facts
    if facts.get("file_type") and result.layers[0].media_type == MODEL:
        config["file_type"] = facts["file_type"]
    for key in ("model_format", "model_family", "model_type", "file_type"):
        if facts.get(key) and not config.get(key):
            config[key] = facts[key]
    families = list(config.get("model_families") or ())
    families += [f for f in facts.get("model_families", ()) if f not in families]
    config["model_families"] = families


def _draft_facts(result: Result) -> Mapping[str, str]:
    """What Ollama's config says of a draft (``model.Draft`` in types/model/config.go)."""
    facts = result.facts
    return {"model_format": facts["model_format"], "architecture": facts["model_family"]}
