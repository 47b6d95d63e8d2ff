"""Where the Lark grammars lie, in a wheel, an editable install and a plain checkout."""

from __future__ import annotations

from pathlib import Path


def grammar_text(name: str) -> str:
    """The text of ``grammar/<name>``.

    A wheel carries the folder inside the package; hatchling's force-include
    leaves it out of editable installs, where it lies beside the package.
    """
    package = Path(__file__).parents[1]
    inside = package / "grammar" / name
    path = inside if inside.is_file() else package.parent / "grammar" / name
    return path.read_text(encoding="utf-8")
