"""Options of requests: whose counts, their types, what the engine is sent."""

from __future__ import annotations

import pytest

from mbuild.core.errors import UsageError
from mbuild.language.parameters import PARAMETERS
from mbuild.runtime.options import CONTEXT_VARIABLE, OPTIONS, context_of, sampling, settings
from mbuild.runtime.pool import KEEP_ALIVE_VARIABLE, Pool, default_keep_alive, seconds_of


def test_every_parameter_is_an_option() -> None:
    """What a Modelfile can set a request can, and each has a default."""
    assert set(OPTIONS) == set(PARAMETERS)


def test_the_request_goes_before_the_model() -> None:
    """Request, model, default; unknown names are ignored."""
    found = settings({"top_k": 5.0, "seed": 1}, {"seed": 2, "colour": "red"})
    assert (found["top_k"], found["seed"], found["top_p"]) == (5, 2, 0.9)
    assert "colour" not in found


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", "hot", "of type float32"),
        ("top_k", "many", "of type integer"),
        ("top_k", True, "of type integer"),
        ("use_mmap", 1, "of type boolean"),
        ("stop", "x", "of type array"),
        ("stop", [1], "of an array of strings"),
    ],
)
def test_wrong_types_are_named(name: str, value: object, words: str) -> None:
    """In Ollama's words."""
    with pytest.raises(UsageError, match=f'option "{name}" must be {words}'):
        settings({}, {name: value})


@pytest.mark.parametrize("value", [1e39, float("inf"), -1e300, 10**400])
def test_numbers_that_no_engine_has_are_refused(value: float) -> None:
    """Beyond the floats that it computes with, for options of either type."""
    for name in ("temperature", "top_k"):
        with pytest.raises(UsageError, match=f'option "{name}" is out of range'):
            settings({}, {name: value})


def test_integers_are_the_engine_s() -> None:
    """The nearest of 32 bits; of a seed these bits, but none that stands for a random one."""
    found = settings({}, {"top_k": 10**12, "num_keep": -(10**12), "stop": ["", "a"]})
    assert (found["top_k"], found["num_keep"]) == (2**31 - 1, -(2**31) + 1)
    assert sampling(found, 512)["stop"] == ["a"]
    seeds = {-1: 2**32 - 1, 7: 7, -2: 2**32 - 2, 2**32 + 7: 7, 2**32 - 1: 2**32 - 2}
    for asked, sent in seeds.items():
        assert sampling(settings({}, {"seed": asked}), 512)["seed"] == sent


def test_everything_is_sent_and_an_answer_ends() -> None:
    """llama-server's own defaults are others; without a budget it is ten contexts."""
    sent = sampling(settings({}, {"stop": ["a"]}), 512)
    assert sent["n_predict"] == 5120 and sent["stop"] == ["a"] and sent["min_p"] == 0.0
    assert sampling(settings({}, {"num_predict": 7}), 512)["n_predict"] == 7
    assert sampling(settings({}, {"num_predict": 10**9}), 512)["n_predict"] == 5120


def test_the_context_is_at_most_what_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, else the environment's, else 4096; with eyes at least 2048."""
    monkeypatch.delenv(CONTEXT_VARIABLE, raising=False)
    assert context_of({"num_ctx": 0}, 0, vision=False) == 4096
    assert context_of({"num_ctx": 0}, 2048, vision=False) == 2048
    assert context_of({"num_ctx": 1}, 2048, vision=False) == 4
    assert context_of({"num_ctx": 1}, 8192, vision=True) == 2048
    monkeypatch.setenv(CONTEXT_VARIABLE, "1024")
    assert context_of({"num_ctx": 0}, 8192, vision=False) == 1024
    monkeypatch.setenv(CONTEXT_VARIABLE, "much")
    with pytest.raises(UsageError, match="is not a number of tokens"):
        context_of({"num_ctx": 0}, 8192, vision=False)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), (10, 10), (-1, -1), ("5m", 300), ("1h30m", 5400), ("1.5s", 1.5), ("-1s", -1),
     ("0", 0), ("0s", 0), ("250ms", 0.25), (1e10, -1), (10**400, -1), ("9999999h", -1)],
)  # fmt: skip
def test_durations_are_go_s(value: object, seconds: float) -> None:
    """A number of seconds, or Go's text; below zero is for ever."""
    assert seconds_of(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["5 minutes", "", "m", True, None, [], "."])
def test_what_is_no_duration_is_refused(value: object) -> None:
    """With the value and an example."""
    with pytest.raises(UsageError, match="such as 5m"):
        seconds_of(value)


def test_the_environment_says_how_long_models_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """OLLAMA_KEEP_ALIVE, a number or a duration; else 5 minutes."""
    monkeypatch.delenv(KEEP_ALIVE_VARIABLE, raising=False)
    assert default_keep_alive() == 300
    monkeypatch.setenv(KEEP_ALIVE_VARIABLE, "60")
    assert default_keep_alive() == 60
    monkeypatch.setenv(KEEP_ALIVE_VARIABLE, "24h")
    assert default_keep_alive() == 86400
    monkeypatch.setenv(KEEP_ALIVE_VARIABLE, "abc")
    with pytest.raises(UsageError, match="OLLAMA_KEEP_ALIVE='abc' is not a duration"):
        Pool()  # when a server starts, and not with its first request
