"""The one resolver: what instructions name becomes sources, at every front end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mbuild.build.sources.files import Files, Found, Names
from mbuild.build.sources.local import Disk, local_file, moved
from mbuild.build.sources.places import (
    PICKLES,
    front_matter,
    is_adapter,
    is_model,
    is_part_of_checkpoint,
    is_path,
    is_pickled,
)
from mbuild.build.sources.values import (
    README,
    AdapterSource,
    CheckpointSource,
    DraftSource,
    GGUFDirectory,
    GGUFSource,
    ModelSource,
    SourceFile,
    StoredModel,
)
from mbuild.core.digest import Digest
from mbuild.core.errors import (
    MbuildError,
    NameNotFoundError,
    SourceError,
    UnsupportedError,
)
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.store.media import MODEL
from mbuild.store.records import MODEL_CARD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mbuild.store import Store


class Context(Protocol):
    """Resolves what a Modelfile names."""

    def leave_unread(self) -> None:
        """Read no file only for its digest from now on, whatever others may have made of it."""

    def may_be_stored(self, value: str) -> bool:
        """Whether FROM can only mean a model by its name: no file, folder or blob is called so."""

    def model(self, value: str) -> ModelSource:
        """What FROM means; raises :class:`SourceError` or :class:`NameNotFoundError`."""

    def adapter(self, value: str) -> AdapterSource:
        """What ADAPTER means; raises :class:`SourceError`."""

    def merged(self, value: str) -> AdapterSource:
        """What MERGE means; raises :class:`SourceError`."""

    def draft(self, value: str) -> DraftSource:
        """What DRAFT means; raises :class:`SourceError`."""

    def joined(self, models: tuple[ModelSource, ...]) -> tuple[ModelSource, ...]:
        """What several FROM lines mean together."""

    def imatrix(self, value: str, *, beside: bool = False) -> SourceFile:
        """The importance matrix that an option names; raises :class:`SourceError`.

        ``beside``: the Modelfile names it, and it lies where its other paths start.
        """

    def learn(self, word: str, value: str, found: Found | SourceFile | StoredModel) -> None:
        """From now on an instruction's value leads there: to another machine."""


class Resolver:
    """A :class:`Context` over whatever a front end lets instructions name.

    ``hash_files``: every file that is not known by the digest that a lock names it by is
    read, not only those that a cached result can exist for. ``on_read`` is told a file's
    name and its size in bytes before.
    """

    def __init__(
        self,
        names: Names,
        store: Store,
        *,
        hash_files: bool = False,
        on_read: Callable[[str, int], None] = lambda name, size: None,
    ) -> None:
        self._names = names
        self._store = store
        self._hash_files = hash_files
        self._on_read = on_read
        self._learned: dict[tuple[str, str], Found | SourceFile | StoredModel] = {}
        self._leaves = False

    def leave_unread(self) -> None:
        """Read no file only for its digest."""
        self._leaves = True

    def learn(self, word: str, value: str, found: Found | SourceFile | StoredModel) -> None:
        """From now on a value leads there, whatever the front end knows by that name."""
        self._learned[word, value] = found

    def _find(self, word: str, value: str) -> Found | SourceFile | None:
        found = self._learned.get((word, value))
        if found is None or isinstance(found, StoredModel):
            return self._names.find(word, value)
        return found

    def may_be_stored(self, value: str) -> bool:
        """Whether nothing that the front end lets be named is called so."""
        try:
            return self._names.find("FROM", value) is None
        except MbuildError:
            return False

    def model(self, value: str) -> ModelSource:
        """A file, a folder or a blob; else a stored model."""
        found = self._find("FROM", value)
        if found is None:
            return self._stored(value)
        source = self._source(found, "model")
        if source is not None:
            if is_adapter(source):
                raise self._names.is_adapter(value)
            return source
        if not is_path(value):  # a folder that only happens to have the model's name
            try:
                return self._stored(value)
            except (NameNotFoundError, SourceError):
                pass
        raise self._nothing("FROM", value, found)

    def adapter(self, value: str) -> AdapterSource:
        """A GGUF file, or a directory with one or with a PEFT adapter."""
        return self._weights("ADAPTER", value, "adapter")

    def merged(self, value: str) -> AdapterSource:
        """As ADAPTER, or a directory with an adapter of MLX."""
        return self._weights("MERGE", value, "adapter")

    def draft(self, value: str) -> DraftSource:
        """A GGUF file, or a directory with one or with a checkpoint."""
        source = self._weights("DRAFT", value, "model")
        if not isinstance(source, CheckpointSource):
            return source
        from mbuild.build.sources.encoders import needs_target

        return source._replace(needs_target=needs_target(source.files))

    def joined(self, models: tuple[ModelSource, ...]) -> tuple[ModelSource, ...]:
        """Shards that were named one by one are one model."""
        from mbuild.build.sources.folders import joined

        return joined(models, self._store) if len(models) > 1 else models

    def _weights(self, word: str, value: str, wanted: str) -> GGUFSource | CheckpointSource:
        found = self._find(word, value)
        source = None if found is None else self._source(found, wanted)
        if isinstance(source, GGUFDirectory):
            source = source.model
        if wanted == "adapter" and source is not None and is_model(source):
            raise self._names.is_model(value, word)
        if isinstance(source, (GGUFSource, CheckpointSource)):
            return source
        raise self._nothing(word, value, found)

    def _nothing(self, word: str, value: str, found: Found | SourceFile | None) -> MbuildError:
        assert isinstance(found, Found)
        return self._names.nothing_in(word, value, found.files)

    def _source(self, found: Found | SourceFile, wanted: str) -> ModelSource | None:
        if isinstance(found, SourceFile):
            return GGUFSource(self._known((found,)))
        if found.file:
            return self._gguf(found.files, found.file, found.shown)
        return self._directory(found.files, wanted)

    # Models of the store.

    def _stored(self, value: str) -> StoredModel:
        found = self._learned.get(("FROM", value))
        if isinstance(found, StoredModel):
            return found
        try:
            stored = self._store.manifests.read(self._name(value))
        except (InvalidNameError, NameNotFoundError) as error:
            raise self._names.no_model(value, error) from None
        aliases = {}
        for layer in stored.manifest.blobs():
            if not self._store.blobs.has(layer.digest, layer.size):
                raise self._names.lost_blob(value, layer.digest)
            if layer.media_type == MODEL and (alias := self._store.files.alias(layer.digest)):
                aliases[layer.digest] = alias
        return StoredModel(stored.name, stored.id, stored.manifest, aliases)

    def _name(self, value: str) -> ModelName:
        """The name in the store; of a model in a registry the one that a pull gives it."""
        if "/" not in value:
            return ModelName.parse(value)
        from mbuild.registry.stored import stored_name

        return stored_name(value, self._store)

    # Directories.

    def _directory(self, files: Files, wanted: str) -> ModelSource | None:
        """The model in a directory: safetensors before GGUF, as in Ollama; None if none."""
        names = files.names()
        plain = [name for name in names if "/" not in name]
        if any(name.endswith(".safetensors") for name in plain):
            return self._checkpoint(files, [name for name in names if not is_pickled(name)])
        ggufs = [name for name in plain if name.lower().endswith(".gguf")]
        if ggufs:
            return self._gguf_directory(files, ggufs, wanted)
        from mbuild.build.sources.formats import DESCRIPTIONS, foreign_format

        pickles = [name for name in plain if name.endswith(PICKLES)]
        if any(map(is_pickled, pickles)) and any(name in plain for name in DESCRIPTIONS):
            return self._checkpoint(files, names)
        found = foreign_format(names)
        if found is not None:
            raise UnsupportedError(f"{files.value}/{found.file} is {found.what}", hint=found.hint)
        if pickles:
            raise UnsupportedError(
                f"{files.value}/{pickles[0]} is a pickle without a config.json: nothing says what"
                " model it is",
                hint="put the base model's config.json and tokenizer beside it, or save the model"
                " with save_pretrained(FOLDER)",
            )
        return None

    def _checkpoint(self, files: Files, names: Sequence[str]) -> CheckpointSource:
        """The files that a conversion reads; logs and the like are left out of it."""
        from mbuild.build.sources.encoders import encoder_files

        found = {name: files.file(name) for name in names if is_part_of_checkpoint(name)}
        card = None
        if README in found:
            card = self._card(found[README])
        source = CheckpointSource(files.name, found, card, encoder_files(found))
        hashed = self._hashed_first(
            tuple(source.whole.values()),
            lambda file: file.digest is None or (self._hash_files and file.locked is None),
        )
        return source._replace(files={**found, **dict(zip(source.whole, hashed, strict=True))})

    def _card(self, file: SourceFile) -> Digest:
        """The digest of a model card's front matter; of one of the Hub it is remembered."""
        if file.remote is not None and file.sha256 is not None:
            known = self._store.cache.get(MODEL_CARD, str(file.sha256))
            if known is not None:
                return known
        return Digest.of(front_matter(file.path, file.name))

    def _gguf_directory(self, files: Files, names: Sequence[str], wanted: str) -> ModelSource:
        from mbuild.build.sources.folders import choose_ggufs, kind_of, whole_files

        chosen, projectors = choose_ggufs(
            files.value,
            whole_files(names) or names,
            lambda name: kind_of(files.file(name), self._store),
            wanted,
        )
        model = self._gguf(files, chosen, chosen)
        if not projectors:
            return model
        return GGUFDirectory(model, tuple(self._gguf(files, p, p) for p in projectors))

    # GGUF files.

    def _gguf(self, files: Files, name: str, shown: str) -> GGUFSource:
        """A GGUF file; the first shard of a split one stands for all of them."""
        if "-of-" not in name:
            return GGUFSource(self._known((files.file(name),)))
        from mbuild.gguf.shards import missing_shards, parse_shard_name

        shard = parse_shard_name(name)
        if shard is None or shard.count == 1:
            return GGUFSource(self._known((files.file(name),)))
        if shard.number != 1:
            raise self._names.not_the_first(name, shard.siblings[0], shard.count)
        missing = missing_shards(shard, {s for s in shard.siblings if files.has(s)})
        if missing:
            raise self._names.shards_missing(shown, missing, shard.count)
        return GGUFSource(self._known(tuple(files.file(s) for s in shard.siblings)))

    def _known(self, files: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
        """GGUF files, those read now whose digest decides whether anything has to run."""
        return self._hashed_first(
            files,
            lambda file: (file.locked if self._hash_files else file.content) is None,
        )

    # Digests.

    def _hashed_first(
        self, files: Sequence[SourceFile], is_unknown: Callable[[SourceFile], bool]
    ) -> tuple[SourceFile, ...]:
        """The files, those read now whose digest decides whether anything has to run.

        A file that was touched, copied or checked out anew has no remembered digest,
        but most likely a content that was built before. Hashing costs less than any
        step, so it comes first where a result can exist: if files of these sizes were
        read before, and until one turns out to be new.
        """
        files = [self._with_sha256(file) for file in files] if self._hash_files else files
        if self._leaves and not self._hash_files:
            return tuple(files)
        unknown = [file for file in files if is_unknown(file) and not file.is_absent]
        unknown = sorted(unknown, key=lambda file: file.stamp.size)
        known = self._store.files.content_known
        # Another machine may have a result for any content.
        every = self._hash_files or self._store.shared is not None
        if not every and not all(known(file.stamp.size) for file in unknown):
            return tuple(files)
        found: dict[str, SourceFile] = {}
        for file in unknown:
            found[file.name], is_new = self._hash(file)
            if is_new and not every:
                break
        return tuple(found.get(file.name, file) for file in files)

    def _with_sha256(self, file: SourceFile) -> SourceFile:
        """The file with its other digest, where the store knows it and a lock names it so."""
        if file.sha256 is not None or file.digest is None or not file.is_locked_by_sha256:
            return file
        return file._replace(sha256=self._store.files.alias(file.digest))

    def _hash(self, source: SourceFile) -> tuple[SourceFile, bool]:
        """Read a file for its digest, and remember it; whether no such content was read before."""
        from mbuild.build.sources.reading import read_digests, remember
        from mbuild.store.copying import OpenFile

        with OpenFile.open(source.path, source.name) as file:
            self._on_read(source.name, file.size)
            started = file.start_of_hashing()
            twice = self._hash_files and source.is_locked_by_sha256
            known = read_digests(file, source, lambda done, total: None, twice=twice)
            file.check_unchanged(change_time=source.stamp.ctime_ns is not None)
            is_new = not self._store.files.content_known(file.size, known.digest)
            remember(self._store, file, known, started)
        return known, is_new


class LocalContext(Resolver):
    """The command line's: paths against the Modelfile's folder, names against the store.

    ``directory`` is where the paths of options start: the command's own folder.
    ``elsewhere``: where to look for what is not in the Modelfile's folder, if not where it says.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        *,
        directory: Path = Path(),
        hash_files: bool = False,
        on_read: Callable[[str, int], None] = lambda name, size: None,
        elsewhere: Path | None = None,
    ) -> None:
        disk = Disk(folder, store, elsewhere)
        super().__init__(disk, store, hash_files=hash_files, on_read=on_read)
        self._folder = folder
        self._start = directory
        self._elsewhere = elsewhere

    def imatrix(self, value: str, *, beside: bool = False) -> SourceFile:
        """A file that the command line names, from the folder of the command."""
        path = (self._folder if beside else self._start) / value
        if self._elsewhere is not None:
            path = moved(path, self._folder, self._elsewhere)
        return self._known((local_file(path, value, self._store),))[0]
