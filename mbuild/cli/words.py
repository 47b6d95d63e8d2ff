"""Words that other tools have taught people's fingers, and words that nobody knows.

Loaded when a command line begins with a word that is no command of mbuild.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from mbuild.core.errors import UsageError
from mbuild.core.suggest import did_you_mean, near

ALIASES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("ls",): ("list",),
    ("images",): ("list",),
    ("image", "ls"): ("list",),
    ("image", "list"): ("list",),
    ("image", "build"): ("build",),
    ("image", "rm"): ("rm",),
    ("image", "tag"): ("cp",),
    ("image", "inspect"): ("show",),
    ("image", "history"): ("history",),
    ("buildx", "build"): ("build",),
    ("builder", "build"): ("build",),
    ("system", "df"): ("du",),
    ("image", "pull"): ("pull",),
    ("image", "push"): ("push",),
    ("download",): ("pull",),
    ("fetch",): ("pull",),
    ("upload",): ("push",),
    ("signin",): ("login",),
    ("signout",): ("logout",),
    ("rmi",): ("rm",),
    ("remove",): ("rm",),
    ("delete",): ("rm",),
    ("tag",): ("cp",),
    ("copy",): ("cp",),
    ("inspect",): ("show",),
    ("info",): ("show",),
    ("start",): ("serve",),
    ("chat",): ("run",),
    ("generate",): ("run",),
    ("exec",): ("run",),
    ("kill",): ("stop",),
    ("unload",): ("stop",),
    ("lint",): ("check",),
    ("validate",): ("check",),
    ("format",): ("fmt",),
}
"""What Docker, Ollama and others call a command of mbuild that takes the same arguments."""

_SERVER = "mbuild serve writes its log to standard error"
_PRUNE = "mbuild prune removes what no model uses"
_BUILDING = "mbuild does that as part of a build"

ELSEWHERE: dict[tuple[str, ...], tuple[str, str]] = {
    ("search",): (
        "mbuild does not search registries",
        "search on ollama.com/search or huggingface.co/models",
    ),
    ("logs",): (_SERVER, "mbuild history lists the builds"),
    ("save",): (
        "mbuild export writes a model to a file",
        "mbuild export {} -o FILE.tar; mbuild import FILE.tar brings it back",
    ),
    ("load",): ("mbuild import brings in what mbuild export wrote", "mbuild import FILE.tar"),
    ("image", "save"): ("mbuild export writes a model to a file", "mbuild export {} -o FILE.tar"),
    ("image", "load"): ("mbuild import brings in a file", "mbuild import FILE.tar"),
    ("image", "prune"): (_PRUNE, "mbuild prune --dry-run shows what would be removed"),
    ("system", "prune"): (_PRUNE, "mbuild prune --dry-run shows what would be removed"),
    ("builder", "prune"): (_PRUNE, "mbuild prune --dry-run shows what would be removed"),
    ("buildx", "prune"): (_PRUNE, "mbuild prune --dry-run shows what would be removed"),
    ("clean",): (_PRUNE, "mbuild prune --dry-run shows what would be removed"),
    ("quantize",): (_BUILDING, "mbuild -q q4_K_M -t NAME"),
    ("convert",): (_BUILDING, "write FROM ./FOLDER into a Modelfile, then mbuild -t NAME"),
    ("init",): (
        "a Modelfile needs one line",
        "write FROM ./FOLDER, or FROM a model's name, into the file Modelfile",
    ),
}
"""What mbuild does not do under that name: one sentence, and what to type.

``{}`` stands for the arguments that followed, ``{0}`` for the first; ``NAME`` if there were none.
"""

_FOLLOWED = frozenset(words[0] for words in (*ALIASES, *ELSEWHERE) if len(words) > 1)
_NEAR = 0.7


def known_words() -> tuple[str, ...]:
    """Every word of other tools, for near misses."""
    return tuple(dict.fromkeys(words[0] for words in (*ALIASES, *ELSEWHERE))) + _SPECIAL


_SPECIAL = ("create", "help", "version")


def translate(
    args: Sequence[str], commands: Sequence[str], with_value: Container[str] = ()
) -> list[str]:
    """A command line that begins with a word, in mbuild's own words.

    ``args[0]`` is no command and no option; ``with_value`` has the options that an argument
    follows. A folder with a Modelfile is what is to be built. Raises :class:`UsageError` for a
    word that nobody knows, and for one that stands for something that mbuild does not do.
    """
    word, rest = args[0], list(args[1:])
    if _is_path(word) or Path(word, "Modelfile").exists():
        return ["build", *args]
    for length in (2, 1):
        start = tuple(args[:length])
        if len(start) == length and start in ALIASES:
            return [*ALIASES[start], *args[length:]]
        if len(start) == length and start in ELSEWHERE:
            raise _elsewhere(start, args[length:])
    if word == "create":
        return _create(rest, with_value)
    if word == "version":
        return ["--version"]
    if word == "help":
        return _help(rest, commands)
    if os.path.isdir(word):
        return ["build", *args]
    raise unknown(args, commands)


def unknown(args: Sequence[str], commands: Sequence[str]) -> UsageError:
    """The error about a word that is neither a command nor a folder."""
    word = args[0]
    if word in _FOLLOWED:
        pairs = [" ".join(words) for words in (*ALIASES, *ELSEWHERE) if words[0] == word]
        said = " ".join(args[:2])
        return UsageError(f"unknown command {said!r}", hint=f"mbuild knows {', '.join(pairs)}")
    if os.path.isfile(word):
        return not_a_folder(word)
    meant = near(word, [*commands, *known_words()], cutoff=_NEAR)
    hint = did_you_mean([f"mbuild {name}" for name in meant], "mbuild --help lists the commands")
    return UsageError(f"unknown command {word!r}", hint=hint)


def not_a_folder(path: str) -> UsageError:
    """The error about a file that stands where the folder to build would: how to use it."""
    hint = f"mbuild -f {path}"
    if path.lower().endswith(".gguf"):
        hint = f"write FROM {path if _is_path(path) else f'./{path}'} into a Modelfile"
    return UsageError(f"{path} is a file, not a folder", hint=hint)


def _is_path(word: str) -> bool:
    """Whether a word can only be meant as a place: ``.``, ``./x``, ``~/x``, ``a/b``, ``-``."""
    return word in ("", "-", ".", "..") or os.sep in word or word.startswith("~")


def _elsewhere(words: tuple[str, ...], rest: Sequence[str]) -> UsageError:
    sentence, hint = ELSEWHERE[words]
    names = [item for item in rest if not item.startswith("-")] or ["NAME"]
    remedy = hint.replace("{0}", names[0]).replace("{}", " ".join(names))
    return UsageError(f"{' '.join(words)}: {sentence}", hint=remedy)


def _create(args: Sequence[str], with_value: Container[str]) -> list[str]:
    """``ollama create NAME -f FILE`` as ``mbuild build -t NAME -f FILE``."""
    if {"-h", "--help"} & set(args):
        return ["build", "--help"]
    place = next(_positionals(args, with_value), None)
    if place is None:
        raise UsageError("create: the model's name is missing", hint="mbuild create NAME -f FILE")
    return ["build", "-t", args[place], *args[:place], *args[place + 1 :]]


def _positionals(args: Sequence[str], with_value: Container[str]) -> Iterator[int]:
    """The places of the arguments that are neither options nor their values."""
    place = 0
    while place < len(args):
        if args[place] in with_value:
            place += 1
        elif not args[place].startswith("-"):
            yield place
        place += 1


def _help(args: Sequence[str], commands: Sequence[str]) -> list[str]:
    """``help COMMAND`` as ``COMMAND --help``."""
    if not args:
        return ["--help"]
    if args[0] in commands or args[0] == "create":
        return ["build" if args[0] == "create" else args[0], "--help"]
    other = translate(args, commands)
    if other == ["build", *args]:  # a folder is no command
        raise unknown(args, commands)
    return other if other[0] in _GROUP_HELP else [other[0], "--help"]


_GROUP_HELP = ("--help", "--version")
