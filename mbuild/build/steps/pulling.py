"""The running of a download step: from the Hub, or from a web address with a known digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, cast

from mbuild.core.transfers import BlobDone, BlobProgress
from mbuild.registry.transfer.pull import Places, bring
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from mbuild.build.graph import StepContext
    from mbuild.build.sources.values import RemotePlace, SourceFile
    from mbuild.core.digest import Digest
    from mbuild.registry.client.registry import Registry
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
    urls = {digest: url for digest, url in remotes if url}
    registry = _site(first, cancel)
    places = Places(cast("dict[Digest, str]", urls), found, lambda: context.report(0, 0))
    sizes = dict(sorted(missing.items(), key=lambda row: -row[1]))
    at: dict[Digest, int] = {}
    total = sum(sizes.values())
    store = cast("Store", context.store)
    try:
        with closing(bring(sizes, registry, store, cancel, places)) as events:
            for event in events:
                if isinstance(event, (BlobProgress, BlobDone)):
                    done = event.total if isinstance(event, BlobDone) else event.completed
                    at[event.digest] = done
                    context.report(sum(at.values()), total)
    finally:
        registry.web.close()


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
