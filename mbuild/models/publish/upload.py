"""Push to the Hub: what it does not have yet, in one commit, by the official client."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild import __version__
from mbuild.core.errors import AbsentError, DeniedError, RegistryError, UnreachableError, UsageError
from mbuild.core.values import NamedTuple
from mbuild.models.publish import content
from mbuild.models.publish.card import card, is_ours, metadata_of, origin_of
from mbuild.models.publish.content import Published
from mbuild.registry.hub.hub import Hub
from mbuild.registry.hub.reference import HubReference, endpoint
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from mbuild.registry.client.access import Access
    from mbuild.registry.hub.listing import Listing
    from mbuild.store import Store, StoredManifest

README = "README.md"
_XET = "/xet-write-token"
"""In the address where the official client asks for leave to use Xet's storage."""


class Publication(NamedTuple):
    """What a push to a repository comes to.

    ``files`` are all that the model is there, ``changed`` those that the repository does not
    have. ``notes`` are what its author should know. ``is_new``: the repository is to be made.
    """

    reference: HubReference
    files: tuple[Published, ...]
    changed: tuple[Published, ...]
    notes: tuple[str, ...]
    is_new: bool

    @property
    def size(self) -> int:
        """Bytes to send."""
        return sum(file.size for file in self.changed)


def publication(
    store: Store,
    stored: StoredManifest,
    reference: HubReference,
    access: Access,
    folder: Path,
    progress: Callable[[int, int], None],
    most: int = content.LARGEST,
) -> Publication:
    """Find out what has to be sent; nothing is.

    ``folder`` takes shards that have to be written, until the push is over. Raises as
    :func:`mbuild.models.publish.content.weights_of`, and :class:`RegistryError`.
    """
    hub = Hub(reference, access, Cancel("the push was stopped"))
    notes: list[str] = []
    try:
        listing = _listing(hub)
        keep = _foreign_card(hub, listing)
    finally:
        hub.web.close()
    weights = content.weights_of(store, stored, reference.repository, folder, progress, most)
    origin = origin_of(store, stored)
    further = {"Modelfile": origin.modelfile, "Modelfile.lock": origin.lock}
    if keep:
        notes.append(f"{reference} has a README.md of its own, which is left as it is")
    else:
        sizes = content.ggufs(weights, listing)
        metadata = metadata_of(store, stored)
        further[README] = card(reference.repository, origin, metadata, sizes)
    files = (*weights, *content.texts(store, stored, further))
    changed = content.missing(files, listing)
    return Publication(reference, files, tuple(changed), tuple(notes), listing is None)


def _listing(hub: Hub) -> Listing | None:
    """What the repository has; None for one that is not there."""
    try:
        return hub.listing()
    except AbsentError:
        return None


def _foreign_card(hub: Hub, listing: Listing | None) -> bool:
    """Whether the repository has a card that somebody wrote, which must not be replaced."""
    file = None if listing is None else listing.files.get(README)
    if listing is None or file is None or not file.size:
        return False
    return not is_ours(hub.small_file(listing, file))


def send(found: Publication, *, private: bool, bars: bool = False) -> str:
    """Make the repository if need be, and one commit with what changed; the commit's name.

    "" where there was nothing to send. ``bars``: the client shows how far it is. Raises
    :class:`RegistryError`, and :class:`UsageError` without the official client.
    """
    if not found.changed:
        return ""
    api, errors = _client(bars=bars)
    repository = found.reference.repository
    names = [file.name for file in found.changed]
    try:
        if found.is_new:
            api.create_repo(repository, private=private or None, exist_ok=True)
        done = api.create_commit(
            repository,
            _operations(found.changed),
            commit_message=f"Upload {names[0]}" + (f" and {len(names) - 1} more" * bool(names[1:])),
            revision=found.reference.revision,
        )
    except errors as error:
        raise _explained(error, found.reference) from None
    return str(done.oid)


def _client(*, bars: bool) -> tuple[Any, tuple[type[Exception], ...]]:
    """The official client, and what it raises."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError:
        raise UsageError(
            "a push to the Hub requires the package huggingface_hub",
            hint="pip install 'mbuild-models[hub]'",
        ) from None
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    from mbuild.registry.auth.logins import hub_token

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    (enable_progress_bars if bars else disable_progress_bars)()
    login = hub_token()
    if login is None:
        raise DeniedError(
            "a push to the Hub requires a token that may write",
            hint="set HF_TOKEN or run hf auth login",
        )
    api = HfApi(
        endpoint=endpoint(),
        token=login.bearer,
        library_name="mbuild",
        library_version=__version__,
    )
    # It is made of its HTTP library's own error: httpx2's, in older versions httpx's.
    known = (HfHubHTTPError, OfflineModeIsEnabled, *HfHubHTTPError.__bases__)
    return api, (*known, RuntimeError, ValueError, OSError)


def _operations(files: Sequence[Published]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd(file.name, file.path or file.data or b"") for file in files]


def _explained(error: Exception, reference: HubReference) -> RegistryError:
    """An error of the client as one of ours; it wraps those of uploads."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", 0)
    said = str(getattr(error, "server_message", None) or error).strip().partition("\n")[0][:300]
    if _XET in f"{getattr(getattr(error, 'response', None), 'url', '')} {error}":
        return RegistryError(
            f"{reference} cannot be pushed to: {endpoint()} does not take files by hf_xet",
            hint="set HF_HUB_DISABLE_XET=1: then they go there by the older protocol of LFS",
        )
    if status in (401, 403, 404):
        return DeniedError(
            f"{reference} cannot be pushed to: {said or f'status {status}'}",
            hint="the token has to be one that may write to that owner's repositories",
        )
    if status:
        return RegistryError(f"{reference} cannot be pushed to: {said}")
    return UnreachableError(f"{reference} cannot be pushed to: {said}")
