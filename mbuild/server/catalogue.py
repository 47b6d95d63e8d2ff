"""What the server knows of the store's models: read once, looked at again when they change."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import MbuildError, SourceError, StoreError
from mbuild.core.names import DEFAULT_NAMESPACE, InvalidNameError, ModelName
from mbuild.core.values import NamedTuple
from mbuild.models import library
from mbuild.store.contents import open_layer
from mbuild.store.media import MODEL, PROJECTOR
from mbuild.templates.abilities import InnerTemplate, inner_template

if TYPE_CHECKING:
    from mbuild.store import Store
    from mbuild.store.contents import Contents


class ListFacts(NamedTuple):
    """What a model's weights and template say, for lists and for ``show``."""

    context_length: int
    embedding_length: int
    capabilities: tuple[str, ...]
    inner: InnerTemplate = InnerTemplate()


class ListEntry(NamedTuple):
    """A model of the list: when it changed, and its JSON as ``/api/tags`` has it."""

    name: ModelName
    modified_ns: int
    json: bytes


class Catalogue:
    """The list of models, kept while their manifests do not change. Safe for many threads.

    A list with nothing new costs one ``stat`` a model. Weights are known by
    their digest and read once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[tuple[int, ...], ListEntry | None]] = {}
        self._headers: dict[str, ListFacts] = {}
        self._tree = _Tree()
        self._files: Sequence[tuple[str, tuple[int, ...]]] | None = None
        self._answer: tuple[Sequence[ListEntry], bytes] = ([], b"")

    def list(self, store: Store) -> Sequence[ListEntry]:
        """All models that can be read, last changed first."""
        return self._look(store)[0]

    def tags(self, store: Store) -> bytes:
        """The body of ``/api/tags``."""
        return self._look(store)[1]

    def _look(self, store: Store) -> tuple[Sequence[ListEntry], bytes]:
        """The list and its JSON, as before when no file changed."""
        with self._lock:
            files = self._tree.files(str(store.manifests.folder))
            if files != self._files:
                found: dict[str, tuple[tuple[int, ...], ListEntry | None]] = {}
                for path, stamp in files:
                    known = self._entries.get(path)
                    if known is None or known[0] != stamp:
                        known = (stamp, self._read(store, path))
                    found[path] = known
                # What cannot be read may be repaired without its manifest changing.
                readable = all(entry is not None for _, entry in found.values())
                self._files = files if readable else None
                self._entries = {path: row for path, row in found.items() if row[1] is not None}
                entries = [entry for _, entry in found.values() if entry is not None]
                entries.sort(key=lambda entry: (-entry.modified_ns, str(entry.name)))
                body = b'{"models":[' + b",".join(entry.json for entry in entries) + b"]}"
                self._answer = (entries, body)
            return self._answer

    def _read(self, store: Store, path: str) -> ListEntry | None:
        """One entry of the list; None for what is no model or cannot be read."""
        parts = path.split(os.sep)[-4:]
        with suppress(MbuildError, InvalidNameError, OSError):
            name = ModelName.parse(f"{parts[0]}/{parts[1]}/{parts[2]}:{parts[3]}")
            if list(name.parts) != parts:
                return None
            view = library.view(store, name)
            data = json.dumps(self._tag(store, view), separators=(",", ":"), ensure_ascii=False)
            return ListEntry(name, view.stored.modified_ns, data.encode())
        return None

    def _tag(self, store: Store, view: Contents) -> dict[str, Any]:
        facts = self.facts(store, view)
        name = str(view.stored.name)
        details = dict(view.details)
        if facts.context_length:
            details["context_length"] = facts.context_length
        if facts.embedding_length:
            details["embedding_length"] = facts.embedding_length
        return {
            "name": name,
            "model": name,
            "modified_at": timestamp(view.stored.modified_ns),
            "size": view.stored.size,
            "digest": view.stored.id.hex,
            "details": details,
            "capabilities": list(facts.capabilities),
        }

    def facts(self, store: Store, view: Contents) -> ListFacts:
        """What a model can do, from its weights, its projectors, its template and its config."""
        header = self._header(store, view)
        found = header.capabilities
        if view.stored.manifest.of_kind(PROJECTOR):
            found += ("vision", *self._header(store, view, PROJECTOR).capabilities)
        able = library.capabilities_of(view, found, header.inner)
        lengths = {
            key: view.config[key] if isinstance(view.config.get(key), int) else getattr(header, key)
            for key in ("context_length", "embedding_length")
        }
        return ListFacts(**lengths, capabilities=able, inner=header.inner)

    def _header(self, store: Store, view: Contents, kind: str = MODEL) -> ListFacts:
        from mbuild.gguf.facts import describe

        for layer in view.stored.manifest.of_kind(kind):
            key = layer.digest.hex
            if key in self._headers:
                return self._headers[key]
            opened = open_layer(store.blobs, layer, str(view.stored.name))
            with suppress(SourceError, StoreError), opened as file:
                known = describe(file)
                facts = ListFacts(
                    known.context_length,
                    known.embedding_length,
                    known.capabilities,
                    inner_template(known.chat_template or ""),
                )
                return self._headers.setdefault(key, facts)
        return ListFacts(0, 0, ())


_TICK_NS = 2_100_000_000
"""A folder listed this shortly after it changed may change again without its time telling."""


def owner(name: ModelName) -> str:
    """Who owns a model in the words of ``/v1/models``: its namespace."""
    return name.namespace or DEFAULT_NAMESPACE


def timestamp(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC, as Go writes a time: no zeros at its end."""
    seconds, rest = divmod(ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"


class _Tree:
    """The files four folders below ``manifests/``, each folder listed only when it changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, list[str]]] = {}

    def files(self, root: str) -> list[tuple[str, tuple[int, ...]]]:
        """All files, with what tells whether they changed: in place too, as Ollama writes."""
        before, self._known = self._known, {}
        folders = [root]
        for _ in range(3):
            folders = [path for folder in folders for path in self._entries(folder, before)]
        found: list[tuple[str, tuple[int, ...]]] = []
        for folder in folders:
            for path in self._entries(folder, before):
                try:
                    info = os.stat(path)
                except OSError:  # removed since
                    continue
                found.append((path, (info.st_ino, info.st_size, info.st_mtime_ns)))
        return found

    def _entries(self, folder: str, before: dict[str, tuple[int, int, list[str]]]) -> list[str]:
        """The paths in a folder; what is no folder has none."""
        try:
            changed = os.stat(folder).st_mtime_ns
            known = before.get(folder)
            if known is None or known[0] != changed or known[1] < changed + _TICK_NS:
                now = time.time_ns()
                paths = [f"{folder}{os.sep}{name}" for name in os.listdir(folder)]
                known = (changed, now, paths)
        except OSError:
            return []
        self._known[folder] = known
        return known[2]
