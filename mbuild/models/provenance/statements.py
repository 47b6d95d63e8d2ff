"""What the store has about how a model was made, the newest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mbuild.build.provenance.statement import BUILD_TYPE, PREDICATE, STATEMENT
from mbuild.core.errors import DamagedError, NameNotFoundError
from mbuild.store.attached import PROVENANCE, SBOM, AttachedDocument, documents, is_about, parsed

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


def bills(store: Store, model: Digest) -> list[AttachedDocument]:
    """The bills of materials of a model, the newest first; raises as :func:`statements`."""
    rows = [(str(parsed(x.data)["metadata"]["timestamp"]), x) for x in _bills(store, model)]
    return [document for _, document in sorted(rows, key=lambda row: row[0], reverse=True)]


def _bills(store: Store, model: Digest) -> list[AttachedDocument]:
    return [x for x in documents(store, model, SBOM) if is_about(SBOM, x.data, model)]


def _finished(statement: Statement) -> str:
    return str(statement.run["metadata"].get("finishedOn", ""))


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
            f"the statement {document.digest.short} is none about the model: {error}",
            hint="remove it from .mbuild/attached in the store, and pull or build the model again",
        ) from None
    return Statement(document, value)
