"""The options of a quantization: one table, which everything that takes or shows them follows."""

from __future__ import annotations

from typing import Any

import click
import pytest

from mbuild.cli.completion import VALUES
from mbuild.cli.main import WITH_VALUE
from mbuild.cli.quantizing import quantize_options
from mbuild.core.errors import UsageError
from mbuild.gguf.model import KV
from mbuild.gguf.types import GGMLType, ValueType
from mbuild.quant.choose.metadata import quantized
from mbuild.quant.choose.notations import parse_entry, parse_layers
from mbuild.quant.choose.options import FILE, FLAG, OPTIONS, TYPE, Quantization, spelled
from mbuild.quant.choose.types import FILE_TYPES, file_type
from mbuild.server.shapes import CREATE

Q8 = file_type("q8_0")


def test_every_field_but_the_type_is_a_row() -> None:
    """A field without a row would be an option that nobody can ask for."""
    assert ("file_type", *OPTIONS) == Quantization._fields
    for field, option in OPTIONS.items():
        assert option.default == Quantization._field_defaults[field]
        assert option.flag == f"--{option.name.replace('_', '-')}"
        assert option.help[:1].isupper()


def test_both_front_ends_take_every_option() -> None:
    """The command line with its help, its values and their completion; the API with its types."""
    command = quantize_options(click.Command("options"))
    asked = {name: param for param in command.params for name in param.opts}
    for option in OPTIONS.values():
        param = asked[option.flag]
        assert isinstance(param, click.Option)
        assert (param.name, param.help) == (option.name, option.help)
        assert param.multiple == option.kind.repeats
        assert param.is_flag == (option.kind is FLAG)
        assert (option.flag in WITH_VALUE) == (option.kind is not FLAG)
        assert (("", option.name) in VALUES) == (option.kind in (FILE, TYPE))
        assert option.name in CREATE.fields


def test_options_are_read_from_texts() -> None:
    """Types in any case, the rules in order, a default where nothing or null is given."""
    found = Quantization.parse(
        "Q4_k",
        {
            "output_tensor_type": "q6_k",
            "tensor_type": ["ATTN_V=Q8_0", "ffn=f16"],
            "imatrix": "Data.gguf",
            "pure": True,
            "recipe": None,
        },
    )
    assert found == Quantization(
        file_type("Q4_K_M"),
        imatrix="Data.gguf",
        pure=True,
        output_tensor_type=GGMLType.Q6_K,
        tensor_types=(("attn_v", GGMLType.Q8_0), ("ffn", GGMLType.F16)),
    )
    assert found.importances
    assert found.flags() == [
        ("--imatrix", "Data.gguf"),
        ("--pure", ""),
        ("--output-tensor-type", "q6_k"),
        ("--tensor-type", "attn_v=q8_0"),
        ("--tensor-type", "ffn=f16"),
    ]
    assert Quantization.from_json(found.to_json()) == found


def test_only_what_is_said_is_written() -> None:
    """The written form has the type and what differs from a default; a key has every field.

    How an importance matrix is computed is in no key: the matrix is.
    """
    plain = Quantization(Q8)
    assert (plain.to_json(), plain.flags(), plain.importances) == ({"type": "Q8_0"}, [], False)
    computed = ("imatrix_from", "imatrix_chunks")
    later = ("include_weights", "exclude_weights", "prune_layers")
    every = [each for each in Quantization._fields if each not in computed]
    assert [*plain.fields()] == [each for each in every if each not in later]
    assert plain.fields()["tensor_types"] == []
    told = Quantization.parse("q8_0", {"imatrix": "i", "exclude_weights": ["a"]})
    assert told._replace(include_weights=("b",), prune_layers=(1,)).fields().keys() == {*every}


def test_a_key_of_before_says_nothing_of_later_options() -> None:
    """What was made before they were is found again."""
    assert "prune_layers" not in Quantization(Q8).fields()


def test_layers_are_written_in_one_way() -> None:
    """In order and each once, however they are said."""
    found = Quantization.parse("q8_0", {"prune_layers": "8,3-5, 4"})
    assert found.prune_layers == (3, 4, 5, 8)
    assert found.flags() == [("--prune-layers", "3,4,5,8")]
    assert Quantization.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pure": "yes"}, "neither true nor false"),
        ({"pure": 1}, "neither true nor false"),
        ({"imatrix": 5}, "is not a string"),
        ({"recipe": "vllm"}, "unknown recipe 'vllm'"),
        ({"output_tensor_type": "q9"}, "unknown tensor type 'q9'"),
        ({"tensor_type": "attn_v=q8_0"}, "is not a list of strings"),
        ({"tensor_type": ["attn_v"]}, "malformed tensor type"),
        ({"tensor_type": ["(=q8_0"]}, "is not a regular expression"),
        ({"tensor_types": []}, "unknown option of a quantization 'tensor_types'"),
        ({"prune_layers": "x"}, "'x' is not a layer"),
        ({"prune_layers": "1,-2"}, "'-2' is not a layer"),
        ({"prune_layers": "1,99999"}, "'99999' is not a layer"),
        ({"include_weights": "attn"}, "is not a list of strings"),
        ({"include_weights": [""], "imatrix": "i"}, "an empty text matches every name"),
        ({"include_weights": ["a"]}, "no effect without --imatrix"),
        ({"exclude_weights": ["a"]}, "no effect without --imatrix"),
        (
            {"include_weights": ["a"], "exclude_weights": ["b"], "imatrix": "i"},
            "cannot be combined",
        ),
    ],
)
def test_what_cannot_be_a_value_is_refused(given: dict[str, Any], message: str) -> None:
    """With the value in the message, whoever gives it."""
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        Quantization.parse("q8_0", given)


def test_types_as_people_spell_them() -> None:
    """As llama.cpp's and Ollama's files are called, and read as the type that it is of.

    The sizes of K types are upper-case letters; IQ types have none.
    """
    assert [spelled(name) for name in ("Q4_K_M", "BF16", "IQ2_XXS", "IQ3_S")] == [
        "q4_K_M",
        "bf16",
        "iq2_xxs",
        "iq3_s",
    ]
    assert all(file_type(spelled(kind.name)) is kind for kind in FILE_TYPES)


def test_metadata_is_set_as_llama_quantize_sets_it() -> None:
    """Behind what a quantization sets itself, the last of a key; whole numbers without a sign."""
    said = ["general.name=str:Mario: 1", "a.b=int:-7", "a.c=float:0.5", "a.d=bool:true"]
    found = Quantization.parse("q8_0", {"override_kv": [*said, "general.file_type=int:3"]})
    assert Quantization.from_json(found.to_json()) == found
    assert [text for flag, text in found.flags()] == [*said, "general.file_type=int:3"]
    kept = [KV("general.name", ValueType.STRING, "Luigi"), KV("x", ValueType.BOOL, True)]
    made = quantized(kept, Q8, None, found.override_kv)
    assert [(kv.key, kv.type.name, kv.value) for kv in made] == [
        ("x", "BOOL", True),
        ("general.quantization_version", "UINT32", 2),
        ("general.name", "STRING", "Mario: 1"),
        ("a.b", "UINT32", 7),
        ("a.c", "FLOAT32", 0.5),
        ("a.d", "BOOL", True),
        ("general.file_type", "UINT32", 3),
    ]


@pytest.mark.parametrize(
    "text",
    ("a", "a=b", "a=int", "=int:1", "a=long:1", "a=int:x", "a=int:9999999999", "a=float:nan",
     "a=float:1e99", "a=bool:1", "a\0=int:1", f"a=str:{'x' * 128}", f"{'a' * 128}=int:1"),
)  # fmt: skip
def test_metadata_that_cannot_be_is_refused(text: str) -> None:
    """With how to write it, or what is too long."""
    with pytest.raises(UsageError) as caught:
        Quantization.parse("q8_0", {"override_kv": [text]})
    assert caught.value.message
    with pytest.raises(UsageError, match="not a list"):
        Quantization.parse("q8_0", {"override_kv": 3})


@pytest.mark.parametrize(
    ("given", "layers"),
    [("3,7-8", (3, 7, 8)), ("0", (0,)), (0, (0,)), ([4, 1], (1, 4)), ("", ()), ((), ())],
)
def test_layers_in_every_form(given: object, layers: tuple[int, ...]) -> None:
    """A text, a number, a list; an empty one is none, as locks and defaults have it."""
    assert Quantization.parse("q8_0", {"prune_layers": given}).prune_layers == layers


def test_notations_are_read_by_themselves() -> None:
    """A key may hold dots and a text colons; layers are sorted, and each counts once."""
    assert parse_entry("a.b=str:x:y=z") == ("a.b", "str", "x:y=z")
    assert parse_layers("8,3-5, 4") == parse_layers([3, 4, 5, 8]) == (3, 4, 5, 8)
    assert parse_layers("") == parse_layers([]) == ()
    with pytest.raises(UsageError, match="longer than 127 bytes"):
        parse_entry(f"k=str:{'x' * 128}")
