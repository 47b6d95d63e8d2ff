"""What a repository of the Hub or a web address holds, learnt before a build is planned.

Only lists and small files travel here; weights do as a step. What was learnt once is remembered
in the cache, so that the next build asks nobody.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mbuild.build.sources.files import Found
from mbuild.build.sources.hub import INDEX, HubFiles, absent, needed_names
from mbuild.build.sources.local import stored_blob
from mbuild.build.sources.places import front_matter_of
from mbuild.build.sources.values import README, RemotePlace, SourceFile
from mbuild.core.digest import BLAKE3, Digest, DigestError
from mbuild.core.errors import AbsentError, RegistryError, SourceError, UnreachableError
from mbuild.core.events import BuildEvent, Code, Status, Warned
from mbuild.core.values import NamedTuple
from mbuild.registry.hub.cached import cached_commit, snapshot
from mbuild.registry.hub.hub import Hub, is_named
from mbuild.registry.hub.listing import HubFile, Listing, shards_of
from mbuild.registry.hub.reference import HubReference, endpoint, is_offline
from mbuild.store.records import GIT_CONTENT, HUB_COMMIT, HUB_LISTING, MODEL_CARD, REMOTE_SIZE
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from mbuild.registry.client.access import Access
    from mbuild.store import Store

_CONNECTIONS = 4
_MAX_INDEX = 64 << 20


class Inquiry(NamedTuple):
    """How a repository may be asked about.

    ``always``: also where an earlier answer is remembered; ``never``: not at all.
    ``commits`` are those that a lock names, by repository. ``keep``: what is fetched is kept
    after the build.
    """

    access: Access
    always: bool = False
    never: bool = False
    commits: Mapping[str, str] = {}
    keep: bool = True


def learn_repository(
    reference: HubReference, inquiry: Inquiry, store: Store
) -> Generator[BuildEvent, None, Found | None]:
    """Where a repository's files are; None for one of GGUF, which the Hub's registry serves.

    A repository that is asked for at a revision is never left to the registry. Raises
    :class:`RegistryError`, and :class:`SourceError` for one without weights.
    """
    listing = _remembered(reference, inquiry, store)
    if listing is None:
        listing = yield from _asked(reference, inquiry, store)
    if listing.repository.lower() != reference.repository.lower():
        yield Warned(
            f"hf.co/{reference.repository} is called hf.co/{listing.repository} now: use that name"
        )
    files = _files(reference, listing, inquiry, store)
    weights = [name for name in files.names() if name.lower().endswith((".safetensors", ".gguf"))]
    if not any(name.endswith(".safetensors") for name in weights):
        if any(name.lower().endswith(".gguf") for name in weights) and "@" not in str(reference):
            return None
        if not weights and not any("." in name for name in files.names()):
            raise _no_weights(reference, listing)
    if not inquiry.never:
        yield from _small_files(reference, listing, files, inquiry, store)
    return Found(files)


def _files(reference: HubReference, listing: Listing, inquiry: Inquiry, store: Store) -> HubFiles:
    """The commit's files; the Hub's cache counts where its owner may be read for."""
    place = None
    if is_named(inquiry.access, urlsplit(endpoint()).netloc.lower()):
        place = snapshot(listing.repository, listing.commit)
        if place is None and listing.repository != reference.repository:
            place = snapshot(reference.repository, listing.commit)
    return HubFiles(reference, listing, inquiry.access, store, place, keep=inquiry.keep)


def _no_weights(reference: HubReference, listing: Listing) -> SourceError:
    some = ", ".join(sorted(listing.files)[:4]) or "nothing"
    return SourceError(
        f"{reference}: the repository has no model that mbuild can read; it holds {some}",
        hint="a model has config.json with .safetensors files, or is a .gguf file",
    )


# Which commit, and what it holds.


def _remembered(reference: HubReference, inquiry: Inquiry, store: Store) -> Listing | None:
    """What is known of the commit that a revision was, or that a lock names."""
    pinned = inquiry.commits.get(reference.repository)
    commit = reference.revision if reference.is_commit else pinned
    if commit is None or (inquiry.always and not reference.is_commit):
        if inquiry.always:
            return None
        key = f"{reference.repository}@{reference.revision}"
        commit = store.cache.get(HUB_COMMIT, key)
    if commit is None:
        return None
    value = store.cache.get(HUB_LISTING, f"{reference.repository}@{commit}")
    try:
        return None if value is None else Listing.decode(value)
    except (ValueError, KeyError, TypeError, DigestError):
        return None


def _asked(
    reference: HubReference, inquiry: Inquiry, store: Store
) -> Generator[BuildEvent, None, Listing]:
    """Ask the Hub; where it cannot be reached, its cache on this disk tells."""
    local = _from_cache(reference, inquiry)
    if inquiry.never or is_offline():
        if local is not None:
            return local
        never = "--pull never" if inquiry.never else "HF_HUB_OFFLINE"
        raise AbsentError(
            f"{reference} is not here, and {never} forbids fetching it",
            hint="build it once without that, or name a folder",
        )
    exact = reference
    if not inquiry.always and (pinned := inquiry.commits.get(reference.repository)):
        exact = reference._replace(revision=pinned)
    hub = Hub(exact, inquiry.access, Cancel("the build was stopped"))
    yield Status(Code.PULLING_MANIFEST)
    try:
        listing = hub.listing()
        index = listing.files.get(INDEX)
        if index is not None and index.sha256 is None and index.size <= _MAX_INDEX:
            data = hub.small_file(listing, index)
            _keep(index, data, store)
            listing = listing._replace(shards=shards_of(data, listing.files))
    except UnreachableError as error:
        if local is None:
            raise
        yield Warned(f"{error.message}: {reference} is taken from the Hub's cache on this disk")
        return local
    finally:
        hub.web.close()
    for repository in {reference.repository, listing.repository}:
        store.cache.put(HUB_LISTING, f"{repository}@{listing.commit}", listing.encode())
    if exact is reference and not reference.is_commit:
        key = f"{reference.repository}@{reference.revision}"
        store.cache.put(HUB_COMMIT, key, listing.commit)
    return listing


def _from_cache(reference: HubReference, inquiry: Inquiry) -> Listing | None:
    """A commit as far as the Hub's cache on this disk has it: names and sizes, no digests."""
    if not is_named(inquiry.access, urlsplit(endpoint()).netloc.lower()):
        return None
    pinned = inquiry.commits.get(reference.repository)
    commit = pinned or cached_commit(reference.repository, reference.revision)
    folder = snapshot(reference.repository, commit) if commit else None
    if commit is None or folder is None:
        return None
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files[name] = HubFile(name, path.stat().st_size, "")
    shards: tuple[str, ...] = ()
    if INDEX in files:
        with (folder / INDEX).open("rb") as file:
            shards = shards_of(file.read(_MAX_INDEX), files)
    return Listing(reference.repository, commit, files, shards) if files else None


# The files that git itself holds: small, and without a SHA-256 in the list.


def _small_files(
    reference: HubReference, listing: Listing, files: HubFiles, inquiry: Inquiry, store: Store
) -> Generator[BuildEvent, None, None]:
    """Fetch those of which no digest is known, and that are nowhere on this disk."""
    wanted = [
        listing.files[name]
        for name in needed_names(listing)
        if _is_unknown(name, files, store) and files.in_place(name) is None
    ]
    if not wanted:
        return
    from mbuild.work.spread import ticking

    cancel = Cancel("the build was stopped")
    hub = Hub(reference, inquiry.access, cancel)

    def fetch(file: HubFile, part: object) -> None:
        _keep(file, hub.small_file(listing, file), store)

    try:
        work = ticking(
            fetch, wanted, name="mbuild-hub", threads=_CONNECTIONS, stop=hub.web.interrupt
        )
        with closing(work):
            for _ in work:
                yield Status(Code.PULLING_MANIFEST)
    finally:
        hub.web.close()


def _is_unknown(name: str, files: HubFiles, store: Store) -> bool:
    """Whether a small file has to be fetched for what a key has of it."""
    sha256 = files.sha256(name)
    if sha256 is None:
        return True
    return name == README and store.cache.get(MODEL_CARD, str(sha256)) is None


def _keep(file: HubFile, data: bytes, store: Store) -> None:
    """Keep a small file in the store, and its digests in the cache."""
    blob = store.blobs.put(data)
    if file.sha256 is not None and blob.digest != file.sha256:
        raise RegistryError(f"{file.name}: the Hub sent different content from what its list names")
    store.blobs.keep(blob.digest)
    store.discard([blob.digest])  # no model names it: the cache keeps it
    blake3 = Digest.of(data, BLAKE3)
    store.files.remember_alias(blob.digest, blake3)
    store.files.remember_content(len(data), blake3)
    if file.oid:
        store.cache.put(GIT_CONTENT, file.oid, blob.digest)
    if file.name == README:
        card = Digest.of(front_matter_of(data))
        store.cache.put(MODEL_CARD, str(blob.digest), card)


# A file at a web address.


def learn_address(
    word: str, value: str, inquiry: Inquiry, store: Store
) -> Generator[BuildEvent, None, SourceFile]:
    """The GGUF file at ``https://...gguf@sha256:...``; its size is asked for once.

    Raises :class:`SourceError` for an address without a digest.
    """
    url, at, text = value.rpartition("@")
    try:
        digest = Digest.parse(text if at else "")
    except DigestError:
        from mbuild.lint.remedies import of_address

        hint = "write URL@sha256: and the file's 64 digits, as sha256sum prints them"
        raise SourceError(
            f"{word} {value[:300]}: an address needs the digest of what is there",
            hint=of_address(value) or hint,
        ) from None
    inquiry.access.check(urlsplit(url).netloc.rpartition("@")[2].lower())
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    size = store.blobs.size(digest)
    remote = RemotePlace(value, url, inquiry.access, inquiry.keep)
    if size is not None:
        path = store.blobs.path(digest)
        return stored_blob(path, name, digest, store)._replace(remote=remote)
    size = store.cache.get(REMOTE_SIZE, str(digest))
    if size is None:
        if inquiry.never:
            raise AbsentError(f"{url} is not here, and --pull never forbids fetching it")
        from mbuild.registry.client.site import Site

        yield Status(Code.PULLING_MANIFEST)
        site = Site(url, inquiry.access, Cancel("the build was stopped"))
        try:
            size = site.size_of(url)
        finally:
            site.web.close()
        store.cache.put(REMOTE_SIZE, str(digest), size)
    return absent(name, digest, size, remote, store)
