"""The running of a download step: from the Hub, or from a web address with a known digest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, cast

from mbuild.build.steps.arriving import Arrival, Readers
from mbuild.core.transfers import BlobDone, BlobProgress
from mbuild.registry.transfer.partial import PartialBlob
from mbuild.registry.transfer.pull import Places, bring
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from mbuild.build.graph import StepContext
    from mbuild.build.sources.values import RemotePlace, SourceFile
    from mbuild.core.digest import Digest
    from mbuild.registry.client.registry import Registry
    from mbuild.store import Store
    from mbuild.store.manifest import Blob
    from mbuild.work.spread import Part


WINDOW = 1 << 30
"""Bytes that may arrive before somebody reads them, of weights that are not kept."""

_SECONDS = 0.02


def fetch(
    files: Sequence[SourceFile],
    missing: Mapping[Digest, int],
    context: StepContext,
    found: Callable[[Blob], object],
) -> None:
    """Bring files into the store, telling how far that is; raises :class:`RegistryError`.

    ``missing`` has the digests and sizes of those that are not there. Weights that are not to be
    kept and that others read while they come are in no store: ``found`` hears of them, too.
    """
    first = next((f.remote for f in files if f.remote and f.sha256 in missing), None)
    if first is None:
        return
    cancel = Cancel("the download was stopped")
    remotes = [(f.sha256, f.remote.url) for f in files if f.sha256 in missing and f.remote]
    urls = {digest: url for digest, url in remotes if url and digest}
    registry = _site(first, cancel)
    at: dict[Digest, int] = {}
    total, store = sum(missing.values()), cast("Store", context.store)
    late = _late(files, missing)
    passes = context.passes and bool(late) and not first.keep
    held = sum(missing[digest] for digest in late) if passes else 0
    store.blobs.check_room(total - held + min(held, WINDOW))
    try:
        for places, sizes in _rounds(missing, late, urls, context, found, passes=passes):
            with closing(bring(sizes, registry, store, cancel, places)) as events:
                for event in events:
                    if isinstance(event, (BlobProgress, BlobDone)):
                        done = event.total if isinstance(event, BlobDone) else event.completed
                        at[event.digest] = done
                        context.report(sum(at.values()), total)
    finally:
        registry.web.close()


def _late(files: Sequence[SourceFile], missing: Mapping[Digest, int]) -> list[Digest]:
    """What can be read while it comes: safetensors, by their names, mostly layer by layer.

    It takes Linux's names of open files, for a file is called otherwise once it is whole.
    """
    if sys.platform != "linux":
        return []
    late = [f.sha256 for f in files if f.name.endswith(".safetensors") and f.sha256]
    return [digest for digest in dict.fromkeys(late) if digest in missing]


def _rounds(
    missing: Mapping[Digest, int],
    late: Sequence[Digest],
    urls: Mapping[Digest, str],
    context: StepContext,
    found: Callable[[Blob], object],
    *,
    passes: bool,
) -> Iterator[tuple[Places, Mapping[Digest, int]]]:
    """What to fetch, first what is read as a whole, then what can be read while it comes."""
    second = {digest: missing[digest] for digest in late}
    first = {digest: size for digest, size in missing.items() if digest not in second}
    arrivals: dict[Digest, Arrival] = {}
    readers, blobs = Readers(), list[PartialBlob]()

    def begun(new: Sequence[PartialBlob]) -> None:
        blobs.extend(new)
        arrivals.update((blob.digest, Arrival(blob, readers)) for blob in new)
        if context.arriving is not None:
            context.arriving.update(arrivals)
            context.begun()

    def ended(blob: Blob) -> None:
        found(blob)
        if blob.digest in arrivals and blob.blake3 is not None:
            arrivals[blob.digest].ends(blob.blake3)

    def hold(part: Part) -> None:
        """Wait while nobody needs more, and much was not read yet."""
        while readers.are_busy and sum(blob.ahead for blob in blobs) > WINDOW:
            part.at(0)
            time.sleep(_SECONDS)

    def watch() -> None:
        context.report(0, 0)

    if first:
        yield Places(urls, found, watch), dict(sorted(first.items(), key=lambda row: -row[1]))
    if second and passes:
        yield Places(urls, ended, watch, begun, hold), second
    elif second:
        yield Places(urls, ended, watch, begun), second


def _site(remote: RemotePlace, cancel: Cancel) -> Registry:
    """Who is asked for a file: a registry, the Hub, with its login, or any site."""
    if not remote.url:
        from mbuild.registry.client.registry import Registry
        from mbuild.registry.reference import ModelReference

        return Registry(ModelReference.parse(remote.source), remote.access, cancel)
    from mbuild.registry.hub.reference import HubReference, names_the_hub

    if names_the_hub(remote.source):
        from mbuild.registry.hub.hub import Hub

        return Hub(HubReference.parse(remote.source), remote.access, cancel)
    from mbuild.registry.client.site import Site

    return Site(remote.url, remote.access, cancel)
