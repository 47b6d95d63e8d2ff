"""What is told of the word under the pointer (``^``), and where that leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.editor.around import Around
from mbuild.editor.explaining import explain, target
from mbuild.editor.formatting import formatted
from mbuild.editor.meanings import Meaning, meaning_at
from mbuild.editor.open_text import OpenText
from mbuild.editor.outline import OutlinePart, outline

FILE = """# syntax=mbuild/1
ARG BITS=q8_0 EMPTY
FROM ./base AS tuned
MERGE ./lora WEIGHT 0.5
SET general.name "${BITS}"
FROM tuned AS small
QUANTIZE q4_0 ${BITS} TENSOR attn_v=iq4_nl OUTPUT q6_K RECIPE llama.cpp
PARAMETER num_ctx 4096
PARAMETER mirostat 1
MESSAGE user @hi.txt
TAKE attn_q FROM tuned
UNSET PARAMETER stop
INCLUDE more NAME=1
CHECK size < 5GB
SYSTEM ${EMPTY}${NONE}
"""


def at(word: str, part: str, count: int = 0) -> tuple[OpenText, int]:
    """The text, and the place of a part of a word in it."""
    start = -1
    for _ in range(count + 1):
        start = FILE.index(word, start + 1)
    return OpenText(FILE), start + word.index(part)


EXPLAINED = [
    ("MERGE ./lora", "MERGE", "Folds a LoRA adapter"),
    ("FROM ./base", "FROM", "The model to start from"),
    ("WEIGHT", "WEIGHT", "**WEIGHT**: How much of the adapter"),
    ("general.name", "general", "what the model is called"),
    ("QUANTIZE q4_0", "q4_0", "**q4_0**: most tensors in Q4_0"),
    ("attn_v=iq4_nl", "iq4", "**iq4_nl**: 4.5 bits"),
    ("q6_K", "q6_K", "**q6_K**: 6.5625 bits"),
    ("PARAMETER num_ctx", "num_ctx", "**num_ctx**: int. How many tokens"),
    ("mirostat", "mirostat", "no effect any more"),
    ("MESSAGE user", "user", "whose turn"),
    ("UNSET PARAMETER", "PARAMETER", "The parameters to leave out"),
    ("PARAMETER stop", "stop", "**stop**: strings."),
    ("${BITS} TENSOR", "BITS", "`ARG BITS`: default `q8_0`"),
    ("${EMPTY}", "EMPTY", "`ARG EMPTY`: no default"),
    ("${NONE}", "NONE", "No `ARG NONE` before this line."),
    ("FROM tuned AS", "tuned", "MERGE ./lora WEIGHT 0.5"),
    ("AS small", "small", "QUANTIZE q4_0"),
    ("FROM tuned\nUNSET", "tuned", "FROM ./base AS tuned"),
    ("size <", "size", "**SIZE**: All layers together"),
]


@pytest.mark.parametrize(("word", "part", "wanted"), EXPLAINED)
def test_what_is_told_of_a_word(word: str, part: str, wanted: str) -> None:
    """Its sentence, and where it stands."""
    reading, offset = at(word, part)
    found = explain(reading, offset)
    assert found is not None and wanted in found.text
    assert found.start <= offset <= found.end


@pytest.mark.parametrize(
    ("word", "part"), [("./base", "base"), ("attn_q", "attn_q"), ("5GB", "5GB"), ("4096", "4096")]
)
def test_nothing_is_told_of_other_words(word: str, part: str) -> None:
    """Paths, expressions and numbers speak for themselves."""
    assert explain(*at(word, part)) is None


@pytest.fixture
def around(tmp_path: Path) -> Around:
    """The files that the text names."""
    for name in ("hi.txt", "more", "lora/adapter_config.json", "base/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return Around(tmp_path, list)


LEADING = [
    ("FROM tuned AS", "tuned", "tuned"),
    ("FROM tuned\nUNSET", "tuned", "tuned"),
    ("${BITS} TENSOR", "BITS", "BITS"),
    ("@hi.txt", "hi", "hi.txt"),
    ("INCLUDE more", "more", "more"),
    ("MERGE ./lora", "lora", "lora/adapter_config.json"),
    ("FROM ./base", "base", "base/config.json"),
    ("${NONE}", "NONE", ""),
    ("QUANTIZE q4_0", "q4_0", ""),
]


@pytest.mark.parametrize(("word", "part", "wanted"), LEADING)
def test_where_a_word_leads(around: Around, word: str, part: str, wanted: str) -> None:
    """A stage to its name, an argument to its ARG, a path to its file."""
    reading, offset = at(word, part)
    found = target(reading, offset, around)
    if not wanted:
        assert found is None
    elif found is not None and found.path is None:
        assert reading.text[found.start : found.end] == wanted
        assert found.start < offset
    else:
        assert found is not None and found.path is not None and around.folder is not None
        assert found.path.relative_to(around.folder).as_posix() == wanted


def test_a_path_with_arguments_leads_to_that_of_their_defaults(around: Around) -> None:
    """As a build without --build-arg takes it."""
    text = "# syntax=mbuild/1\nARG N=hi\nFROM x\nSYSTEM @${N}.txt\n"
    found = target(OpenText(text), text.index(".txt"), around)
    assert found is not None and found.path is not None and found.path.name == "hi.txt"


def test_the_outline_has_stages_and_their_lines() -> None:
    """What stands before the first FROM is a part of its own."""
    arg, tuned, small = outline(OpenText(FILE))
    assert (arg.name, tuned.name, small.name) == ("ARG", "tuned", "small")
    assert tuned.detail == "./base AS tuned"
    assert [part.name for part in tuned.parts] == ["MERGE", "SET general.name"]
    assert [part.name for part in small.parts][:3] == [
        *("QUANTIZE", "PARAMETER num_ctx", "PARAMETER mirostat")
    ]

    def check(part: OutlinePart, start: int, end: int) -> None:
        assert start <= part.start <= part.name_end <= part.end <= end
        for each in part.parts:
            check(each, part.start, part.end)

    for part in (arg, tuned, small):
        check(part, 0, len(FILE))


def test_a_plain_modelfile_is_one_part() -> None:
    """Its FROM, with what follows."""
    (part,) = outline(OpenText('FROM x\nSYSTEM """a\nb"""\n'))
    assert (part.name, part.detail, [each.name for each in part.parts]) == ("FROM", "x", ["SYSTEM"])
    assert part.parts[0].detail == "a b"


def test_a_broken_line_hides_no_other() -> None:
    """While one writes there always is one."""
    reading = OpenText(FILE.replace("SET general.name", "SOT general.name"))
    assert [item.word for item in reading.instructions if item.word == "MERGE"] == ["MERGE"]
    found = meaning_at(reading, reading.text.index("q4_0"))
    assert found is not None and found.meaning is Meaning.TYPE


def test_arguments_count_where_docker_has_them() -> None:
    """Those of the file everywhere, those of a stage below it and in what begins from it."""
    text = "# syntax=mbuild/1\nARG A\nFROM x AS a\nARG B=2\nFROM y\nARG C\nFROM a\nARG D\n"
    reading = OpenText(text)
    names = [
        sorted(reading.arguments(text.index(line) + 1)) for line in ("FROM y", "FROM a", "ARG D")
    ]
    assert names == [["A"], ["A", "B"], ["A", "B"]]
    assert sorted(reading.arguments(len(text))) == ["A", "B", "D"]


def test_an_included_file_is_written_without_the_line_that_it_had_not() -> None:
    """fmt of it in an editor adds none."""
    assert formatted(OpenText("system  hi\n", included=True)) == "SYSTEM hi\n"
    head = "# syntax=mbuild/1\n"
    assert formatted(OpenText(f"{head}system  hi\n", included=True)) == f"{head}SYSTEM hi\n"
    assert formatted(OpenText("from x\n")) == "FROM x\n"
    assert formatted(OpenText("from\n")) is None
