"""The options that say which weights are made and in which files: tables, as of a quantization.

A field of :class:`Splitting` is one option, and one of :class:`Halves`, of a multimodal checkpoint:
the command line, the HTTP API, the help, the lock and the explanations read :data:`SPLITTING` and
:data:`HALVES`. A build with nothing to do loads this module.
"""

# Without "from __future__ import annotations": the annotations of the fields are the table.
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from mbuild.core.errors import UsageError
from mbuild.quant.choose.options import (
    CHOICE,
    COUNT,
    SIZE,
    Option,
    flags_of,
    parse_given,
    rows_of,
    said,
    written,
)

if TYPE_CHECKING:
    from mbuild.gguf.model import Model


class Splitting(NamedTuple):
    """In which files weights are kept: at most one of the fields says something.

    ``size`` is in bytes of tensors. With ``keep`` the shards of a source stay as they are,
    or have the same tensors where they are quantized; weights in one file stay in one.
    """

    size: Annotated[
        int | None,
        Option(
            "Split the weights into files of at most SIZE, for example 40GB.", SIZE, name="split"
        ),
    ] = None
    layers: Annotated[
        int | None,
        Option("Split the weights into files of N layers each.", COUNT, name="split_layers"),
    ] = None
    keep: Annotated[
        bool,
        Option("Keep the files of a split GGUF instead of merging them.", name="keep_split"),
    ] = False

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "Splitting | None":
        """What options ask for by their names; None where they ask for nothing.

        Raises :class:`UsageError` for values that cannot be, and for two of them together.
        """
        found = cls(**parse_given(SPLITTING, given, "splitting"))
        flags = [option.flag for option, _ in found.options()]
        if len(flags) > 1:
            raise UsageError(
                f"{flags[0]} and {flags[1]} cannot be combined", hint="choose one of them"
            )
        return found if flags else None

    def options(self) -> Iterator[tuple[Option, Any]]:
        """The option that is given, with its value."""
        return said(SPLITTING, self)

    def to_json(self) -> dict[str, Any]:
        """What is given, by the options' names, for :meth:`parse`."""
        return written(self.options())

    def fields(self) -> dict[str, Any]:
        """What is given, by its field: what decides the shards."""
        rows = SPLITTING.items()
        return {
            field: row.write(value)
            for field, row in rows
            if (value := getattr(self, field)) != row.default
        }

    def flags(self) -> list[tuple[str, str]]:
        """What is given, as on a command line."""
        return flags_of(self.options())

    def counts(self, model: "Model") -> tuple[int, ...]:
        """How many tensors of a model each shard gets; none where it stays in one file."""
        from mbuild.gguf.split import by_layers, by_size

        if self.size is not None:
            return by_size(model.tensors, self.size)
        if self.layers is not None:
            return by_layers(model.tensors, self.layers)
        return model.shards


SPLITTING: Mapping[str, Option] = rows_of(Splitting)
"""Every option by its field, in the order of ``--help``."""

SPLITTING_NAMES: dict[tuple[str, ...], str] = {
    ("splitting", field): option.flag for field, option in SPLITTING.items()
}
"""What the key fields of a step are called in explanations."""


def split_fields(splitting: Splitting | None) -> dict[str, Any]:
    """What a step's key fields say of splitting; nothing where the weights stay in one file."""
    return {"splitting": splitting.fields()} if splitting else {}


class Halves(NamedTuple):
    """Which halves of a checkpoint are built; with no field said, all that it has.

    ``outtype`` is the type of the projector's matrices; None: as of the text model's.
    """

    text_only: Annotated[bool, Option("Leave out a checkpoint's encoders of images and sound.")] = (
        False
    )
    mmproj: Annotated[
        bool, Option("Convert only the encoders of a checkpoint: a projector without a model.")
    ] = False
    outtype: Annotated[
        str | None,
        Option(
            "Type of the projector's matrices  [default: that of --outtype]",
            CHOICE,
            ("auto", "f32", "f16", "bf16", "q8_0"),
            name="mmproj_outtype",
        ),
    ] = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "Halves":
        """What options ask for by their names.

        Raises :class:`UsageError` for values that cannot be, and for options that contradict.
        """
        found = cls(**parse_given(HALVES, given, "encoders"))
        if found.text_only and (found.mmproj or found.outtype):
            other = "--mmproj" if found.mmproj else "--mmproj-outtype"
            raise UsageError(f"--text-only and {other} cannot be combined")
        return found

    def options(self) -> Iterator[tuple[Option, Any]]:
        """The options that are given, with their values."""
        return said(HALVES, self)

    def to_json(self) -> dict[str, Any]:
        """What is given, by the options' names, for :meth:`parse`."""
        return written(self.options())

    def flags(self) -> list[tuple[str, str]]:
        """What is given, as on a command line."""
        return flags_of(self.options())


HALVES: Mapping[str, Option] = rows_of(Halves)
"""Every option by its field, in the order of ``--help``."""

BOTH = Halves()
"""Nothing is asked for: a model, and its projector where it has one."""
