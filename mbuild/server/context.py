"""The context of a create request: names of its files lead to uploaded blobs, never to the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mbuild.build.sources.places import is_path
from mbuild.build.sources.values import (
    AdapterSource,
    CheckpointSource,
    DraftSource,
    FileStamp,
    GGUFSource,
    ModelSource,
    SourceFile,
    StoredModel,
)
from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import (
    DamagedError,
    MissingFileError,
    NameNotFoundError,
    SourceError,
    UsageError,
)
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.language.printable import visible

if TYPE_CHECKING:
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
    """Whether the files are a directory with safetensors."""
    return any(name.endswith(".safetensors") for name in files)


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


class BlobContext:
    """Resolves what a request's instructions name: its own files, digests, and models."""

    def __init__(
        self, store: Store, folder: str, files: Files, adapters: Files, drafts: Files
    ) -> None:
        """``folder`` is the name of the directory that the files of a checkpoint make."""
        self._store = store
        self._folder = folder
        self._files = files
        self._adapters = adapters
        self._drafts = drafts

    def model(self, value: str) -> ModelSource:
        """A file of the request, an uploaded blob by its digest, or a model of the store."""
        if value in self._files:
            return self._gguf(self._files, value)
        if value == FOLDER and self._files:
            return self._checkpoint(self._files)
        blob = self._blob("FROM", value)
        return blob if blob is not None else self._stored(value)

    def adapter(self, value: str) -> AdapterSource:
        """A file of ``adapters``, all of them as a directory, or a blob by its digest."""
        if value in self._adapters:
            return self._gguf(self._adapters, value)
        if value == FOLDER and self._adapters:
            return self._checkpoint(self._adapters)
        return self._known("ADAPTER", value)

    def draft(self, value: str) -> DraftSource:
        """A file of ``draft_files``, all of them as a directory, or a blob by its digest."""
        if value in self._drafts:
            return self._gguf(self._drafts, value)
        if value == FOLDER and self._drafts:
            return self._checkpoint(self._drafts)
        return self._known("DRAFT", value)

    def _known(self, word: str, value: str) -> GGUFSource:
        blob = self._blob(word, value)
        if blob is None:
            raise MissingFileError(f"{word} {value}: the request has no such file")
        return blob

    def _blob(self, word: str, value: str) -> GGUFSource | None:
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
        return GGUFSource((self._file(digest, f"{word} {digest}"),))

    def _stored(self, value: str) -> StoredModel:
        try:
            stored = self._store.manifests.read(ModelName.parse(value))
        except InvalidNameError:
            raise UsageError("invalid model name") from None
        except NameNotFoundError:
            raise NameNotFoundError(f"model '{value}' not found") from None
        for layer in stored.manifest.blobs():
            if not self._store.blobs.has(layer.digest, layer.size):
                raise DamagedError(
                    f"blob {layer.digest} of model '{value}' is missing or damaged",
                    hint="build or pull that model again",
                )
        return StoredModel(stored.name, stored.id, stored.manifest)

    def _file(self, digest: Digest, name: str) -> SourceFile:
        path = self._store.blobs.path(digest)
        try:
            info = path.stat()
        except OSError:
            raise MissingFileError(
                f"{name}: blob {digest} is not there", hint=f"POST it to /api/blobs/{digest}"
            ) from None
        return SourceFile(name, path, FileStamp.of(info, is_blob=True), digest)

    def _gguf(self, files: Files, name: str) -> GGUFSource:
        """One file, or all shards of a split one, which lie in one folder of the request."""
        from mbuild.gguf.shards import missing_shards, parse_shard_name

        path = PurePosixPath(name)
        shard = parse_shard_name(path.name)
        if shard is None or shard.count == 1:
            return GGUFSource((self._file(files[name], path.name),))
        if shard.number != 1:
            raise SourceError(
                f"{path.name} is not the first of {shard.count} shards",
                hint=f"send {shard.siblings[0]} too",
            )
        names = {sibling: str(path.with_name(sibling)) for sibling in shard.siblings}
        missing = missing_shards(shard, {s for s, full in names.items() if full in files})
        if missing:
            raise MissingFileError(
                f"{name}: {len(missing)} of {shard.count} shards are missing:"
                f" {', '.join(missing[:3])}",
                hint="send all shards in one request",
            )
        return GGUFSource(tuple(self._file(files[full], s) for s, full in names.items()))

    def _checkpoint(self, files: Files) -> CheckpointSource:
        """The request's files as a directory; one folder that all lie in is that directory."""
        folders = {name.rpartition("/")[0] for name in files}
        common = folders.pop() if len(folders) == 1 else ""
        start = len(common) + 1 if common else 0
        found = {name[start:]: self._file(digest, name) for name, digest in files.items()}
        return CheckpointSource(common.rpartition("/")[2] or self._folder, found)
