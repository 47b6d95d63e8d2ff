"""The options of converting a checkpoint: one table, as of a quantization.

A field of :class:`Conversion` is one option: the command line, the HTTP API, the help, the
lock and the explanations read :data:`CONVERSION`. Where llama.cpp's converter has the option,
it has its name. A build with nothing to do loads this module.
"""

# Without "from __future__ import annotations": the annotations of the fields are the table.
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from mbuild.core.errors import UsageError
from mbuild.quant.choose.options import (
    Option,
    flags_of,
    parse_given,
    rows_of,
    said,
    written,
)


class Conversion(NamedTuple):
    """How a checkpoint is converted, beside the type of its matrices and its pre-tokenizer."""

    keep_quantized: Annotated[
        bool,
        Option("Keep weights of 4 and 8 bits as Q4_0 and Q8_0, where that changes no value."),
    ] = False
    dequantize: Annotated[
        bool, Option("Dequantize NVFP4 and MXFP4 too, which are kept as they are otherwise.")
    ] = False
    fp8_as_q8: Annotated[bool, Option("Store weights that were FP8 as Q8_0.")] = False

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "Conversion":
        """What options ask for by their names; one that is null is not given.

        Raises :class:`UsageError` for values that cannot be, and for two that exclude each other.
        """
        found = cls(**parse_given(CONVERSION, given, "a conversion"))
        flags = {option.flag for option, _ in found.options()}
        for first, second in _EXCLUSIVE:
            if {first, second} <= flags:
                raise UsageError(
                    f"{first} and {second} cannot be combined", hint="choose one of them"
                )
        return found

    def options(self) -> Iterator[tuple[Option, Any]]:
        """The options that are given, with their values."""
        return said(CONVERSION, self)

    def to_json(self) -> dict[str, Any]:
        """What is given, by the options' names, for :meth:`parse`."""
        return written(self.options())

    def flags(self) -> list[tuple[str, str]]:
        """What is given, as on a command line."""
        return flags_of(self.options())

    def fields(self) -> dict[str, Any]:
        """What a step's key fields say of it: nothing where nothing is asked for."""
        given = self.to_json()
        return {"conversion": given} if given else {}


_EXCLUSIVE = (("--keep-quantized", "--dequantize"), ("--keep-quantized", "--fp8-as-q8"))

CONVERSION: Mapping[str, Option] = rows_of(Conversion)
"""Every option by its field, in the order of ``--help``."""

CONVERSION_NAMES: dict[tuple[str, ...], str] = {
    ("conversion", option.name): option.flag for option in CONVERSION.values()
}
"""What the key fields of a step are called in explanations."""

AS_IT_IS = Conversion()
"""No option is given."""
