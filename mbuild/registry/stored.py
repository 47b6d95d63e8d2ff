"""What a name with a host is called in the store, once it was pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.core.errors import DamagedError, NameNotFoundError
from mbuild.core.names import DEFAULT_HOST, InvalidNameError, ModelName
from mbuild.registry.reference import ModelReference, has_host

if TYPE_CHECKING:
    from mbuild.store import Store


def local_name(text: str) -> ModelName:
    """The name in a store that a text means, as a pull gives it: ``HOST/a/b/c/m`` has one, too.

    Raises :class:`InvalidNameError`.
    """
    try:
        plain = ModelName.parse(text)
    except InvalidNameError:
        if not has_host(text):
            raise
    else:
        if plain.host != DEFAULT_HOST or not has_host(text) or plain.host in text:
            return plain
    return ModelReference.parse(text).local  # such as localhost/m, whose host is no namespace


def stored_name(value: str, store: Store) -> ModelName:
    """The stored model that a value of FROM names; raises :class:`InvalidNameError`.

    A digest is met by the tag beside it, if that has it here, and else by the model that was
    pulled by the digest. A plain name of the store comes before all else.
    """
    try:
        plain = ModelName.parse(value)
    except InvalidNameError:
        if not has_host(value):
            raise
    else:
        if not has_host(value) or _id(store, plain) is not None:
            return plain
    reference = ModelReference.parse(value)
    if reference.digest is not None:
        tagged = reference._replace(digest=None).local
        if _id(store, tagged) == str(reference.digest):
            return tagged
    return reference.local


def _id(store: Store, name: ModelName) -> str | None:
    """The id of the model of that name, None where there is none that can be read."""
    try:
        return str(store.manifests.read(name).id)
    except (NameNotFoundError, DamagedError):
        return None
