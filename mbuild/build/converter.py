"""A checkout of llama.cpp whose converter is asked for a checkpoint: ``--converter PATH``.

Only the command line of this build can name one. A request, the log and a lock have the digest of
its code, so that whoever asks again has to name it again; no path and no program of another
machine is ever taken from them, a Modelfile or the API.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mbuild.convert.conversion import AS_IT_IS, Conversion
from mbuild.core.digest import Digest
from mbuild.core.errors import MissingFileError, SourceError, UsageError
from mbuild.core.values import NamedTuple

SCRIPT = "convert_hf_to_gguf.py"
_CODE = (SCRIPT, "conversion", "gguf-py/gguf")
"""What of the checkout decides a conversion: its script, and the packages that this imports."""

_MOST_FILES, _MOST_BYTES = 5000, 64 << 20
_COMMIT = 40


class ForeignConverter(NamedTuple):
    """A converter: the digest of its code and the checkout's commit, and where it is run.

    ``path`` and ``python`` are empty where only the digest is known: it cannot be run then.
    ``scratch`` is the folder in which its files are made.
    """

    digest: str
    commit: str = ""
    path: str = ""
    python: str = ""
    scratch: str = ""

    @property
    def fields(self) -> dict[str, str]:
        """What decides the result."""
        return {"converter": self.digest}

    def to_json(self) -> str:
        """What a request keeps of it."""
        return self.digest

    @classmethod
    def from_json(cls, text: str) -> ForeignConverter:
        """The digest alone; raises :class:`DigestError` for what is none."""
        return cls(str(Digest.parse(text)))

    def check(self) -> None:
        """Raise :class:`UsageError` where it cannot be run, because only its digest is known."""
        if not self.path:
            raise UsageError(
                "the model was converted by a checkout of llama.cpp, which only the command line"
                " can name",
                hint=f"name it again with --converter PATH; its code has the digest {self.digest}",
            )


def find_converter(path: str, python: str | None, scratch: Path) -> ForeignConverter:
    """The converter in a checkout of llama.cpp; nothing of it is run.

    Raises :class:`MissingFileError` where there is none, :class:`SourceError` for one that cannot
    be read.
    """
    root = Path(path)
    if not (root / SCRIPT).is_file():
        raise MissingFileError(
            f"--converter {path}: there is no {SCRIPT}",
            hint="name the folder of a checkout of llama.cpp",
        )
    whole = str(root.resolve())
    return ForeignConverter(
        str(_digest(root, path)), _commit(root), whole, python or "python3", str(scratch.absolute())
    )


def _digest(root: Path, path: str) -> Digest:
    """The digest of the names and contents of its Python files."""
    files: list[Path] = []
    for name in _CODE:
        place = root / name
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    if len(files) > _MOST_FILES:
        raise SourceError(f"--converter {path}: it has more than {_MOST_FILES} files of code")
    whole = bytearray()
    try:
        for file in files:
            if file.is_file():
                data = file.read_bytes()
                label = file.relative_to(root).as_posix().encode()
                whole += b"%d %d " % (len(label), len(data)) + label + data
            if len(whole) > _MOST_BYTES:
                raise SourceError(f"--converter {path}: its code has more than {_MOST_BYTES} bytes")
    except OSError as error:
        raise SourceError(f"--converter {path}: {error.strerror or error}") from None
    return Digest.of(bytes(whole))


def _commit(root: Path) -> str:
    """The commit that a checkout is at, for people; empty where that is not known."""
    try:
        folder = root / ".git"
        head = (folder / "HEAD").read_text().strip()
        if head.startswith("ref: "):
            head = (folder / head[5:]).read_text().strip()
        return head if len(head) == _COMMIT and not head.strip("0123456789abcdef") else ""
    except (OSError, ValueError):
        return ""


def environment(home: Path) -> dict[str, str]:
    """What the converter's process is given of the environment: nothing that could be a secret.

    ``home`` is an empty folder; what the user's Python has installed for the user stays found.
    """
    base = os.environ.get("PYTHONUSERBASE") or str(Path.home() / ".local")
    kept = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
    return {
        **{name: value for name, value in os.environ.items() if name in kept},
        "HOME": str(home),
        "PYTHONUSERBASE": base,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(home),
    }


class ConvertOptions(NamedTuple):
    """All options of a conversion: the type of the matrices, the pre-tokenizer, the others.

    ``converter`` is the user's, where one is asked instead of mbuild's.
    """

    outtype: str
    pre: str | None
    conversion: Conversion = AS_IT_IS
    converter: ForeignConverter | None = None

    def fields(self) -> dict[str, Any]:
        """What a step's key fields say of them."""
        named = {"outtype": self.outtype, "pre": self.pre, **self.conversion.fields()}
        return named | (self.converter.fields if self.converter else {})
