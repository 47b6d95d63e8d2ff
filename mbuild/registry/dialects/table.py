"""Every form in which a model's manifest is written and read, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mbuild.core.errors import RegistryError
from mbuild.core.values import NamedTuple
from mbuild.registry.dialects import docker, modelpack, ollama
from mbuild.registry.dialects.values import ManifestForm

if TYPE_CHECKING:
    from mbuild.registry.dialects.files import PlainModel
    from mbuild.registry.dialects.received import Document
    from mbuild.registry.dialects.values import Fetch, Reading, WrittenManifest
    from mbuild.registry.reference import ModelReference


class Dialect(NamedTuple):
    """A form of manifest by its name; ``suffix`` is what follows the tag."""

    name: str
    suffix: str
    form: ManifestForm | None


DIALECTS: tuple[Dialect, ...] = (
    Dialect("ollama", "", None),
    Dialect(
        "modelpack",
        "-modelpack",
        ManifestForm(
            (modelpack.CONFIG,),
            modelpack.ARTIFACT_TYPE,
            modelpack.layer_type,
            modelpack.config,
            modelpack.role,
            modelpack.context,
        ),
    ),
    Dialect(
        "docker",
        "-docker",
        ManifestForm(
            (docker.CONFIG, docker.CONFIG_OF_FILES),
            "",
            docker.layer_type,
            docker.config,
            docker.role,
            docker.context,
        ),
    ),
)
"""All of them; the first is the one that keeps a model's id and that Ollama pulls."""

BY_NAME: Mapping[str, Dialect] = {dialect.name: dialect for dialect in DIALECTS}


def write(dialect: Dialect, model: PlainModel) -> WrittenManifest:
    """A model's manifest in a dialect: equal bytes for equal models."""
    from mbuild.registry.dialects.writing import written

    return ollama.written(model) if dialect.form is None else written(dialect.form, model)


def read(document: Document, reference: ModelReference | str, fetch: Fetch) -> Reading:
    """What a manifest says, in whichever dialect it is: its config's media type tells.

    ``reference`` is what messages call it. ``fetch`` gets small blobs. Raises
    :class:`RegistryError` for what is no model.
    """
    from mbuild.registry.dialects.reading import read as read_form

    config = document.config.media_type
    for dialect in DIALECTS:
        if dialect.form is not None and config in dialect.form.configs:
            return read_form(dialect.form, document, reference, fetch)
    if ollama.fits(document):
        return ollama.read(document, reference)
    types = list(dict.fromkeys(layer.media_type[:100] for layer in document.layers))
    shown = ", ".join(map(repr, types[:3])) + (", ..." if len(types) > 3 else "")
    raise RegistryError(
        f"{reference} is not a model: its layers are {shown}",
        hint="models of Ollama, of ModelPack and of Docker Model Runner can be pulled",
    )
