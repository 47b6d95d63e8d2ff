"""The options of converting a checkpoint: one table, which everything that takes them follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from checkpoints import DATA, write_checkpoint
from test_convert import spec

from mbuild.build.request import BuildRequest, Target
from mbuild.cli.converting import conversion_of, converting_options
from mbuild.cli.main import WITH_VALUE
from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import convert_body, not_kept
from mbuild.convert.options import AS_IT_IS, CONVERSION, CONVERSION_NAMES, Conversion
from mbuild.core.errors import UsageError
from mbuild.core.names import ModelName
from mbuild.server.shapes import CREATE


def test_every_field_is_a_row_that_both_front_ends_take() -> None:
    """Flag, help, value, the API's field, the name in explanations: all from the table."""
    assert (*CONVERSION,) == Conversion._fields
    command = converting_options(click.Command("options"))
    asked = {name: param for param in command.params for name in param.opts}
    for option in CONVERSION.values():
        param = asked[option.flag]
        assert isinstance(param, click.Option)
        assert (param.name, param.help) == (option.name, option.help)
        assert (option.flag in WITH_VALUE) == bool(option.kind.metavar)
        assert option.name in CREATE.fields
        assert CONVERSION_NAMES["conversion", option.name] == option.flag


@pytest.mark.parametrize(
    ("given", "value", "flags"),
    (
        ({}, AS_IT_IS, []),
        ({"fp8_as_q8": True}, Conversion(fp8_as_q8=True), [("--fp8-as-q8", "")]),
        ({"keep_quantized": True}, Conversion(keep_quantized=True), [("--keep-quantized", "")]),
    ),
)
def test_options_are_read_and_written(
    given: dict[str, Any], value: Conversion, flags: list[tuple[str, str]]
) -> None:
    """From texts and JSON, and back; a request has them, and a command line gives them again."""
    assert Conversion.parse(given) == value
    nothing = {row.name: () if row.kind.repeats else None for row in CONVERSION.values()}
    assert conversion_of({**nothing, **given}) == value
    request = BuildRequest((Target((ModelName.parse("m"),)),), conversion=value)
    assert BuildRequest.from_json(request.to_json()) == request
    assert request.flags() == flags
    assert value.fields().keys() == ({"conversion"} if given else set())


@pytest.mark.parametrize(
    ("given", "says"),
    (
        ({"fp8_as_q8": 1}, "neither true nor false"),
        ({"keep": True}, "unknown option of a conversion 'keep'"),
        (
            {"keep_quantized": True, "dequantize": True},
            "--keep-quantized and --dequantize cannot be combined",
        ),
    ),
)
def test_what_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    """One error, which names the option or the value."""
    with pytest.raises(UsageError) as refused:
        Conversion.parse(given)
    assert says in refused.value.message


def test_fp8_weights_can_become_q8_0(tmp_path: Path) -> None:
    """Those that were FP8 and no others, whatever matrices become."""
    checkpoint = open_checkpoint("tiny", write_checkpoint(tmp_path, spec("llama_fp8")))
    body = convert_body(checkpoint, options=Conversion(fp8_as_q8=True))
    types = {tensor.name: tensor.type.name for tensor in body.tensors}
    assert types["blk.0.attn_q.weight"] == "Q8_0" and types["token_embd.weight"] == "BF16"
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert DATA.is_dir() and not list(not_kept(checkpoint, Conversion(keep_quantized=True)))
