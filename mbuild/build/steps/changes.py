"""Weights that are changed before anything is made of them: adapters merged, layers dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mbuild.build.graph import Step, StepContext
from mbuild.build.sources.values import CheckpointSource, GGUFSource, Material, SourceFile
from mbuild.build.steps.gguf import downloads, gguf_digests
from mbuild.build.steps.origins import CheckpointOrigin, Origin, Readable
from mbuild.core.digest import Digest, canonical_json
from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.convert.rows.row import Family
    from mbuild.gguf.model import Model

MERGING_VERSION = 1
"""Counts up when merging gives other bytes."""

_ADAPTER_FILES = (
    *("adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"),
    *("adapter_model.bin", "tokenizer.json", "added_tokens.json"),
)
"""What of an adapter's folder decides what is merged."""


class MergeAdapter(NamedTuple):
    """MERGE: an adapter of a folder or of a GGUF file, with its weight."""

    source: CheckpointSource | GGUFSource
    weight: float

    @property
    def name(self) -> str:
        """The folder's or the file's name."""
        return (
            self.source.name
            if isinstance(self.source, CheckpointSource)
            else (self.source.files[0].name)
        )

    @property
    def shown(self) -> str:
        """The adapter, and its weight where that is not 1."""
        return f"+ {self.name}" if self.weight == 1 else f"+ {self.weight:g} {self.name}"

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files to open, by their names."""
        if isinstance(self.source, GGUFSource):
            return {file.name: file for file in self.source.files}
        return {n: file for n, file in self.source.files.items() if n in _ADAPTER_FILES}

    @property
    def materials(self) -> tuple[Material, ...]:
        """The adapter."""
        source = self.source
        if isinstance(source, CheckpointSource):
            return (source.material,)
        return (source.files[0].material,)

    def fields(self) -> Mapping[str, Any] | None:
        """The digests of the files, and the weight."""
        if isinstance(self.source, GGUFSource):
            digests = gguf_digests(self.source.files)
            known: Any = digests
        else:
            known = {name: file.digest and str(file.digest) for name, file in self.files.items()}
            known = None if None in known.values() else known
        if known is None:
            return None
        return {"merge": known, "weight": self.weight, "version": MERGING_VERSION}

    def learned(self, files: Mapping[str, Digest]) -> MergeAdapter:
        """With the digests that a step found."""
        if isinstance(self.source, CheckpointSource):
            return self._replace(source=self.source.learned(files))
        known = tuple(file.learned(files) for file in self.source.files)
        return self._replace(source=self.source._replace(files=known))


class SetMetadata(NamedTuple):
    """SET: a key and its text; with None UNSET, which takes the key out."""

    key: str
    text: str | None

    @property
    def shown(self) -> str:
        """The key, and the beginning of its text."""
        return f"without {self.key}" if self.text is None else f"with {self.key}={self.text:.20}"

    def fields(self) -> Mapping[str, Any]:
        """Both."""
        return {"key": self.key, "text": self.text}


class DropLayers(NamedTuple):
    """DROP LAYER: the numbers of layers; ``said`` is what a message calls it."""

    layers: tuple[int, ...]
    said: str = "DROP LAYER"

    @property
    def shown(self) -> str:
        """The numbers."""
        return f"without layers {' '.join(map(str, self.layers))}"

    def fields(self) -> Mapping[str, Any]:
        """The numbers."""
        return {"drop": list(self.layers)}


class TakeTensors(NamedTuple):
    """TAKE: the tensors of another model whose names a regular expression is found in."""

    pattern: str
    name: str
    origin: Origin

    @property
    def shown(self) -> str:
        """The pattern and the other model."""
        return f"with {self.pattern:.40} of {self.name}"

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The other model's."""
        return self.origin.files

    @property
    def materials(self) -> tuple[Material, ...]:
        """The other model's."""
        return self.origin.materials

    def fields(self) -> Mapping[str, Any] | None:
        """The pattern, and the description of the other model."""
        origin = self.origin.fields()
        return None if origin is None else {"take": self.pattern, "origin": origin}

    def learned(self, files: Mapping[str, Digest]) -> TakeTensors:
        """With the digests that a step found."""
        return self._replace(origin=self.origin.learned(files))


Alteration = MergeAdapter | SetMetadata | DropLayers | TakeTensors


def held_factors(origin: Origin) -> int:
    """The most bytes of adapters that are in memory while the tensors they change are made."""
    changes = origin.changes if isinstance(origin, ChangedOrigin) else ()
    merged = (change for change in changes if isinstance(change, MergeAdapter))
    return sum(file.stamp.size for change in merged for file in change.files.values())


class ChangedOrigin(NamedTuple):
    """Weights with changes, which are made one after another while they are read.

    Adapters that are merged beside each other count together, in any order.
    """

    base: Origin
    changes: tuple[Alteration, ...]

    @property
    def by_name(self) -> bool:
        """As of the base."""
        return self.base.by_name

    @property
    def is_split(self) -> bool:
        """Whether the base is the shards of a split GGUF."""
        return self.base.is_split

    @property
    def name(self) -> str:
        """The base's name."""
        return self.base.name

    @property
    def shown(self) -> str:
        """The base's name and what is changed, in few words."""
        return " ".join([self.base.name, *(change.shown for change in self.changes)])

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The base's files, and those of the changes behind their number."""
        found = dict(self.base.files)
        for number, change in enumerate(self.changes):
            if isinstance(change, (MergeAdapter, TakeTensors)):
                found |= {f"{number}:{name}": file for name, file in change.files.items()}
        return found

    @property
    def materials(self) -> tuple[Material, ...]:
        """The base, the adapters and the models that tensors are taken from."""
        found = list(self.base.materials)
        for change in self.changes:
            if isinstance(change, (MergeAdapter, TakeTensors)):
                found += change.materials
        return tuple(found)

    @property
    def needs(self) -> tuple[Step, ...]:
        """The downloads of the base, and of what the changes read."""
        own = self.base.files.keys()
        further = [file for name, file in self.files.items() if name not in own]
        return (*self.base.needs, *downloads(further))

    def fields(self) -> Mapping[str, Any] | None:
        """The base's description, and those of the changes."""
        base = self.base.fields()
        described: list[list[Any]] = []
        for group in self._groups():
            each = [change.fields() for change in group]
            if base is None or None in each:
                return None
            described.append(sorted(each, key=canonical_json))
        return {**(base or {}), "changes": described}

    def open(self, context: StepContext, files: Readable, stack: ExitStack) -> Model:
        """The changed model, its tensors loaded on demand."""
        own = self.base.files.keys()
        opened = _part(files, {name: name for name in own})
        model = self.base.open(context, opened, stack)
        row = _family(self.base, opened)
        number = 0
        for group in self._groups():
            parts = []
            for change in group:
                names = getattr(change, "files", {})
                parts.append(_part(files, {f"{number}:{name}": name for name in names}))
                number += 1
            model = _apply(model, row, group, parts, context, stack)
        return model

    def learned(self, files: Mapping[str, Digest]) -> ChangedOrigin:
        """With the digests that a step found."""
        changes = tuple(
            change.learned(files) if isinstance(change, (MergeAdapter, TakeTensors)) else change
            for change in self.changes
        )
        return ChangedOrigin(self.base.learned(files), changes)

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """The base's, and that of merging."""
        merges = any(isinstance(change, MergeAdapter) for change in self.changes)
        return (*self.base.versions, *((("merge-adapter", MERGING_VERSION),) if merges else ()))

    def unchanged(self, model: Model) -> frozenset[str]:
        """The names of the tensors that have the base's bytes."""
        from mbuild.convert.changing.taking import TakenLoad
        from mbuild.convert.lora.merging import MergedRows

        if any(isinstance(change, DropLayers) for change in self.changes):
            return frozenset()
        changed = (TakenLoad, MergedRows)
        base = {tensor.name for tensor in model.tensors if not isinstance(tensor.load, changed)}
        grown = "token_embd.weight", "output.weight"  # may be another vocabulary's
        return frozenset(base - {*grown})

    def _groups(self) -> list[list[Alteration]]:
        """The changes in order, merges beside each other together."""
        groups: list[list[Alteration]] = []
        for change in self.changes:
            both = isinstance(change, MergeAdapter)
            if both and groups and isinstance(groups[-1][-1], MergeAdapter):
                groups[-1].append(change)
            else:
                groups.append([change])
        return groups


def _part(files: Readable, names: Mapping[str, str]) -> Readable:
    """Some of the files, under other names."""
    return Readable(
        {new: files.paths[old] for old, new in names.items()},
        {new: files.seen[old] for old, new in names.items() if old in files.seen},
    )


def _family(base: Origin, files: Readable) -> Family | None:
    """The family of a checkpoint, which its GGUF model does not tell of itself."""
    if not isinstance(base, CheckpointOrigin):
        return None
    from mbuild.convert.checkpoint import open_checkpoint

    return open_checkpoint(base.name, files.paths).family


def _apply(
    model: Model,
    row: Family | None,
    group: Sequence[Alteration],
    parts: Sequence[Readable],
    context: StepContext,
    stack: ExitStack,
) -> Model:
    """One change, or several merges together."""
    from mbuild.convert.changing.layers import drop_layers
    from mbuild.convert.changing.metadata import set_key, unset_key
    from mbuild.convert.changing.taking import take_tensors

    change = group[0]
    if isinstance(change, MergeAdapter):
        return _merged(model, row, group, parts, context, stack)
    if isinstance(change, SetMetadata):
        if change.text is None:
            return unset_key(model, change.key)
        return set_key(model, change.key, change.text)
    if isinstance(change, DropLayers):
        return drop_layers(model, change.layers, change.said)
    other = change.origin.open(context, parts[0], stack)
    return take_tensors(model, change.pattern, other, change.name)


def _merged(
    model: Model,
    row: Family | None,
    group: Sequence[Any],
    parts: Sequence[Readable],
    context: StepContext,
    stack: ExitStack,
) -> Model:
    from mbuild.convert.changing.taking import grown
    from mbuild.convert.lora.base import base_of_model
    from mbuild.convert.lora.folding import added_tokens, changes_of_folder, changes_of_gguf
    from mbuild.convert.lora.merging import merged_model
    from mbuild.gguf.reader import open_gguf

    base = base_of_model(model, row)
    changes = []
    tokens: dict[int, tuple[str, bool]] = {}
    for change, part in zip(group, parts, strict=True):
        try:
            if isinstance(change.source, GGUFSource):
                ((name, path),) = part.paths.items()
                file = stack.enter_context(open_gguf(path, name=name, seen=part.seen.get(name)))
                changes.append(changes_of_gguf(file.model(), name, base, change.weight))
            else:
                paths, seen = part.paths, part.seen
                found = changes_of_folder(
                    change.name, paths, base, change.weight, context.warn, seen
                )
                changes.append(found)
                tokens |= added_tokens(paths)
        except MbuildError as error:
            raise type(error)(f"MERGE {change.name}: {error.message}", hint=error.hint) from None
    rows = base.tensors.get("token_embd.weight", (0, 0))[-1]
    return grown(merged_model(model, changes), rows, tokens)
