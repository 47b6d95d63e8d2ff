"""The port through which sources are resolved: names to bytes and digests, wherever they lie.

A front end, and later a registry or the Hub, implements the two Protocols here; what the
files are in a model is decided once, in :mod:`mbuild.build.sources.resolve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mbuild.build.sources.values import SourceFile
    from mbuild.core.digest import Digest
    from mbuild.core.errors import MbuildError, NameNotFoundError
    from mbuild.core.names import InvalidNameError


class Files(Protocol):
    """The files of one folder, on a disk, in a request or on another machine."""

    @property
    def name(self) -> str:
        """The folder's own name, after which a checkpoint's model is called."""

    @property
    def value(self) -> str:
        """What messages call the folder."""

    def names(self) -> Sequence[str]:
        """Plain relative names of what lies in it, sorted; raises :class:`SourceError`.

        Of the folders inside only those have to be looked into whose names end as
        :data:`mbuild.build.sources.places.FOLDERS` do.
        """

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def file(self, name: str) -> SourceFile:
        """A file by its name: what to open, and the digests that are known without reading it.

        Raises :class:`SourceError` for what is not there or is not a regular file.
        """


class Found(NamedTuple):
    """Where a value of FROM, ADAPTER or DRAFT leads: to a folder, or to one ``file`` in it.

    ``shown`` is what messages call the file.
    """

    files: Files
    file: str = ""
    shown: str = ""


class Names(Protocol):
    """What instructions can name at a front end, and what it says where nothing is found.

    The methods below :meth:`find` make errors: what a person has to do is another thing in a
    folder, in a request and on the Hub.
    """

    def find(self, word: str, value: str) -> Found | SourceFile | None:
        """Where a value leads; a blob of the store is a file by itself.

        None is for FROM: what may be the name of a stored model. Raises
        :class:`MbuildError` for what leads nowhere.
        """

    def nothing_in(self, word: str, value: str, files: Files) -> MbuildError:
        """The error for a folder that holds nothing that the instruction can mean."""

    def no_model(self, value: str, error: InvalidNameError | NameNotFoundError) -> MbuildError:
        """The error for a value that is not the name of a stored model."""

    def is_model(self, value: str) -> MbuildError:
        """The error for a model's checkpoint where an adapter is meant."""

    def is_adapter(self, value: str) -> MbuildError:
        """The error for FROM a directory with a LoRA adapter."""

    def not_the_first(self, name: str, first: str, count: int) -> MbuildError:
        """The error for another than the ``first`` of ``count`` shards."""

    def shards_missing(self, shown: str, missing: Sequence[str], count: int) -> MbuildError:
        """The error for a model of which ``missing`` are not there."""

    def lost_blob(self, value: str, digest: Digest) -> MbuildError:
        """The error for a stored model with a blob that is missing or cut short."""
