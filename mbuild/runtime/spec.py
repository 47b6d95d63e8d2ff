"""What an engine is started with: its files and settings, as a value with a written form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.core.digest import Digest

MEDIA_MARKER = "LLAMA_MEDIA_MARKER"
"""The variable of an engine's environment that says which text stands for an image."""


class LoadedModel(NamedTuple):
    """What is told of a model that was loaded: it may have been removed or built anew since.

    ``name`` is the whole name in the store, ``id`` its manifest's digest, ``details`` as lists
    of models have them.
    """

    name: str
    id: Digest | None = None
    details: Mapping[str, Any] = {}


class EngineSpec(NamedTuple):
    """An engine's files (absolute paths) and settings. Equal ones are one engine.

    Two models that differ in their template, system prompt or parameters have equal ones.
    ``model``: the weights, or the first of their shards. ``jinja``: the engine makes prompts
    itself, by the template in the weights. ``num_thread`` 0: as many as there are cores;
    ``num_gpu`` -1: as many layers as fit, for engines that have a GPU, of several the one with the
    number ``main_gpu``. ``shift``: an answer that
    fills the context goes on, and loses half of what is behind the first ``num_keep`` tokens.
    ``splits``: a text to embed may be longer than ``num_batch``.
    """

    model: str
    shards: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    projectors: tuple[str, ...] = ()
    draft: str = ""
    num_ctx: int = 4096
    num_batch: int = 512
    num_thread: int = 0
    num_gpu: int = -1
    main_gpu: int = 0
    draft_tokens: int = 0
    use_mmap: bool = True
    jinja: bool = False
    embeds_only: bool = False
    pooled: bool = False
    splits: bool = True
    shift: bool = True

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that the engine opens."""
        weights = self.shards or (self.model,)
        return (*weights, *self.adapters, *self.projectors, *filter(None, (self.draft,)))

    @property
    def most_embedded(self) -> int:
        """Tokens of the longest text that can be embedded.

        An engine that works on a text in parts refuses one that fills its context.
        """
        return self.num_ctx - 1 if self.splits else min(self.num_ctx, self.num_batch)

    def to_json(self) -> dict[str, Any]:
        """The settings as the child reads them."""
        return self._asdict()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EngineSpec:
        """The value of :meth:`to_json`, from another process."""
        found = {field: data[field] for field in cls._fields}
        lists = ("shards", "adapters", "projectors")
        return cls(**found | {name: tuple(found[name]) for name in lists})
