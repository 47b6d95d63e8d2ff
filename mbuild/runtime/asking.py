"""One request to an engine that is at hand: prompts out, pieces of the answer in."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UsageError
from mbuild.runtime.asked import Ask, Finished, Piece, Prompt
from mbuild.runtime.calls import CallSplitter, names_of
from mbuild.runtime.events import finished_of, logprobs_of, refused, split_event
from mbuild.runtime.failure import EXTRA, TOO_LONG, EngineDiedError, EngineError, TooLongError
from mbuild.runtime.options import sampling, settings
from mbuild.runtime.process import LLAMA_SERVER_VARIABLE
from mbuild.runtime.prompt import (
    IMAGE_TOKENS,
    PromptMaker,
    conversation,
    without,
)
from mbuild.runtime.schema import AnswerCheck
from mbuild.runtime.thinking import ThinkingSplitter
from mbuild.runtime.tokenizing import text_of, tokens_of

if TYPE_CHECKING:
    from mbuild.runtime.process import LlamaEngine
    from mbuild.runtime.runnable import Runnable


class Asking:
    """One request to an engine that is at hand."""

    def __init__(
        self, model: Runnable, ask: Ask, engine: LlamaEngine, num_ctx: int, sent: dict[str, Any]
    ) -> None:
        self._model = model
        self._ask = ask
        self._engine = engine
        self._num_ctx = num_ctx
        options = settings(model.contents.parameters, ask.options)
        self._sent = sampling(options, num_ctx) | sent
        self._keep = int(options["num_keep"])
        self.given_count = 0
        """Tokens of the prompt before it was cut, 0 for one that fits."""

    async def pieces(
        self, maker: PromptMaker | None, think: bool | str
    ) -> AsyncGenerator[Piece | Finished]:
        """The answer's, by a prompt that is made here; without a maker it is as it is."""
        prompt = await self._fitting(maker)
        text = prompt.text if maker is None else maker.marked(prompt, self._engine.marker)
        tags = self._model.thinking_tags if think else None
        thoughts = ThinkingSplitter(tags, inside=prompt.thinking) if tags else None
        calls = None
        sent = dict(self._sent)
        schema = sent.pop("json_schema", None) if thoughts is not None else None
        if self._ask.tools:
            calls = CallSplitter(self._model.tool_tag, names_of(self._ask.tools))
            if self._model.tool_tag not in "{[":
                sent["preserved_tokens"] = [self._model.tool_tag]
        written, finished = "", None
        sent["prompt"] = self._with_images(text, prompt)
        async with aclosing(self._events("/completion", sent)) as events:
            async for event in events:
                written += event.get("content", "")
                finished = finished_of(event) if event.get("stop") else None
                piece = split_event(event, thoughts, calls, ended=finished is not None)
                if schema is not None and thoughts is not None and thoughts.over:
                    piece = Piece(thinking=piece.thinking)  # the answer comes from a second prompt
                    finished = None
                if any(piece):
                    yield piece
                if finished is not None or (schema is not None and thoughts and thoughts.over):
                    break
        if finished is not None:
            yield finished._replace(context=await self._context(prompt, written))
        elif schema is not None and thoughts is not None and thoughts.over:
            async for last in self._after_thoughts(text, written, schema, prompt):
                yield last
        else:
            raise await self._engine.died()

    async def _after_thoughts(
        self, text: str, written: str, schema: Any, prompt: Prompt
    ) -> AsyncGenerator[Piece | Finished]:
        """The answer to a prompt and the thoughts about it, by a schema."""
        tags = self._model.thinking_tags
        assert tags is not None
        thoughts, found, _ = written.partition(tags[1])
        whole = f"{text}{thoughts}{tags[1]}\n" if found else text
        made = self._completed(prompt._replace(text=whole), {"json_schema": schema})
        async with aclosing(made) as pieces:
            async for piece in pieces:
                yield piece

    async def _completed(
        self, prompt: Prompt, more: Mapping[str, Any]
    ) -> AsyncGenerator[Piece | Finished]:
        """What follows a prompt, as it is; ``more`` goes to the engine beside it."""
        sent = self._sent | {"prompt": self._with_images(prompt.text, prompt)} | dict(more)
        async with aclosing(self._events("/completion", sent)) as events:
            async for event in events:
                piece = Piece(event.get("content", ""), logprobs=logprobs_of(event))
                if any(piece):
                    yield piece
                if event.get("stop"):
                    yield finished_of(event)
                    return
        raise await self._engine.died()

    def _with_images(self, text: str, prompt: Prompt) -> Any:
        if not prompt.images:
            return text
        data = [base64.b64encode(image).decode() for image in prompt.images]
        return {"prompt_string": text, "multimodal_data": data}

    async def _fitting(self, maker: PromptMaker | None) -> Prompt:
        """The prompt, with as many of the last turns as fit the context."""
        ask = self._ask
        before = await self._before()
        if maker is None:
            whole = prompt = Prompt(ask.turns[-1].content)
        else:
            turns, dropped = conversation(self._model, ask), 0
            whole = prompt = maker.make(turns)
            while ask.truncate and dropped < len(turns) - 1 and await self._beyond(prompt) > 0:
                dropped += 1
                prompt = maker.make(without(turns, dropped))
        prompt = prompt._replace(text=before + prompt.text)
        beyond = await self._beyond(prompt)
        if maker is not None and dropped:
            whole = whole._replace(text=before + whole.text)
            self.given_count = await self._beyond(whole) + self._num_ctx - 1
        if beyond <= 0 or prompt.images:
            return prompt  # how much an image takes only the engine knows, which refuses too much
        if not ask.shift or not ask.truncate:
            raise TooLongError(TOO_LONG)
        self.given_count = self.given_count or beyond + self._num_ctx - 1
        return prompt._replace(text=await self._shortened(prompt.text))

    async def _before(self) -> str:
        """The text of the tokens that go before the prompt."""
        if not self._ask.context:
            return ""
        try:
            return await text_of(self._engine, self._ask.context)
        except EngineDiedError:
            raise
        except EngineError:
            raise UsageError("context has tokens that the model does not have") from None

    async def _beyond(self, prompt: Prompt) -> int:
        """How many tokens more than the context has room for."""
        # A token has at most some dozen characters, and each is at least one token's part.
        images = IMAGE_TOKENS * len(prompt.images)
        if len(prompt.text.encode()) + images < self._num_ctx:
            return 0
        tokens = await tokens_of(self._engine, prompt.text, add_special=True)
        return len(tokens) + images - self._num_ctx + 1

    async def _shortened(self, text: str) -> str:
        """The first num_keep tokens and as many of the last as leave half of the rest free."""
        tokens = await tokens_of(self._engine, text, add_special=False)
        keep = len(tokens) if self._keep < 0 else self._keep
        keep = min(keep, self._num_ctx // 2)
        last = (self._num_ctx - keep) // 2
        return await text_of(self._engine, [*tokens[:keep], *tokens[-last:]])

    async def _context(self, prompt: Prompt, written: str) -> tuple[int, ...]:
        if not self._ask.complete or self._ask.raw or prompt.images:
            return ()
        return tuple(await tokens_of(self._engine, prompt.text + written, add_special=False))

    async def _events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The engine's events; raises what it says is wrong."""
        ignored = self._engine.ignored_schemas
        schema = _schema_in(body)
        loose = self._engine.program or path != "/completion"
        check = AnswerCheck(schema) if schema is not None and loose else None
        first = True
        answer = await self._engine.ask(path, body)
        if answer.status != 200:
            raise refused(answer.status, await answer.json())
        try:
            async for event in answer.events():
                if "error" in event:
                    raise refused(500, event)
                # The package's engine compiles the schema before the first word; what it cannot
                # follow to the end it gives up later. It says either only in its log.
                if schema is not None and check is None and (first or "timings" in event):
                    await self._engine.log_read()
                first = False
                if self._engine.ignored_schemas > ignored:
                    raise UsageError("invalid format: the engine cannot follow this schema")
                if check is not None and (problem := check.read(event)):
                    raise self._not_followed(problem)
                yield event
        except (OSError, EOFError):
            error = await self._engine.died()
            raise type(error)(
                f"an error was encountered while running the model: {error.message}"
            ) from None
        finally:
            answer.close()

    def _not_followed(self, problem: str) -> EngineError:
        """The error for an answer that breaks its schema."""
        hint = "leave tools out: with them llama.cpp passes over a part of a schema"
        if self._engine.program:
            hint = (
                "this llama-server passes over a part of it; without --llama-server and"
                f" {LLAMA_SERVER_VARIABLE} the engine of {EXTRA} runs, which follows a schema or"
                " refuses it"
            )
        return EngineError(f"the answer does not follow the schema in format: {problem}", hint=hint)


def _schema_in(body: Mapping[str, Any]) -> Any:
    """The schema that an answer to this must follow; None for any text."""
    form = body.get("response_format") or {}
    return body.get("json_schema", form.get("json_schema", {}).get("schema"))
