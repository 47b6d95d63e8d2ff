"""What to do about a name that leads nowhere: the words of hints, for all who resolve names."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near

_STAGE = regex(r"(\S.*?)\s+AS\s+[A-Za-z0-9_.-]+\s*", re.IGNORECASE | re.DOTALL)
_COMMENT = regex(r"(\S.*?)\s+(?:#|//).*", re.DOTALL)
_DRIVE = regex(r"([A-Za-z]):[\\/](.*)", re.DOTALL)
_WEIGHTED = regex(r"(\S+[^/\\:]):([+-]?[0-9]*\.?[0-9]+)")
_HUB_PAGE = regex(
    r"(?:hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)(?!datasets/|spaces/)"
    r"([\w.-]+/[\w.-]+)(?=[/?#@:]|$)(?:(?:/(?:resolve|blob)/[^/\s]+)?/([^\s?#]+))?",
    re.ASCII,
)
_OLLAMA_PAGE = regex(r"https?://(?:www\.)?ollama\.com/(?:library/)?([\w./:-]+?)/?")
_TYPE_IN_NAME = regex(r"[-.]((?:I?Q\d\w*|BF16|F16|F32))\.gguf", re.IGNORECASE)
_REPOSITORY = regex(r"[\w.-]+/[\w.-]+")
_ENTRIES = 1000  # entries of a folder that are looked at


def obtain(value: str) -> str:
    """How to get a model that is not in the store."""
    if "://" in value and (meant := of_address(value)):
        return meant
    if _REPOSITORY.fullmatch(value):
        return f"fetch it first: mbuild pull {value}; a repository of Hugging Face is hf.co/{value}"
    return f"fetch it first: mbuild pull {value}"


def stage_meant(value: str, text: str) -> str:
    """The stage of a Modelfile's text that a FROM without a model nearly names; or nothing."""
    names = re.findall(r"(?im)^[ \t]*FROM[ \t]+\S.*[ \t]AS[ \t]+(\S+)[ \t\r]*$", text)
    words = value.split()
    return next(iter(near(words[0], names, cutoff=0.8)), "") if words else ""


def whole_line(value: str) -> tuple[str, str, str] | None:
    """What else than a name stands behind FROM: the problem's code, what to write, the name."""
    if match := _STAGE.fullmatch(value):
        hint = (
            f"stages need # syntax=mbuild/1 as the first line; without them write FROM {match[1]}"
        )
        return "from-stage", hint, match[1]
    if match := _COMMENT.fullmatch(value):
        hint = f"a comment needs a line of its own: write FROM {match[1]}"
        return "comment-in-value", hint, match[1]
    return None


def missing(folder: Path, value: str, word: str = "FROM") -> str:
    """What a path behind an instruction that leads nowhere was meant to be; or nothing."""
    if found := whole_line(value):
        return found[1]
    weighted = _WEIGHTED.fullmatch(value) if word == "MERGE" else None
    if weighted is not None:
        return f"a weight has a word of its own: MERGE {weighted[1]} WEIGHT {weighted[2]}"
    if meant := of_address(value):
        return meant
    if "://" in value:
        return (
            "write the file's digest behind it, URL@sha256:..., or fetch the file first, for"
            " example with curl -LO"
        )
    if drive := _DRIVE.fullmatch(value):
        rest = drive[2].replace("\\", "/")
        there = f"/mnt/{drive[1].lower()}/{rest}"
        what = did_you_mean([there]) if os.path.exists(there) else "write it as this system does"
        return f"a drive letter works only on Windows: {what}"
    if "\\" in value and os.sep == "/":
        plain = re.sub(r"[\\/]+", "/", value)  # two, where somebody escaped one
        if os.path.exists(folder / plain):
            return f"{did_you_mean([plain])} this system separates folders with /"
        value = plain
    if value.startswith("~"):
        whole = os.path.expanduser(value)
        what = did_you_mean([whole]) if os.path.exists(folder / whole) else "write the whole path"
        return f"a Modelfile has no ~ for the home folder: {what}"
    path = folder / value
    names = entries(path.parent)
    if names is None:
        return f"the folder {path.parent.name} does not exist"
    longer = [name for name in names if name.startswith(f"{path.name}.")]
    return did_you_mean(longer[:3] or near(path.name, names, 3))


def of_address(value: str) -> str:
    """The name of a model whose page, or whose file, an address is of; or nothing."""
    if match := _HUB_PAGE.match(value):
        file = (match[2] or "").rpartition("/")[2]
        type_ = _TYPE_IN_NAME.search(file)
        tag = f":{type_[1] if type_ else file}" if file.endswith(".gguf") else ""
        return did_you_mean([f"hf.co/{match[1]}{tag}"])
    match = _OLLAMA_PAGE.fullmatch(value)
    return did_you_mean([match[1]] if match else [])


def entries(folder: Path) -> list[str] | None:
    """The names in a folder, sorted, of a huge one some; None if it cannot be listed."""
    try:
        return sorted(entry.name for entry in islice(folder.iterdir(), _ENTRIES))
    except (OSError, ValueError):
        return None


def inside(folder: Path, value: str, word: str = "FROM") -> str:
    """Where the model is that a folder itself does not hold: in a folder of it; or nothing."""
    snapshots = folder / "snapshots"
    if snapshots.is_dir():  # the root of a model in the Hugging Face cache
        folder, value = snapshots, f"{value.rstrip('/')}/snapshots"
    found = [name for name in entries(folder) or () if holds_model(folder / name, word)]
    main = _main_revision(snapshots) if folder == snapshots else ""
    if main in found:
        found = [main]
    return did_you_mean([f"{word} {value.rstrip('/')}/{name}" for name in found[:3]])


def _main_revision(snapshots: Path) -> str:
    try:
        with (snapshots.parent / "refs" / "main").open("rb") as file:
            return file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return ""


def holds_model(folder: Path, word: str = "FROM") -> bool:
    """Whether a folder looks like one that FROM, ADAPTER or DRAFT can name."""
    names = entries(folder) or []
    if any(name.lower().endswith(".gguf") for name in names):
        return True
    config = "adapter_config.json" if word == "ADAPTER" else "config.json"
    return config in names and any(name.endswith(".safetensors") for name in names)


def offers(folder: Path) -> str:
    """What to build in a folder that has no Modelfile, by what lies there."""
    if folder.is_file():
        is_model = folder.suffix.lower() == ".gguf"
        what = f"write FROM {folder} into a Modelfile" if is_model else f"name it with -f {folder}"
        return f"it is a file, not a folder: {what}"
    names = entries(folder) or []
    modelfiles = [name for name in names if "modelfile" in name.lower() and "lock" not in name]
    if modelfiles:
        return "name the Modelfile: " + ", ".join(f"-f {folder / name}" for name in modelfiles[:3])
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    lines = [f"FROM ./{name}" for name in ggufs if "mmproj" not in name.lower()] or ggufs
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        lines = ["FROM ."]
    if lines:
        return f"write a Modelfile with the line {' or '.join(lines[:3])}, or name one with -f FILE"
    if deeper := inside(folder, "."):
        return f"{deeper} Write that line into a Modelfile"
    return "name one with -f FILE, or see mbuild --help"
