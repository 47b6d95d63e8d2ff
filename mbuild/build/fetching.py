"""FROM, ADAPTER and DRAFT on other machines: what has to be known before a build is planned.

Of a model of a registry that is its manifest, of a repository of the Hub its list of files; the
blobs and the weights are fetched by a step. Only a name with a host is fetched by itself; a bare
one is the store's, unless ``--pull`` asks for more. Nothing of a registry is loaded where all is
there.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from enum import StrEnum
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.errors import AbsentError, MbuildError, RegistryError, SourceError
from mbuild.core.events import (
    BuildEvent,
    Code,
    Replaced,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
    Warned,
)
from mbuild.core.names import DEFAULT_HOST, DEFAULT_TAG, InvalidNameError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.build.sources.files import Found
    from mbuild.build.sources.resolve import Context
    from mbuild.build.sources.values import SourceFile, StoredModel
    from mbuild.core.names import ModelName
    from mbuild.language.recipe import Recipe, Reference
    from mbuild.registry.client.access import Access
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Store


_SHOWN = 5
"""Files that were left out and are named."""


class PullMode(StrEnum):
    """When FROM a model's name asks a registry."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


class Fetching(NamedTuple):
    """How a build may fetch what it starts from.

    ``mode`` is None where nobody said: then names with a host are fetched if they are missing.
    ``access`` says which registries may be asked, None for any. ``pinned`` are the manifests that
    a lock names, by the models' names here: they are fetched in place of what the tags have by
    now; ``commits`` are those of the Hub, by repository. ``only_look``: nothing large may be
    fetched. Without ``keep`` the files of checkpoints are removed after the build.
    """

    mode: PullMode | None = None
    access: Access | None = None
    pinned: Mapping[str, Digest] = {}
    commits: Mapping[str, str] = {}
    only_look: bool = False
    keep: bool = True


def fetch(
    recipes: Iterable[Recipe], fetching: Fetching, context: Context, store: Store
) -> Generator[BuildEvent, None, None]:
    """Learn what is on other machines; the weights are fetched by a step.

    The caller holds the store. Raises :class:`RegistryError` and :class:`SourceError` with
    their place in the Modelfile.
    """
    seen: set[tuple[str, str]] = set()
    for recipe in recipes:
        for word, references in _named(recipe).items():
            for reference in references:
                if (word, reference.value) in seen:
                    continue  # a stage's base is that of several targets
                seen.add((word, reference.value))
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
    if value.startswith((".", "/")):
        return  # a path
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

    is_address = "://" in value and ".gguf" in value
    if not is_address and not names_the_hub(value):
        return None
    if not is_address and ":" in value.split("://", 1)[-1].partition("@")[0]:
        return None  # a quantization or a file: the Hub's registry has it
    from mbuild.build.learning import Inquiry, learn_address, learn_repository

    mode = fetching.mode
    inquiry = Inquiry(
        fetching.access or Access(),
        mode is PullMode.ALWAYS,
        mode is PullMode.NEVER,
        fetching.commits,
        fetching.keep,
    )
    if is_address:
        return (yield from learn_address(word, value, inquiry, store))
    try:
        reference = HubReference.parse(value)
    except InvalidNameError as error:
        if "@sha256:" in value:
            return None  # a manifest of the Hub's registry
        from mbuild.lint.remedies import of_address

        hint = of_address(value) or error.hint
        raise SourceError(error.message, hint=hint) from None
    plain = value.endswith(reference.repository)
    if plain and word == "FROM" and mode is not PullMode.ALWAYS:
        from mbuild.registry.stored import stored_name

        local, locked = stored_name(value, store), reference.repository in fetching.commits
        if str(local) in fetching.pinned or (not locked and is_whole(local, store)):
            return None  # pulled before, as GGUF; of a repository with both a lock says which
    found = yield from learn_repository(reference, inquiry, store)
    if found is None and not plain:
        raise SourceError(
            f"{word} {value}: the repository holds GGUF files, which the Hub's registry serves",
            hint=f"write hf.co/{reference.repository}, or hf.co/{reference.repository}:Q4_K_M for"
            " one of them",
        )
    return found


def _fetch(
    word: str, value: str, fetching: Fetching, context: Context, store: Store
) -> Iterator[BuildEvent]:
    """Learn what a model of a registry is, if it is missing or asked for anew."""
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
    if word == "FROM" and mode is not PullMode.ALWAYS and is_whole(local, store):
        named = store.manifests.read(local).id
        if bare or _pinned(local, fetching, store) in (None, named):
            return
    model = yield from _looked_up(word, reference, local, fetching, store)
    if model is not None:
        context.learn(word, value, model if word == "FROM" else _weights_of(word, model, store))


def _looked_up(
    word: str, reference: ModelReference, local: ModelName, fetching: Fetching, store: Store
) -> Generator[BuildEvent, None, StoredModel | None]:
    """A model of a registry by its manifest, which is asked for unless it is known here.

    None where it may not be asked for. Its blobs are fetched by a step.
    """
    from mbuild.build.sources.values import RemotePlace, StoredModel
    from mbuild.registry.client.access import Access
    from mbuild.store import Manifest
    from mbuild.store.media import MODEL
    from mbuild.store.records import MANIFEST, REMOTE_MODEL

    access, exact = fetching.access or Access(), reference
    if (pinned := _pinned(local, fetching, store)) is not None:
        exact = reference._replace(digest=pinned)
    access.check(exact.endpoint)
    data = _known_manifest(exact, local, fetching, store)
    if data is None:
        if fetching.mode is PullMode.NEVER:
            return None
        yield Status(Code.PULLING_MANIFEST)
        data = _asked(exact, access, store, has_tag=exact is not reference)
        if data is None:
            yield from _pulled(word, reference, local, fetching, store)
            return None
        store.database.put(MANIFEST, Digest.of(data).hex, data)
        if exact.digest is None:
            store.cache.put(REMOTE_MODEL, str(exact), Digest.of(data))
    manifest = Manifest.decode(data, str(exact))
    weights = (layer.digest for layer in manifest.layers if layer.media_type == MODEL)
    aliases = {digest: alias for digest in weights if (alias := store.files.alias(digest))}
    remote = RemotePlace(str(reference), "", access, manifest=(local, Digest.of(data)))
    if exact is not reference and _manifest_here(local, store) is not None:
        return StoredModel(local, Digest.of(data), manifest, aliases, remote)  # it keeps its name
    return StoredModel(local, Digest.of(data), manifest, aliases, remote, data)


def _pinned(local: ModelName, fetching: Fetching, store: Store) -> Digest | None:
    """The manifest that a lock names for a model; none counts where all is asked for anew.

    Without a host, or with Ollama's, a name is that of the store's own model, if it has one:
    that it changed is drift, and nothing to be fetched.
    """
    if fetching.mode is PullMode.ALWAYS:
        return None
    if local.host == DEFAULT_HOST and _manifest_here(local, store) is not None:
        return None
    return fetching.pinned.get(str(local))


def _manifest_here(local: ModelName, store: Store) -> bytes | None:
    """The bytes of the manifest that a name has in the store."""
    return store.manifests.read_bytes(store.manifests.resolve(local))


def _known_manifest(
    reference: ModelReference, local: ModelName, fetching: Fetching, store: Store
) -> bytes | None:
    """The manifest's bytes, where the store or its cache has them: nobody has to be asked."""
    from mbuild.store.records import MANIFEST, REMOTE_MODEL

    if reference.digest is None and fetching.mode is PullMode.ALWAYS:
        return None
    identity = reference.digest
    data = _manifest_here(local, store)
    if data is not None and identity in (None, Digest.of(data)):
        return data
    if identity is None:
        identity = store.cache.get(REMOTE_MODEL, str(reference))
    if identity is None:
        return None
    data = store.cache.get(MANIFEST, identity.hex)
    return data if data is not None and Digest.of(data) == identity else None


def _asked(
    reference: ModelReference, access: Access, store: Store, *, has_tag: bool
) -> bytes | None:
    """The manifest's bytes, as the store keeps them, from the registry.

    None for a model in another dialect than Ollama's, whose manifest is made of its blobs, and
    for one that is not there by its digest: it may be such a model, too, to be found by its tag.
    ``has_tag``: a tag was named, be it the default one; the digest is a lock's.
    """
    from mbuild.registry.transfer.moving import registry_of
    from mbuild.registry.transfer.pull import look
    from mbuild.work.cancel import Cancel

    with registry_of(reference, access, Cancel("the pull was stopped")) as registry:
        try:
            found = look(registry, reference)
        except AbsentError:
            if reference.digest is None or (reference.tag == DEFAULT_TAG and not has_tag):
                raise
            return None
        return found.finish(store).data if found.is_ollama else None


def _pulled(
    word: str, reference: ModelReference, local: ModelName, fetching: Fetching, store: Store
) -> Generator[BuildEvent, None, None]:
    """Pull a model whose manifest is known only once its blobs are here.

    Raises :class:`RegistryError` for whoever only looks.
    """
    from mbuild.core.transfers import BlobDone, BlobProgress, LeftOut, Transferred
    from mbuild.registry.client.access import Access
    from mbuild.registry.transfer.pull import bring_model

    if fetching.only_look:
        raise RegistryError(
            f"{reference} is not here yet, so nobody can say what a build would do with it",
            hint=f"mbuild pull {reference}",
        )
    pinned = _pinned(local, fetching, store)
    started, label, names = time.monotonic(), f"pull {reference}", ("model", str(reference))
    blobs: dict[Digest, tuple[int, int]] = {}
    yield StepStarted(0, label, 0, "pull", *names)
    access = fetching.access or Access()
    transfer = bring_model(reference, local, store, access, pinned, work="build")
    with closing(transfer):
        for event in transfer:
            if isinstance(event, (BlobProgress, BlobDone)):
                done = event.total if isinstance(event, BlobDone) else event.completed
                blobs[event.digest] = done, event.total
                completed, total = map(sum, zip(*blobs.values(), strict=True))
                yield StepProgress(0, label, completed, total, "pull", *names)
            elif isinstance(event, LeftOut):
                shown = ", ".join(event.names[:_SHOWN])
                more = ", ..." if len(event.names) > _SHOWN else ""
                yield Warned(
                    f"{reference}: left out, because a model has no place for it: {shown}{more}"
                )
            elif isinstance(event, Transferred):
                seconds = time.monotonic() - started
                cached = not event.moved and event.replaced is None
                yield StepFinished(0, label, cached, seconds, event.moved, "pull", *names)
                if event.replaced is not None:
                    yield Replaced(event.name, event.replaced)


def _weights_of(word: str, model: StoredModel, store: Store) -> SourceFile:
    """The file of a model that ADAPTER or DRAFT means; raises :class:`SourceError`."""
    from mbuild.build.sources.hub import absent
    from mbuild.build.sources.local import stored_blob
    from mbuild.store.media import ADAPTER, MODEL

    assert model.remote is not None
    layers = model.manifest.of_kind(ADAPTER if word == "ADAPTER" else MODEL)
    if word == "ADAPTER" and not layers:  # an adapter that was pushed as a file of its own
        layers = model.manifest.of_kind(MODEL)
    if len(layers) != 1:
        what = "no weights" if not layers else f"{len(layers)} files of weights"
        raise SourceError(
            f"{word} {model.remote.source}: that model has {what}",
            hint="name one whose weights are in one file",
        )
    (layer,) = layers
    shown = layer.origin if word == "ADAPTER" and layer.origin else layer.digest.filename
    if store.blobs.has(layer.digest, layer.size):
        stored = stored_blob(store.blobs.path(layer.digest), shown, layer.digest, store)
        return stored._replace(remote=model.remote)
    return absent(shown, layer.digest, layer.size, model.remote, store)


def is_whole(name: ModelName, store: Store) -> bool:
    """Whether the store has a model with all of its blobs."""
    try:
        stored = store.manifests.read(name)
    except MbuildError:
        return False
    return all(store.blobs.bring(layer.digest, layer.size) for layer in stored.manifest.blobs())


def placed(error: MbuildError, item: Reference) -> MbuildError:
    """The error with its place in the Modelfile."""
    from mbuild.language.instructions import Problem

    return error.at(Problem(error.message, item.span, suggestion=error.hint))
