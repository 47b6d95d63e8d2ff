"""The model card of a repository: README.md, made from what the history knows of the build."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild import __version__
from mbuild.build.history import History, modelfile_text
from mbuild.core.patterns import regex
from mbuild.core.units import human_size
from mbuild.core.values import NamedTuple
from mbuild.quant.choose.options import spelled
from mbuild.store.contents import open_group
from mbuild.store.media import MODEL

if TYPE_CHECKING:
    from mbuild.build.history import BuildRecord
    from mbuild.store import Store, StoredManifest

MARK = "<!-- mbuild push writes this card; without this line it leaves it alone -->"
"""By this line a card is known that may be replaced."""

_MAX_LOCK = 16 << 20
_PLAIN = regex(r"[A-Za-z][\w./-]*")
_QUANT = regex(r"-((?:I?Q\d\w*|B?F16|F32|MXFP4\w*|TQ\d_\d))(?:-\d{5}-of-\d{5})?\.gguf$", re.I)


class CardOrigin(NamedTuple):
    """How a model was built, as far as the history knows.

    ``base`` is the repository of the Hub that it is made from, at ``commit``; ``command`` is
    the build's, ``modelfile`` and ``lock`` are the texts of the two files.
    """

    base: str = ""
    commit: str = ""
    command: str = ""
    modelfile: str = ""
    lock: str = ""
    quantized: bool = False
    version: str = __version__


def origin_of(store: Store, stored: StoredManifest) -> CardOrigin:
    """How a model of the store was built: empty where the history does not know."""
    record = History(store).maker_of(str(stored.name), stored.id)
    if record is None:
        return CardOrigin()
    base, commit = _base(record)
    script = record.request.script
    data = modelfile_text(script.text, store) if script is not None else None
    target = record.target_of(str(stored.name), stored.id)
    quantization = target.quantization if target is not None else None
    words = ["mbuild", "-t", stored.name.model]
    if quantization is not None:
        words += ["-q", spelled(quantization.file_type.name)]
        words += [word for flag in quantization.flags() for word in flag if word]
    lock = ""
    if script is not None:
        lock = _lock(Path(script.folder) / f"{Path(script.name).name}.lock", str(stored.id))
    return CardOrigin(
        base,
        commit,
        " ".join(words),
        (data or b"").decode("utf-8", "replace"),
        lock,
        quantization is not None,
        record.version,
    )


def _base(record: BuildRecord) -> tuple[str, str]:
    """The repository of the Hub that the weights are from, and its commit."""
    for step in record.steps:
        for material in step.materials:
            place = material.place
            if step.kind not in ("pull", "convert-adapter") and place.startswith("hf.co/"):
                repository, _, commit = place.removeprefix("hf.co/").partition("@")
                return repository, commit
    return "", ""


def _lock(path: Path, identity: str) -> str:
    """The lock beside a Modelfile, if this very model is in it."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_LOCK).decode()
        results = json.loads(text)["results"].values()
        return text if any(result["id"] == identity for result in results) else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


def metadata_of(store: Store, stored: StoredManifest) -> dict[str, str]:
    """What a GGUF's own metadata say of the model's license and base, where they do."""
    layers = stored.manifest.of_kind(MODEL)
    with open_group(store.blobs, layers, str(stored.name)) as weights:
        license_ = str(weights.get("general.license") or "")
        url = str(weights.get("general.base_model.0.repo_url") or "")
    base = url.partition("huggingface.co/")[2].strip("/")
    return {"license": license_, "base": base if base.count("/") == 1 else ""}


def card(
    repository: str, origin: CardOrigin, metadata: Mapping[str, str], sizes: Mapping[str, int]
) -> str:
    """The text of README.md; ``sizes`` are all GGUF files of the repository, in bytes."""
    base = origin.base or metadata.get("base", "")
    parts = [_front_matter(base, origin, metadata), MARK, f"# {repository.rpartition('/')[2]}"]
    parts.append(_made_from(base, origin))
    rows = "\n".join(f"| `{name}` | {human_size(size)} |" for name, size in sizes.items())
    parts.append(f"| file | size |\n|---|---|\n{rows}")
    variants = dict.fromkeys(m[1] for name in sizes if (m := _QUANT.search(name)))
    lines = [f"ollama run hf.co/{repository}:{name}" for name in variants]
    lines = lines or [f"ollama run hf.co/{repository}"]
    parts += ["## Use", _fenced("\n".join(lines), "console")]
    if origin.modelfile:
        parts += ["## How it was made", _fenced(origin.modelfile.rstrip("\n"), "dockerfile")]
        parts.append(_fenced(origin.command, "console"))
    if origin.lock:
        parts.append("`Modelfile.lock` pins what it was made from by digest: `mbuild --locked`.")
    return "\n\n".join(parts) + "\n"


def _front_matter(base: str, origin: CardOrigin, metadata: Mapping[str, str]) -> str:
    """The YAML that the Hub reads; a JSON string is one of YAML, too."""
    rows = ["---"]
    if base:
        rows.append(f"base_model: {_scalar(base)}")
        rows += ["base_model_relation: quantized"] if origin.quantized else []
    if metadata.get("license"):
        rows.append(f"license: {_scalar(metadata['license'])}")
    rows += ["library_name: gguf", "pipeline_tag: text-generation"]
    rows += ["tags:", "- gguf", "- ollama", "- mbuild", "---"]
    return "\n".join(rows)


def _scalar(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _made_from(base: str, origin: CardOrigin) -> str:
    how = "Quantized" if origin.quantized else "Built"
    source = f" from [{base}](https://huggingface.co/{base})" if base else ""
    at = f" at commit `{origin.commit}`" if origin.commit else ""
    return f"{how}{source}{at} with mbuild {origin.version}."


def _fenced(text: str, language: str) -> str:
    """A block of code, with a fence longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def is_ours(readme: bytes) -> bool:
    """Whether a card was written here and may be replaced."""
    return MARK.encode() in readme
