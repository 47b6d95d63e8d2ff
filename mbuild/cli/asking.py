"""What a command line asks of a build: the options that every command has that looks at one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mbuild.build.asked import Asked, script_of, targets
from mbuild.build.fetching import PullMode
from mbuild.build.prepare import Build, read_recipe
from mbuild.build.request import OUTTYPES, BuildRequest
from mbuild.build.sources.resolve import LocalContext
from mbuild.cli.common import (
    FolderType,
    TemplateType,
    cache_options,
    model_name,
    modelfile_option,
    open_store,
    read_limited,
    say_reading,
    store_option,
)
from mbuild.cli.converting import conversion_of, converter_of, converter_options, converting_options
from mbuild.cli.quantizing import file_type_of, quantize_options, with_rules
from mbuild.cli.splitting import halves_of, halves_options, splitting_of, splitting_options
from mbuild.core.errors import SourceError, UsageError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.store import Store


CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class ModelfileText(NamedTuple):
    """A Modelfile's bytes, its name for messages, and the folder its paths start from."""

    data: bytes
    name: str
    folder: Path


def build_options(command: CommandT) -> CommandT:
    """The options that say what to build; a command with them calls :func:`read_request`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def build_options_without_context(command: CommandT) -> CommandT:
    """The same without CONTEXT, for a command that gives the folders itself."""
    for option in reversed(_OPTIONS[:-1]):
        command = option(command)
    return command


def progress_options(command: CommandT) -> CommandT:
    """How to show a build: ``progress`` and ``quiet``."""
    progress = click.option(
        "--progress",
        type=click.Choice(["auto", "tty", "plain", "json", "quiet"]),
        default="auto",
        help="Progress style  [default: auto]",
    )
    return progress(
        click.option("--quiet", is_flag=True, help="Print only the model's id.")(command)
    )


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    modelfile_option("The Modelfile; - for standard input."),
    click.option(
        "-t",
        "--tag",
        "names",
        metavar="NAME",
        multiple=True,
        type=TemplateType(),
        help="Name of the result; repeat it for several names  [default: the folder's name]."
        " {quant} in it stands for the quantization, {target} for the stage.",
    ),
    click.option(
        "--target",
        metavar="STAGE",
        multiple=True,
        help="A stage to build, or all; repeat it for several  [default: the last stage]",
    ),
    click.option(
        "--build-arg",
        metavar="NAME=VALUE",
        multiple=True,
        help="The value of an ARG of the Modelfile; without = that of the environment.",
    ),
    store_option,
    quantize_options,
    splitting_options,
    click.option(
        "--check",
        metavar="CONDITION",
        multiple=True,
        help="What has to hold before anything is named, in the words of CHECK: 'kld < 0.05 TEXT"
        " FILE'.",
    ),
    click.option(
        "--pull",
        type=click.Choice([mode.value for mode in PullMode]),
        help="When to ask a registry for the model that FROM names  [default: missing, for names"
        " with a host]",
    ),
    click.option(
        "--no-keep-source",
        is_flag=True,
        help="Remove what was fetched of a checkpoint after the build.",
    ),
    click.option("--no-cache", is_flag=True, help="Run every step, cached or not."),
    cache_options,
    click.option(
        "--threads",
        metavar="N",
        type=click.IntRange(min=1),
        help="Compute on N threads  [default: $MBUILD_THREADS, else all cores]",
    ),
    click.option(
        "--link",
        is_flag=True,
        help="Hard-link GGUF files instead of copying; do not edit them afterwards.",
    ),
    click.option(
        "--outtype",
        type=click.Choice(OUTTYPES, case_sensitive=False),
        default="auto",
        help="Type of a converted checkpoint's matrices; auto keeps BF16 or F16  [default: auto]",
    ),
    click.option(
        "--pre", metavar="NAME", help="Pre-tokenizer, where mbuild does not know the tokenizer."
    ),
    converting_options,
    converter_options,
    halves_options,
    click.argument("folder", metavar="[CONTEXT]", required=False, type=FolderType()),
)


def read_request(
    ctx: click.Context,
    given: Mapping[str, Any],
    *,
    hash_files: bool = False,
    modelfile: ModelfileText | None = None,
) -> tuple[Build, Store]:
    """What the options of :func:`build_options` ask for, and the store.

    ``given`` are their values by name. ``hash_files``: read files whose digest is not
    remembered, so that it is known before the build. ``modelfile`` is one that was read before.
    Raises :class:`MbuildError` for whatever is wrong with them.
    """
    if given["threads"] is not None:
        from mbuild.work.cores import use_threads

        use_threads(given["threads"])
    modelfile = modelfile or read_modelfile(given["file"], given["folder"])
    store = open_store(ctx, given["store"])
    default = partial(default_name, context_folder(given["folder"]))
    asked = _asked(modelfile, given["names"], default, given, store)
    request = BuildRequest(
        asked.targets,
        asked.script,
        given["outtype"].lower(),
        given["pre"],
        file_type_of(given["draft_quantize"]),
        given["link"],
        splitting=splitting_of(given),
        conversion=conversion_of(given),
        converter=converter_of(given, store),
        halves=halves_of(given),
        checks=tuple(given["check"]),
    )
    context = LocalContext(modelfile.folder, store, hash_files=hash_files, on_read=say_reading)
    return asked.build(request, given, context, store, use_cache=not given["no_cache"]), store


def _has_stages(data: bytes) -> bool:
    """Whether a Modelfile opens the language of stages; where none can, nothing is loaded."""
    if b"syntax" not in data[:200].lower():
        return False
    from mbuild.language.stages.opening import opens_stages

    return opens_stages(data)


def _asked(
    modelfile: ModelfileText,
    names: tuple[str, ...],
    default: Callable[[], str],
    given: Mapping[str, Any],
    store: Store,
) -> Asked:
    staged = _has_stages(modelfile.data)
    given = with_rules(given, staged=staged)
    if not staged:
        if given.get("build_arg") or given.get("target"):
            from mbuild.build.staged import check_no_stages

            check_no_stages(given)
        recipe, warnings = read_recipe(modelfile.data, modelfile.name, store)
        made = targets(names, default, given, model_name)
        return Asked(
            made, script_of(modelfile.name, modelfile.data, modelfile.folder), recipe, warnings
        )
    from mbuild.build.staged import arguments_of, staged_targets, stages_of

    read = stages_of(*modelfile, given, store)
    wanted, notes = staged_targets(read.stages, names, default, given, model_name)
    arguments = arguments_of(given.get("build_arg", ()))
    script = script_of(modelfile.name, modelfile.data, modelfile.folder)._replace(
        arguments=arguments, brought=read.brought
    )
    stages = {stage.name: stage for stage in read.stages}
    return Asked(wanted, script, read.stages[0].recipe, read.warnings, stages, notes)


def from_stdin(file: str | None, folder: Path | None) -> bool:
    """Whether ``-f`` or the context says that the Modelfile comes from standard input."""
    return "-" in (file, str(folder))


def context_folder(folder: Path | None) -> Path:
    """The folder that a context names; the current one where there is none."""
    return Path(".") if folder is None or str(folder) == "-" else folder


def read_modelfile(file: str | None, folder: Path | None) -> ModelfileText:
    """The Modelfile that ``-f`` and the context name, and where its paths start.

    Raises :class:`SourceError`, and :class:`UsageError` for a context that is no folder.
    """
    if str(folder) == "-" and file not in (None, "-"):
        raise UsageError(
            f"the Modelfile comes from {file} or from standard input (-), not both",
            hint="leave one out",
        )
    if folder is not None and str(folder) != "-" and not folder.is_dir():
        from mbuild.cli.words import no_folder

        raise no_folder(folder)
    start = context_folder(folder)
    if from_stdin(file, folder):
        name = "standard input"
        return ModelfileText(read_limited(None, name), name, start)
    path = Path(file) if file else start / "Modelfile"
    if not path.exists() and not path.is_symlink():
        from mbuild.cli.words import no_modelfile

        raise no_modelfile(file, start)
    try:
        data = read_limited(path, str(path))
    except SourceError as error:
        raise type(error)(f"the Modelfile {error.message}", hint=error.hint) from None
    return ModelfileText(data, str(path), path.parent if folder is None else folder)


def default_name(folder: Path) -> str:
    """What a model is called without ``-t``: as its folder; raises :class:`UsageError`."""
    name = folder.resolve().name
    try:
        return str(ModelName.parse(name))
    except InvalidNameError:
        raise UsageError(
            f"cannot make a model name from the folder name {name!r}",
            hint="give one with -t NAME",
        ) from None
