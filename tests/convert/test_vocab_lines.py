"""Vocabularies in files of lines: broken ones are refused with the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vocab_cases import BY_NAME, case_files, write_files

from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.vocabulary.context import ReaderContext, Unfit
from mbuild.convert.vocabulary.lines import PLAMO_FILE, RWKV_FILE, plamo, rwkv, xverse
from mbuild.convert.vocabulary.rules import BPE
from mbuild.core.errors import FormatError


def context(folder: Path, name: str, **changed: object) -> ReaderContext:
    contents = case_files(BY_NAME[name]) | changed
    files = CheckpointFiles(write_files(folder, contents))
    return ReaderContext(files, contents["config.json"], BPE, None)


@pytest.mark.parametrize(
    "line",
    [
        "x 'a' 1",
        "1 'a' 2",
        "1 a 1",
        "1 'a'",
        "1 ('a') 1",
        "1 '\\x' 1",
        "1 " + "(" * 1000 + " 1",
        "1 __import__('os') 1",
    ],
)
def test_a_line_of_rwkv_s_that_is_no_token_is_refused(line: str, tmp_path: Path) -> None:
    """Lines are literals of Python: nothing but one text is evaluated."""
    files = {RWKV_FILE: f"1 'b' 1\n{line}\n"}
    with pytest.raises(FormatError, match="line 2"):
        rwkv(context(tmp_path, "rwkv", **files))


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    """A vocabulary that is larger than the embedding would end a program that reads it."""
    lines = "".join(f"{n} 'a' 1\n" for n in range(1, 11))
    with pytest.raises(FormatError, match="declares 10"):
        rwkv(context(tmp_path, "rwkv", **{RWKV_FILE: lines}))


@pytest.mark.parametrize("line", ["[", "{}", '["a"]', '["a", "b"]', "[1, 2]", "[" * 100_000])
def test_a_line_of_plamo_s_that_is_no_token_is_refused(line: str, tmp_path: Path) -> None:
    """The message has the line's number."""
    with pytest.raises(FormatError, match="line 2"):
        plamo(context(tmp_path, "plamo2", **{PLAMO_FILE: f'["a", 0]\n{line}\n'}))


def test_a_special_token_of_plamo_s_must_be_there(tmp_path: Path) -> None:
    """An id that is guessed would end answers at another token."""
    with pytest.raises(FormatError, match="bos_token"):
        plamo(context(tmp_path, "plamo2", **{PLAMO_FILE: '["a", 0]\n'}))


def test_a_gap_in_xverse_s_vocabulary_is_refused(tmp_path: Path) -> None:
    """The converter stops there too; a made-up token would be another model's."""
    tokenizer = case_files(BY_NAME["xverse"])["tokenizer.json"]
    del tokenizer["model"]["vocab"]["b"]
    with pytest.raises(FormatError, match="no token 4"):
        xverse(context(tmp_path, "xverse", **{"tokenizer.json": json.dumps(tokenizer)}))


@pytest.mark.parametrize("read", [rwkv, plamo, xverse])
def test_without_its_file_a_reader_does_not_fit(read: object, tmp_path: Path) -> None:
    """The next way to read a vocabulary is tried then."""
    empty = ReaderContext(CheckpointFiles({}), {}, BPE, None)
    with pytest.raises(Unfit):
        read(empty)  # type: ignore[operator]
