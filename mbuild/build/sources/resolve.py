"""The one place that looks at the user's disk: names in a Modelfile become sources."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mbuild.build.sources.places import (
    CHECKPOINT_FILES,
    PICKLES,
    check_inside,
    check_named,
    front_matter,
    is_path,
    refuse_adapter,
    refuse_part,
    short,
    unusable,
)
from mbuild.build.sources.values import (
    AdapterSource,
    CheckpointSource,
    DraftSource,
    FileStamp,
    GGUFDirectory,
    GGUFSource,
    ModelSource,
    SourceFile,
    StoredModel,
    digest_algorithm,
)
from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import (
    DamagedError,
    MissingFileError,
    NameNotFoundError,
    SourceError,
    UnsupportedError,
)
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.store.absent import about_absent
from mbuild.store.copying import check_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mbuild.store import Store

_FOLDERS = ("additional_chat_templates", "_Pooling")
_FOLDER_FILES = (".jinja", "config.json")


class Context(Protocol):
    """Resolves what a Modelfile names; the HTTP API has another one, over uploaded blobs."""

    def model(self, value: str) -> ModelSource:
        """What FROM means; raises :class:`SourceError` or :class:`NameNotFoundError`."""

    def adapter(self, value: str) -> AdapterSource:
        """What ADAPTER means; raises :class:`SourceError`."""

    def draft(self, value: str) -> DraftSource:
        """What DRAFT means; raises :class:`SourceError`."""


class LocalContext:
    """Paths against the Modelfile's folder, names against the store.

    ``hash_files``: every file whose digest is not remembered is read, so that it is known,
    not only those that a cached result can exist for;
    ``on_read`` is told its name and its size in bytes before.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        *,
        hash_files: bool = False,
        on_read: Callable[[str, int], None] = lambda name, size: None,
    ) -> None:
        self._folder = folder
        self._store = store
        self._hash_files = hash_files
        self._on_read = on_read

    def model(self, value: str) -> ModelSource:
        """A path that exists, else a model of the store."""
        check_named("FROM", value)
        if (blob := self._blob("FROM", value)) is not None:
            return blob
        path = self._path(value)
        try:
            info = path.stat()
        except ValueError:
            return self._stored(value, path)
        except OSError as error:
            if os.path.islink(path) or error.errno in (errno.EACCES, errno.ELOOP):
                raise SourceError(f"FROM {value}: {unusable(path, error)}") from None
            return self._stored(value, path)
        if not os.path.isdir(path):
            check_regular(info, value)
            refuse_part("FROM", value, path)
            return self._gguf(path, path.name)
        found = self._directory(path, value)
        if found is not None:
            refuse_adapter(value, found)
            return found
        if not is_path(value):  # a folder that only happens to have the model's name
            try:
                return self._stored(value, path)
            except (NameNotFoundError, SourceError):
                pass
        from mbuild.lint.remedies import inside

        raise SourceError(
            f"FROM {value}: no model in that directory",
            hint=inside(path, value)
            or "it needs a .gguf file, or config.json with .safetensors files",
        )

    def adapter(self, value: str) -> AdapterSource:
        """A GGUF file, or a directory with a PEFT adapter."""
        if (blob := self._blob("ADAPTER", value)) is not None:
            return blob
        path = self._existing("ADAPTER", value)
        if not path.is_dir():
            refuse_part("ADAPTER", value, path)
            return self._gguf(path, path.name)
        found = self._directory(path, value, "adapter")
        if isinstance(found, GGUFDirectory):
            found = found.model
        if not isinstance(found, (GGUFSource, CheckpointSource)):
            from mbuild.lint.remedies import inside

            raise SourceError(
                f"ADAPTER {value}: no adapter in that directory",
                hint=inside(path, value, "ADAPTER")
                or "it needs a .gguf file, or adapter_config.json with adapter_model.safetensors",
            )
        return found

    def draft(self, value: str) -> DraftSource:
        """A GGUF file, or a directory with one or with a checkpoint."""
        if (blob := self._blob("DRAFT", value)) is not None:
            return blob
        path = self._existing("DRAFT", value)
        found = self._directory(path, value) if path.is_dir() else self._gguf(path, path.name)
        if isinstance(found, GGUFDirectory):
            found = found.model
        if isinstance(found, (GGUFSource, CheckpointSource)):
            return found
        from mbuild.lint.remedies import inside

        raise SourceError(
            f"DRAFT {value}: no model in that directory",
            hint=inside(path, value, "DRAFT")
            or "it needs a .gguf file, or config.json with .safetensors files",
        )

    def named_file(self, path: str, name: str) -> SourceFile:
        """A file that the command line names, from the current folder."""
        return self._hashed_first([self._file(Path(path), name)])[0]

    def _path(self, value: str) -> Path:
        """As Ollama reads paths: ``~`` and ``~user``, absolute, or beside the Modelfile.

        ``@sha256:...`` is a blob of the store, as in a request and in the answer to one.
        """
        try:
            path = self._folder / Path(value).expanduser()
        except (RuntimeError, ValueError):  # no such user
            path = self._folder / value
        if "sha256" not in path.name:
            return path
        from mbuild.build.sources.folders import blob_path

        return blob_path(value, path, self._store)

    def _existing(self, word: str, value: str) -> Path:
        check_named(word, value)
        path = self._path(value)
        try:
            path.stat()
        except (OSError, ValueError) as error:
            reason = unusable(path, error) if isinstance(error, OSError) else "not a path"
            hint = self._missing(value, path)
            raise MissingFileError(f"{word} {value}: {reason}", hint=hint) from None
        return path

    def _missing(self, value: str, path: Path) -> str:
        """What to do about a path that leads nowhere."""
        from mbuild.lint.remedies import missing

        return missing(self._folder, value)

    def _blob(self, word: str, value: str) -> GGUFSource | None:
        """The blob that ``@sha256:...`` names, as the API's ``show`` writes it; None for others."""
        try:
            digest = Digest.parse(value.removeprefix("@"))
        except DigestError:
            if not value.startswith(("@sha256:", "@sha256-")):
                return None
            raise SourceError(
                f"{word} {short(value)} is not a digest", hint="write @sha256: and 64 digits"
            ) from None
        if self._store.blobs.size(digest) is not None:
            return self._gguf(self._store.blobs.path(digest), digest.filename)
        if not value.startswith("@"):
            return None
        raise MissingFileError(
            f"{word} {value}: the store has no such blob", hint="name the file or the model itself"
        )

    # Models of the store.

    def _stored(self, value: str, path: Path) -> StoredModel:
        if is_path(value):
            raise MissingFileError(
                f"FROM {value}: no such file or directory", hint=self._missing(value, path)
            )
        try:
            stored = self._store.manifests.read(ModelName.parse(value))
        except InvalidNameError as error:
            from mbuild.lint.remedies import whole_line

            whole = whole_line(value)
            raise SourceError(
                f"FROM {short(value)!r} is neither a file nor a model's name",
                hint=whole[1] if whole else error.hint,
            ) from None
        except NameNotFoundError:
            raise NameNotFoundError(
                f"FROM {value}: no such model in the store, and no such file",
                hint=self._not_there(value),
            ) from None
        for layer in stored.manifest.blobs():
            if not self._store.blobs.has(layer.digest, layer.size):
                raise DamagedError(
                    f"FROM {value}: blob {layer.digest} of that model is missing or damaged",
                    hint="build or pull that model again",
                )
        return StoredModel(stored.name, stored.id, stored.manifest)

    def _not_there(self, value: str) -> str:
        """What to do about a model that the store does not have."""
        from mbuild.lint.remedies import obtain

        count = sum(1 for _ in self._store.manifests.names())
        found = about_absent(self._store, value) or f"the store has {count} models"
        return f"{found}{'' if found.endswith('?') else ';'} {obtain(value)}"

    # Files.

    def _file(self, path: Path, name: str) -> SourceFile:
        try:
            info = path.stat()
        except OSError as error:
            raise SourceError(f"{name}: {error.strerror}") from None
        check_regular(info, name)
        own = self._blob_named(path)
        digest = own or self._store.database.file_digest(info)
        return SourceFile(name, path, FileStamp.of(info, is_blob=own is not None), digest)

    def _blob_named(self, path: Path) -> Digest | None:
        """The digest in the name of a file that is a blob of this very store."""
        if not path.name.startswith("sha256-"):
            return None
        with suppress(DigestError, OSError):
            digest = Digest.parse(path.name)
            if os.path.samefile(path.parent, self._store.blobs.folder):
                return digest
        return None

    def _hashed_first(self, files: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
        """The files, those read now whose digest decides whether anything has to run.

        A file that was touched, copied or checked out anew has no remembered digest,
        but most likely a content that was built before. Hashing costs less than any
        step, so it comes first where a result can exist: if files of these sizes were
        read before, and until one turns out to be new.
        """
        unknown = sorted((f for f in files if f.digest is None), key=lambda f: f.stamp.size)
        known = self._store.database.content_known
        if not self._hash_files and not all(known(file.stamp.size) for file in unknown):
            return tuple(files)
        found: dict[str, Digest] = {}
        for file in unknown:
            found[file.name], is_new = self._hash(file)
            if is_new and not self._hash_files:
                break
        return tuple(file._replace(digest=found.get(file.name, file.digest)) for file in files)

    def _hash(self, source: SourceFile) -> tuple[Digest, bool]:
        """Read a file for its digest, and remember it; whether no such content was read before."""
        from mbuild.build.explain import keep_text
        from mbuild.store.copying import OpenFile, hash_file

        with OpenFile.open(source.path, source.name) as file:
            self._on_read(source.name, file.size)
            started = file.start_of_hashing()
            kind = digest_algorithm(source.name)
            digest = hash_file(file.fd, file.size, lambda done, total: None, kind)
            file.check_unchanged()
            is_new = not self._store.database.content_known(file.size, digest)
            self._store.database.remember_file(file.info, digest, started)
        keep_text(self._store, source.name, source.path, digest)
        return digest, is_new

    def _gguf(self, path: Path, name: str) -> GGUFSource:
        """A GGUF file; the first shard of a split one stands for all of them."""
        if "-of-" not in path.name:
            return GGUFSource(self._hashed_first([self._file(path, name)]))
        from mbuild.gguf.shards import missing_shards, parse_shard_name

        shard = parse_shard_name(path.name)
        if shard is None or shard.count == 1:
            return GGUFSource(self._hashed_first([self._file(path, name)]))
        if shard.number != 1:
            raise SourceError(
                f"{name} is not the first of {shard.count} shards",
                hint=f"name {shard.siblings[0]}",
            )
        missing = missing_shards(shard, {s for s in shard.siblings if (path.parent / s).exists()})
        if missing:
            raise MissingFileError(
                f"{name}: {len(missing)} of {shard.count} shards are missing:"
                f" {', '.join(missing[:3])}",
                hint="download or copy all shards into one folder",
            )
        return GGUFSource(
            self._hashed_first([self._file(path.parent / s, s) for s in shard.siblings])
        )

    def _directory(self, folder: Path, value: str, wanted: str = "model") -> ModelSource | None:
        """The model in a directory: safetensors before GGUF, as in Ollama; None if none."""
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError as error:
            raise SourceError(f"{value}: {error.strerror}") from None
        if any(name.endswith(".safetensors") for name in names):
            return self._checkpoint(folder, value, names)
        ggufs = [name for name in names if name.lower().endswith(".gguf")]
        if ggufs:
            return self._gguf_directory(folder, value, ggufs, wanted)
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles:
            raise UnsupportedError(
                f"{value}/{pickles[0]} is a pickle, which can run code when it is read",
                hint="convert it to safetensors, for example with"
                " safetensors.torch.save_file in the environment that made it",
            )
        return None

    def _gguf_directory(
        self, folder: Path, value: str, names: Sequence[str], wanted: str
    ) -> ModelSource:
        from mbuild.build.sources.folders import choose_ggufs, kind_of
        from mbuild.gguf.shards import parse_shard_name

        for name in names:
            check_inside(folder, name, value)
        firsts = [n for n in names if not (s := parse_shard_name(n)) or s.number == 1]
        chosen, projectors = choose_ggufs(
            value,
            firsts or names,
            lambda name: kind_of(self._file(folder / name, name), self._store),
            wanted,
        )
        model = self._gguf(folder / chosen, chosen)
        if not projectors:
            return model
        return GGUFDirectory(model, tuple(self._gguf(folder / p, p) for p in projectors))

    def _checkpoint(self, folder: Path, value: str, names: Sequence[str]) -> CheckpointSource:
        """The files that a conversion reads; logs and the like are left out of it."""
        wanted = [n for n in names if n in CHECKPOINT_FILES or n.endswith(".safetensors")]
        for name in names:
            if name.endswith(_FOLDERS) and (folder / name).is_dir():
                inner = sorted(entry.name for entry in (folder / name).iterdir())
                wanted += [f"{name}/{entry}" for entry in inner if entry.endswith(_FOLDER_FILES)]
        files: dict[str, SourceFile] = {}
        for name in wanted:
            check_inside(folder, name, value)
            files[name] = self._file(folder / name, name)
        if "README.md" in files:
            card = front_matter(folder / "README.md")
            files["README.md"] = files["README.md"]._replace(digest=Digest.of(card))
        hashed = self._hashed_first(tuple(files.values()))
        named = Path(os.path.realpath(folder)).name
        return CheckpointSource(named, dict(zip(files, hashed, strict=True)))
