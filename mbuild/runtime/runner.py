"""Asking a model: from a request to the pieces of its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UsageError
from mbuild.runtime.asked import Ask, EndReason, Finished, Piece, Prompt
from mbuild.runtime.asking import Asking
from mbuild.runtime.events import refused
from mbuild.runtime.failure import CannotError, TooLongError
from mbuild.runtime.native import NativeAsking
from mbuild.runtime.options import settings
from mbuild.runtime.pictures import readable
from mbuild.runtime.pool import Pool
from mbuild.runtime.process import nothing
from mbuild.runtime.prompt import TOOL, PromptMaker, check_roles, check_tools, conversation
from mbuild.runtime.runnable import Runnable, doubt_of, read_model
from mbuild.runtime.schema import as_json_schema
from mbuild.runtime.tokenizing import tokens_of

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.core.names import ModelName
    from mbuild.runtime.process import LlamaEngine
    from mbuild.runtime.runnable import WeightFacts
    from mbuild.runtime.spec import EngineSpec
    from mbuild.store import Store


class Runner:
    """Runs the models of a store. Belongs to one event loop."""

    def __init__(
        self,
        store: Callable[[], Store],
        pool: Pool,
        warn: Callable[[str], object] = lambda text: None,
    ) -> None:
        """``warn`` is told what may differ from Ollama in a model, each time it is read."""
        self._store = store
        self._warn = warn
        self.pool = pool
        self._headers: dict[Digest, WeightFacts] = {}

    def model(self, name: ModelName) -> Runnable:
        """A model, read now: it may have been built again. Blocks for some milliseconds."""
        model = read_model(self._store(), name, self._headers)
        if doubt := doubt_of(model.contents):
            self._warn(doubt)
        return model

    async def load(
        self, model: Runnable, ask: Ask, meanwhile: Callable[[], object] = nothing
    ) -> Finished:
        """Load a model without asking anything; ``meanwhile`` is called while it loads."""
        began = time.perf_counter_ns()
        async with self._engine(model, self._spec(model, ask), ask.keep_alive, meanwhile):
            loaded = time.perf_counter_ns() - began
            return Finished(EndReason.LOAD, loaded, loaded)

    async def unload(self, model: Runnable) -> None:
        """End the engines of a model."""
        files = model.spec(settings(model.contents.parameters, {})).files
        await self.pool.unload(model.name, files)

    def _spec(self, model: Runnable, ask: Ask) -> EngineSpec:
        return model.spec(settings(model.contents.parameters, ask.options), shift=ask.shift)

    def _engine(
        self,
        model: Runnable,
        spec: EngineSpec,
        keep_alive: float | None,
        meanwhile: Callable[[], object] = nothing,
    ) -> Any:
        cache = model.facts.bytes_per_token * spec.num_ctx
        return self.pool.use(spec, model.loaded, cache, keep_alive, meanwhile)

    async def answer(self, model: Runnable, ask: Ask) -> AsyncGenerator[Piece | Finished]:
        """The pieces of an answer, the last of them :class:`Finished`.

        Raises :class:`CannotError`, :class:`UsageError`, :class:`RequestError` before the first
        piece, :class:`EngineError` at any time. A caller that stops iterating stops the engine.
        """
        began = time.perf_counter_ns()
        model.require("completion")
        ask, think = await _checked(model, ask)
        sent = _sent(ask)
        spec = self._spec(model, ask)
        native = _is_native(spec, ask)
        maker = None if native or ask.raw else PromptMaker(model, ask, think=think)
        async with self._engine(model, spec, ask.keep_alive) as engine:
            loaded = time.perf_counter_ns() - began
            kind = NativeAsking if native else Asking
            asking = kind(model, ask, engine, spec.num_ctx, sent)
            async with aclosing(asking.pieces(maker, think)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finished):
                        total = time.perf_counter_ns() - began
                        piece = piece._replace(
                            total_ns=total, load_ns=loaded, given_count=asking.given_count
                        )
                    yield piece

    async def prompt(self, model: Runnable, ask: Ask) -> Prompt:
        """The prompt that a request would become; the engine is asked where it makes it."""
        if ask.raw:
            return Prompt(ask.turns[-1].content)
        ask, think = await _checked(model, ask)
        spec = self._spec(model, ask)
        if not _is_native(spec, ask):
            maker = PromptMaker(model, ask, think=think)
            return maker.make(conversation(model, ask))
        async with self._engine(model, spec, ask.keep_alive) as engine:
            asking = NativeAsking(model, ask, engine, spec.num_ctx, _sent(ask))
            return await asking.rendered(think)

    async def embed(
        self,
        model: Runnable,
        texts: Sequence[str],
        options: Mapping[str, Any],
        keep_alive: float | None,
        *,
        truncate: bool = True,
    ) -> tuple[list[list[float]], Finished]:
        """A vector of length 1 for each text.

        Raises :class:`TooLongError`, :class:`CannotError` for a model that ranks texts, and
        :class:`UsageError` for a text without a character.
        """
        if model.facts.ranks:
            raise CannotError(f'"{model.name}" ranks texts: it gives no vectors')
        if "" in texts:
            raise UsageError(f"input {texts.index('') + 1} of {len(texts)} is empty")
        began = time.perf_counter_ns()
        spec = model.spec(settings(model.contents.parameters, options))
        async with self._engine(model, spec, keep_alive) as engine:
            loaded = time.perf_counter_ns() - began
            vectors, count = [], 0
            for text in texts:
                tokens = await self._embeddable(engine, text, truncate=truncate)
                answer = await engine.ask("/v1/embeddings", {"input": tokens or text})
                body = await answer.json()
                if answer.status != 200:
                    raise refused(answer.status, body)
                vectors.append([float(x) for x in body["data"][0]["embedding"]])
                count += int(body.get("usage", {}).get("prompt_tokens", len(tokens)))
        total = time.perf_counter_ns() - began
        return vectors, Finished(EndReason.STOP, total, loaded, count)

    async def _embeddable(self, engine: LlamaEngine, text: str, *, truncate: bool) -> list[int]:
        """The tokens of a text, or as many of the first as there is room for."""
        most = engine.spec.most_embedded
        tokens = await tokens_of(engine, text, add_special=True)
        if len(tokens) <= most:
            return tokens
        if not truncate:
            raise TooLongError(
                f"the input length exceeds the context length: it has {len(tokens)} tokens, and"
                f" num_ctx {engine.spec.num_ctx} has room for {most}"
            )
        # What the vocabulary puts before and behind a text stays around what is left of it.
        own = await tokens_of(engine, text, add_special=False)
        added = len(tokens) - len(own)
        before = next((n for n in range(added) if tokens[n : n + len(own)] == own), added)
        return [*tokens[: before + most - added], *tokens[before + len(own) :]]


def _is_native(spec: EngineSpec, ask: Ask) -> bool:
    """Whether the engine makes the prompt."""
    return spec.jinja and not (ask.raw or ask.suffix or ask.template)


async def _checked(model: Runnable, ask: Ask) -> tuple[Ask, bool | str]:
    """The request with images that engines can read, and whether to think, or how much.

    Raises :class:`CannotError` and :class:`UsageError` for what the model cannot do.
    """
    await _roles_checked(model, ask)
    think = _thinks(model, ask)
    if ask.tools:
        model.require("tools")
        check_tools(ask.tools)
    if ask.images:
        model.require("vision")
        ask = await asyncio.to_thread(readable, ask)
    return ask, think


async def _roles_checked(model: Runnable, ask: Ask) -> None:
    """Look at the roles; in another thread where a template has to be tried for that."""
    if any(turn.role == TOOL for turn in ask.turns):
        await asyncio.to_thread(check_roles, model, ask.turns)
    else:
        check_roles(model, ask.turns)


def _thinks(model: Runnable, ask: Ask) -> bool | str:
    """Whether the model is to think, or how much: asked for, else if it can."""
    can = "thinking" in model.capabilities
    if ask.think and not can:
        raise CannotError(f'"{model.name}" does not support thinking')
    if ask.think is None:
        return can and not ask.raw
    return ask.think


def _sent(ask: Ask) -> dict[str, Any]:
    """What goes to the engine with any prompt of the request, but for the context's share."""
    sent: dict[str, Any] = {"stream": True, "cache_prompt": True}
    if ask.schema is not None:
        sent["json_schema"] = as_json_schema(ask.schema)
    if ask.bias:
        sent["logit_bias"] = dict(ask.bias)
    if ask.logprobs is not None:
        sent["n_probs"] = max(ask.logprobs, 1)
    return sent
