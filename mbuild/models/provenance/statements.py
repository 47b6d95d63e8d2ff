"""What the store has about how a model was made, the newest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mbuild.build.provenance.keeping import encoded
from mbuild.build.provenance.sbom import Subject, bill, serial_of
from mbuild.build.provenance.statement import BUILD_TYPE, PREDICATE, STATEMENT
from mbuild.core.errors import DamagedError, NameNotFoundError
from mbuild.core.values import NamedTuple
from mbuild.store.attached import (
    PROVENANCE,
    SBOM,
    AttachedDocument,
    attach,
    documents,
    is_about,
    parsed,
)

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.store import Store, StoredManifest


class Statement(NamedTuple):
    """A statement: the document, and the JSON in it."""

    document: AttachedDocument
    value: Mapping[str, Any]

    @property
    def definition(self) -> Mapping[str, Any]:
        """What was asked and what it was made from."""
        found: Mapping[str, Any] = self.value["predicate"]["buildDefinition"]
        return found

    @property
    def run(self) -> Mapping[str, Any]:
        """Who made it, and when."""
        found: Mapping[str, Any] = self.value["predicate"]["runDetails"]
        return found

    @property
    def build(self) -> str:
        """The build's id, as the log has it."""
        return str(self.run["metadata"]["invocationId"])


def statements(store: Store, model: Digest) -> list[Statement]:
    """mbuild's statements about a model, the newest first.

    Raises :class:`DamagedError` for one that was changed, that is none, or about another model.
    """
    found = [_read(document, model) for document in documents(store, model, PROVENANCE)]
    own = [each for each in found if _is_own(each)]
    return sorted(own, key=_finished, reverse=True)


def newest(store: Store, stored: StoredManifest) -> Statement:
    """The newest statement about a model; raises :class:`NameNotFoundError` where there is none."""
    found = statements(store, stored.id)
    if not found:
        raise NameNotFoundError(
            f"nothing is known about how {stored.name} was made",
            hint="a build writes a statement, also one with nothing to do; a pull brings what the"
            " registry has",
        )
    return found[0]


def keep_bill(store: Store, stored: StoredManifest) -> AttachedDocument | None:
    """The model's bill of materials, which is made where there is none of its statement yet.

    None for a model that nobody knows the making of. Raises as :func:`statements`.
    """
    there = [x for x in documents(store, stored.id, SBOM) if is_about(SBOM, x.data, stored.id)]
    known = statements(store, stored.id)
    if not known:
        return there[0] if there else None
    # One that came with the model counts as long as it is about the same build.
    wanted = serial_of(stored.id, known[0].build)
    for each in there:
        if parsed(each.data).get("serialNumber") == wanted:
            return each
    subject = Subject(stored.name, stored.id, stored.manifest)
    data = encoded(bill(store.blobs, subject, known[0].value))
    with store.reading():
        return AttachedDocument(SBOM, attach(store, stored.id, SBOM, data), data)


def _finished(statement: Statement) -> tuple[str, int]:
    """When a build ended, to the second; of those in one second, when the store got to know."""
    return str(statement.run["metadata"].get("finishedOn", "")), statement.document.written


def _is_own(statement: Statement) -> bool:
    """Whether mbuild made it: those of other builders are passed on and not read."""
    definition = statement.value["predicate"].get("buildDefinition")
    return isinstance(definition, dict) and definition.get("buildType") == BUILD_TYPE


def _read(document: AttachedDocument, model: Digest) -> Statement:
    try:
        value = parsed(document.data)
        form = value["_type"], value["predicateType"]
        about = is_about(PROVENANCE, document.data, model)
        if form != (STATEMENT, PREDICATE) and about:  # of another kind of predicate
            value = {**value, "predicate": {}}
        elif not (about and isinstance(value["predicate"], dict)):
            raise ValueError("it is about another model")
    except (ValueError, KeyError) as error:
        raise DamagedError(
            f"the statement {document.digest.short} is not about the model: {error}",
            hint="remove it from .mbuild/attached in the store, and pull or build the model again",
        ) from None
    return Statement(document, value)
