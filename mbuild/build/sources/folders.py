"""What files in a user's folders are: known by what stands in them, not by their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import FormatError, MbuildError, SourceError
from mbuild.store.records import GGUF_KIND

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.build.sources.values import SourceFile
    from mbuild.store import Store

MODEL, PROJECTOR, ADAPTER = "model", "projector", "adapter"
"""The values of :class:`mbuild.gguf.facts.ModelKind`."""


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
        return PROJECTOR if "mmproj" in file.name.lower() else MODEL
    if file.content is not None:
        store.cache.put(GGUF_KIND, str(file.content), kind)
    return kind


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
    others = [n for n in names if kinds[n] not in (wanted, PROJECTOR)]
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
