"""The documentation of conversion, quantization and templates says what the program does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from documents import DOCS, documented
from example_models import edit_json, generator, settle
from multimodal import DATA as PROJECTORS

from mbuild.cli.main import cli
from mbuild.convert.families import rows as all_rows
from mbuild.convert.projectors import rows as projector_rows
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.rules import NEEDS_IMPORTANCES, ROWS
from mbuild.quant.choose.types import FILE_TYPES
from mbuild.quant.table import supports

README = DOCS.parent / "README.md"


@pytest.mark.parametrize(
    "page",
    [
        "cache.md",
        "convert.md",
        "explain.md",
        "graph.md",
        "quantize.md",
        "report.md",
        "split.md",
        "templates.md",
    ],
)
def test_the_documented_session(page: str, tmp_path: Path) -> None:
    """Each command of the page prints what the page shows."""
    make, models = generator(), tmp_path / "work" / "models"
    make.write_chat(models / "tiny-chat")
    make.write_lora(models / "tiny-lora")
    unknown_tokenizer(make, models / "unknown-tokenizer")
    settle()
    documented(page, tmp_path)


def unknown_tokenizer(make: Any, folder: Path) -> None:
    """The checkpoint with a byte-pair vocabulary that llama.cpp has no name for."""
    make.write_chat(folder)
    (folder / "tokenizer.model").unlink()
    texts = [*(chr(33 + number) for number in range(94)), "hi"]
    tokenizer = {
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": ["h i"],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", **tokenizer}))
    edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def part(page: str, name: str) -> str:
    """What stands between a page's markers."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name}: .*? -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert found is not None
    return found[1]


def families() -> str:
    """The table of families: GGUF's name, and the class names in config.json."""
    rows: dict[str, list[str]] = {}
    for row in all_rows():
        rows.setdefault(row.gguf, []).extend(f"`{name}`" for name in row.names)
    named = sorted((gguf, names) for gguf, names in rows.items() if names)
    lines = [f"| `{gguf}` | {', '.join(sorted(names))} |" for gguf, names in named]
    return "\n".join(["| GGUF | `architectures` in config.json |", "|---|---|", *lines])


def kinds() -> str:
    """The table of projectors: the class names in config.json, those of a kind together."""
    lines = [f"| {', '.join(f'`{name}`' for name in row.names)} |" for row in projector_rows()]
    return "\n".join(["| class in config.json |", "|---|", *lines])


def ruled(name: str) -> set[GGMLType]:
    """The types that the recipe's rules give tensors under this file type."""
    rows = [row for category in ROWS.values() for row in category]
    return {type_ for names, _, type_ in rows if name in names.split()}


def types() -> str:
    """The table of types: the name for -q, most tensors' type, and what it asks for."""
    lines = []
    for type_ in FILE_TYPES:
        note = ""
        if not supports(type_.default, weighted=True):
            note = "not made"
        elif type_.name == "Q2_K_S" or NEEDS_IMPORTANCES & {type_.default, *ruled(type_.name)}:
            note = "needs `--imatrix`"
        lines.append(f"| `{type_.name}` | {type_.default.name} | {note} |")
    return "\n".join(["| `-q` | most tensors | |", "|---|---|---|", *lines])


def test_all_families_are_documented() -> None:
    """The table in docs/convert.md is the table in the code."""
    assert part("convert.md", "families") == families()


def test_all_kinds_of_projectors_are_documented() -> None:
    """The table in docs/multimodal.md is the table in the code, with the counts in its text."""
    assert part("multimodal.md", "kinds") == kinds()
    reference = {name for row in projector_rows() for name in row.names} & classes()
    text = (DOCS / "multimodal.md").read_text(encoding="utf-8")
    said = f"Of the {len(classes())} classes that llama.cpp's converter makes projectors of"
    assert f"{said} {len(reference)} are converted" in text


def classes() -> set[str]:
    """llama.cpp's classes with projectors."""
    _, found, _ = (PROJECTORS / "reference.txt").read_text().split("# ")
    return {*found.split("\n")[1:]} - {""}


def test_all_types_are_documented() -> None:
    """The table in docs/quantize.md is what -q takes."""
    assert part("quantize.md", "types") == types()


def test_all_options_are_documented() -> None:
    """Each option that converts or quantizes is on its page."""
    from mbuild.cli.quantizing import quantize_options

    text = (DOCS / "quantize.md").read_text(encoding="utf-8")
    command = click.command("x")(quantize_options(lambda **_: None))
    assert len(command.params) > 8
    for parameter in command.params:
        assert any(name in text for name in parameter.opts), parameter.opts
    assert {"--outtype", "--pre"} <= set(re.findall(r"--\w+", (DOCS / "convert.md").read_text()))


def test_commands_in_the_readme_exist() -> None:
    """Every ``mbuild`` command line of README.md names a command and options that there are."""
    text = README.read_text(encoding="utf-8")
    context = click.Context(cli)
    lines = re.findall(r"^\$ mbuild((?: .*)?)$|`mbuild((?: [^`]*)?)`", text, re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split("".join(line).replace("[", " ").replace("]", " "), comments=True)
        known = cli.get_command(context, words[0]) if words else None
        known = known or cli.get_command(context, "build")
        assert known is not None
        options = {name for parameter in known.params for name in parameter.opts} | {"--help"}
        for word in words:
            if word.startswith("-") and word != "-":
                assert word.split("=")[0].rstrip(".,") in options, line
