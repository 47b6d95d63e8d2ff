"""One request by the template in the weights: the engine makes the prompt, and reads the answer."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mbuild.runtime.asked import EndReason, Finished, Piece, Prompt
from mbuild.runtime.asking import Asking
from mbuild.runtime.events import native_piece, refused
from mbuild.runtime.failure import (
    CannotError,
    EngineError,
    TooLongError,
    UnreadAnswerError,
)
from mbuild.runtime.prompt import conversation, native_messages, tool_list, without
from mbuild.runtime.tokenizing import tokens_of

if TYPE_CHECKING:
    from mbuild.runtime.asked import ChatTurn
    from mbuild.runtime.prompt import PromptMaker

_WRITES_TOOLS: dict[str, bool] = {}
"""Whether a template that was tried writes the tools that it is given."""

_MOST_TRIED = 64


class NativeAsking(Asking):
    """One request whose prompt the engine makes, which finds calls and thoughts in the answer."""

    async def pieces(
        self, maker: PromptMaker | None, think: bool | str
    ) -> AsyncGenerator[Piece | Finished]:
        """The answer's; there is nothing to make a prompt here."""
        ask = self._ask
        if ask.tools:
            await self._check_tools()
        sent = dict(self._sent)
        sent["max_tokens"] = sent.pop("n_predict")
        if "n_probs" in sent:
            sent |= {"logprobs": True, "top_logprobs": sent.pop("n_probs")}
        schema = sent.pop("json_schema", None)
        turns, dropped, begun = conversation(self._model, ask), 0, False
        while True:
            kept = without(turns, dropped)
            body = sent | self._conversation(kept, think)
            images = tuple(image for turn in kept for image in turn.images)
            made = self._native_pieces(body, images)
            if schema is not None:
                made = self._native_by_schema(body, schema, images)
            try:
                async with aclosing(made) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except TooLongError as error:
                if begun or not ask.truncate or dropped >= len(turns) - 1:
                    raise
                self.given_count = self.given_count or error.tokens
                dropped += 1

    async def rendered(self, think: bool | str) -> Prompt:
        """The prompt that the engine makes of the request."""
        turns = conversation(self._model, self._ask)
        images = tuple(image for turn in turns for image in turn.images)
        return Prompt(await self._rendered(self._conversation(turns, think)), images)

    def _conversation(self, turns: tuple[ChatTurn, ...], think: bool | str) -> dict[str, Any]:
        """What of a request the template writes.

        Templates have two names for whether to think. How much is said only where a request
        says it: not every template knows the same words.
        """
        body: dict[str, Any] = {"messages": native_messages(turns)}
        if self._ask.tools:
            body["tools"] = tool_list(self._ask.tools)
        if "thinking" in self._model.capabilities:
            wanted: dict[str, Any] = {"enable_thinking": bool(think), "thinking": bool(think)}
            level = {"reasoning_effort": think} if isinstance(think, str) else {}
            body["chat_template_kwargs"] = wanted | level
        return body

    async def _check_tools(self) -> None:
        """Raise :class:`CannotError` where the template leaves tools out, though it has the word.

        That is tried once for each template, with a tool that nobody has.
        """
        template = self._model.facts.chat_template
        if template not in _WRITES_TOOLS:
            name = f"tool_{secrets.token_hex(6)}"
            parameters = {"type": "object", "properties": {"of": {"type": "string"}}}
            tool = {"name": name, "description": "Tried.", "parameters": parameters}
            body = {
                "messages": [{"role": "user", "content": "Hello."}],
                "tools": [{"type": "function", "function": tool}],
            }
            answer = await self._engine.ask("/apply-template", body)
            found = await answer.json()
            while len(_WRITES_TOOLS) >= _MOST_TRIED:
                _WRITES_TOOLS.pop(next(iter(_WRITES_TOOLS)))
            _WRITES_TOOLS[template] = answer.status != 200 or name in str(found.get("prompt"))
        if not _WRITES_TOOLS[template]:
            raise CannotError(
                f"{self._model.name}: the template in its weights leaves tools out of the prompt",
                hint="ask without tools, or give the model a TEMPLATE that writes .Tools",
            )

    async def _native_by_schema(
        self, sent: dict[str, Any], schema: Any, images: tuple[bytes, ...]
    ) -> AsyncGenerator[Piece | Finished]:
        """First the thoughts, in the model's own form, then the answer by a prompt with them.

        Where llama.cpp looks for thoughts and calls in an answer, it makes grammars of its own,
        and leaves a part of the schema out of them. So it does with tools, for the model may call
        one instead; then the answer is checked at its end.
        """
        if self._ask.tools:
            form = {"type": "json_schema", "json_schema": {"schema": schema}}
            made = self._native_pieces({**sent, "response_format": form}, images)
            async with aclosing(made) as pieces:
                async for piece in pieces:
                    yield piece
            return
        thoughts = ""
        if (sent.get("chat_template_kwargs") or {}).get("enable_thinking"):
            async with aclosing(self._native_pieces(sent, images)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finished):
                        if piece.reason is EndReason.LENGTH:
                            yield piece
                            return
                        break
                    thoughts += piece.thinking
                    if piece.thinking:
                        yield Piece(thinking=piece.thinking)
                    if piece.content:
                        break
        prompt = Prompt(await self._up_to_answer(sent, thoughts), images)
        async with aclosing(self._completed(prompt, {"json_schema": schema})) as pieces:
            async for piece in pieces:
                yield piece

    async def _up_to_answer(self, sent: Mapping[str, Any], thoughts: str) -> str:
        """The prompt in the model's own form, to where its answer begins: behind its thoughts.

        The engine writes an answer that is a mark, and what stands before that is the prompt.
        """
        mark = f"[{secrets.token_hex(8)}]"
        last = {"role": "assistant", "content": mark}
        if thoughts:
            last["reasoning_content"] = thoughts
        text = await self._rendered({**sent, "messages": [*sent["messages"], last]})
        text, written, _ = text.partition(mark)
        if not written:
            raise EngineError(
                "the template in the model's weights leaves out what the model answers, so that"
                " there is no place for an answer by a schema",
                hint="leave format out, or give the model a TEMPLATE",
            )
        return text

    async def _rendered(self, sent: Mapping[str, Any]) -> str:
        """The prompt of a conversation, without the token that the engine puts before it."""
        keys = ("messages", "tools", "chat_template_kwargs")
        body = {key: sent[key] for key in keys if key in sent}
        answer = await self._engine.ask("/apply-template", body)
        found = await answer.json()
        if answer.status != 200:
            raise refused(answer.status, found)
        return str(found["prompt"]).removeprefix(self._model.facts.first_token)

    async def _native_pieces(
        self, sent: dict[str, Any], images: tuple[bytes, ...]
    ) -> AsyncGenerator[Piece | Finished]:
        calls: dict[int, dict[str, str]] = {}
        finished, written, thought = None, "", False
        try:
            async with aclosing(self._events("/v1/chat/completions", sent)) as events:
                async for event in events:
                    piece, ended = native_piece(event, calls)
                    written, thought = written + piece.content, thought or bool(piece.thinking)
                    if any(piece):
                        yield piece
                    finished = ended or finished
                    if finished is not None and event.get("timings"):
                        yield finished
                        return
        except UnreadAnswerError:
            if thought or calls or "response_format" in sent:
                raise
            async with aclosing(self._rest(sent, written, images)) as pieces:
                async for rest in pieces:
                    yield rest
            return
        if finished is None:
            raise await self._engine.died()
        yield finished

    async def _rest(
        self, sent: Mapping[str, Any], written: str, images: tuple[bytes, ...]
    ) -> AsyncGenerator[Piece | Finished]:
        """What follows the words that came, as text.

        The engine took something for the beginning of a call, kept it back, and found none. So
        it is written once more, by the prompt and the words before it.
        """
        text = await self._rendered(sent) + written
        most = int(sent["max_tokens"])
        count = len(await tokens_of(self._engine, written, add_special=False))
        left = max(most - count, 0) if most >= 0 else most
        async with aclosing(self._completed(Prompt(text, images), {"n_predict": left})) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished):
                    piece = piece._replace(
                        prompt_count=piece.prompt_count - count,
                        answer_count=piece.answer_count + count,
                    )
                yield piece
