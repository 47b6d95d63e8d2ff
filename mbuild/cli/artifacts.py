"""``mbuild export`` and ``mbuild import``: models out of the store and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import click

from mbuild.build.splitting import Splitting
from mbuild.cli.common import NameType, human_size, left_out, open_store, store_option
from mbuild.cli.meter import meter
from mbuild.cli.splitting import cutting_options
from mbuild.core.digest import Digest
from mbuild.core.errors import UsageError
from mbuild.core.names import ModelName
from mbuild.language.quoting import quote
from mbuild.models import library
from mbuild.models.artifacts import ExportForm, ExportOptions, Written, export, import_tar
from mbuild.models.artifacts.exporting import WRITTEN_BY
from mbuild.models.artifacts.settings import in_one_file
from mbuild.store import Layer, Store
from mbuild.store.contents import Contents

EXPORT_EPILOG = """\
\b
Examples:
  mbuild export mario -o mario.gguf
  mbuild export mario -o mario/             GGUF, adapters, Modelfile, texts
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
    written: list[Written] = []
    splitting = Splitting.parse({"split": split, "split_layers": split_layers})
    if output is not None:
        layout = _layout(output, lmstudio=flags["lmstudio"])
        options = ExportOptions(
            layout, flags["raw"], flags["link"], flags["force"], flags["merge"], splitting
        )
        written = _exported(opened, name, Path(output).expanduser(), options)
    elif not (preset or model_yaml) or splitting or any(flags[each] for each in _OF_FILES):
        raise UsageError("an export needs a place", hint="name it: -o FILE.gguf, FILE.tar or DIR")
    for file in written:
        click.echo(_line(file, flags["link"]))
    if preset is not None or model_yaml is not None:
        from mbuild.cli.presets import write_presets

        stored = library.find(opened, name)
        write_presets(opened, stored, written, preset, model_yaml, replace=flags["force"])


def _exported(store: Store, name: ModelName, target: Path, options: ExportOptions) -> list[Written]:
    """Write the model's files."""
    with store.reading(), meter("exporting") as show:
        stored = library.find(store, name)

        def modelfile(files: Mapping[Digest, str]) -> str:
            contents = library.view(store, stored.name)
            return _modelfile(store, in_one_file(contents) if options.merge else contents, files)

        return export(store, stored, target, options, modelfile, show)


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


_ENDING = re.compile(r"\.[A-Za-z]\w*$")
"""How a file's name ends; ``llama-3.2`` and ``mario/`` do not end so."""


def _modelfile(store: Store, model: Contents, files: Mapping[Digest, str]) -> str:
    """The model's Modelfile with the exported files in place of the store's."""
    stored = library.by_path(store)

    def reference(layer: Layer) -> str:
        if layer.digest not in files:
            return stored(layer)
        return quote(f"./{files[layer.digest]}") if files[layer.digest] else ""

    text = library.modelfile_of(model, reference)
    _, _, rest = text.partition("\n")
    return f"# {model.stored.name}{WRITTEN_BY}\n{rest}"


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
    "-t", "--tag", "name", metavar="NAME", type=NameType(), help="Import it under another name."
)
@store_option
@click.pass_context
def import_command(
    ctx: click.Context, *, file: Path, name: ModelName | None, store: str | None
) -> None:
    """Import the models of an OCI image layout: of mbuild export, or of skopeo.

    Every blob is checked against its digest; a model has the id that it had. Models of
    ModelPack and Docker Model Runner come in as mbuild pull brings them.
    """
    with meter("importing") as show:
        models = import_tar(file, open_store(ctx, store), name, show)
    for model in models:
        click.echo(f"imported {model.name}  {model.id.short}  {human_size(model.written)} written")
        if model.left_out:
            click.echo(left_out(model.left_out), err=True)
