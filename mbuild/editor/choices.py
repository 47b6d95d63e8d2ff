"""What there is to choose from: types, keys, and what is said of each."""

from __future__ import annotations

from mbuild.convert.read.dtypes import OutType
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.language.parameters import PARAMETERS
from mbuild.language.word_help import PARAMETER_HELP
from mbuild.quant.choose.options import OPTIONS, spelled
from mbuild.quant.choose.recipes import needs_importances
from mbuild.quant.choose.types import FILE_TYPES, FileType
from mbuild.quant.table import TYPES


def bits(type_: GGMLType) -> float:
    """Bits that a weight takes."""
    weights, size = BLOCKS[type_]
    return 8 * size / weights


def file_types() -> dict[str, str]:
    """The types that QUANTIZE takes, as people write them, with what they are."""
    return {spelled(each.name): _sentence(each) for each in FILE_TYPES}


def tensor_types() -> dict[str, str]:
    """The types that a single tensor can have."""
    most_first = sorted(TYPES, key=bits, reverse=True)
    return {spelled(each.name): f"{bits(each):g} bits a weight" for each in most_first}


def _sentence(each: FileType) -> str:
    type_ = each.default
    needs = "; needs an importance matrix" if needs_importances("", type_, each) else ""
    return f"most tensors in {type_.name}, {bits(type_):g} bits a weight{needs}"


def outtypes() -> list[str]:
    """What a checkpoint can be converted to."""
    return [each.value for each in OutType]


def recipes() -> tuple[str, ...]:
    """Whose rules can choose the types of tensors."""
    return OPTIONS["recipe"].choices


def parameters() -> dict[str, str]:
    """The parameters, those that are set most often first, with their types."""
    return {name: PARAMETERS[name].value for name in PARAMETER_HELP}


KEYS: dict[str, str] = {
    "general.name": "what the model is called",
    "general.description": "what it is for",
    "general.author": "who made it",
    "general.organization": "whose it is",
    "general.version": "its version",
    "general.license": "the short name of its licence",
    "general.license.link": "where its licence can be read",
    "general.url": "its page",
    "general.repo_url": "its repository",
    "general.basename": "the name of the model that it comes from",
    "general.finetune": "what it was trained for",
    "general.size_label": "its size, such as 7B",
    "general.source.url": "the page of the model that it comes from",
    "tokenizer.chat_template": "the chat template, in Jinja",
}
"""Keys of metadata that people set, of which the specification of GGUF has more."""
