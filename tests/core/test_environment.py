"""Where models lie, how much the cache keeps, and where the grammars are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.core import environment
from mbuild.core.environment import default_store, home_folder, keep_budget
from mbuild.core.errors import UsageError
from mbuild.core.grammars import grammar_text


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        environment.STORE_VARIABLE,
        environment.HOME_VARIABLE,
        environment.KEEP_VARIABLE,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")


def test_without_variables_the_store_is_ollamas() -> None:
    """Models lie where Ollama of this user has them, and nothing limits the cache."""
    assert default_store() == Path("/home/somebody/.ollama/models")
    assert home_folder() is None
    assert keep_budget() is None


def test_ollamas_variable_comes_before_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """MBUILD_HOME has a folder for models; OLLAMA_MODELS names them directly, and counts more."""
    monkeypatch.setenv("MBUILD_HOME", "~/shared")
    assert default_store() == Path("/home/somebody/shared/models")
    monkeypatch.setenv("OLLAMA_MODELS", ' "/srv/models" ')
    assert default_store() == Path("/srv/models")


def test_a_budget_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """MBUILD_KEEP takes sizes as people write them; else the error quotes it and shows one."""
    monkeypatch.setenv("MBUILD_KEEP", "0")
    assert keep_budget() == 0
    monkeypatch.setenv("MBUILD_KEEP", "much")
    with pytest.raises(UsageError, match="MBUILD_KEEP='much'") as error:
        keep_budget()
    assert "50GB" in error.value.hint


def test_every_grammar_can_be_read() -> None:
    """The grammars are found wherever mbuild is installed from."""
    for name in ("modelfile.lark", "gotemplate.lark", "clauses.lark"):
        assert "start" in grammar_text(name)
    with pytest.raises(FileNotFoundError):
        grammar_text("nothing.lark")
