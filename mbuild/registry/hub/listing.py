"""What a commit of a repository of the Hub holds, as its API tells it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import RegistryError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

MAX_FILES = 100_000

_COMMIT = regex(r"[0-9a-f]{40}")
_LARGEST = 1 << 50  # bytes of a file


class HubFile(NamedTuple):
    """A file of a commit.

    ``oid`` is git's name of it, 40 digits. ``sha256`` is that of the content, which is known
    beforehand of the large ones (LFS); git's name of such a file is that of a pointer.
    """

    name: str
    size: int
    oid: str
    sha256: Digest | None = None


class Listing(NamedTuple):
    """A commit: its repository as it is called now, its 40 digits, and its files by name.

    ``shards`` are the files of weights that the index of safetensors names, if there is one.
    """

    repository: str
    commit: str
    files: Mapping[str, HubFile]
    shards: tuple[str, ...] = ()

    def encode(self) -> dict[str, Any]:
        """The listing as a record holds it."""
        rows = [
            [f.name, f.size, f.oid, f.sha256.hex if f.sha256 else ""] for f in self.files.values()
        ]
        own = {"repository": self.repository, "commit": self.commit}
        return {**own, "files": rows, "shards": list(self.shards)}

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> Listing:
        """Read :meth:`encode`'s value; raises ValueError or a digest's error for another."""
        rows = [
            HubFile(str(name), int(size), str(oid), _sha256(digits))
            for name, size, oid, digits in value["files"]
        ]
        files = {row.name: row for row in rows}
        return cls(value["repository"], value["commit"], files, tuple(value["shards"]))


def read_listing(data: bytes, what: str) -> Listing:
    """A listing from the answer of ``/api/models/REPO/revision/REV?blobs=true``.

    Files whose names are no plain relative paths are left out: nothing that mbuild reads is
    called so. Raises :class:`RegistryError` naming ``what`` for what is no such answer.
    """
    try:
        value = json.loads(data)
        repository, commit = value["id"], value["sha"]
        if not isinstance(repository, str) or not _COMMIT.fullmatch(commit):
            raise ValueError(f"commit {commit!r}")
        siblings = value["siblings"]
        if len(siblings) > MAX_FILES:
            raise ValueError(f"more than {MAX_FILES} files")
        files = [_file(row) for row in siblings if is_plain(row["rfilename"])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DigestError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)[:200]
        raise RegistryError(
            f"{what}: what the Hub sent is not a list of files: {said}",
            hint="if HF_ENDPOINT names a mirror, it has to answer as the Hub does",
        ) from None
    return Listing(repository, commit, {file.name: file for file in files})


def _file(row: Mapping[str, Any]) -> HubFile:
    lfs = row.get("lfs") or {}
    size = lfs.get("size", row.get("size"))
    if not isinstance(size, int) or not 0 <= size < _LARGEST:
        raise ValueError(f"{row['rfilename']}: size {size!r}")
    digest = _sha256(lfs.get("sha256") or lfs.get("oid"))
    return HubFile(row["rfilename"], size, str(row.get("blobId") or ""), digest)


def _sha256(digits: str | None) -> Digest | None:
    return Digest.parse(f"sha256:{digits}") if digits else None


def is_plain(name: object) -> bool:
    """Whether a file's name is a relative path that stays where it is."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name or ":" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def shards_of(index: bytes, names: Collection[str]) -> tuple[str, ...]:
    """The files that an index of safetensors (``weight_map``) names, of those that there are.

    An index that cannot be read names none: whoever converts says what is wrong with it.
    """
    try:
        named = set(json.loads(index)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    return tuple(sorted(named & set(names)))


def git_oid(data: bytes) -> str:
    """Git's name of a file's content: the SHA-1 of ``blob SIZE``, a zero byte and the content."""
    head = f"blob {len(data)}\0".encode()
    return hashlib.sha1(head + data, usedforsecurity=False).hexdigest()
