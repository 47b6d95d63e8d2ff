"""A stored model as it is run: its files, what it can do, and how its prompts are made."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import DamagedError, NameNotFoundError
from mbuild.core.values import NamedTuple
from mbuild.runtime.calls import tag_of
from mbuild.runtime.failure import CannotError
from mbuild.runtime.options import context_of
from mbuild.runtime.spec import EngineSpec, LoadedModel
from mbuild.store.contents import Numbers, grouped, open_group, read_contents
from mbuild.store.media import ADAPTER, DRAFT, MODEL, PROJECTOR
from mbuild.templates.abilities import (
    builtin_code,
    capabilities,
    inner_template,
    tags_of,
    uses_inner,
)
from mbuild.templates.gotemplate import parse
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.core.digest import Digest
    from mbuild.core.names import ModelName
    from mbuild.gguf.weights import GGUFWeights
    from mbuild.store import Layer, Store, StoredManifest
    from mbuild.store.contents import Contents
    from mbuild.templates.abilities import InnerTemplate
    from mbuild.templates.nodes import ParsedTemplate

parsed = lru_cache(maxsize=16)(parse)
"""A template's syntax tree, which every request needs; raises the parser's errors."""

_UNSHIFTED = ("deepseek2",)
"""Architectures whose contexts Ollama does not shift."""
_MIN_BATCH = 2  # tokens; the engine does not start with fewer
_BATCH_OF_EMBEDDING = 2048  # tokens, as in Ollama
_LAST_TOKEN = 3  # llama.cpp's number of the pooling that takes the last token's vector
_RANK = 4  # and of that which makes one number of a text and a question
_BYTES_OF_CACHE = 2  # of a number in the engine's cache of keys and values: F16


class WeightFacts(NamedTuple):
    """What the header of the weights says that running them needs.

    ``first_token``: the text of the token that the engine puts before a prompt, "" for none;
    ``bytes_per_token``: of the cache of keys and values, at most. ``splits``: the engine can
    work on a text to embed in parts, for its vector is the last token's, and no token sees later
    ones; else the engine's batch has to have room for all of the text. ``ranks``: it says how
    well two texts belong together, and gives no vectors.
    """

    architecture: str
    context_length: int
    pooled: bool
    sees: bool
    hears: bool
    chat_template: str
    first_token: str
    bytes_per_token: int
    splits: bool = True
    ranks: bool = False


class Runnable:
    """A model of the store, read once a version; safe to share."""

    def __init__(
        self, contents: Contents, files: Mapping[str, tuple[str, ...]], facts: WeightFacts
    ):
        """``files``: paths of the layers of weights by media type."""
        self.contents = contents
        self.facts = facts
        self._files = files
        self.name = str(contents.stored.name)

    @property
    def loaded(self) -> LoadedModel:
        """What is told of the model while it is loaded."""
        return LoadedModel(self.name, self.contents.stored.id, self.contents.details)

    @cached_property
    def template(self) -> ParsedTemplate | None:
        """The Go template; None for a model without one. Raises the parser's errors."""
        return parsed(self.contents.template) if self.contents.template else None

    @cached_property
    def builtin(self) -> str:
        """The prompt builder or answer parser inside Ollama that the model needs, if it does."""
        return builtin_code(self.contents.config, self.contents.template)

    @cached_property
    def jinja(self) -> bool:
        """Whether the engine makes the prompts, by the template in the weights."""
        # The Go template is parsed only where the answer depends on it.
        depends = self._inner.exists and not self.builtin
        return uses_inner(self._inner, self.template if depends else None, self.builtin)

    @cached_property
    def _inner(self) -> InnerTemplate:
        return inner_template(self.facts.chat_template)

    @cached_property
    def thinking_tags(self) -> tuple[str, str] | None:
        """The texts around a thought, as the Go template writes them."""
        return tags_of(self.template) if self.template is not None else None

    @cached_property
    def tool_tag(self) -> str:
        """The text that begins a call of a tool, as the Go template writes it."""
        return tag_of(self.template) if self.template is not None else "{"

    @cached_property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, in Ollama's words."""
        header = ["embedding" if self.facts.pooled else "completion"]
        if self._sees:
            header.append("vision")
        if self.facts.hears:
            header.append("audio")
        return capabilities(header, self._inner, self.contents.template, self.builtin)

    @property
    def _sees(self) -> bool:
        return bool(self._files.get(PROJECTOR)) or self.facts.sees

    def require(self, *capabilities: str) -> None:
        """Raise :class:`CannotError` for what the model cannot do."""
        missing = [word for word in capabilities if word not in self.capabilities]
        if missing:
            *path, tag = self.contents.stored.name.parts
            name = f"{'/'.join(path)}:{tag}"
            raise CannotError("\n".join(f"{name} does not support {word}" for word in missing))

    def spec(self, options: Mapping[str, Any], *, shift: bool = True) -> EngineSpec:
        """The engine that these options need (:func:`mbuild.runtime.options.settings`)."""
        weights = self._files[MODEL]
        num_ctx = context_of(options, self.facts.context_length, vision=self._sees)
        batch = _BATCH_OF_EMBEDDING if self.facts.pooled else int(options["num_batch"])
        if not self.facts.splits:
            batch = num_ctx
        guessed = max(int(options["draft_num_predict"]), 0)
        draft = (self._files.get(DRAFT) or ("",))[0] if guessed else ""
        return EngineSpec(
            model=weights[0],
            shards=weights if len(weights) > 1 else (),
            adapters=self._files.get(ADAPTER, ()),
            projectors=self._files.get(PROJECTOR, ()),
            draft=draft,
            num_ctx=num_ctx,
            num_batch=max(min(batch, num_ctx), _MIN_BATCH),
            num_thread=_threads(int(options["num_thread"])),
            num_gpu=int(options["num_gpu"]),
            main_gpu=max(int(options["main_gpu"]), 0),
            draft_tokens=guessed if draft else 0,
            use_mmap=bool(options["use_mmap"]),
            jinja=self.jinja,
            embeds_only=self.facts.pooled,
            pooled=self.facts.pooled,
            splits=self.facts.splits,
            shift=shift and self.facts.architecture not in _UNSHIFTED,
        )


def _threads(asked: int) -> int:
    """Threads of an engine, at most as many as may compute at once; 0: as many as those."""
    return max(asked, 0) if asked <= 1 else min(asked, cores())  # reading limits takes a while


def doubt_of(contents: Contents) -> str:
    """What may differ from Ollama, which has prompts and answers of some models in its own code.

    "" for a model that names no such code.
    """
    rows = {"RENDERER": contents.config.get("renderer"), "PARSER": contents.config.get("parser")}
    named = " and ".join(f"{word} {value}" for word, value in rows.items() if value)
    if not named:
        code = builtin_code(contents.config, contents.template)
        named = f"the {code} format of its TEMPLATE" if code else ""
    if not named:
        return ""
    return (
        f"{contents.stored.name}: {named} is code inside Ollama; here a template of the model's"
        " takes its place, and prompts and answers may differ"
    )


def read_model(store: Store, name: ModelName, known: dict[Digest, WeightFacts]) -> Runnable:
    """A model to run; raises :class:`NameNotFoundError`, and what :func:`runnable_of` raises."""
    try:
        stored = store.manifests.read(name)
    except NameNotFoundError:
        raise NameNotFoundError(f"model '{name}' not found") from None
    return runnable_of(store, stored, known)


def runnable_of(store: Store, stored: StoredManifest, known: dict[Digest, WeightFacts]) -> Runnable:
    """A model to run by its manifest; raises :class:`DamagedError`, or :class:`CannotError` for
    one without weights.

    ``known``: what headers said, by the digest of the weights; it grows here.
    """
    name = stored.name
    contents = read_contents(store.blobs, stored, Numbers.AS_IN_GO)
    files: dict[str, tuple[str, ...]] = {}
    for kind in (MODEL, ADAPTER, PROJECTOR, DRAFT):
        layers = stored.manifest.of_kind(kind)
        if kind in (MODEL, DRAFT):
            layers = grouped(store.blobs, layers, str(name))[0] if layers else ()
        files[kind] = tuple(_path(store, layer, str(name)) for layer in layers)
    if not files[MODEL]:
        raise CannotError(f"{name} has no weights to run")
    group = grouped(store.blobs, stored.manifest.of_kind(MODEL), str(name))[0]
    if group[0].digest not in known:
        with open_group(store.blobs, group, str(name)) as weights:
            known[group[0].digest] = facts_of(weights)
    return Runnable(contents, files, known[group[0].digest])


def _path(store: Store, layer: Layer, name: str) -> str:
    if not store.blobs.has(layer.digest, layer.size):
        raise DamagedError(
            f"{name}: its {layer.kind} {layer.digest} is missing or cut short",
            hint="build or pull the model again",
        )
    return str(store.blobs.local_path(layer.digest).absolute())


def facts_of(weights: GGUFWeights) -> WeightFacts:
    """What running weights needs to know of their header."""
    architecture = str(weights.get("general.architecture", ""))

    def own(key: str, default: Any = None) -> Any:
        return weights.get(f"{architecture}.{key}", default)

    sentencepiece = weights.get("tokenizer.ggml.model") == "llama"
    adds_bos = bool(weights.get("tokenizer.ggml.add_bos_token", sentencepiece))
    number = weights.get("tokenizer.ggml.bos_token_id")
    # Nobody else needs the vocabulary, which takes long to read.
    tokens = (weights.get("tokenizer.ggml.tokens") or ()) if adds_bos else ()
    known = isinstance(number, int) and 0 <= number < len(tokens)
    return WeightFacts(
        architecture=architecture,
        context_length=_number(own("context_length")),
        pooled=own("pooling_type") is not None,
        ranks=own("pooling_type") == _RANK,
        sees=own("vision.block_count") is not None,
        hears=own("audio.block_count") is not None,
        chat_template=str(weights.get("tokenizer.chat_template") or ""),
        first_token=_text(tokens[number]) if known else "",
        bytes_per_token=_cache_bytes(own),
        splits=own("pooling_type", _LAST_TOKEN) == _LAST_TOKEN
        and bool(own("attention.causal", True)),
    )


def _text(token: Any) -> str:
    return token.decode("utf-8", "replace") if isinstance(token, bytes) else str(token)


def _number(value: Any) -> int:
    """A count; of one that differs from layer to layer the largest."""
    if isinstance(value, (list, tuple)):
        return max((_number(item) for item in value), default=0)
    return int(value) if isinstance(value, int) and value > 0 else 0


def _cache_bytes(own: Any) -> int:
    layers, heads = _number(own("block_count")), _number(own("attention.head_count"))
    width = _number(own("embedding_length")) // max(heads, 1)
    shared = _number(own("attention.head_count_kv")) or heads
    keys = _number(own("attention.key_length")) or width
    values = _number(own("attention.value_length")) or width
    return layers * shared * (keys + values) * _BYTES_OF_CACHE
