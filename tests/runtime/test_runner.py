"""A model is asked: the way from a request to the pieces of its answer, on a real model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from smollm import CHATML, build_models

from mbuild.core.names import ModelName
from mbuild.runtime.asked import Ask, ChatTurn, EndReason, Finished, Piece
from mbuild.runtime.asking import Asking
from mbuild.runtime.failure import CannotError, TooLongError
from mbuild.runtime.pool import Pool
from mbuild.runtime.process import has_engine
from mbuild.runtime.runnable import Runnable
from mbuild.runtime.runner import Runner
from mbuild.runtime.spec import EngineSpec, LoadedModel
from mbuild.store import Store

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

FEW = {"num_predict": 4, "temperature": 0, "num_ctx": 128}
Scenario = Callable[[Runner, Runnable], Awaitable[None]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Scenario], None]]:
    """Runs a scenario with a runner that stays for all of them, and the model ``chat``."""
    text = f'TEMPLATE """{CHATML}"""\nSYSTEM Be brief.'
    root = build_models(tmp_path_factory.mktemp("runner"), {"chat": text}).root
    loop = asyncio.new_event_loop()
    runner = Runner(lambda: Store(root), Pool())
    model = runner.model(ModelName.parse("chat"))
    yield lambda scenario: loop.run_until_complete(scenario(runner, model))
    loop.run_until_complete(runner.pool.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _ask(text: str, **more: Any) -> Ask:
    return Ask((ChatTurn("user", text),), options=FEW, **more)


async def _collected(pieces: Any) -> tuple[str, Finished]:
    text, end = "", None
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Finished):
                end = piece
            else:
                text += piece.content
    assert end is not None
    return text, end


def test_an_answer_comes_in_pieces_and_ends(run: Callable[[Scenario], None]) -> None:
    """The last piece says why it ended, how many tokens there were, and how long it took."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        text, end = await _collected(runner.answer(model, _ask("Hi")))
        assert text and end.reason is EndReason.LENGTH and end.answer_count == 4
        assert end.total_ns > end.answer_ns > 0 and end.prompt_count > 5
        assert await _collected(runner.answer(model, _ask("Hi"))) != ("", end)
        again, _ = await _collected(runner.answer(model, _ask("Hi")))
        assert again == text

    run(scenario)


def test_who_stops_listening_stops_the_engine(run: Callable[[Scenario], None]) -> None:
    """The engine is idle at once, though the answer would have been long."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        long = Ask((ChatTurn("user", "Count."),), options={**FEW, "num_predict": 4000})
        pieces = runner.answer(model, long)
        assert isinstance(await anext(pieces), Piece)
        await pieces.aclose()
        (row,) = runner.pool.list()
        assert row.users == 0 and not row.turn.locked()

    run(scenario)


def test_a_prompt_is_shown_without_an_engine(run: Callable[[Scenario], None]) -> None:
    """What a request would become; a raw one is its own prompt."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        prompt = await runner.prompt(model, _ask("Hi"))
        assert prompt.text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
        assert (await runner.prompt(model, _ask("Hi", raw=True))).text == "Hi"

    run(scenario)


def test_what_a_model_cannot_is_refused_before_it_is_loaded(
    run: Callable[[Scenario], None],
) -> None:
    """Tools, images and thoughts that its template has no place for."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        image = Ask((ChatTurn("user", "x", images=(b"x",)),))
        for ask in (_ask("x", tools=({},)), image, _ask("x", think=True)):
            with pytest.raises(CannotError, match="does not support"):
                await _collected(runner.answer(model, ask))

    run(scenario)


def test_texts_beyond_the_context_are_cut_or_refused(run: Callable[[Scenario], None]) -> None:
    """A vector of as much of a text as there is room for; an error where that is not wanted."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        vectors, end = await runner.embed(model, ["word " * 300], FEW, None)
        assert len(vectors[0]) == 576 and end.prompt_count == 127
        with pytest.raises(TooLongError, match=r"exceeds the context length: .*128 has room for"):
            await runner.embed(model, ["word " * 300], FEW, None, truncate=False)

    run(scenario)


def test_texts_are_not_cut_below_the_context(run: Callable[[Scenario], None]) -> None:
    """The batch bounds no text: what is behind it counts, and the vector is the same."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        texts = ["word " * 200 + end for end in ("cats like milk", "quantum physics is hard")]
        found = []
        for batch in (32, 256):
            options = {**FEW, "num_ctx": 256, "num_batch": batch}
            vectors, end = await runner.embed(model, texts, options, 0.0, truncate=False)
            assert end.prompt_count > 400
            assert _alike(*vectors) < 0.99
            found.append(vectors)
        assert _alike(found[0][0], found[1][0]) > 0.999

    run(scenario)


def _alike(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_what_a_vocabulary_adds_stays_around_a_text_that_is_cut() -> None:
    """The first token and the last one; as many of the text's own as there is room for."""

    class Engine:
        spec = EngineSpec("m", num_ctx=6, num_batch=6, splits=False)

    async def tokens(engine: object, text: str, *, add_special: bool) -> list[int]:
        own = [ord(letter) for letter in text]
        return [1, *own, 2] if add_special else own

    async def cut(text: str) -> list[int]:
        runner = Runner(lambda: Store(Path()), Pool())
        return await runner._embeddable(Engine(), text, truncate=True)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mbuild.runtime.runner.tokens_of", tokens)
        assert asyncio.run(cut("abcd")) == [1, *b"abcd", 2]
        assert asyncio.run(cut("abcdefgh")) == [1, *b"abcd", 2]


def test_who_asks_is_told_how_much_of_a_prompt_was_cut(run: Callable[[Scenario], None]) -> None:
    """Of a text that is too long, and of a conversation; nothing of a prompt that fits."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        long = "word " * 300
        turns = (ChatTurn("user", long), ChatTurn("assistant", "ok"), ChatTurn("user", "Hi"))
        for ask in (_ask(long), _ask(long, raw=True), Ask(turns, options=FEW)):
            _, end = await _collected(runner.answer(model, ask))
            assert end.given_count > 299 > end.prompt_count > 0
        assert (await _collected(runner.answer(model, _ask("Hi"))))[1].given_count == 0

    run(scenario)


def test_an_answer_goes_on_beyond_the_context(run: Callable[[Scenario], None]) -> None:
    """What was said first is forgotten; without shift the answer ends there."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        options = {**FEW, "num_ctx": 256, "num_predict": 40}
        turns, ends = (ChatTurn("user", "word " * 235),), {"0": -100.0, "2": -100.0}
        counts = []
        for shift in (True, False):
            ask = Ask(turns, options, complete=True, raw=True, shift=shift, bias=ends)
            _, end = await _collected(runner.answer(model, ask))
            assert end.reason is EndReason.LENGTH
            counts.append(end.answer_count)
        assert counts[0] == 40 > counts[1] > 0

    run(scenario)


def test_a_prompt_that_is_too_long_keeps_its_beginning_and_its_end(
    run: Callable[[Scenario], None],
) -> None:
    """The first num_keep tokens and the last ones; without shift it is refused."""

    async def scenario(runner: Runner, model: Runnable) -> None:
        text = "alpha " + "word " * 300 + "omega"
        spec = model.spec(FEW | {"num_batch": 64, "num_thread": 1, "num_gpu": -1, "main_gpu": 0,
                                 "use_mmap": True, "draft_num_predict": 0})  # fmt: skip
        async with runner.pool.use(spec, LoadedModel("chat"), 0, 0.0) as engine:
            asking = Asking(model, _ask(text, raw=True), engine, 128, {})
            kept = (await asking._fitting(None)).text
            assert kept.startswith("alpha word") and kept.endswith("word omega")
            assert len(kept) < len(text) / 2
            strict = Asking(model, _ask(text, raw=True, shift=False), engine, 128, {})
            with pytest.raises(TooLongError, match="num_ctx"):
                await strict._fitting(None)

    run(scenario)
