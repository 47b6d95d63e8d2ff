"""The running of a download step: from the Hub, or from a web address with a known digest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, cast

from mbuild.build.steps.arriving import Arrival
from mbuild.core.transfers import BlobDone, BlobProgress
from mbuild.registry.transfer.pull import Places, bring
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from mbuild.build.graph import StepContext
    from mbuild.build.sources.values import RemotePlace, SourceFile
    from mbuild.core.digest import Digest
    from mbuild.registry.client.registry import Registry
    from mbuild.registry.transfer.partial import PartialBlob
    from mbuild.store import Store
    from mbuild.store.manifest import Blob


def fetch(
    files: Sequence[SourceFile],
    missing: Mapping[Digest, int],
    context: StepContext,
    found: Callable[[Blob], object],
) -> None:
    """Bring files into the store, telling how far that is; raises :class:`RegistryError`.

    ``missing`` has the digests and sizes of those that are not there.
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
    store.blobs.check_room(total)
    try:
        for places, sizes in _rounds(files, missing, urls, context, found):
            with closing(bring(sizes, registry, store, cancel, places)) as events:
                for event in events:
                    if isinstance(event, (BlobProgress, BlobDone)):
                        done = event.total if isinstance(event, BlobDone) else event.completed
                        at[event.digest] = done
                        context.report(sum(at.values()), total)
    finally:
        registry.web.close()


def _rounds(
    files: Sequence[SourceFile],
    missing: Mapping[Digest, int],
    urls: Mapping[Digest, str],
    context: StepContext,
    found: Callable[[Blob], object],
) -> Iterator[tuple[Places, Mapping[Digest, int]]]:
    """What to fetch, first what is read as a whole, then what can be read while it comes.

    That is safetensors, by their names, which mostly have the layers in order. It takes
    Linux's names of open files, for a file is called otherwise once it is whole.
    """
    overlap = sys.platform == "linux"
    late = [f.sha256 for f in files if overlap and f.name.endswith(".safetensors") and f.sha256]
    second = {digest: missing[digest] for digest in late if digest in missing}
    first = {digest: size for digest, size in missing.items() if digest not in second}
    arrivals: dict[Digest, Arrival] = {}

    def begun(blobs: Sequence[PartialBlob]) -> None:
        arrivals.update((blob.digest, Arrival(blob)) for blob in blobs)
        if context.arriving is not None:
            context.arriving.update(arrivals)
            context.begun()

    def ended(blob: Blob) -> None:
        found(blob)
        if blob.digest in arrivals and blob.blake3 is not None:
            arrivals[blob.digest].ends(blob.blake3)

    def watch() -> None:
        context.report(0, 0)

    if first:
        yield Places(urls, found, watch), dict(sorted(first.items(), key=lambda row: -row[1]))
    if second:
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
