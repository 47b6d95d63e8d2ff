"""What files in a user's folders are: known by what stands in them, not by their names."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.build.sources.values import GGUFSource
from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import FormatError, MbuildError, MissingFileError, SourceError
from mbuild.store.records import GGUF_KIND, SHARD

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.build.sources.values import ModelSource, SourceFile
    from mbuild.store import Store

_SHOWN = 4  # files that a message names

MODEL, PROJECTOR, ADAPTER = "model", "projector", "adapter"
"""The values of :class:`mbuild.gguf.facts.ModelKind`."""

IMATRIX = "importance matrix"
"""What ``llama-imatrix`` wrote, which often lies beside a model."""


def kind_of(file: SourceFile, store: Store) -> str:
    """What a GGUF file is in a model, from its header, which is read once for each content.

    Of a file that cannot be read its name tells; whoever builds from it says what is wrong.
    """
    if file.content is not None:
        known = store.cache.get(GGUF_KIND, str(file.content))
        if known is not None:
            return known
    from mbuild.gguf.facts import describe
    from mbuild.gguf.reader import open_gguf

    try:
        with open_gguf(file.path, name=file.name) as opened:
            kind = describe(opened).kind.value
    except (MbuildError, OSError):
        name = file.name.lower()
        return PROJECTOR if "mmproj" in name else IMATRIX if "imatrix" in name else MODEL
    if file.content is not None:
        store.cache.put(GGUF_KIND, str(file.content), kind)
    return kind


def shard_of(file: SourceFile, store: Store) -> tuple[int, int] | None:
    """Which of how many shards a GGUF file is, from 0, by its header; None for a whole file.

    A header is read once for each content. What cannot be read is no shard here.
    """
    if file.content is not None:
        known = store.cache.get(SHARD, str(file.content))
        if known is not None:
            return (known[0], known[1]) if len(known) == 2 else None
    from mbuild.gguf.reader import open_gguf
    from mbuild.gguf.shards import is_shard, shard_count, shard_number

    try:
        with open_gguf(file.path, name=file.name) as opened:
            found = (shard_number(opened), shard_count(opened)) if is_shard(opened) else None
    except (MbuildError, OSError):
        return None
    if file.content is not None:
        store.cache.put(SHARD, str(file.content), list(found or ()))
    return found


def joined(models: Sequence[ModelSource], store: Store) -> tuple[ModelSource, ...]:
    """What several FROM lines name, shards that were named one by one as one model.

    So ``show --modelfile`` writes a model of several layers. Each shard becomes a layer again.
    """
    single = [m for m in models if isinstance(m, GGUFSource) and len(m.files) == 1]
    numbers = {m: found[0] for m in single if (found := shard_of(m.files[0], store))}
    if len(numbers) < 2:
        return tuple(models)
    ordered = sorted(numbers, key=lambda source: numbers[source])
    whole = GGUFSource(tuple(source.files[0] for source in ordered), keep=True)
    first = next(place for place, source in enumerate(models) if source in numbers)
    others = [(place, source) for place, source in enumerate(models) if source not in numbers]
    return tuple(source for _, source in sorted([*others, (first, whole)], key=lambda row: row[0]))


def fitting(word: str, value: str, folder: Path, pattern: str) -> str:
    """The file that a wildcard in a path stands for: the only one, or the first of all shards.

    Raises :class:`MissingFileError` where none fits, :class:`SourceError` for several models.
    """
    from mbuild.gguf.shards import parse_shard_name

    names: list[str] = []
    with suppress(OSError):
        names = sorted(fnmatch.filter(os.listdir(folder), pattern))
    if not names:
        raise MissingFileError(
            f"{word} {value}: no file matches", hint="* stands for any characters"
        )
    shards = {name: parse_shard_name(name) for name in names}
    models = {(s.prefix, s.count) if s else (name, 0) for name, s in shards.items()}
    if len(models) > 1:
        listed = ", ".join(names[:_SHOWN]) + (" and others" if names[_SHOWN:] else "")
        raise SourceError(
            f"{word} {value}: the files belong to {len(models)} models: {listed}",
            hint="name the file, or the first shard, of the one that you mean",
        )
    shard = shards[names[0]]
    return shard.siblings[0] if shard else names[0]


def whole_files(names: Sequence[str]) -> list[str]:
    """Of GGUF files those that can be named: whole ones, and first shards for all of theirs."""
    from mbuild.gguf.shards import parse_shard_name

    return [n for n in names if not (s := parse_shard_name(n)) or s.number == 1]


def choose_ggufs(
    value: str, names: Sequence[str], kind: Callable[[str], str], wanted: str
) -> tuple[str, tuple[str, ...]]:
    """Of the GGUF files in the folder ``value`` the one that is ``wanted``, and the projectors.

    ``names`` are whole files and first shards. A single one is not looked at. Raises
    :class:`SourceError` for none and for several.
    """
    if len(names) == 1:
        return names[0], ()
    kinds = {name: kind(name) for name in names}
    found = [name for name in names if kinds[name] == wanted]
    others = [n for n in names if kinds[n] not in (wanted, PROJECTOR, IMATRIX)]
    if len(found) == 1 and not (others and wanted == MODEL):
        return found[0], tuple(n for n in names if kinds[n] == PROJECTOR)
    if len(found) == 1:
        raise SourceError(
            f"{value} holds the model {found[0]} and the adapter {', '.join(others)}",
            hint="name the model's file with FROM and the adapter's with ADAPTER",
        )
    listed = ", ".join(f"{name} ({kinds[name]})" for name in names)
    raise SourceError(
        f"{value} holds {len(found) or 'no'} {wanted}{'' if len(found) == 1 else 's'}: {listed}",
        hint="name the GGUF file that you mean",
    )


def blob_path(value: str, path: Path, store: Store) -> Path:
    """Where the blob lies that a text, or the path that it means, names by its digest.

    ``@sha256:HEX`` is a blob of the store, as in the HTTP API. A path can have the other
    spelling than the file (old versions of Ollama wrote ``blobs/sha256:HEX``), and can be
    that of another store, whose ``show --modelfile`` wrote it: the digest is what counts.
    Raises :class:`FormatError` for what begins with ``@`` and is no digest.
    """
    if value.startswith("@"):
        try:
            return store.blobs.path(Digest.parse(value[1:]))
        except DigestError:
            raise FormatError(
                f"{value} is not a digest",
                hint="a blob of the store is named @sha256: and 64 hexadecimal digits",
            ) from None
    with suppress(DigestError):
        digest = Digest.parse(path.name)
        places = (
            path,
            path.with_name(digest.filename),
            path.with_name(str(digest)),
            store.blobs.path(digest),
        )
        return next((place for place in places if os.path.lexists(place)), path)
    return path
