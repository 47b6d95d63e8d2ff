"""Digests of files, with what other machines know: which two digests are of the same bytes.

So a revision on the Hub, whose files are known by SHA-256 before a byte is loaded, leads to the
keys of what somebody has built from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.store.records import ALIAS

if TYPE_CHECKING:
    import os

    from mbuild.core.digest import Digest
    from mbuild.store.ports import FileDigests
    from mbuild.store.shared import SharedCache


class SharedFiles:
    """A store's own :class:`FileDigests`, and a shared cache beside them."""

    def __init__(self, own: FileDigests, shared: SharedCache) -> None:
        self._own = own
        self._shared = shared

    def file_digest(self, info: os.stat_result) -> Digest | None:
        """Files are this machine's."""
        return self._own.file_digest(info)

    def content_known(self, size: int, digest: Digest | None = None) -> bool:
        """Whether it was read here."""
        return self._own.content_known(size, digest)

    def remember_file(self, info: os.stat_result, digest: Digest, hashed_ns: int) -> None:
        """Files are this machine's."""
        self._own.remember_file(info, digest, hashed_ns)

    def remember_linked(
        self, before: os.stat_result, now: os.stat_result, digest: Digest, hashed_ns: int
    ) -> None:
        """Files are this machine's."""
        self._own.remember_linked(before, now, digest, hashed_ns)

    def remember_content(self, size: int, digest: Digest) -> None:
        """It was read here."""
        self._own.remember_content(size, digest)

    def alias(self, digest: Digest) -> Digest | None:
        """The other digest, as this store or another machine knows it.

        One of another machine is not kept: it counts as long as that cache is used.
        """
        known = self._own.alias(digest)
        if known is not None:
            return known
        found = self._shared.get_many(ALIAS, [str(digest)]).get(str(digest))
        return found if found is not None and found.algorithm != digest.algorithm else None

    def remember_alias(self, one: Digest, other: Digest) -> None:
        """Here and there."""
        self._own.remember_alias(one, other)
        if self._shared.writes:
            self._shared.put(ALIAS, str(one), other)
            self._shared.put(ALIAS, str(other), one)
