"""Every command by itself: where the table says that it is, with the options it shares."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.cli import (
    artifacts,
    compare,
    disk,
    graph,
    history,
    language,
    lock,
    locked,
    main,
    models,
    plan,
    preview,
    rebuild,
    recipe,
    report,
    serve,
)
from mbuild.core.errors import FormatError, MbuildError, UsageError

MODULES: tuple[ModuleType, ...] = (
    *(artifacts, compare, disk, graph, history, language, lock),
    *(models, plan, recipe, report, serve),
)


def _commands(module: ModuleType) -> dict[str, click.Command]:
    return {name: value for name, value in vars(module).items() if isinstance(value, click.Command)}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_modules_commands_are_those_of_the_table(module: ModuleType) -> None:
    """No command is written and not listed, and each explains itself with examples."""
    listed = {
        f"{name.replace('-', '_')}_command"
        for name, (where, _) in main.COMMANDS.items()
        if where == module.__name__
    }
    commands = _commands(module)
    assert listed == commands.keys()
    for name, command in commands.items():
        assert command.help, name
        assert "mbuild" in (command.epilog or ""), name


def test_every_command_that_shows_something_has_the_same_format_option() -> None:
    """``--format text|json`` is one option, written once."""
    shared = [
        option
        for module in MODULES
        for command in _commands(module).values()
        for option in command.params
        if option.name == "style" and getattr(option.type, "choices", ()) == ("text", "json")
    ]
    assert len(shared) >= 10
    assert len({(option.opts[0], getattr(option, "help", "")) for option in shared}) == 1


def test_every_kind_of_error_has_an_exit_status() -> None:
    """The root of the tree is in the table, so each error has one; wrong usage is 2."""

    def below(kind: type[MbuildError]) -> list[type[MbuildError]]:
        return [kind, *(one for child in kind.__subclasses__() for one in below(child))]

    for kind in below(MbuildError):
        first = next(s for known, s in main.EXIT_STATUS.items() if issubclass(kind, known))
        assert first == (2 if issubclass(kind, UsageError) else 1), kind
    assert list(main.EXIT_STATUS)[-1] is MbuildError


def test_a_lock_lies_beside_its_modelfile(tmp_path: Path) -> None:
    """It is called like the Modelfile; what comes from standard input has none."""
    script = SimpleNamespace(name=str(tmp_path / "Modelfile.dev"))
    path = locked.lock_path(script, stdin=False)
    assert path == tmp_path / "Modelfile.dev.lock"
    assert locked.read_lock(path) is None
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="not a lock file"):
        locked.read_lock(path)
    with pytest.raises(UsageError, match="standard input"):
        locked.lock_path(script, stdin=True)


def test_a_forecast_is_shown_as_text_and_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both say the same steps: a line that begins with a word of the table, or an object."""
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf\n")
    run = in_process(tmp_path, monkeypatch)
    lines = run("plan", "-t", "m").stdout.splitlines()[1:]
    value = json.loads(run("plan", "-t", "m", "--format", "json").stdout)
    begun = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert set(begun) <= set(preview.STATES.values())
    assert len(begun) == len(value["steps"])


def test_a_build_that_came_out_the_same_is_one_line() -> None:
    """What ``verify --rebuild`` found is short where it is good."""
    from mbuild.build.rebuild import Rebuilt

    found = Rebuilt("m:latest", "a", "a", 3, 10, ())
    again = rebuild.Again(found, "", ())
    (line,) = rebuild.rebuilt_lines(again)
    assert "bit for bit the same (3 layers" in line
    assert rebuild.rebuilt_json(again)["differences"] == []
