"""What a Modelfile and options ask for is one value, whichever front end read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import tiny_gguf

import mbuild
from mbuild.build.asked import Asked, script_of
from mbuild.build.fetching import PullMode
from mbuild.build.history import History
from mbuild.build.prepare import read_recipe
from mbuild.build.request import BuildRequest, Target
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.errors import UsageError
from mbuild.core.names import ModelName
from mbuild.store import Store

TEXT = b"FROM ./tiny.gguf\n"


def test_options_become_a_build(tmp_path: Path) -> None:
    """How it may fetch and what is checked; a check that is none is wrong usage."""
    store = Store(tmp_path / "store")
    recipe, warnings = read_recipe(TEXT, "Modelfile", store)
    target = Target((ModelName.parse("m"),))
    asked = Asked((target,), script_of("Modelfile", TEXT, tmp_path), recipe, warnings)
    request = BuildRequest(asked.targets, asked.script)
    given = {"pull": "never", "no_keep_source": True, "check": ("size < 5GB",)}
    context = LocalContext(tmp_path, store)
    wanted = asked.build(request, given, context, store, use_cache=False)
    assert (wanted.fetching.mode, wanted.fetching.keep) == (PullMode("never"), False)
    assert [check.measure for check in wanted.checks] == ["size"] and not wanted.use_cache
    plain = asked.build(request, {"pull": None, "check": ()}, context, store, use_cache=True)
    assert (plain.fetching.mode, plain.fetching.keep, plain.checks) == (None, True, ())
    with pytest.raises(UsageError):
        asked.build(request, {**given, "check": ("speed < 1",)}, context, store, use_cache=True)


def test_a_folder_that_was_removed_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks from it can still build what lies elsewhere."""
    script = script_of("Modelfile", TEXT, tmp_path)
    assert (script.name, script.text, script.folder) == (
        "Modelfile",
        Digest.of(TEXT),
        str(tmp_path),
    )
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert script_of("Modelfile", TEXT, tmp_path).directory == ""


def test_the_log_has_the_checks_that_python_asked_for(tmp_path: Path) -> None:
    """As it has those of the command line: a later build is told from this one by them."""
    tiny_gguf(tmp_path / "tiny.gguf")
    store = tmp_path / "store"
    mbuild.build(text=TEXT.decode(), folder=tmp_path, name="m", store=store, check=["size < 5GB"])
    (record,) = History(Store(store)).newest_first()
    assert record.request.checks == ("size < 5GB",)
