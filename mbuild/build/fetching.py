"""FROM a model in a registry: what the store does not have is pulled before the build begins.

Only a name with a host is fetched by itself; a bare one is the store's, unless ``--pull`` asks for
more. Nothing of a registry is loaded where all is there.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING

from mbuild.core.errors import AbsentError, MbuildError
from mbuild.core.events import (
    BuildEvent,
    Code,
    Replaced,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
)
from mbuild.core.names import InvalidNameError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.build.sources.resolve import Context
    from mbuild.core.digest import Digest
    from mbuild.core.names import ModelName
    from mbuild.language.recipe import Recipe
    from mbuild.registry.client.access import Access
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Store

KIND = "pull"
"""The kind of the step in events. It has the number 0: it is over when steps are counted."""


class PullMode(StrEnum):
    """When FROM a model's name asks a registry."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


class Fetching(NamedTuple):
    """How a build may fetch what it starts from.

    ``mode`` is None where nobody said: then names with a host are fetched if they are missing.
    ``access`` says which registries may be asked, None for any. ``pinned`` is the manifest that
    a lock names: it is fetched in place of what the tag has by now.
    """

    mode: PullMode | None = None
    access: Access | None = None
    pinned: Digest | None = None


def fetch(
    recipe: Recipe, fetching: Fetching, context: Context, store: Store
) -> Iterator[BuildEvent]:
    """Bring the model that FROM names into the store, which the caller holds, if that has to be.

    Raises what :func:`mbuild.registry.transfer.pull.pull` raises.
    """
    if not recipe.models or fetching.mode is PullMode.NEVER:
        return
    value = recipe.models[-1].value
    if ("/" not in value and fetching.mode is None) or value.startswith((".", "/")):
        return  # as most are: a bare name of the store, or a path
    yield from _fetch(value, fetching, context, store)


def _fetch(value: str, fetching: Fetching, context: Context, store: Store) -> Iterator[BuildEvent]:
    from mbuild.registry.reference import ModelReference, has_host
    from mbuild.registry.stored import stored_name

    mode = fetching.mode
    if (mode is None and not has_host(value)) or not context.may_be_stored(value):
        return
    try:
        local = stored_name(value, store)
        if mode is not PullMode.ALWAYS and is_whole(local, store):
            return
        reference = ModelReference.parse(value)
    except InvalidNameError:
        return  # whoever resolves it says so
    yield from _pulled(reference, local, fetching, store)


def is_whole(name: ModelName, store: Store) -> bool:
    """Whether the store has a model with all of its blobs."""
    try:
        stored = store.manifests.read(name)
    except MbuildError:
        return False
    return all(store.blobs.bring(layer.digest, layer.size) for layer in stored.manifest.blobs())


def _pulled(
    reference: ModelReference, local: ModelName, fetching: Fetching, store: Store
) -> Generator[BuildEvent, None, None]:
    """Pull, and tell of it as of a step."""
    from mbuild.core.transfers import BlobDone, BlobProgress, Transferred
    from mbuild.registry.client.access import Access
    from mbuild.registry.transfer.pull import bring_model

    pinned = None if fetching.mode is PullMode.ALWAYS else fetching.pinned
    access = fetching.access or Access()
    access.check(reference.endpoint)
    started, label = time.monotonic(), f"pull {reference}"
    blobs: dict[Digest, tuple[int, int]] = {}
    transfer = bring_model(reference, local, store, access, pinned)
    yield Status(Code.PULLING_MANIFEST)
    yield StepStarted(0, label, 0, KIND, "model", str(reference))
    try:
        for event in transfer:
            if isinstance(event, (BlobProgress, BlobDone)):
                done = event.total if isinstance(event, BlobDone) else event.completed
                blobs[event.digest] = done, event.total
                completed, total = map(sum, zip(*blobs.values(), strict=True))
                yield StepProgress(0, label, completed, total, KIND, "model", str(reference))
            elif isinstance(event, Transferred):
                seconds = time.monotonic() - started
                cached = not event.moved and event.replaced is None
                yield StepFinished(
                    *(0, label, cached, seconds, event.moved, KIND, "model", str(reference))
                )
                if event.replaced is not None:
                    yield Replaced(event.name, event.replaced)
    except AbsentError as error:
        raise _with_remedy(error, reference) from None
    finally:
        transfer.close()


def _with_remedy(error: AbsentError, reference: ModelReference) -> MbuildError:
    """The error with what to do about a repository of the Hub that has no GGUF files."""
    from mbuild.registry.reference import HUB_HOSTS

    if reference.endpoint not in HUB_HOSTS:
        return error
    folder = reference.path.rpartition("/")[2]
    return AbsentError(
        error.message,
        hint=f"a checkpoint is fetched first: hf download {reference.path} --local-dir {folder},"
        f" and FROM ./{folder}",
    )
