"""What a create request can name: its own files, which are uploaded blobs, never the disk."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mbuild.build.sources.files import Files as SourceFiles
from mbuild.build.sources.files import Found
from mbuild.build.sources.formats import DESCRIPTIONS
from mbuild.build.sources.local import stored_blob
from mbuild.build.sources.places import is_path, is_pickled, not_the_first, shards_missing
from mbuild.build.sources.resolve import Resolver
from mbuild.build.sources.values import SourceFile
from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import (
    DamagedError,
    MbuildError,
    MissingFileError,
    NameNotFoundError,
    SourceError,
    UsageError,
)
from mbuild.core.names import InvalidNameError
from mbuild.language.printable import visible

if TYPE_CHECKING:
    from mbuild.build.request import Posted
    from mbuild.store import Store

MAX_FILES = 1024
"""Files of one request; Ollama's limit since 0.34."""

FOLDER = "."
"""What FROM, ADAPTER and DRAFT say when the request's files together are a directory."""

UPLOAD_HINT = "upload the file: POST /api/blobs/sha256:DIGEST, and name it in 'files'"
"""What a client does instead of naming a path: no file is opened because a request names it."""

_MAGIC = b"GGUF"

Files = Mapping[str, Digest]


def parse_files(values: Mapping[str, str]) -> Files:
    """Check names and digests; raises :class:`UsageError` or :class:`DigestError`.

    A name is a plain relative path on every system: ``\\``, ``:`` and control
    characters are refused, as are ``.`` and ``..`` in it.
    """
    if len(values) > MAX_FILES:
        raise UsageError(f"{len(values)} files; the limit is {MAX_FILES}")
    for name in values:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or not set(name).isdisjoint("\\:\0"):
            raise UsageError("file path must be relative", hint=f"not {name!r}")
        if visible(name) != name or not name.isprintable():
            raise UsageError(f"file name {name!r} holds characters that cannot be shown")
    return {name: Digest.parse(digest) for name, digest in values.items()}


def is_checkpoint(files: Files) -> bool:
    """Whether the files are a directory with safetensors, or with pickles and what they are."""
    if any(name.endswith(".safetensors") for name in files):
        return True
    return any(map(is_pickled, files)) and any(name in files for name in DESCRIPTIONS)


def gguf_names(files: Files, store: Store) -> Sequence[str]:
    """The GGUF files that instructions name: all, but of a split one only its first shard.

    Raises :class:`UsageError` when the files are of no known kind.
    """
    from mbuild.gguf.shards import parse_shard_name

    if not any(name.endswith(".gguf") for name in files) and not _has_gguf(files, store):
        raise UsageError("unknown type", hint="send GGUF files, or a directory with safetensors")

    def follows(name: str) -> bool:
        path = PurePosixPath(name)
        shard = parse_shard_name(path.name)
        if shard is None or shard.number == 1:
            return False
        return str(path.with_name(shard.siblings[0])) in files

    return [name for name in files if not follows(name)]


def _has_gguf(files: Files, store: Store) -> bool:
    """Whether a file without a telling name begins as GGUF does."""
    for digest in files.values():
        try:
            with store.blobs.path(digest).open("rb") as file:
                if file.read(len(_MAGIC)) == _MAGIC:
                    return True
        except OSError:
            continue
    return False


class UploadedFiles:
    """Some uploaded blobs as the files of one folder: plain relative names to digests.

    ``prefix`` is what messages put before a file's name.
    """

    value = FOLDER

    def __init__(self, name: str, files: Files, store: Store, prefix: str = "") -> None:
        self.name = name
        self._files = files
        self._store = store
        self._prefix = prefix

    def names(self) -> list[str]:
        """All names, sorted; raises :class:`MissingFileError` for one whose blob is not there."""
        for name in self._files:
            self.file(name)
        return sorted(self._files)

    def has(self, name: str) -> bool:
        """Whether the request has such a file."""
        return name in self._files

    def file(self, name: str) -> SourceFile:
        """A file; raises :class:`MissingFileError` when its blob is not there."""
        return _uploaded(self._files[name], self._prefix + name, self._store)


def _uploaded(digest: Digest, name: str, store: Store) -> SourceFile:
    try:
        return stored_blob(store.blobs.path(digest), name, digest, store)
    except OSError:
        raise MissingFileError(
            f"{name}: blob {digest} is not there", hint=f"POST it to /api/blobs/{digest}"
        ) from None


class RequestNames:
    """What a request's instructions can name: its own files, blobs by digest, and models.

    ``files`` are those of FROM, ADAPTER and DRAFT, each by the instruction's word;
    ``folder`` is the name of the directory that the files of a checkpoint make.
    """

    def __init__(self, store: Store, folder: str, files: Mapping[str, Files]) -> None:
        self._store = store
        self._folder = folder
        self._files = files

    def find(self, word: str, value: str) -> Found | SourceFile | None:
        """A file of the request, all of them as a directory, or an uploaded blob by its digest."""
        files = self._files["ADAPTER" if word == "MERGE" else word]
        if value.startswith("./"):  # as on the disk: a file or a folder of the request's
            value = posixpath.normpath(value)
            if value != FOLDER and (own := self._folder_of(files, value)) is not None:
                return Found(own)
        if value in files:
            return self._file(files, value)
        if value == FOLDER and files:
            return Found(self._directory(files))
        if word == "MERGE" and (folder := self._folder_of(files, value)) is not None:
            return Found(folder)
        blob = self._blob(word, value)
        if blob is None and word != "FROM":
            raise MissingFileError(f"{word} {value}: the request has no such file")
        return blob

    def _file(self, files: Files, value: str) -> Found:
        """One file, and those that lie in its folder of the request."""
        folder, name = PurePosixPath(value).parent, PurePosixPath(value).name
        beside = {
            path.name: digest
            for path, digest in ((PurePosixPath(other), d) for other, d in files.items())
            if path.parent == folder
        }
        return Found(UploadedFiles(folder.name, beside, self._store), name, value)

    def _folder_of(self, files: Files, value: str) -> UploadedFiles | None:
        """The files of the request that lie in a folder, if there are any: one adapter of many."""
        prefix = posixpath.normpath(value) + "/"
        inside = {n.removeprefix(prefix): d for n, d in files.items() if n.startswith(prefix)}
        name = prefix[:-1].rpartition("/")[2]
        return UploadedFiles(name, inside, self._store, prefix) if inside else None

    def _directory(self, files: Files) -> UploadedFiles:
        """The request's files as a directory; one folder that all lie in is that directory."""
        common = posixpath.commonpath(posixpath.dirname(name) for name in files)
        prefix = f"{common}/" if common else ""
        inside = {name.removeprefix(prefix): digest for name, digest in files.items()}
        name = common.rpartition("/")[2] or self._folder
        return UploadedFiles(name, inside, self._store, prefix)

    def _blob(self, word: str, value: str) -> SourceFile | None:
        """What ``@sha256:...`` or ``sha256:...`` in the text of a Modelfile names."""
        try:
            digest = Digest.parse(value.removeprefix("@"))
        except DigestError:
            if value.startswith("@"):
                raise
            if is_path(value):
                raise UsageError(
                    f"{word} {value}: no file is opened because a request names it",
                    hint=UPLOAD_HINT,
                ) from None
            return None
        # Called as on the command line: an adapter's name is part of what is built.
        return _uploaded(digest, digest.filename, self._store)

    def nothing_in(self, word: str, value: str, files: SourceFiles) -> MbuildError:
        """That none of the request's files is of use."""
        return SourceError(f"{files.name} has no model*.safetensors")

    def no_model(self, value: str, error: InvalidNameError | NameNotFoundError) -> MbuildError:
        """Ollama's words for a model that is not there."""
        if isinstance(error, InvalidNameError):
            return UsageError("invalid model name")
        return NameNotFoundError(f"model '{value}' not found")

    def is_model(self, value: str, word: str = "ADAPTER") -> MbuildError:
        """That the request has another field for it."""
        return SourceError(
            "'adapters' holds a model, not a LoRA adapter",
            hint="send its files in 'files'; an adapter is adapter_config.json and"
            " adapter_model.safetensors",
        )

    def is_adapter(self, value: str) -> MbuildError:
        """That the request has another field for it."""
        return SourceError(
            f"FROM {value}: it is a LoRA adapter",
            hint="send its files in 'adapters', and in 'from' the model that it was trained on",
        )

    def not_the_first(self, name: str, first: str, count: int) -> MbuildError:
        """That the first shard is not in the request."""
        return not_the_first(name, count, f"send {first} too")

    def shards_missing(self, shown: str, missing: Sequence[str], count: int) -> MbuildError:
        """That all shards belong in the request."""
        return shards_missing(shown, missing, count, "send all shards in one request")

    def lost_blob(self, value: str, digest: Digest) -> MbuildError:
        """That the stored model is not whole."""
        return DamagedError(
            f"blob {digest} of model '{value}' is missing or damaged",
            hint="build or pull that model again",
        )


class BlobContext(Resolver):
    """Resolves what a request's instructions name: its own files, digests, and models."""

    def __init__(self, store: Store, posted: Posted) -> None:
        every = {"FROM": posted.files, "ADAPTER": posted.adapters, "DRAFT": posted.drafts}
        super().__init__(RequestNames(store, posted.folder, every), store)
        self._imatrices = posted.imatrices

    def imatrix(self, value: str, *, beside: bool = False) -> SourceFile:
        """The uploaded blob of that name."""
        if value not in self._imatrices:
            raise MissingFileError(
                f"{value}: the request has no such file",
                hint="send it with the field imatrix, or a text with imatrix_from",
            )
        return self._known((_uploaded(self._imatrices[value], value, self._store),))[0]
