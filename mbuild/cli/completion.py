"""``completion``: scripts that let a shell complete mbuild's commands, options and values.

A script calls ``mbuild`` with the line so far; click finds out what is being typed, and
:data:`VALUES` says what can stand there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from mbuild.cli.common import ParamType, open_store
from mbuild.core.errors import MbuildError
from mbuild.quant.choose import options
from mbuild.quant.choose.options import OPTIONS, OptionKind

EPILOG = """\
\b
Examples:
  mbuild completion bash > ~/.local/share/bash-completion/completions/mbuild
  mbuild completion zsh > ~/.zfunc/_mbuild
  mbuild completion fish > ~/.config/fish/completions/mbuild.fish
"""

VARIABLE = "_MBUILD_COMPLETE"
"""Set by the scripts: what to do, such as ``bash_complete``."""

_BUILDS = 50
"""Ids of so many builds are offered, the newest first."""

Words = Callable[[click.Context], Iterable[str]]


@click.command("completion", epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script for a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "mbuild", VARIABLE).source())


# What can be completed.


def models(ctx: click.Context) -> Iterable[str]:
    """Names of the store's models."""
    return sorted(str(name) for name in open_store(ctx, ctx.params.get("store")).manifests.names())


def builds(ctx: click.Context) -> Iterable[str]:
    """Names of models, and ids of builds."""
    from itertools import islice

    from mbuild.build.history import History

    history = History(open_store(ctx, ctx.params.get("store")))
    return [*models(ctx), *(record.id for record in islice(history.newest_first(), _BUILDS))]


def file_types(ctx: click.Context) -> Iterable[str]:
    """What ``-q`` takes, as people spell it."""
    from mbuild.quant.choose.options import spelled
    from mbuild.quant.choose.types import FILE_TYPES

    return [spelled(kind.name) for kind in FILE_TYPES]


def tensor_types(ctx: click.Context) -> Iterable[str]:
    """Types of single tensors."""
    from mbuild.gguf.types import GGMLType
    from mbuild.quant.choose.options import spelled

    return [spelled(kind.name) for kind in GGMLType]


def hosts(ctx: click.Context) -> Iterable[str]:
    """The registries of which a login is kept in Docker's file."""
    from mbuild.registry.auth.keeping import hosts as kept

    return kept()


FILE, FOLDER = "file", "dir"

_BY_KIND: dict[OptionKind, tuple[Words | None, str]] = {
    options.FILE: (None, FILE),
    options.TYPE: (tensor_types, ""),
}
"""What can stand behind an option of a quantization, by its kind."""

VALUES: dict[tuple[str, str], tuple[Words | None, str]] = {
    ("", "file"): (None, FILE),
    ("", "files"): (None, FILE),
    ("", "named"): (None, FILE),
    ("", "folder"): (None, FOLDER),
    ("", "store"): (None, FOLDER),
    ("", "output"): (None, FILE),
    ("", "tensor_type_file"): (None, FILE),
    ("", "quantize"): (file_types, ""),
    ("", "draft_quantize"): (file_types, ""),
    ("", "names"): (models, ""),
    ("", "name"): (models, ""),
    ("", "build"): (builds, ""),
    ("list", "start"): (models, ""),
    ("pull", "reference"): (models, ""),
    ("push", "target"): (models, ""),
    ("login", "host"): (hosts, ""),
    ("logout", "host"): (hosts, ""),
    ("serve", "registries"): (hosts, ""),
    ("cp", "source"): (models, ""),
    ("cp", "target"): (models, ""),
    ("diff", "old"): (models, FILE),
    ("diff", "new"): (models, FILE),
    ("import-recipe", "source"): (models, FILE),
    **{("", row.name): _BY_KIND[row.kind] for row in OPTIONS.values() if row.kind in _BY_KIND},
}
"""What a parameter's value can be, by command ("": any that has no row) and parameter: words,
and files or folders."""


class Completed(ParamType):
    """The type of a parameter while a shell completes it: anything, with its suggestions."""

    name = "text"

    def __init__(self, words: Words | None, kind: str) -> None:
        self._words = words
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Whatever was typed."""
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Words that begin so, and where files can stand what the shell finds."""
        found: list[CompletionItem] = []
        with suppress(MbuildError, OSError):
            words = self._words(ctx) if self._words else ()
            low = incomplete.lower()
            found = [CompletionItem(word) for word in words if word.lower().startswith(low)]
        return [*found, CompletionItem(incomplete, type=self._kind)] if self._kind else found


def prepare(command: click.Command, name: str) -> click.Command:
    """A command whose parameters know what can stand there."""
    for param in command.params:
        row = VALUES.get((name, str(param.name))) or VALUES.get(("", str(param.name)))
        if row is not None and not getattr(param, "is_flag", False):
            param.type = Completed(*row)
    return command


# Bash, for which a colon divides words: click's own script knows nothing of that.

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    while read -r line; do
        case "$line" in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*) COMPREPLY+=("${line#plain,}") ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(ShellComplete):
    """Completion for bash: of the whole line, and of that the part behind the last divider."""

    name = "bash"
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one being typed, and that one."""
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        return words, incomplete

    def complete(self) -> str:
        """A line for each suggestion: its type, a comma, what replaces the divided word."""
        words, incomplete = self.get_completion_args()
        dividers = os.environ.get("COMP_WORDBREAKS", "")
        option, equals, value = "", "", incomplete
        if incomplete.startswith("-"):
            option, equals, value = incomplete.partition("=")
            value = value if equals else incomplete
        before = f"{option}=" if equals and "=" not in dividers else ""
        cut = max((value.rfind(c) + 1 for c in ":=" if c in dividers), default=0)
        lines = [
            f"{item.type},{before}{item.value if item.type != 'plain' else item.value[cut:]}"
            for item in self.get_completions(words, incomplete)
        ]
        return "\n".join(lines)

    def format_completion(self, item: CompletionItem) -> str:
        """A suggestion's line where no divider is in the word."""
        return f"{item.type},{item.value}"


add_completion_class(Bash)
