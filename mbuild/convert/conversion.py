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
    CHOICE,
    Option,
    OptionKind,
    flags_of,
    parse_given,
    rows_of,
    said,
    written,
)


def _metadata(given: Any) -> str:
    """An object of metadata as JSON text, its keys in order, so that equal ones are equal."""
    import json

    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the metadata is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise UsageError("the metadata is not a JSON object")
    for key, value in given.items():
        if key not in _KEYS:
            raise UsageError(
                f"{key!r:.80} is not metadata that can be given",
                hint=f"one of {', '.join(sorted(_KEYS))}",
            )
        _check_value(key, value)
    return json.dumps(given, sort_keys=True)


def _read_metadata(text: str) -> Any:
    import json

    return json.loads(text)


def _check_value(key: str, value: Any) -> None:
    item = {"general.base_models": dict, "general.datasets": dict}.get(key, str)
    if key in _LISTS:
        good = isinstance(value, list) and all(isinstance(each, item) for each in value)
    elif key.startswith("general.sampling."):
        good = isinstance(value, int | float | str) and not isinstance(value, bool)
    else:
        good = isinstance(value, str)
    if not good:
        raise UsageError(f"the metadata's {key} cannot be {value!r:.60}")


_LISTS = ("general.base_models", "general.datasets", "general.tags", "general.languages")
_KEYS = frozenset(
    (
        *_LISTS,
        *(
            f"general.{name}"
            for name in (
                *("name", "author", "version", "organization", "finetune", "basename"),
                *("description", "quantized_by", "size_label", "license.name", "license.link"),
                *("url", "doi", "uuid", "repo_url", "source.url", "source.doi", "source.uuid"),
                "source.repo_url",
            )
        ),
        *(
            f"general.sampling.{name}"
            for name in (
                *("sequence", "top_k", "top_p", "min_p", "xtc_probability", "xtc_threshold"),
                *("temp", "penalty_last_n", "penalty_repeat", "mirostat", "mirostat_tau"),
                "mirostat_eta",
            )
        ),
    )
)
"""The keys that may be given, as ``Metadata.load`` of gguf-py has them."""

METADATA = OptionKind("FILE", _metadata, _read_metadata)
"""A JSON object; the command line names a file with it, which is read when it is asked."""


TARGET = "target/"
"""Where the files of the model that a draft drafts for lie among the draft's."""


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
    fuse_gate_up_exps: Annotated[
        bool, Option("Store the experts' gate and up matrices as one, where llama.cpp can load it.")
    ] = False
    fuse_qkv: Annotated[
        bool, Option("Store queries, keys and values as one matrix, where llama.cpp can load it.")
    ] = False
    no_mtp: Annotated[bool, Option("Leave out the layers for multi-token prediction.")] = False
    mtp: Annotated[
        bool, Option("Convert only the layers for multi-token prediction, for use as a draft.")
    ] = False
    sentence_transformers_dense_modules: Annotated[
        bool, Option("Add the dense layers behind an embedding model (2_Dense, 3_Dense).")
    ] = False
    model_name: Annotated[
        str | None, Option("Name of the model in its metadata, general.name.", CHOICE)
    ] = None
    like: Annotated[
        str | None,
        Option(
            "Convert a checkpoint of an unknown class as one of this family, if its tensors fit.",
            CHOICE,
            ("llama",),
            name="as",
        ),
    ] = None
    metadata: Annotated[
        str | None, Option("JSON file with general.* metadata that counts instead.", METADATA)
    ] = None

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

    @property
    def overrides(self) -> Mapping[str, Any]:
        """What :attr:`metadata` says, by the metadata's keys."""
        found: dict[str, Any] = _read_metadata(self.metadata or "{}")
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

    @property
    def naming(self) -> "Conversion":
        """What of it decides a projector file too: the model's name and metadata."""
        return Conversion(model_name=self.model_name, metadata=self.metadata)

    def fields(self) -> dict[str, Any]:
        """What a step's key fields say of it: nothing where nothing is asked for."""
        given = self.to_json()
        return {"conversion": given} if given else {}


_EXCLUSIVE = (("--keep-quantized", "--dequantize"), ("--no-mtp", "--mtp"))

CONVERSION: Mapping[str, Option] = rows_of(Conversion)
"""Every option by its field, in the order of ``--help``."""

CONVERSION_NAMES: dict[tuple[str, ...], str] = {
    ("conversion", option.name): option.flag for option in CONVERSION.values()
}
"""What the key fields of a step are called in explanations."""

AS_IT_IS = Conversion()
"""No option is given."""
