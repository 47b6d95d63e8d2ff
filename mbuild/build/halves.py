"""The options about the two halves of a multimodal checkpoint: text model and projector.

A table, as of splitting: the command line, the HTTP API, the help, the lock and the written
form of a request read :data:`HALVES`. A build with nothing to do loads this module.
"""

# Without "from __future__ import annotations": the annotations of the fields are the table.
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from mbuild.core.errors import UsageError
from mbuild.quant.choose.options import (
    CHOICE,
    Option,
    flags_of,
    parse_given,
    rows_of,
    said,
    written,
)


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
