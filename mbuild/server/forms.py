"""The other forms of a stored model's manifest, as its registry shows them.

They are made from the model whenever somebody asks: equal models have equal ones, so their
digests stay. Tag and digest lead to them, and the list of what refers to the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError
from mbuild.core.names import InvalidNameError
from mbuild.registry.dialects.files import PlainModel
from mbuild.registry.dialects.table import DIALECTS, write

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.registry.dialects.values import WrittenManifest
    from mbuild.store import Store


class Shown(NamedTuple):
    """A model's manifest in another form, and the tag that it has."""

    tag: str
    written: WrittenManifest

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return Digest.of(self.written.data)


def of_model(store: Store, name: ModelName) -> Iterator[Shown]:
    """All other forms of a model; none of one that is damaged or absent."""
    data = store.manifests.read_bytes(name)
    if data is None:
        return
    try:
        model = PlainModel(store.blobs, data, str(name))
        for dialect in DIALECTS:
            if dialect.form is not None:
                yield Shown(f"{name.tag}{dialect.suffix}", write(dialect, model))
    except MbuildError:
        return


def by_tag(store: Store, name: ModelName) -> Shown | None:
    """What a tag with a form's suffix shows, where the store has a model of the rest of it."""
    for dialect in DIALECTS:
        if dialect.suffix and name.tag.endswith(dialect.suffix):
            try:
                plain = name._replace(tag=name.tag.removesuffix(dialect.suffix))
                found = of_model(store, store.manifests.resolve(plain))
            except InvalidNameError:
                return None
            return next((shown for shown in found if shown.tag.endswith(dialect.suffix)), None)
    return None
