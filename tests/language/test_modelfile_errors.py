"""What is said of broken Modelfiles: places, suggestions, all in one run, in bounded time."""

from __future__ import annotations

import pytest
from pace import at_most

from mbuild.core.errors import ModelfileError
from mbuild.language.instructions import Problem, Severity
from mbuild.language.parser import MAX_BYTES, MAX_PROBLEMS, MAX_STARTS, parse
from mbuild.language.span import Span


def problems(text: str | bytes) -> tuple[Problem, ...]:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ModelfileError) as caught:
        parse(data, "Modelfile")
    return caught.value.problems


def test_a_problem_shows_its_line_and_a_caret() -> None:
    """File, line, column, the line with tabs kept, a caret below, and a suggestion."""
    (problem,) = problems("FROM x\n\tPARAMETRE stop y\n")
    assert problem.render() == (
        'error: unknown instruction "PARAMETRE"\n'
        "  --> Modelfile:2:2\n"
        "  |\n"
        "2 | \tPARAMETRE stop y\n"
        "  | \t^^^^^^^^^\n"
        "  hint: did you mean PARAMETER?"
    )
    assert str(problem) == (
        'Modelfile:2:2: unknown instruction "PARAMETRE" (did you mean PARAMETER?)'
    )


def test_every_broken_line_is_reported_once() -> None:
    """One run finds the errors of all lines, and what validate says of the sound ones."""
    text = (
        "FORM tiny\nPARAMETER temprature 1\nPARAMETER a-b c\nMESSAGE robot x\nMESSAGE user\n"
        "SYSTEM\nNAME foo\nFROMx y\nPARAMETER num_ctx 1.5\nREQUIRES x\nPARAMETER mirostat 1\n"
    )
    found = [(p.span.line, p.code) for p in problems(text) if p.span]
    assert found == [
        (1, "unknown-instruction"),
        (2, "unknown-parameter"),
        (3, "bad-name"),
        (4, "bad-role"),
        (5, "bad-role"),
        (6, "missing-value"),
        (7, "unknown-instruction"),
        (8, "unknown-instruction"),
        (9, "bad-value"),
        (10, "bad-requires"),
        (11, "deprecated-parameter"),
    ]


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        ("FORM x", "did you mean FROM?"),
        ("sytem x", "did you mean SYSTEM?"),
        ("FROM: x", "did you mean FROM?"),
        ("FROM=x", "did you mean FROM?"),
        ("PARAM stop x", "did you mean PARAMETER?"),
        ("MESSAGE assistent x", "did you mean assistant?"),
        ("PARAMETER temprature 1", "did you mean temperature?"),
        ("PARAMETER Temperature 1", "did you mean temperature?"),
        ("PARAMETER num-ctx 1", "names are made of letters, digits and underscores"),
        ("ARCH transformer", "this is modctl's Modelfile format"),
        ("SYSTEM", 'an empty value is written ""'),
    ],
)
def test_suggestions(line: str, suggestion: str) -> None:
    """The nearest instruction, role or parameter is named."""
    if line.startswith("PARAMETER") and "-" not in line:
        line += "\nSYSTEM"  # an error of the language, so that parse itself reports all
    assert suggestion in problems(f"FROM x\n{line}\n")[0].suggestion


def test_a_missing_from_is_an_error_of_the_file() -> None:
    """Without FROM there is one problem without a place, unless a broken line was meant as one."""
    (problem,) = problems("SYSTEM x\n")
    assert (problem.code, problem.span) == ("missing-from", None)
    assert problem.render().splitlines()[:2] == ["error: no FROM line", "  --> Modelfile"]
    assert [p.code for p in problems("FROM\nSYSTEM x\n")] == ["missing-value"]
    assert [p.code for p in problems("")] == ["missing-from"]


def test_reading_goes_on_behind_an_unclosed_value() -> None:
    """After a value that never ends, lines that are whole instructions are checked again."""
    found = problems('FROM x\nSYSTEM "a\nsystem of lines\nTHE TEXT\nMESSAGE robot hi\n')
    assert [(p.span.line, p.code) for p in found if p.span] == [(2, "unclosed"), (5, "bad-role")]


def test_long_lines_are_shown_in_part() -> None:
    """A problem far into a long line shows the part around it."""
    (problem,) = problems("FROM x\nMESSAGE " + "r" * 100_000 + " x\n")
    assert len(problem.render()) < 600
    value = Problem("m", Span(1, 5001, 5000, 5003, 5000)).located("a" * 5000 + "bcd e", "F")
    line, caret = value.render().splitlines()[3:5]
    assert line[caret.index("^") :].startswith("bcd")


def test_a_shown_line_cannot_drive_the_terminal() -> None:
    """Control characters of the file are not printed."""
    (problem,) = problems("FROM x\nFORM \x1b[31mred\x1b[0m\n")
    assert "\x1b" not in problem.render()
    assert "FORM \ufffd[31mred" in problem.render()


def test_the_number_of_problems_is_limited() -> None:
    """After a number of broken lines the rest is left alone, and the run says so."""
    found = problems("FROM x\n" + "FORM x\n" * 1000)
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1].code == "too-many-problems"


def test_warnings_alone_do_not_refuse() -> None:
    """A deprecated parameter is no error of the language."""
    assert len(parse(b"FROM x\nPARAMETER mirostat 1\n").instructions) == 2


def test_too_large_a_file_is_refused() -> None:
    """Over 16 MiB nothing is read."""
    (problem,) = problems(b" " * (MAX_BYTES + 1))
    assert problem.code == "too-large"
    assert problem.severity is Severity.ERROR


def test_too_many_instructions_are_refused_at_once() -> None:
    """A file of very many short lines costs neither the time nor the memory to parse them."""
    with at_most(2):
        (problem,) = problems("FROM x\n" + "\u200bSYSTEM y\n#\n" * (MAX_STARTS // 2 + 1))
    assert problem.code == "too-large"


HOSTILE = {
    "unclosed": b"FROM x\n" + b'SYSTEM "x\n' * 100_000,
    "unclosed triple": b"FROM x\n" + b'SYSTEM """x\n' * 100_000,
    "quotes": b'FROM x\nSYSTEM """' + b'"' * 1_000_000 + b" x",
    "quotes and blanks": b'FROM x\nSYSTEM "' + b'"       ' * 120_000 + b"x",
    "quotes and hidden": b'FROM x\nSYSTEM """' + b'"\0\0' * 300_000 + b"x",
    "hidden": b"FROM x\nSYSTEM " + b"\0" * 1_000_000 + b"x" + b"\0" * 1_000_000 + b'"',
    "hidden words": b"\0" * 1_000_000,
    "blanks": b" " * 1_000_000 + b"x",
    "one word": b"x" * 1_000_000,
    "bad lines": b"foo bar\n" * 100_000,
    "broken words": b"FOO bar\n" * 100_000,
    "invalid bytes": b"FROM x\n" + b"\xff" * 1_000_000,
    "digits": b"FROM x\nPARAMETER top_k " + b"1" * 1_000_000 + b"\nSYSTEM",
    "exponent": b"FROM x\nPARAMETER top_p 1e" + b"9" * 1_000_000 + b"\nSYSTEM",
    "name": b"FROM x\nPARAMETER " + b"n" * 1_000_000 + b" x\nSYSTEM",
    "role": b"FROM x\nMESSAGE " + b"r" * 1_000_000 + b" x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_nonsense_takes_no_time(name: str) -> None:
    """Hostile files cost time in proportion to their size: two seconds at most for a megabyte."""
    data = HOSTILE[name]
    parse(b"FROM x")  # the grammar is loaded once
    with at_most(2):
        try:
            parse(data)
        except ModelfileError as error:
            text = "\n".join(problem.render() for problem in error.problems)
            assert len(text) < 20_000


def test_long_values_are_linear() -> None:
    """A value of 8 MB is read in at most four seconds and comes out whole."""
    text = 'a "quoted" word"\n' * 500_000
    with at_most(4):
        found = parse(f'FROM x\nSYSTEM """{text}"""\n'.encode())
    assert found.instructions[1].value == text  # type: ignore[union-attr]
