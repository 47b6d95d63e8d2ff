"""FROM, ADAPTER and DRAFT on other machines: what has to be known before a build is planned.

Of a repository of the Hub and of a web address that is what is in them; the weights are fetched by
a step. A model of a registry is pulled here. Only a name with a host is fetched by itself; a bare
one is the store's, unless ``--pull`` asks for more. Nothing of a registry is loaded where all is
there.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from mbuild.core.errors import MbuildError, RegistryError, SourceError
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

if TYPE_CHECKING:
    from mbuild.build.sources.files import Found
    from mbuild.build.sources.resolve import Context
    from mbuild.build.sources.values import SourceFile
    from mbuild.core.digest import Digest
    from mbuild.core.names import ModelName
    from mbuild.language.recipe import Recipe, Reference
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
    a lock names: it is fetched in place of what the tag has by now; ``commits`` are those of
    the Hub, by repository.
    """

    mode: PullMode | None = None
    access: Access | None = None
    pinned: Digest | None = None
    commits: Mapping[str, str] = {}


def fetch(
    recipe: Recipe, fetching: Fetching, context: Context, store: Store
) -> Iterator[BuildEvent]:
    """Learn what is on other machines, and bring models of registries into the store.

    The caller holds the store. Raises :class:`MbuildError` with its place in the Modelfile:
    what :func:`mbuild.registry.transfer.pull.pull` raises, and what the Hub refuses.
    """
    for word, references in _named(recipe).items():
        for reference in references:
            try:
                yield from _one(word, reference.value, fetching, context, store)
            except (RegistryError, SourceError) as error:
                raise placed(error, reference) from None


def _named(recipe: Recipe) -> Mapping[str, Sequence[Reference]]:
    """What may be on other machines, by the word that names it."""
    return {"FROM": recipe.models, "ADAPTER": recipe.adapters, "DRAFT": recipe.drafts}


def _one(
    word: str, value: str, fetching: Fetching, context: Context, store: Store
) -> Iterator[BuildEvent]:
    """Fetch or learn what one value means, where that is on another machine."""
    if "/" not in value:
        if word == "FROM" and fetching.mode in (PullMode.ALWAYS, PullMode.MISSING):
            yield from _fetch(word, value, fetching, context, store)
        return  # as most names are: a bare one of the store
    address = value.startswith(("http://", "https://")) and ".gguf" in value
    hub = "hf.co/" in value.lower() or "huggingface.co/" in value.lower()
    if (address or hub) and context.may_be_stored(value):
        found = yield from _learned(word, value, fetching, store)
        if found is not None:
            context.learn(word, value, found)
            return
    if fetching.mode is not PullMode.NEVER or word != "FROM":
        yield from _fetch(word, value, fetching, context, store)


def _learned(
    word: str, value: str, fetching: Fetching, store: Store
) -> Generator[BuildEvent, None, Found | SourceFile | None]:
    """What a web address or a repository of the Hub means; None for a name of a registry."""
    from mbuild.registry.client.access import Access
    from mbuild.registry.hub.reference import HubReference, names_the_hub

    is_address = not names_the_hub(value) or ".gguf" in value
    if not is_address and ":" in value.split("://", 1)[-1].partition("@")[0]:
        return None  # a quantization: the Hub's registry has it
    from mbuild.build.learning import Asking, learn_address, learn_repository

    mode = fetching.mode
    asking = Asking(
        fetching.access or Access(),
        mode is PullMode.ALWAYS,
        mode is PullMode.NEVER,
        fetching.commits,
    )
    if is_address:
        return (yield from learn_address(word, value, asking, store))
    try:
        reference = HubReference.parse(value)
    except InvalidNameError:
        return None  # whoever resolves it says so
    if "@" not in value and word == "FROM" and mode is not PullMode.ALWAYS:
        from mbuild.registry.stored import stored_name

        if is_whole(stored_name(value, store), store):
            return None  # pulled before, as GGUF
    return (yield from learn_repository(reference, asking, store))


def _fetch(
    word: str, value: str, fetching: Fetching, context: Context, store: Store
) -> Iterator[BuildEvent]:
    """Pull a model of a registry if it is missing; of ADAPTER and DRAFT its weights count."""
    from mbuild.registry.reference import ModelReference, has_host
    from mbuild.registry.stored import stored_name

    mode = fetching.mode
    bare = not has_host(value)
    if (bare and (mode is None or word != "FROM")) or not context.may_be_stored(value):
        return
    try:
        local = stored_name(value, store)
        reference = ModelReference.parse(value)
    except InvalidNameError:
        return  # whoever resolves it says so
    if mode is PullMode.ALWAYS or not is_whole(local, store):
        if mode is PullMode.NEVER:
            return
        if word != "FROM":
            fetching = fetching._replace(pinned=None)
        yield from _pulled(reference, local, fetching, store)
    if word != "FROM":
        context.learn(word, value, _weights_of(word, value, local, store))


def _weights_of(word: str, value: str, name: ModelName, store: Store) -> SourceFile:
    """The file of a stored model that ADAPTER or DRAFT means; raises :class:`SourceError`."""
    from mbuild.build.sources.local import stored_blob
    from mbuild.store.media import ADAPTER, MODEL

    layers = store.manifests.read(name).manifest.of_kind(ADAPTER if word == "ADAPTER" else MODEL)
    if word == "ADAPTER" and not layers:  # an adapter that was pushed as a file of its own
        layers = store.manifests.read(name).manifest.of_kind(MODEL)
    if len(layers) != 1:
        what = "no weights" if not layers else f"{len(layers)} files of weights"
        raise SourceError(
            f"{word} {value}: that model has {what}",
            hint="name one whose weights are in one file",
        )
    digest = layers[0].digest
    shown = layers[0].origin if word == "ADAPTER" and layers[0].origin else digest.filename
    return stored_blob(store.blobs.path(digest), shown, digest, store)


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

    exact = reference
    if fetching.pinned is not None and fetching.mode is not PullMode.ALWAYS:
        exact = reference._replace(digest=fetching.pinned)
    access = fetching.access or Access()
    access.check(exact.endpoint)
    started, label = time.monotonic(), f"pull {reference}"
    blobs: dict[Digest, tuple[int, int]] = {}
    transfer = bring_model(exact, local, store, access)
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
    finally:
        transfer.close()


def placed(error: MbuildError, item: Reference) -> MbuildError:
    """The error with its place in the Modelfile."""
    from mbuild.language.instructions import Problem

    return error.at(Problem(error.message, item.span, suggestion=error.hint))
