"""What a pull or a push tells the world while it runs.

As for a build (:mod:`mbuild.core.events`), a front end decides by codes and numbers and makes
the sentences itself.
"""

from __future__ import annotations

from enum import StrEnum

from mbuild.core.digest import Digest
from mbuild.core.values import NamedTuple


class Direction(StrEnum):
    """Which way a model travels."""

    PULL = "pull"
    PUSH = "push"


class Phase(StrEnum):
    """What a transfer does when no blob moves."""

    READING_MANIFEST = "reading-manifest"
    VERIFYING = "verifying"
    WRITING_MANIFEST = "writing-manifest"
    ABSENT = "absent"  # there is no such model here; the error follows


class PhaseStarted(NamedTuple):
    """A transfer begins with something."""

    direction: Direction
    phase: Phase


class BlobProgress(NamedTuple):
    """How far one blob is, in bytes; only the newest for each blob matters."""

    direction: Direction
    digest: Digest
    completed: int
    total: int


class BlobDone(NamedTuple):
    """A blob is where it was to go; ``moved``: its bytes that travelled now, 0 if it was there."""

    direction: Direction
    digest: Digest
    total: int
    moved: int


class ManifestPut(NamedTuple):
    """A pushed manifest has its name: which form it has, what it is called, its digest."""

    direction: Direction
    dialect: str
    name: str
    digest: Digest


class Transferred(NamedTuple):
    """The model is where it was to go.

    ``name`` is what it is called there, ``id`` the digest of its manifest, ``size`` the bytes
    of its blobs, ``moved`` those that travelled, ``replaced`` the id of the model that had the
    name in this store before.
    """

    direction: Direction
    name: str
    id: Digest
    size: int
    moved: int
    replaced: Digest | None = None


class LeftOut(NamedTuple):
    """Files of a package that the model in the store has no place for, by their names."""

    direction: Direction
    names: tuple[str, ...]


class DocumentsMoved(NamedTuple):
    """Statements and signatures about the model are where they were to go, too: their number.

    ``problem`` is why they, or some of them, are not; the model is there all the same.
    """

    direction: Direction
    number: int
    problem: str = ""


TransferEvent = (
    PhaseStarted | BlobProgress | BlobDone | LeftOut | ManifestPut | DocumentsMoved | Transferred
)
"""The closed union, as of a build's events."""
