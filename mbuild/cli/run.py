"""``run``, ``ps`` and ``stop``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.answers import Answers
from mbuild.cli.common import NameType, format_option, harmless, open_store, store_option
from mbuild.cli.running import engine_of
from mbuild.cli.typed import FILE, kept_lines, typed_text
from mbuild.core.errors import (
    MbuildError,
    NameNotFoundError,
    ServingError,
    Terminated,
    UsageError,
)
from mbuild.core.names import DEFAULT_HOST, InvalidNameError
from mbuild.core.patterns import regex
from mbuild.core.system import unreadable

if TYPE_CHECKING:
    from mbuild.cli.talking import Talker
    from mbuild.core.names import ModelName
    from mbuild.runtime.asked import Ask, ChatTurn
    from mbuild.store import Store

MAX_INPUT = 16 << 20
"""Bytes of the longest standard input."""

RUN_EPILOG = """\
\b
Examples:
  mbuild run mario
  mbuild run mario "Who are you?"
  mbuild run mario "Sum this up:" < report.txt
  mbuild run mario --format json "A character as JSON"
"""


@click.command("run", epilog=RUN_EPILOG)
@click.argument("name", metavar="NAME", type=NameType())
@click.argument("prompt", metavar="[PROMPT]", nargs=-1)
@store_option
@click.option(
    "--format",
    "shape",
    metavar="json|SCHEMA",
    help="Answer with JSON: any object, or one of a JSON Schema (its text or its file).",
)
@click.option("--think", metavar="true|false|LEVEL", help="Think before the answer, and how much.")
@click.option("--hide-thinking", is_flag=True, help="Do not show the thoughts.")
@click.option("--verbose", is_flag=True, help="Show how many tokens a second.")
@click.option(
    "--keepalive", metavar="TIME", help="How long mbuild serve keeps the model loaded (5m, -1s)."
)
@click.option(
    "--llama-server",
    metavar="PATH",
    help="Use this llama-server as the engine  [default: $MBUILD_LLAMA_SERVER, else the extra's]",
)
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    *,
    name: ModelName,
    prompt: tuple[str, ...],
    store: str | None,
    **options: Any,
) -> None:
    """Run a model: answer PROMPT, or on a terminal talk.

    Paths of images in a prompt are given to a model that can look at them. Where mbuild
    serve serves this store, it is asked; else the model is loaded for this command alone.
    A server with a token wants it in the environment variable MBUILD_TOKEN.

    The exit status is 1 when --format was asked for and the answer was cut short.
    """
    opened = open_store(ctx, store)
    text = " ".join(prompt)
    if not sys.stdin.isatty():
        text = "\n".join(part for part in (_standard_input(), text) if part)
        if not text:
            raise UsageError(
                "there is no prompt",
                hint=f"mbuild run {name} PROMPT, or give it on standard input",
            )
    asked = {"schema": _schema(options["shape"]), "think": _think(options["think"])}
    talker = _talker(opened, name, options)
    try:
        make = _asker(talker, asked | {"complete": bool(text)})
        if text:
            answers = Answers(talker, options)
            answers.show(make([_turn(talker, text)]))
            if answers.was_interrupted:
                raise KeyboardInterrupt
            if answers.is_broken:
                ctx.exit(1)
        else:
            click.echo(f"loading {name}", err=True)
            talker.load()
            with kept_lines(opened.private / FILE):
                _talk(talker, make, Answers(talker, options))
    finally:
        talker.close()


def _standard_input() -> str:
    data = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise UsageError(f"standard input is longer than {MAX_INPUT >> 20} MiB")
    try:
        return data.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise _no_text(f"standard input is not UTF-8 text (byte {error.start + 1})") from None


def _no_text(message: str) -> UsageError:
    return UsageError(message, hint="a model reads UTF-8: iconv -f ENCODING -t UTF-8 converts it")


def _talker(opened: Store, name: ModelName, options: dict[str, Any]) -> Talker:
    """Mbuild's server where it serves this store, else an engine of our own."""
    from mbuild.cli.talking import AtServer, OwnEngine
    from mbuild.models import library
    from mbuild.runtime.pool import seconds_of
    from mbuild.runtime.runnable import doubt_of
    from mbuild.store.serving import served_at

    try:
        library.find(opened, name)
    except NameNotFoundError as error:
        raise NameNotFoundError(error.message, hint=error.hint or _remedy(name)) from None
    if doubt := doubt_of(library.view(opened, name)):
        click.echo(f"warning: {doubt}", err=True)
    keep = options["keepalive"]
    if keep is not None:
        seconds_of(keep)
    served = served_at(opened.private)
    if served.runs and not options["llama_server"]:
        return AtServer(served.url, name, keep)
    if keep is not None:
        without = "with --llama-server" if served.runs else "without it"
        click.echo(
            f"note: --keepalive needs mbuild serve; {without} the model ends with this command",
            err=True,
        )
    return OwnEngine(opened, name, engine_of(options["llama_server"]))


def _remedy(name: ModelName) -> str:
    """What to do about a name that the store does not have."""
    from mbuild.registry.reference import ModelReference

    listed = "mbuild list lists them"
    try:
        # Not as the store spells it, which has "_" for a namespace that is not there.
        reference = ModelReference.of(name)
    except InvalidNameError:
        return listed
    there = name if name.host == DEFAULT_HOST else reference
    return f"mbuild pull {there} gets it from a registry; {listed}"


def _asker(talker: Talker, asked: dict[str, Any]) -> Callable[[list[ChatTurn]], Ask]:
    """Makes the request of a conversation; ``asked`` is what any of its requests has."""
    from mbuild.runtime.asked import Ask

    chats = "completion" in talker.capabilities

    def make(turns: list[ChatTurn]) -> Ask:
        if not chats:
            raise UsageError("the model makes embeddings: it cannot answer")
        return Ask(tuple(turns), **asked)

    return make


_SHAPES = "--format takes json, a JSON Schema, or the path of one"


def _schema(text: str | None) -> Any:
    if text is None or text == "json":
        return text
    where = "the JSON Schema of --format"
    if not text.lstrip().startswith("{"):
        where, text = text, _schema_file(text)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{where} is not JSON: {place}: {error.msg}", hint=_SHAPES) from None
    except ValueError:  # Python reads no number of thousands of digits
        raise UsageError(f"{where} has a number that is too long", hint=_SHAPES) from None
    except RecursionError:
        raise UsageError(f"{where} is nested too deeply") from None
    if not isinstance(value, dict):
        raise UsageError(f"{where} is JSON, but no object", hint=_SHAPES)
    return value


def _schema_file(path: str) -> str:
    """The text of a JSON Schema's file."""
    if not os.path.exists(path):
        raise UsageError(f"--format: there is no file {path}", hint=_SHAPES)
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise _no_text(f"{path} is not UTF-8 text (byte {error.start + 1})") from None


def _think(text: str | None) -> bool | str | None:
    if text is None:
        return None
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if text.lower() not in ("low", "medium", "high", "max"):
        raise UsageError("--think is true, false, low, medium, high or max")
    return text.lower()


def _turn(talker: Talker, text: str) -> ChatTurn:
    """A message; files of images in its text are taken out and given along."""
    from mbuild.cli.looking import looked
    from mbuild.runtime.asked import ChatTurn

    found = looked(text, able=bool({"vision", "audio"} & set(talker.capabilities)))
    for note in found.notes:
        click.echo(f"note: {harmless(note)}", err=True)
    try:
        found.text.encode()
    except UnicodeEncodeError:  # Python has surrogates for bytes of arguments that are no text
        raise _no_text("the prompt is not UTF-8 text") from None
    return ChatTurn("user", found.text, images=found.files)


_COMMAND = regex(r"/[^/]*")
"""What is meant as a command, and not as a path."""

_HELP = """\
  /clear   forget the conversation
  /bye     end (Ctrl-D too); Ctrl-C stops an answer
  \"\"\"      begins and ends a text of several lines"""


def _talk(talker: Talker, make: Callable[[list[ChatTurn]], Ask], answers: Answers) -> None:
    """The loop on a terminal: a prompt, its answer, the next one."""
    from mbuild.runtime.asked import ChatTurn

    turns: list[ChatTurn] = []
    while (text := typed_text()) is not None:
        command = text.strip()
        word = command.partition(" ")[0]
        if word in ("/bye", "/exit", "/quit"):
            return
        if word == "/clear":
            turns = []
        elif word in ("/?", "/help"):
            click.echo(_HELP)
        elif _COMMAND.fullmatch(word) and not os.path.exists(word):
            click.echo(f"{word} is not a command; /? lists them")
        elif command:
            before = len(turns)
            try:
                turns.append(_turn(talker, text))
                turns.append(ChatTurn("assistant", answers.show(make(turns))))
            except MbuildError as error:
                del turns[before:]
                hint = f" ({error.hint})" if error.hint else ""
                click.echo(f"error: {harmless(error.message)}{hint}", err=True)
            except Terminated:
                raise
            except KeyboardInterrupt:
                turns.append(ChatTurn("assistant", ""))


PS_EPILOG = """\
\b
Examples:
  mbuild ps
  mbuild ps --format json
"""


@click.command("ps", epilog=PS_EPILOG)
@store_option
@format_option
@click.pass_context
def ps_command(ctx: click.Context, *, store: str | None, style: str) -> None:
    """List the models that mbuild serve has loaded.

    A server with a token wants it in the environment variable MBUILD_TOKEN.
    """
    from mbuild.cli.common import human_size

    server = _Server(open_store(ctx, store))
    rows = server.loaded()
    if not server.runs:
        click.echo(f"note: the server at {server.url} runs no models", err=True)
    if style == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    table = [("NAME", "ID", "SIZE", "CONTEXT", "UNTIL")]
    for row in rows:
        context, until = str(row.get("context_length", "")), _until(str(row["expires_at"]))
        table.append((row["name"], row["digest"][:12], human_size(row["size"]), context, until))
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
    for cells in table:
        line = "    ".join(c.ljust(width) for c, width in zip(cells, widths, strict=True))
        click.echo(line.rstrip())


def _until(expires: str) -> str:
    """A time of any zone in UTC to the second; a hundred years ahead is for ever."""
    time = datetime.fromisoformat(expires).astimezone(UTC)
    ahead = time.year - datetime.now(UTC).year
    return "forever" if ahead > 100 else f"{time:%Y-%m-%dT%H:%M:%SZ}"


STOP_EPILOG = """\
\b
Examples:
  mbuild stop mario
"""


@click.command("stop", epilog=STOP_EPILOG)
@click.argument("name", metavar="NAME", type=NameType())
@store_option
@click.pass_context
def stop_command(ctx: click.Context, *, name: ModelName, store: str | None) -> None:
    """Unload a model that mbuild serve has loaded.

    A server with a token wants it in the environment variable MBUILD_TOKEN.
    """
    opened = open_store(ctx, store)
    server = _Server(opened)
    before = server.loaded()
    server.ask("/api/generate", {"model": str(name), "keep_alive": 0, "stream": False})
    after = server.loaded()
    # Models of the same weights share an engine, which has the name of the one asked last.
    if str(opened.manifests.resolve(name)) in [row["name"] for row in after]:
        click.echo(f"{name} ends with the answer that it is giving", err=True)
    else:
        ended = len(after) < len(before)
        click.echo(f"stopped {name}" if ended else f"{name} is not loaded", err=True)


class _Server:
    """Mbuild's server of a store."""

    def __init__(self, opened: Store) -> None:
        """Raises :class:`ServingError` where there is none."""
        import urllib3

        from mbuild.store.serving import served_at

        self.url, self.runs = served_at(opened.private)
        if not self.url:
            raise ServingError(
                f"no mbuild serve runs on the store {opened.root}",
                hint="a model that mbuild run runs without it ends with the command",
            )
        self._http = urllib3.PoolManager(retries=False)

    def ask(self, path: str, body: Any) -> list[Any]:
        """What it answers; a GET without a body."""
        from mbuild.cli.talking import ask_server

        return list(ask_server(self._http, self.url, path, body))

    def loaded(self) -> list[Any]:
        """The rows of the models that it has loaded."""
        return list(self.ask("/api/ps", None)[0].get("models") or ())
