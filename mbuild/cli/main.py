"""The ``mbuild`` command: finds the subcommand, and turns errors into messages and statuses."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from mbuild import __version__
from mbuild.build.splitting import HALVES, SPLITTING
from mbuild.cli.common import QuickCommand, said_at_once
from mbuild.cli.signals import stop_on_signals, stopped
from mbuild.convert.conversion import CONVERSION
from mbuild.core.errors import CancelledError, MbuildError, UsageError
from mbuild.quant.choose.options import OPTIONS

COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("mbuild.cli.build", "Build a model from a Modelfile (what mbuild does by default)."),
    "plan": ("mbuild.cli.plan", "Preview a build: steps, bytes, memory, time."),
    "explain": ("mbuild.cli.plan", "Explain why each step will run or is cached."),
    "graph": ("mbuild.cli.graph", "Draw a build's steps: SVG, Mermaid or DOT."),
    "history": ("mbuild.cli.history", "List the last builds, or show one build's steps."),
    "watch": ("mbuild.cli.watch", "Build each finished checkpoint of a training run."),
    "lock": ("mbuild.cli.lock", "Pin a build's inputs and results in Modelfile.lock."),
    "report": ("mbuild.cli.report", "Write a page about a build: graph, times, layers, tensors."),
    "list": ("mbuild.cli.models", "List the models in the store."),
    "show": ("mbuild.cli.models", "Show a model: details, parameters, template, license."),
    "cp": ("mbuild.cli.models", "Give a model a second name."),
    "rm": ("mbuild.cli.models", "Remove models, and what only they used."),
    "diff": ("mbuild.cli.compare", "Show what differs between two models."),
    "du": ("mbuild.cli.disk", "Show disk use, and what prune would free."),
    "prune": ("mbuild.cli.disk", "Remove what no model uses."),
    "cache": ("mbuild.cli.cache", "Count or remove what lies in a shared cache."),
    "verify": ("mbuild.cli.disk", "Check every digest; quarantine damaged blobs."),
    "provenance": ("mbuild.cli.provenance", "Show how a model was made; print its SBOM."),
    "sign": ("mbuild.cli.provenance", "Sign a model and the statement about it."),
    "export": ("mbuild.cli.artifacts", "Write a model to GGUF, a directory or a tar archive."),
    "import": ("mbuild.cli.artifacts", "Import models from a tar archive."),
    "import-recipe": ("mbuild.cli.recipe", "Recover the quantization flags of a GGUF file."),
    "fmt": ("mbuild.cli.language", "Rewrite a Modelfile in its canonical form."),
    "check": ("mbuild.cli.language", "Find mistakes in a Modelfile without building it."),
    "lsp": ("mbuild.cli.lsp", "Help an editor with Modelfiles: completion, hints, fixes."),
    "pull": ("mbuild.cli.registry", "Pull a model from a registry into the store."),
    "push": ("mbuild.cli.registry", "Push a model from the store to a registry."),
    "login": ("mbuild.cli.login", "Log in to a registry."),
    "logout": ("mbuild.cli.login", "Log out of a registry."),
    "run": ("mbuild.cli.run", "Run a model: answer a prompt, or talk."),
    "measure": ("mbuild.cli.measure", "Measure a model on a text: perplexity, divergence."),
    "imatrix": ("mbuild.cli.measure", "Compute an importance matrix for quantization."),
    "ps": ("mbuild.cli.run", "List the models that mbuild serve has loaded."),
    "stop": ("mbuild.cli.run", "Unload a model that mbuild serve has loaded."),
    "serve": ("mbuild.cli.serve", "Serve Ollama's API for building and managing models."),
    "completion": ("mbuild.cli.completion", "Print the completion script for a shell."),
}
"""Every subcommand: where it is written, and the line that ``--help`` shows."""

EXIT_STATUS: dict[type[BaseException], int] = {
    UsageError: 2,
    MbuildError: 1,
}
"""The status of each kind of error; the first that fits counts."""

EPILOG = """\
\b
Examples:
  mbuild -t mario                    build ./Modelfile, name it mario
  mbuild -f Modelfile.dev -t mario:dev
  mbuild -f Modelfile.dev -t mario ../models   its paths start from ../models
  echo "FROM tiny" | mbuild -t copy-of-tiny -
  mbuild list
  mbuild show mario --modelfile
"""


class Commands(QuickCommand, click.Group):
    """A group whose default is ``build``, and whose commands are loaded when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All subcommands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one subcommand."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        if ctx.resilient_parsing:
            from mbuild.cli.completion import prepare

            return prepare(command, cmd_name)
        return command

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Commands, what begins a build (its options, a folder), and mbuild's own options."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        build = self.get_command(ctx, "build")
        assert build is not None
        below = click.Context(build, ctx, "build", resilient_parsing=True)
        found += build.shell_complete(below, incomplete)
        if not incomplete.startswith("-"):
            found.append(CompletionItem(incomplete, type="dir"))
        said = {item.value for item in found}
        own = click.Command.shell_complete(self, ctx, incomplete)
        return found + [item for item in own if item.value not in said]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their lines, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``build`` in front of what names no subcommand.

        A word that nobody knows is an error, but not while a shell completes it.
        """
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args and _for_completion(args))
        return super().parse_args(ctx, _with_command(args))


_GROUP_ONLY = {"--help", "-h", "--version"}
WITH_VALUE = {
    "--threads",
    "-f",
    "--file",
    "-t",
    "--tag",
    "--store",
    "--progress",
    "--outtype",
    "--pre",
    "-q",
    "--quantize",
    "--size",
    "--bpw",
    "--check",
    "--draft-quantize",
    "--tensor-type-file",
    "--format",
    "-o",
    "--output",
    "--pull",
    "--build",
    "--build-arg",
    "--target",
    "--converter",
    "--converter-python",
    "--on",
    "--part",
    "--cache-from",
    "--cache-to",
    "--cache-verify",
    *(
        row.flag
        for table in (OPTIONS, SPLITTING, CONVERSION, HALVES)
        for row in table.values()
        if row.kind.metavar
    ),
}
"""The options of build, and of what takes the same ones, that an argument follows."""


def _with_command(args: list[str]) -> list[str]:
    """The arguments with their subcommand after the options that come before it.

    A word after options of a build is where to build; after ``--store`` or nothing it is
    a command, or one of another tool's, or unknown.
    """
    position = _first_word(args)
    if position is None:
        return args
    if position < len(args):
        if args[position] in COMMANDS:
            return args
        if all(option.startswith("--store") for option in _options(args[:position])):
            from mbuild.cli.words import translate

            words = translate(args[position:], list(COMMANDS), WITH_VALUE)
            return [*args[:position], *words]
    return ["build", *args]


def _for_completion(args: list[str]) -> list[str]:
    """As :func:`_with_command`, but what is no command is taken for a build's arguments."""
    position = _first_word(args)
    if position is None or (position < len(args) and args[position] in COMMANDS):
        return args
    if position < len(args) and not os.path.isdir(args[position]):
        from mbuild.cli.words import ALIASES

        word = args[position]
        if (meant := ALIASES.get((word,), ("build",) if word == "create" else None)) is not None:
            return [*args[:position], *meant, *args[position + 1 :]]
    only_store = all(option.startswith("--store") for option in _options(args[:position]))
    return args if position >= len(args) and only_store else ["build", *args]


def _first_word(args: list[str]) -> int | None:
    """Where the first argument is that is no option and no option's value.

    None where an option of mbuild's own, such as ``--help``, comes before it.
    """
    position = 0
    while position < len(args) and args[position].startswith("-") and args[position] != "-":
        if args[position] in _GROUP_ONLY:
            return None
        position += 2 if args[position] in WITH_VALUE else 1
    return position


def _options(args: list[str]) -> list[str]:
    """The options among the arguments before the first word, without their values."""
    return [
        arg for number, arg in enumerate(args) if number == 0 or args[number - 1] not in WITH_VALUE
    ]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
    subcommand_metavar="[COMMAND] [ARGS]...",
)
@click.option(
    "--store",
    metavar="DIR",
    help="The store's folder  [default: $OLLAMA_MODELS, else $MBUILD_HOME/models, else"
    " ~/.ollama/models]",
)
@click.pass_context
def cli(ctx: click.Context, store: str | None) -> None:
    """Build models from Modelfiles, as docker build builds images.

    mbuild [-f FILE] [-t NAME]... [CONTEXT] builds CONTEXT/Modelfile and names
    the result. Steps whose inputs did not change are not run again.
    """
    ctx.obj = store


cli.params.insert(
    0,
    said_at_once(["--version"], "Show the version and exit.", lambda ctx: f"mbuild {__version__}"),
)


def run(args: Sequence[str]) -> int:
    """Run a command line; the exit status."""
    stop_on_signals()
    _prepare_streams()
    if "_MBUILD_COMPLETE" in os.environ:
        importlib.import_module("mbuild.cli.completion").prepare(cli, "")
    try:
        status = cli.main(args=list(args), prog_name="mbuild", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption):
            from mbuild.cli.endings import meant

            meant(error)
        text = io.StringIO()
        error.show(text)
        _say(text.getvalue().rstrip("\n"))
        return 2
    except (click.Abort, KeyboardInterrupt, CancelledError) as error:
        status = stopped()  # click has ended the line
        _say(error.message if isinstance(error, CancelledError) else "interrupted")
        return status
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter must not try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MbuildError as error:
        from mbuild.cli.errors import show_error

        show_error(error)
        return next(status for kind, status in EXIT_STATUS.items() if isinstance(error, kind))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"error: {where}{error.strerror or error}")
        from mbuild.core.system import remedy

        if hint := remedy(error) if _here() else "the current folder no longer exists":
            _say(f"  hint: {hint}")
        return 1
    except MemoryError:
        _say("error: there is not enough memory")
        return 1
    except Exception as error:
        from mbuild.cli.endings import bug

        _say(bug(error, args))
        return 1


def _say(text: str) -> None:
    """A message on standard error, safe on a terminal; nobody may be there to read it."""
    from mbuild.cli.errors import say

    say(text)


def _prepare_streams() -> None:
    """Standard streams that are there and take any character, as UTF-8.

    Without the first a file that is opened next, perhaps a blob, gets the number of
    a closed stream, and what is printed goes into it.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(fd)
        sys.stdin = sys.stdin or _nowhere("r")
        sys.stdout = sys.stdout or _nowhere("w")
        sys.stderr = sys.stderr or _nowhere("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            errors = "backslashreplace" if stream.errors == "strict" else stream.errors
            stream.reconfigure(encoding="utf-8", errors=errors)


def _here() -> str:
    """The current folder, "" if it was removed."""
    with suppress(OSError):
        return os.getcwd()
    return ""


def _nowhere(mode: str) -> Any:
    """A stream that gives nothing and takes everything."""
    return os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8")
