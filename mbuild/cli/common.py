"""Options and output that several commands share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from mbuild.core.environment import CACHE_VARIABLE
from mbuild.core.errors import MissingFileError, SourceError, UsageError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.units import human_size as human_size
from mbuild.store import Store, default_store

_ALIKE = 4  # characters by which a file is known as an earlier output
MAX_TEXT_BYTES = 16 << 20
"""The longest Modelfile, lock or list of rules that is read."""

_SLOW_TO_READ = 1 << 30
"""Bytes that take a second or more."""

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

if TYPE_CHECKING:
    from mbuild.shared.locations import CacheOptions

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic only in newer versions of click


class QuickCommand(click.Command):
    """A command that asks click for nothing that takes long and is not needed.

    click translates each text of its own, for which it loads ``locale`` and looks for files,
    and for every ``-t`` it thinks up, with ``difflib``, what else could have been meant.
    """

    _help: click.Option | None = None

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """``--help`` as click has it."""
        names = self.get_help_option_names(ctx)
        if self._help is None and names:
            text = "Show this message and exit."
            self._help = said_at_once(names, text, lambda ctx: ctx.get_help())
        return self._help

    def make_parser(self, ctx: click.Context) -> Any:
        """A parser that looks for ``-t`` where it looks first: where ``--tag`` is."""
        parser: Any = super().make_parser(ctx)
        parser._long_opt.update(parser._short_opt)
        return parser


def said_at_once(
    names: Iterable[str], help: str, text: Callable[[click.Context], str]
) -> click.Option:
    """An option that writes a text and ends the command, whatever else is given."""

    def say(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(text(ctx), color=ctx.color)
            ctx.exit()

    return click.Option(
        [*names], is_flag=True, expose_value=False, is_eager=True, help=help, callback=say
    )


class FolderType(ParamType):
    """A folder, or ``-``; ``click.Path`` translates what it is called."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Whether it is there is for the command to say."""
        return Path(value)


def store_option(command: CommandT) -> CommandT:
    """``--store``, which is taken before and after a subcommand's name."""
    return click.option(
        "--store",
        metavar="DIR",
        help="The store's folder  [default: $OLLAMA_MODELS, else $MBUILD_HOME/models, else"
        " ~/.ollama/models]",
    )(command)


def modelfile_option(what: str) -> Callable[[CommandT], CommandT]:
    """``-f FILE`` of a command that reads one Modelfile; ``what`` is its help."""
    return click.option(
        "-f", "--file", metavar="FILE", multiple=True, callback=_only_file, help=what
    )


def _only_file(ctx: click.Context, param: click.Parameter, files: Sequence[str]) -> str | None:
    """The one that was named; raises :class:`UsageError` for several."""
    if len(files) > 1:
        raise UsageError(
            f"-f is there {len(files)} times, for {' and '.join(files)}, and one Modelfile is read",
            hint="run the command once for each; models that belong together can be stages of one"
            " Modelfile",
        )
    return files[0] if files else None


CACHE_OPTIONS = ("cache_from", "cache_to", "cache_verify")
"""The options of :func:`cache_options`, which say nothing of what a build makes."""


def cache_options(command: CommandT) -> CommandT:
    """The shared caches that results come from and go to; :func:`sharing` attaches them."""
    verify = click.option(
        "--cache-verify",
        metavar="KEY",
        multiple=True,
        help="Take only results that were signed with this public key (ed25519, a file).",
    )
    target = click.option(
        "--cache-to",
        metavar="URL",
        help="Put results into a shared cache, and take them from there  [default: $MBUILD_CACHE"
        " if MBUILD_CACHE_WRITE=1]",
    )
    return click.option(
        "--cache-from",
        metavar="URL",
        multiple=True,
        help="Take results from a shared cache: a folder, or a URL (s3://, oci://, http://, ...);"
        " repeat it for several  [default: $MBUILD_CACHE]",
    )(target(verify(command)))


def sharing(store: Store, given: Mapping[str, Any]) -> AbstractContextManager[object]:
    """The shared caches of a command, attached to a store; nothing is loaded where there are none.

    Raises :class:`UsageError`.
    """
    asked = caches_asked(given)
    if asked is None:
        return nullcontext()
    from mbuild.shared.attach import attached

    return attached(store, asked, _warn_once(set()))


def caches_asked(given: Mapping[str, Any]) -> CacheOptions | None:
    """The shared caches that options and the environment name; None where they name none.

    Raises :class:`UsageError`.
    """
    if not any(map(given.get, CACHE_OPTIONS)) and not os.environ.get(CACHE_VARIABLE):
        return None
    from mbuild.shared.locations import CacheOptions

    return CacheOptions.of(*(given[name] for name in CACHE_OPTIONS))


format_option = click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Output format  [default: text]",
)
"""``--format``, of every command that shows something."""


def open_store(ctx: click.Context, option: str | None) -> Store:
    """The store that the options, the environment or the default name."""
    chosen = option or ctx.find_root().obj
    return Store(Path(chosen).expanduser() if chosen else default_store(), _warn_once(set()))


def _warn_once(said: set[str]) -> Callable[[str], None]:
    """A store's warnings on standard error, each once."""

    def warn(text: str) -> None:
        if text not in said:
            said.add(text)
            click.echo(f"warning: {printable(text)}", err=True)

    return warn


def write_output(path: Path | None, text: str) -> None:
    """Write a text to standard output, or for a path that is not None or ``-`` to that file.

    A file that is there is replaced by its like only, which begins with the same characters:
    ``-o Modelfile`` would cost what no build brings back. Raises :class:`UsageError` for others.
    """
    if path is None or str(path) == "-":
        click.echo(text, nl=False)
        return
    start = text[:_ALIKE].encode()
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(start)) != start:
                raise UsageError(
                    f"{path} exists and is something else: it is not replaced",
                    hint="name another file, or remove that one first",
                )
    write_file(path, text)


def write_file(path: Path, text: str) -> None:
    """Put a file in place in one piece; a link stays a link. Raises OSError."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a device, or a folder: that is an error
        target.write_text(text, encoding="utf-8", newline="\n")
        return
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(target)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno, "there is no such folder", str(target.parent)
        ) from None
    except OSError as error:  # of the file that was asked for, not of the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def model_name(text: str) -> ModelName:
    """The name in a store that a text means; raises :class:`InvalidNameError`.

    One with a host is what a pull of it gets: only for it the rules of registries are loaded.
    """
    with suppress(InvalidNameError):
        plain = ModelName.parse(text)
        if plain.namespace.lower() != "localhost":  # else it may be a host
            return plain
    from mbuild.registry.stored import local_name

    return local_name(text)


class NameType(ParamType):
    """A model's name; completes from the store."""

    name = "name"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> ModelName:
        """Parse, or refuse as wrong usage."""
        if isinstance(value, ModelName):
            return value
        try:
            return model_name(value)
        except InvalidNameError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Names in the store that begin so."""
        from click.shell_completion import CompletionItem

        names = (str(name) for name in open_store(ctx, ctx.params.get("store")).manifests.names())
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def printable(line: str) -> str:
    """A line without what a terminal would obey: names and texts come from anywhere."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)


UNSAFE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
"""What a text can do to a terminal: move its cursor, turn its text round, end a line."""


def harmless(text: str) -> str:
    """A text of many lines without what a terminal would obey; joiners and wide spaces stay."""
    return re.sub(UNSAFE, lambda found: ascii(found[0])[1:-1], text)


def write_text(text: str) -> None:
    """Write a model's or a file's text to standard output.

    A program gets it as it is, a terminal what is :func:`harmless`.
    """
    if sys.stdout.isatty():
        text = harmless(text.replace("\r\n", "\n"))
    click.echo(text, nl=False, color=True)  # else click leaves escape sequences out


def write_json(value: object) -> None:
    """Write a value to standard output as JSON in which every character can be shown.

    What a terminal would obey is escaped as JSON has it, so that it means the same.
    """
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo(re.sub(UNSAFE, lambda found: f"\\u{ord(found[0]):04x}", text))


def columns_of(stream: TextIO | None = None) -> int:
    """How many cells a line on a terminal has (standard output's); 0: no terminal, no limit."""
    stream = sys.stdout if stream is None else stream
    with suppress(OSError, ValueError, AttributeError):
        if stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns
    return 0


def color_on(stream: TextIO) -> bool:
    """Whether to write colors to a stream: to a terminal, unless the environment says otherwise.

    NO_COLOR (https://no-color.org) comes before FORCE_COLOR (https://force-color.org), and
    those before CLICOLOR_FORCE and CLICOLOR (https://bixense.com/clicolors).
    """
    said = os.environ.get
    if said("NO_COLOR"):
        return False
    if said("FORCE_COLOR", "0") not in ("", "0") or said("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return said("CLICOLOR") != "0" and said("TERM") != "dumb" and stream.isatty()


def say_reading(name: str, size: int) -> None:
    """On a terminal: that a file is being read that takes its time."""
    if size >= _SLOW_TO_READ and sys.stderr.isatty():
        click.echo(f"reading {name}, {human_size(size)}", err=True)


def read_limited(path: Path | None, name: str) -> bytes:
    """A small file's bytes, or standard input's (None); ``name`` is for messages.

    Raises :class:`SourceError` for what is no regular file, :class:`MissingFileError`
    for what is not there, and for more than :data:`MAX_TEXT_BYTES`.
    """
    from mbuild.store.copying import OpenFile

    if path is None:
        data = sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
    else:
        try:
            opened = OpenFile.open(path, name)
        except SourceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise MissingFileError(error.message) from None
            raise
        with opened, open(opened.fd, "rb", closefd=False) as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        from mbuild.language.foreign import recognise

        found = recognise(data, Path(name).name)
        message = f"{name} is larger than {MAX_TEXT_BYTES >> 20} MiB"
        raise (
            SourceError(f"{message}: it is {found[0]}", hint=found[1])
            if found
            else SourceError(message)
        )
    return data


class TemplateType(ParamType):
    """A model's name in which ``{quant}`` and ``{target}`` may stand for what will be built."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it as if both were there; refuse as wrong usage."""
        try:
            model_name(value.replace("{quant}", "q").replace("{target}", "t"))
        except InvalidNameError as error:
            self.fail(str(error), param, ctx)
        return str(value)


_SHOWN = 5
"""Files that were left out and are named."""


def left_out(names: tuple[str, ...]) -> str:
    """What to say of files of a package that a model has no place for."""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"left out, because a model has no place for it: {printable(shown)}"
