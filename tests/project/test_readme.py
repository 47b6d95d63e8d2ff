"""A reader who types the commands of README.md in their order gets what it says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from documents import DOCS, documented
from example_models import write_chat
from programs import need

README = (DOCS.parent / "README.md").read_text(encoding="utf-8")

PLACEHOLDERS = {
    "diff A B": "diff mario:q4_K_M mario:q8_0",
    "cp ID NAME": "cp $(mbuild list luigi | sed -n '2s/  */ /gp' | cut -d ' ' -f 2) peach",
    "rm --purge NAME": "rm --purge peach",
    "rm NAME...": "rm luigi-2",
    "export NAME -o FILE": "export mario -o mario.tar",
    "import FILE.tar": "import mario.tar",
    "create NAME -f FILE": "create princess -f Modelfile",
    "[-f FILE]": "-f Modelfile",
    "[-t NAME]...": "-t mario",
    "[CONTEXT]": ".",
    "[FILE]...": "Modelfile",
    "FILE.svg": "mario.svg",
    "X.gguf": "theirs.gguf",
    "A B": "mario luigi",
    "NAME": "mario",
}
"""What a reader would write for the words in capitals; the first that fits counts."""

ARGUMENTS = {"rmi": "princess", "tag": "mario daisy", "inspect": "mario"}
"""What the table's commands of other tools need, which it names without."""

BEFORE = {
    "mbuild rm luigi-2": "mbuild cp mario luigi-2",
    "mbuild import-recipe theirs.gguf": "mbuild export mario -o theirs.gguf --raw",
}
"""What a reader has done before: a model to remove, somebody's file."""


def commands() -> list[str]:
    """The command lines of the table under "Use it", with names for the placeholders."""
    table = README.partition("\n## Use it\n")[2].partition("\n\nThe store is")[0]
    found = []
    for row in re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE):
        for code in re.findall(r"`([^`]+)`", row):
            line = code if code.startswith("mbuild") else f"mbuild {code}"
            for words, text in PLACEHOLDERS.items():
                line = line.replace(words, text)
            found.append(f"{line} {ARGUMENTS.get(line.split()[-1], '')}".strip())
    return found


def test_the_commands_in_their_order(tmp_path: Path) -> None:
    """The session prints what is shown; then every command of the table ends with status 0.

    Only ``serve`` is left out, which does not end: test_server_examples.py runs it.
    """
    need("sh", "sed", "cut")
    work = tmp_path / "work"
    write_chat(work / "my-finetune")
    documented("../README.md", tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "OLLAMA_MODELS": str(tmp_path / "store"),
    }
    lines = commands()
    assert len(lines) > 30
    for line in lines:
        if line == "mbuild serve":
            continue
        for each in filter(None, (BEFORE.get(line), line)):
            done = subprocess.run(
                ["sh", "-c", each], cwd=work, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"$ {each}\n{done.stdout}{done.stderr}"
    assert (work / "mario.svg").exists()
    assert (work / "Modelfile.lock").exists()


def test_no_placeholder_is_left() -> None:
    """Each word in capitals of the table is one that the test fills in, and each filler is used."""
    for line in commands():
        assert not re.search(r"\b[A-Z]{2,}\b(?!_)|\[|\.\.\.", line), line
    table = README.partition("\n## Use it\n")[2]
    assert [words for words in PLACEHOLDERS if words not in table] == []
