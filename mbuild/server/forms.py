"""The other forms of a stored model's manifest, as its registry shows them, and its documents.

They are made from the model whenever somebody asks: equal models have equal ones, so their
digests stay. Tag and digest lead to them, and the list of what refers to the model. So it is with
the manifests of statements and signatures about the model, which are made from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mbuild.core.digest import SHA256, Digest
from mbuild.core.errors import MbuildError
from mbuild.core.names import InvalidNameError
from mbuild.core.values import NamedTuple
from mbuild.registry.dialects.files import PlainModel
from mbuild.registry.dialects.table import DIALECTS, write
from mbuild.registry.documents import SUFFIXES, placed
from mbuild.store.attached import documents
from mbuild.store.manifest import MANIFEST_TYPE, Layer

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.registry.dialects.values import WrittenManifest
    from mbuild.store import Store


class Shown(NamedTuple):
    """A model's manifest in another form, and the tag that it has; a document may have none."""

    tag: str
    written: WrittenManifest

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return Digest.of(self.written.data)


def of_model(store: Store, name: ModelName) -> Iterator[Shown]:
    """All other forms of a model and its documents; none of one that is damaged or absent."""
    data = store.manifests.read_bytes(name)
    if data is None:
        return
    try:
        model = PlainModel(store.blobs, data, str(name))
        for dialect in DIALECTS:
            if dialect.form is not None:
                yield Shown(f"{name.tag}{dialect.suffix}", write(dialect, model))
        subject = Layer(MANIFEST_TYPE, Digest.of(data), len(data))
        for tag, written in placed(list(documents(store, subject.digest)), subject):
            yield Shown(tag, written)
    except MbuildError:
        return


def content_of(store: Store, names: Iterable[ModelName], digest: Digest) -> bytes | None:
    """A blob that only these forms and documents of some models have: it is in no file."""
    for name in names:
        for shown in of_model(store, name):
            if digest in shown.written.contents:
                return shown.written.contents[digest]
    return None


def is_signature_tag(tag: str) -> bool:
    """Whether cosign puts signatures under such a tag."""
    return tag.startswith(f"{SHA256}-") and tag.endswith(tuple(SUFFIXES.values()))


def by_tag(store: Store, name: ModelName) -> Shown | None:
    """What a tag with a form's suffix shows, where the store has a model of the rest of it.

    Signatures have a tag that is made of the model's id.
    """
    if is_signature_tag(name.tag):
        for each in store.manifests.beside(store.manifests.resolve(name)):
            for shown in of_model(store, each):
                if shown.tag == name.tag:
                    return shown
    for dialect in DIALECTS:
        if dialect.suffix and name.tag.endswith(dialect.suffix):
            try:
                plain = name._replace(tag=name.tag.removesuffix(dialect.suffix))
                found = of_model(store, store.manifests.resolve(plain))
            except InvalidNameError:
                return None
            return next((shown for shown in found if shown.tag.endswith(dialect.suffix)), None)
    return None
