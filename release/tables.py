"""Write the tables of mbuild's grammars and of tensors' names, which the wheel for Linux carries.

    python release/tables.py FOLDER

They are those of this Python, of its Lark and its gguf package; with others mbuild makes tables of
its own when it first needs them, which takes 0.2 s in all.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from mbuild.convert.rows.synonyms import synonyms
from mbuild.language import formatter, parser
from mbuild.templates import gotemplate

STAGED = b"# syntax=mbuild/1\nFROM ./a AS one\nQUANTIZE q8_0\n"
"""A Modelfile that no grammar but that of stages and their clauses reads."""
TABLES = {"grammars": 4, "names": 1}
"""How many there are of each kind."""


def main() -> None:
    """Have every table used, in a home of its own, and take what is kept there."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as home:
        os.environ["MBUILD_HOME"] = home
        parser.parse(b"FROM x")
        formatter.format(parser.parse_stages(STAGED))
        gotemplate.parse("{{ .Prompt }}")
        synonyms("llama", 1)
        target.mkdir(parents=True, exist_ok=True)
        for kind, count in TABLES.items():
            made = sorted(Path(home, kind).iterdir())
            if len(made) != count:
                raise SystemExit(f"{len(made)} tables of {kind} were made, not {count}")
            for path in made:
                shutil.copyfile(path, target / path.name)
                print(path.name)


if __name__ == "__main__":
    main()
