"""Sessions in the documentation: run each command, compare what it prints.

A page's ``console`` blocks hold lines ``$ command`` and what follows on the
terminal, both streams. ``...`` on a line of its own stands for any lines, inside a
line for any text. The commands run one after another in one folder; lines
``$ cat > FILE <<'EOF'`` write files.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from programs import need

DOCS = Path(__file__).parent.parent / "docs"

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sessions(page: str) -> list[tuple[str, str]]:
    """The commands of a page, each with the output that the page shows."""
    found: list[tuple[str, str]] = []
    for block in _BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            heredoc = re.match(r"(.*<<'(\w+)'\n.*?^\2\n)(.*)", part, re.MULTILINE | re.DOTALL)
            if heredoc:
                found.append((heredoc[1], heredoc[3]))
            else:
                command, _, output = part.partition("\n")
                found.append((command, output))
    return found


def documented(
    page: str,
    folder: Path,
    *,
    without: str = "",
    names: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run a page's commands in ``folder``, with ``mbuild`` on the path and the store ``store``.

    ``without`` is an environment variable that the page does not expect; ``names`` are words of
    the page, each with what stands for it here; ``variables`` are further ones of the environment.
    """
    program = folder / "bin" / "mbuild"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mbuild "$@"\n')
    program.chmod(0o755)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "OLLAMA_MODELS": str(folder / "store"),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
        **(variables or {}),
    }
    environment.pop(without, "")
    need("sh", "sed", "grep")
    commands = sessions(page)
    assert commands, f"{page} shows no command"
    for command, expected in commands:
        for shown, here in (names or {}).items():
            command, expected = command.replace(shown, here), expected.replace(shown, here)
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert matches(expected, done.stdout), (
            f"{page}: $ {command}\n--- documented\n{expected}--- printed\n{done.stdout}"
        )


def matches(expected: str, printed: str) -> bool:
    """Whether an output is the documented one, ``...`` standing for anything."""
    parts = []
    for line in expected.splitlines():
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*".join(map(re.escape, line.split("..."))) + r"\n")
    return re.fullmatch("".join(parts), printed) is not None


def generate() -> ModuleType:
    """The script docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
