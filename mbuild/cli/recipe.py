"""``mbuild import-recipe``: the flags that a GGUF file was quantized with."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mbuild.cli.common import format_option, printable, write_json
from mbuild.models.compare.recipe import RecoveredRecipe, read_recipe

EPILOG = """\
\b
Examples:
  mbuild import-recipe theirs-Q4_K_M.gguf
  mbuild import-recipe theirs-Q4_K_M.gguf --from ./llama-3.2-1b
"""


@click.command("import-recipe", epilog=EPILOG)
@click.argument("file", metavar="FILE.gguf", type=click.Path(path_type=Path))
@click.option("--from", "source", metavar="PATH", default="./SOURCE", help="The model to quantize.")
@format_option
def import_recipe_command(file: Path, source: str, style: str) -> int:
    """Read the tensor types out of a quantized GGUF file; print what reproduces them.

    Prints a Modelfile, with the command for it as a comment. Exits with 1 when
    some tensor's type cannot be reproduced.
    """
    recipe = read_recipe(file)
    if style == "json":
        write_json(_value(recipe))
    else:
        click.echo("\n".join(map(printable, _lines(recipe, file.name, source))))
    return 1 if recipe.wrong else 0


def _lines(recipe: RecoveredRecipe, name: str, source: str) -> list[str]:
    count = recipe.tensors
    lines = [f"# The types of {name}: {count} tensors, {recipe}"]
    if recipe.source:
        lines.append(f"# The file says that it comes from {recipe.source}")
    lines.append("#")
    arguments = ["mbuild", *recipe.flags()]
    lines += [f"#   {line}" for line in _folded(arguments)]
    lines += [f"# It gives another type to {tensor}" for tensor in recipe.wrong]
    if not recipe.wrong:
        lines.append(f"# It gives all {count} tensors the types that they have there.")
    return [*lines, f"FROM {source}"]


def _folded(arguments: list[str]) -> list[str]:
    """The command on lines that a shell joins: each long option on its own."""
    lines = [""]
    for argument in arguments:
        if argument == "--tensor-type":
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "") + shlex.quote(argument)
    return lines


def _value(recipe: RecoveredRecipe) -> dict[str, object]:
    quantization = recipe.quantization
    return {
        "file_type": str(recipe),
        "flags": recipe.flags(),
        "imatrix": quantization.importances,
        "tensor_types": [[pattern, type_.name] for pattern, type_ in quantization.tensor_types],
        "tensors": recipe.tensors,
        "wrong": list(recipe.wrong),
        "source": recipe.source,
    }
