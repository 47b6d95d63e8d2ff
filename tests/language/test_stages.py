"""The language that ``# syntax=mbuild/1`` opens: how its files are read and what they come to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from mbuild.core.errors import MissingFileError, ModelfileError, UsageError
from mbuild.language.formatter import format
from mbuild.language.instructions import Problem
from mbuild.language.parser import parse, parse_stages
from mbuild.language.stages.changing import OPTION_OF, quantize_of
from mbuild.language.stages.clauses import USAGE, read_clause, written_clause
from mbuild.language.stages.evaluate import Brought, Evaluated, chosen, evaluate
from mbuild.language.stages.expand import ExpansionError, expand
from mbuild.language.stages.opening import opens_stages
from mbuild.language.stages.quotes import QUOTED_HINT
from mbuild.language.stages.scope import Scope
from mbuild.language.stages.values import StageRecipe
from mbuild.language.stages.words import CLAUSES, MergeIn, Opening, QuantizeTo
from mbuild.quant.choose.options import OPTIONS

HEAD = "# syntax=mbuild/1\n"


def evaluated(
    text: str, arguments: Mapping[str, str] = {}, files: Mapping[str, str] = {}
) -> Evaluated:
    """The stages of a text behind the first line, with files that it may bring in."""

    def bring(includer: str, path: str) -> Brought:
        if path not in files:
            raise MissingFileError(f"{path}: no such file")
        return Brought(path, files[path].encode())

    return evaluate((HEAD + text).encode(), "Modelfile", arguments, bring)


def problems(
    text: str, arguments: Mapping[str, str] = {}, files: Mapping[str, str] = {}
) -> tuple[Problem, ...]:
    """What is wrong with a text."""
    with pytest.raises(ModelfileError) as error:
        evaluated(text, arguments, files)
    return tuple(error.value.problems)


# The first line.


@pytest.mark.parametrize(
    ("first", "opens"),
    [
        ("# syntax=mbuild/1\n", True),
        ("#syntax = MBUILD/1 \r\n", True),
        ("\ufeff# syntax=mbuild/1", True),
        ("\n# syntax=mbuild/1\n", False),
        ("# syntax=docker/dockerfile:1\n", False),
        ("FROM x\n", False),
    ],
)
def test_only_the_first_line_opens_the_language(first: str, opens: bool) -> None:
    """As for Docker, and in any case of letters; another syntax is a comment for Ollama."""
    assert opens_stages(first.encode()) is opens


def test_a_later_version_of_the_language_is_refused() -> None:
    """What a later mbuild means is not guessed."""
    with pytest.raises(UsageError, match="mbuild/2"):
        opens_stages(b"# syntax=mbuild/2\n")


@pytest.mark.parametrize("word", ["SET", *(kind.word for kind in CLAUSES)])
def test_an_instruction_of_it_in_a_plain_modelfile_is_named(word: str) -> None:
    """The error says which language it belongs to, and what opens that."""
    with pytest.raises(ModelfileError) as error:
        parse(f"FROM x\n{word} a b\n".encode())
    (problem,) = error.value.problems
    assert f"{word} is an instruction of the language mbuild/1" in problem.message
    assert "# syntax=mbuild/1" in problem.suggestion
    assert problem.span is not None
    assert problem.span.line == 2


# Reading.


def test_from_may_name_its_stage() -> None:
    """AS and a name end a bare value; a value in quotes is a whole one."""
    first, second = parse_stages((HEAD + 'FROM ./a b as c\nFROM "x AS y"\n').encode()).instructions
    assert first == Opening("./a b", "c")
    assert second == Opening("x AS y")


def test_a_line_goes_on_behind_a_backslash() -> None:
    """The words of a clause may stand on several lines, as in a Dockerfile."""
    text = HEAD + "FROM x\nQUANTIZE q4_K_M \\\n  TENSOR a=q8_0 \\\n  PURE\nSYSTEM hi\n"
    file = parse_stages(text.encode())
    line = file.instructions[1]
    assert isinstance(line, QuantizeTo)
    assert written_clause(line) == "q4_K_M TENSOR a=q8_0 PURE"
    assert file.instructions[2].word == "SYSTEM"


def test_keywords_are_read_in_either_case_and_words_in_quotes_are_no_keywords() -> None:
    """A file that is called like a keyword is written in quotes."""
    phrases = read_clause(MergeIn('"weight" weight 0.5'))
    assert [word.text for word in phrases.head.words] == ['"weight"', "0.5"]
    assert phrases.head.keywords == ("WEIGHT",)


@pytest.mark.parametrize("kind", CLAUSES, ids=lambda kind: kind.word)
def test_each_clause_says_how_it_is_written(kind: Any) -> None:
    """Where a clause cannot be read, the hint shows its form."""
    with pytest.raises(ModelfileError) as error:
        read_clause(kind('"a'))
    (problem,) = error.value.problems
    assert problem.suggestion == f"write {USAGE[kind.word]}"


# Arguments.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "one"),
        ("x${A}y${A}", "xoneyone"),
        (r"\${A}", "${A}"),
        ("$A {A}", "$A {A}"),
        ("${E:-two}", "two"),
        ("${E:-${A}}", "one"),
        ("${A:-two}", "one"),
        ("${A:+set}", "set"),
        ("${E:+set}", ""),
        ("${E}", ""),
    ],
)
def test_arguments_are_put_in(text: str, expected: str) -> None:
    """Docker's three forms; a dollar sign without a brace is a dollar sign."""
    assert expand(text, lambda name: {"A": "one", "E": None}[name]) == expected


@pytest.mark.parametrize("text", ["${A", "${}", "${a-b}", "${1}", "${A:?no}"])
def test_what_is_no_argument_is_refused(text: str) -> None:
    """With the way to write the two characters themselves."""
    with pytest.raises(ExpansionError) as error:
        expand(text, lambda name: "x")
    assert r"\${" in error.value.hint


def test_a_given_value_comes_before_a_default() -> None:
    """And a second ARG without one keeps what there was."""
    scope = Scope({"A": "given"})
    scope.declare("A", "default")
    scope.declare("B", "default")
    scope.declare("B", None)
    assert (scope.value("A"), scope.value("B")) == ("given", "default")
    assert scope.unknown() == []


def test_arguments_before_from_count_in_every_stage() -> None:
    """Those of a stage count there and in the stages that begin from it."""
    text = "ARG A=1\nFROM x AS a\nARG B=2\nSYSTEM ${A}${B}\nFROM a AS b\nTEMPLATE ${A}${B}\n"
    first, second = evaluated(text + "FROM x\nSYSTEM ${A}\n").stages[:2]
    assert first.recipe().recipe.system == "12"
    assert second.recipe().recipe.template == "12"
    (problem,) = problems(text + "FROM x\nSYSTEM ${B}\n")
    assert "there is no ARG B" in problem.message


def test_an_argument_that_nobody_declared_is_an_error() -> None:
    """In the file and on the command line, with the nearest name that there is."""
    (problem,) = problems("ARG BASE=x\nFROM ${BSAE}\n")
    assert problem.suggestion == "did you mean BASE?"
    (problem,) = problems("ARG BASE=x\nFROM ${BASE}\n", {"BSAE": "y"})
    assert problem.message.startswith("--build-arg BSAE")


def test_an_argument_without_a_value_is_told() -> None:
    """It is empty, as for Docker, and that is a warning."""
    found = evaluated("ARG NAME\nFROM x\nSYSTEM I am ${NAME}\n")
    assert [w.code for w in found.warnings] == ["empty-argument"]
    assert found.stages[0].recipe().recipe.system == "I am "


# Files.


def test_a_value_may_be_the_content_of_a_file() -> None:
    """Nothing is put into it; the line end at its end is not part; @@ is one @."""
    files = {"a.txt": "I am ${A}.\n", "b.txt": "two\n\n"}
    text = "ARG F=a\nFROM x\nSYSTEM @${F}.txt\nLICENSE @b.txt\nTEMPLATE @@home ${F}\n"
    recipe = evaluated(text, files=files).stages[0].recipe().recipe
    assert recipe.system == "I am ${A}."
    assert recipe.licenses == ("two\n",)
    assert recipe.template == "@home a"


def test_from_takes_a_blob_by_its_digest() -> None:
    """There @ is no file: it is Ollama's way to name a blob."""
    found = evaluated(f"FROM @sha256:{'0' * 64}\n")
    assert found.stages[0].recipe().recipe.models[0].value.startswith("@sha256:")


def test_an_included_file_sees_what_it_is_given() -> None:
    """Its own arguments, with the values behind INCLUDE; not those of who includes it."""
    inner = "ARG NAME=nobody\nSYSTEM I am ${NAME}.\n"
    text = "ARG A=mario\nFROM x\nINCLUDE persona NAME=${A}\n"
    assert evaluated(text, files={"persona": inner}).stages[0].recipe().recipe.system == (
        "I am mario."
    )
    (problem,) = problems(text, files={"persona": "SYSTEM ${A}\n"})[:1]
    assert (problem.filename, problem.span and problem.span.line) == ("persona", 1)
    assert problem.line_text == "SYSTEM ${A}"


def test_a_fault_in_an_included_file_points_into_it() -> None:
    """File, line and text are its own, of what cannot be read and of what cannot be meant."""
    (problem,) = problems("FROM x\nINCLUDE p\n", files={"p": "SYSTEM a\nSYSTM b\n"})
    assert str(problem).startswith("p:2:1: unknown instruction")
    (problem,) = problems("FROM x\nINCLUDE p\n", files={"p": "\nMERGE a WEIGHT x\n"})
    assert str(problem).startswith("p:2:1: WEIGHT x is not a weight")


def test_files_that_include_each_other_are_refused() -> None:
    """The error names the way."""
    files = {"a": "INCLUDE b\n", "b": "INCLUDE a\n"}
    (problem,) = problems("FROM x\nINCLUDE a\n", files=files)
    assert problem.message == "a includes itself, by way of a and b"


def test_a_missing_file_is_told_where_it_is_named() -> None:
    """With the line of the Modelfile."""
    (problem,) = problems("FROM x\nSYSTEM @nothing\n")
    assert str(problem).startswith("Modelfile:3:1: nothing: no such file")


# Stages.


def test_a_stage_goes_on_where_its_base_ended() -> None:
    """Settings and changes are handed on; QUANTIZE and CHECK stay where they stand."""
    text = (
        "FROM x AS a\nPARAMETER stop 1\nMERGE ./l\nQUANTIZE q8_0\nCHECK nan\n"
        "FROM A AS b\nPARAMETER stop 2\nMERGE ./m WEIGHT -0.5\n"
    )
    one, two = (stage.recipe() for stage in evaluated(text).stages)
    assert two.recipe.parameters == {"stop": ["1", "2"]}
    assert [(c.name, c.value) for c in two.recipe.changes] == [("./l", 1.0), ("./m", -0.5)]
    assert (len(one.quantize), len(one.checks), two.quantize, two.checks) == (1, 1, (), ())


def test_what_is_unset_is_not_inherited() -> None:
    """Neither from the stage before nor from the model that FROM names; it may be set again."""
    text = "FROM x AS a\nPARAMETER stop 1\nSYSTEM hi\nFROM a\nUNSET PARAMETER stop num_ctx\n"
    recipe = evaluated(text + "UNSET SYSTEM\nPARAMETER num_ctx 5\n").stages[1].recipe().recipe
    assert recipe.unset == ("parameter stop", "parameter num_ctx", "system")
    assert (recipe.system, recipe.parameters) == ("", {"num_ctx": 5.0})


@pytest.mark.parametrize(
    ("targets", "expected"),
    [((), "c"), (("A",), "a"), (("b", "a"), "ab"), (("all",), "abc")],
)
def test_targets_are_chosen_in_the_order_of_the_file(
    targets: tuple[str, ...], expected: str
) -> None:
    """The last stage is the default."""
    stages = evaluated("FROM x AS a\nFROM a AS b\nFROM a AS c\n").stages
    assert "".join(stage.name for stage in chosen(stages, targets)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SYSTEM x\nFROM y\n", "SYSTEM stands before the first FROM"),
        ("FROM x AS a\nFROM y AS A\n", "a stage is called a already on line 2"),
        ("FROM x AS all\n", "all cannot be the name of a stage"),
        ("FROM x AS 1a\n", "1a cannot be the name of a stage"),
        ("FROM x\nQUANTIZE q8_0 PURE PURE\n", "QUANTIZE has PURE twice"),
        ("FROM x\nQUANTIZE\n", "QUANTIZE needs a value on the same line"),
        ("FROM x\nUNSET PARAMETER nope\n", "unknown parameter 'nope'"),
        ("FROM x\nDROP LAYER 3-1\n", "3-1 is not a layer"),
        ("FROM x\nTAKE ( FROM y\n", "( is not a regular expression"),
        ("FROM x\nCHECK size < much\n", "'much' is not a size"),
        ("FROM x\nSET general.name\n", "SET needs a key and a value"),
        ("ARG\nFROM x\n", "ARG needs a value on the same line"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    """Each with one sentence."""
    found = problems(text)
    assert message in found[0].message


def test_a_stage_comes_back_from_its_json() -> None:
    """As the cache keeps it."""
    text = (
        "FROM x AS a\nMERGE l WEIGHT 2\nSET general.name N\nDROP LAYER 1-2\nTAKE ^o FROM y\n"
        "QUANTIZE q8_0 OUTTYPE f16 SPLIT 3 LAYERS TENSOR a=q4_0\nCHECK size < 5GB\nUNSET SYSTEM\n"
    )
    stage = evaluated(text).stages[0].recipe()
    assert StageRecipe.from_json(json.loads(json.dumps(stage.to_json()))) == stage


def test_the_canonical_form_reads_back_as_itself() -> None:
    """fmt puts keywords into upper case, lines together, and the first line first."""
    text = (
        '#syntax=mbuild/1\n\nfrom  x as y\nset general.name  "a b"\nquantize q8_0 \\\n pure\n'
        "# why\nmerge ./a  weight 2\nfrom y\ncheck NAN\n"
    )
    file = parse_stages(text.encode())
    assert format(file) == (
        "# syntax=mbuild/1\n\nFROM x AS y\nSET general.name a b\n"
        "QUANTIZE q8_0 PURE\n# why\nMERGE ./a WEIGHT 2\nFROM y\nCHECK nan\n"
    )
    assert parse_stages(format(file).encode()).instructions[1] == file.instructions[1]


def test_options_of_a_line_go_by_the_names_of_the_flags() -> None:
    """So that whoever knows the flags knows the lines."""
    options: dict[str, Any] = {}
    for text in (
        "q4_0 OUTPUT q8_0 EMBEDDING q6_K IMATRIX i RECIPE ollama PURE REQUANTIZE",
        "q4_0 IMATRIX FROM t CHUNKS 5 INCLUDE a b EXCLUDE c INCLUDE d PRUNE 3,7-8",
    ):
        line = QuantizeTo(text)
        options |= quantize_of(line, read_clause(line), lambda word: word.text).options
    assert set(OPTION_OF.values()) <= options.keys() <= {row.name for row in OPTIONS.values()}
    assert options["pure"] is options["allow_requantize"] is True
    assert options["include_weights"] == ["a", "b", "d"] and options["prune_layers"] == "3,7-8"


def test_comments_between_the_lines_of_an_instruction_are_kept() -> None:
    """As in a Dockerfile; fmt writes them before the instruction, which has one line."""
    text = b"# syntax=mbuild/1\nFROM x\nQUANTIZE q8_0 \\\n# why\n  # so\n  PURE \\\n"
    read = parse_stages(text)
    written = "# syntax=mbuild/1\nFROM x\n# why\n# so\nQUANTIZE q8_0 PURE\n"
    assert format(read) == written
    assert format(parse_stages(written.encode())) == written


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("QUANTIZE SIZE 4 GB", "write 4GB without a blank"),
        ("CHECK size < 5 GB", "write 5GB without a blank"),
        ("CHECK size \u2264 5GB", "did you mean <=?"),
        ("CHECK size == 5GB", "did you mean <=?"),
        ('CHECK answers "a" WITH /4 or four/', QUOTED_HINT),
        ("MERGE './my l'", QUOTED_HINT),
        ("MERGE \u201c./my l\u201d", QUOTED_HINT),
        ("ARG A='x y'", QUOTED_HINT),
        ("INCLUDE f NAME = a", "write NAME=VALUE without blanks"),
        ("MERGE ./l WEIGHT \u22120.5", "did you mean -0.5?"),
        ("DROP LAYER 3,5", "DROP LAYER 3 5"),
        ("UNSET stop", "write UNSET PARAMETER stop"),
        ("FROM y AS z # why", "a comment needs a line of its own"),
        ("SET general.name=My", "SET general.name My"),
        ("LORA ./l", "did you mean MERGE"),
        ("ENV A=1", "did you mean ARG?"),
        ("LABEL a=b", "did you mean SET?"),
        ("PRUNE LAYER 3", "did you mean DROP LAYER?"),
        ("QUANTIZE\u00a0q8_0", "write an ordinary space there"),
        ("SYSTEM <<EOF\nhello\nEOF", 'put longer texts between """'),
        ("ARG A\nMERGE ${A}", "${A} is empty"),
    ],
)
def test_the_remedy_is_named(line: str, hint: str) -> None:
    """What was probably meant is said of each line."""
    with pytest.raises(ModelfileError) as caught:
        evaluated(f"FROM x\n{line}\n", files={"f": "ARG NAME\n"})
    assert hint in caught.value.problems[0].suggestion
