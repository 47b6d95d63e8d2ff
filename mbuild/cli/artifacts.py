"""``mbuild export`` and ``mbuild import``: models out of the store and back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mbuild.build.splitting import Splitting
from mbuild.cli.common import NameType, human_size, left_out, open_store, store_option
from mbuild.cli.meter import meter
from mbuild.cli.splitting import cutting_options
from mbuild.core.digest import Digest
from mbuild.core.errors import UsageError
from mbuild.core.names import ModelName
from mbuild.core.patterns import regex
from mbuild.models import library
from mbuild.models.artifacts import ExportForm, ExportOptions, Written, export, import_tar
from mbuild.models.artifacts.exporting import stem_of
from mbuild.models.artifacts.modelfiles import MODELFILE, Rebuilding, modelfile_of, rebuilding
from mbuild.models.artifacts.settings import in_one_file
from mbuild.store import Store

if TYPE_CHECKING:
    from mbuild.store import Manifest

EXPORT_EPILOG = """\
\b
Examples:
  mbuild export mario -o mario.gguf
  mbuild export mario -o mario/             GGUF, adapters, Modelfile, texts
  mbuild export mario -o again/ --modelfile           mbuild again/ builds the same id
  mbuild export mario -o recipe/ --recipe             the Modelfile that it was built from
  mbuild export mario -o mario.tar          OCI image layout, for mbuild import
  mbuild export mario --lmstudio -o ~/.lmstudio/models
  mbuild export mario --preset models.ini            llama-server --models-preset models.ini
  mbuild export mario --split 40GB -o parts/         mario-00001-of-00003.gguf and so on
  mbuild export mario --merge -o whole.gguf          one file of a model in several
"""


@click.command("export", epilog=EXPORT_EPILOG)
@click.argument("name", type=NameType())
@click.option("-o", "--output", metavar="PATH", help="FILE.gguf, FILE.tar or DIR.")
@store_option
@click.option("--lmstudio", is_flag=True, help="DIR/<namespace>/<model>/: LM Studio's layout.")
@click.option(
    "--preset",
    metavar="FILE.ini",
    type=click.Path(path_type=Path),
    help="Add the model to a preset of llama.cpp's router; without -o over the store's files.",
)
@click.option(
    "--model-yaml",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write LM Studio's description of the model: model.yaml.",
)
@click.option(
    "--modelfile",
    "again",
    is_flag=True,
    help="Write a folder whose Modelfile builds the very same model.",
)
@click.option(
    "--recipe",
    is_flag=True,
    help="Write the Modelfile that the model was built from, and what it brings in.",
)
@click.option("--raw", is_flag=True, help="Write the weights as stored, without adding settings.")
@click.option(
    "--link",
    is_flag=True,
    help="Hard-link to the store instead of copying; do not edit the files afterwards.",
)
@click.option("--merge", is_flag=True, help="Merge the files of a split model into one.")
@cutting_options
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.pass_context
def export_command(
    ctx: click.Context,
    /,
    *,
    name: ModelName,
    output: str | None,
    store: str | None,
    preset: Path | None,
    model_yaml: Path | None,
    split: str | None,
    split_layers: str | None,
    **flags: bool,
) -> None:
    """Write a model to a GGUF file, a directory or an OCI image layout.

    Template, parameters and stop tokens go into the GGUF's metadata. Where the
    file system can (XFS, btrfs), weights share their blocks with the store.
    """
    opened = open_store(ctx, store)
    if flags["recipe"]:
        _check_recipe(ctx, output)
        _export_recipe(opened, name, Path(output or "").expanduser(), flags["force"])
        return
    written, notes = list[Written](), list[str]()
    splitting = Splitting.parse({"split": split, "split_layers": split_layers})
    if output is not None:
        layout = _layout(output, lmstudio=flags.pop("lmstudio"))
        options = ExportOptions(
            layout,
            flags["raw"],
            flags["link"],
            flags["force"],
            flags["merge"],
            splitting,
            flags["again"],
        )
        written, notes = _exported(opened, name, Path(output).expanduser(), options)
    elif not (preset or model_yaml) or splitting or any(flags[each] for each in _OF_FILES):
        raise UsageError("an export needs a place", hint="name it: -o FILE.gguf, FILE.tar or DIR")
    for line in (*(_line(file, flags["link"]) for file in written), *notes):
        click.echo(line)
    if preset is not None or model_yaml is not None:
        from mbuild.cli.presets import write_presets

        stored = library.find(opened, name)
        write_presets(opened, stored, written, preset, model_yaml, replace=flags["force"])


def _exported(
    store: Store, name: ModelName, target: Path, options: ExportOptions
) -> tuple[list[Written], list[str]]:
    """Write the model's files; returns them, and what is to be said of the Modelfile."""
    made: list[Rebuilding] = []
    with store.reading(), meter("exporting") as show:
        stored = library.find(store, name)

        def modelfile(files: Mapping[Digest, str]) -> Mapping[str, str]:
            contents = library.view(store, stored.name)
            if options.again:
                made.append(rebuilding(store, contents, files, stem_of(stored.name)))
                return {MODELFILE: made[0].text, **made[0].brought}
            model = in_one_file(contents) if options.merge else contents
            return {MODELFILE: modelfile_of(store, model, files)}

        written = export(store, stored, target, options, modelfile, show)
    return written, [_what_is_built(stored.manifest, stored.id, each) for each in made]


_OF_FILES = ("raw", "link", "merge", "lmstudio")
"""Flags that say how files are written."""


def _layout(output: str, *, lmstudio: bool) -> ExportForm:
    if output.endswith((".gz", ".zst", ".zip", ".tgz", ".xz")):
        raise UsageError(f"{output}: archives are not compressed", hint="name a .tar file")
    ending = {".gguf": ExportForm.GGUF, ".tar": ExportForm.TAR}.get(Path(output).suffix.lower())
    if lmstudio:
        if ending is not None:
            raise UsageError(f"--lmstudio makes a directory, not {output}")
        return ExportForm.LMSTUDIO
    if ending is None and _ENDING.search(output) and not Path(output).expanduser().is_dir():
        raise UsageError(
            f"{output}: an export is a .gguf file, a .tar archive or a folder",
            hint=f"for a folder of that name write {output}/",
        )
    return ending or ExportForm.DIRECTORY


_ENDING = regex(r"\.[A-Za-z]\w*$")
"""How a file's name ends; ``llama-3.2`` and ``mario/`` do not end so."""


def _what_is_built(model: Manifest, identity: Digest, made: Rebuilding) -> str:
    """Which model the exported Modelfile builds."""
    how = "The Modelfile" + (", built with --keep-split," if made.keep else "")
    if made.id is None:
        return f"{how} was not tried, because the store cannot be written"
    if other := made.differences(model):
        return f"{how} builds another model: no Modelfile says this one's {', '.join(other)}"
    if made.id == identity:
        return f"{how} builds {identity.short} again"
    origins = ", ".join(dict.fromkeys(layer.origin for layer in model.layers if layer.origin))
    return (
        f"{how} builds the same layers, as {made.id.short}: the id {identity.short} says too that"
        f" they come from {origins}"
    )


def _check_recipe(ctx: click.Context, output: str | None) -> None:
    """Raise :class:`UsageError` for options that mean weights, and without a folder."""
    given = [
        parameter.opts[-1]
        for parameter in ctx.command.params
        if isinstance(parameter, click.Option)
        and parameter.name not in ("recipe", "output", "store", "force")
        and ctx.params.get(parameter.name or "")
    ]
    if given:
        raise UsageError(f"--recipe writes no weights: {given[0]} has no effect")
    if output is None:
        raise UsageError("a recipe needs a folder", hint="name it: -o DIR/")
    if _layout(output, lmstudio=False) is not ExportForm.DIRECTORY:
        raise UsageError("--recipe makes a folder", hint="name it with a slash: -o NAME/")


def _export_recipe(store: Store, name: ModelName, folder: Path, replace: bool) -> None:
    """Write the Modelfile that a model was built from, and tell how it is built."""
    from mbuild.models.artifacts.recipes import built_from, write_files

    stored = library.find(store, name)
    found = built_from(store, stored)
    for file in write_files(found.files, folder, replace=replace):
        click.echo(_line(file, False))
    for other in found.outside:
        click.echo(f"{other} lies outside of the Modelfile's folder: put it where that says")
    for each in found.materials:
        click.echo(f"made from {each.name}" + (f"  {human_size(each.size)}" if each.size else ""))
    words = ("mbuild", *found.arguments, "-t", str(stored.name), str(folder))
    click.echo(f"To build it: {shlex.join(words)}")


def _line(file: Written, link: bool) -> str:
    if link and file.shared:
        return f"{file.path}  {human_size(file.size)}, linked: do not edit it"
    shared = f", {human_size(file.shared)} shared with the store" if file.shared else ""
    return f"{file.path}  {human_size(file.size)}{shared}"


IMPORT_EPILOG = """\
\b
Examples:
  mbuild import mario.tar
  mbuild import mario.tar -t luigi
"""


@click.command("import", epilog=IMPORT_EPILOG)
@click.argument("file", metavar="FILE.tar", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--tag",
    "names",
    metavar="NAME",
    multiple=True,
    type=NameType(),
    help="Import it under another name; repeatable.",
)
@store_option
@click.pass_context
def import_command(
    ctx: click.Context, *, file: Path, names: tuple[ModelName, ...], store: str | None
) -> None:
    """Import the models of an OCI image layout: of mbuild export, or of skopeo.

    Every blob is checked against its digest; a model has the id that it had. Models of
    ModelPack and Docker Model Runner come in as mbuild pull brings them.
    """
    opened = open_store(ctx, store)
    wanted = list(dict.fromkeys(names))
    with meter("importing") as show:
        models = import_tar(file, opened, wanted[0] if wanted else None, show)
    for model in models:
        click.echo(f"imported {model.name}  {model.id.short}  {human_size(model.written)} written")
        if model.left_out:
            click.echo(left_out(model.left_out), err=True)
    for other in wanted[1:]:
        from mbuild.models.library import copy

        copy(opened, wanted[0], other)
        click.echo(f"imported {other}  {models[0].id.short}  the same blobs")
