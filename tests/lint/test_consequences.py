"""What the lines of a stage come to together, as a table: lines divided by `` / ``."""

from __future__ import annotations

import pytest

from mbuild.core.errors import ModelfileError
from mbuild.language.instructions import Problem
from mbuild.language.stages.evaluate import Brought
from mbuild.lint.consequences import RULES
from mbuild.lint.stages import check_stages

MODELS = frozenset({"tiny:latest", "gemma:2b", "me/x:latest"})


def found(lines: str) -> list[Problem]:
    """Everything that is wrong with a file of the language."""
    data = ("# syntax=mbuild/1\n" + lines.replace(" / ", "\n") + "\n").encode()
    try:
        return list(check_stages(data, "M", _nothing, models=MODELS).warnings)
    except ModelfileError as error:
        return list(error.problems)


def _nothing(includer: str, path: str) -> Brought:
    return Brought(path, b"")


TABLE = [
    ("FROM x AS tiny / FROM tiny", "3 hidden-model FROM tiny is the stage on line 2, which hides"),
    ("FROM x AS Tiny / FROM tiny", "3 hidden-model FROM Tiny is the stage on line 2"),
    ("FROM tiny AS tiny / FROM tiny", "3 hidden-model"),
    ("FROM x AS tiny / FROM tiny:latest", ""),
    ("FROM x AS gemma / FROM gemma", ""),
    ("FROM x AS tiny / FROM y", ""),
    ("FROM x AS tuned / FROM tunde", "3 unknown-stage FROM tunde is neither a stage nor"),
    ("FROM x AS tuned / FROM tuned-2b", ""),
    ("FROM x AS tina / FROM tiny", ""),
    ("FROM x AS tuned / FROM ./tunde", ""),
    ("FROM tunde AS tuned / FROM tuned", ""),
    ("FROM x AS a / QUANTIZE q8_0 / FROM a", "4 quantize-not-inherited this stage is not quantized:"
     " QUANTIZE q8_0 belongs to the stage a alone"),
    ("FROM x AS a / QUANTIZE q8_0 / FROM a / QUANTIZE q4_0", ""),
    ("FROM x AS a / QUANTIZE q8_0 / FROM x", ""),
    ("FROM x / QUANTIZE q8_0 / QUANTIZE Q8_0 PURE", "4 twice QUANTIZE Q8_0: the stage makes a model"
     " of this type already on line 3"),
    ("FROM x / QUANTIZE q8_0 q8_0", "3 twice QUANTIZE names Q8_0 twice"),
    ("FROM x / QUANTIZE q4_K / QUANTIZE q4_K_M PURE", "4 twice"),
    ("FROM x AS a / QUANTIZE q8_0 / FROM x / QUANTIZE q8_0", ""),
    ("FROM x / QUANTIZE iq2_xs", "3 needs-imatrix iq2_xs needs an importance matrix"),
    ("FROM x / QUANTIZE q2_K_S", "3 needs-imatrix"),
    ("FROM x / QUANTIZE iq2_xs IMATRIX i.gguf", ""),
    ("FROM x / QUANTIZE iq4_xs q2_K q8_0", ""),
    ("FROM x / MERGE ./l / MERGE l WEIGHT 0.5", "4 merged-twice MERGE l is there already: its"
     " weights add up to 1.5"),
    ("FROM x AS a / MERGE l / FROM a / MERGE l", "5 merged-twice"),
    ("FROM x AS a / MERGE l / MERGE l / FROM a / MERGE m", "4 merged-twice"),
    ("FROM x / MERGE l / MERGE m", ""),
    ("FROM x / MERGE l WEIGHT 0", "3 merge-without-effect MERGE l WEIGHT 0 adds nothing"),
    ("FROM x / MERGE l WEIGHT -1", ""),
    ("FROM x / MERGE ./l / ADAPTER l", "4 merged-twice ADAPTER l is merged into the weights too"),
    ("FROM x / SET a.b 1 / SET a.b 2", "3 hidden-set this SET a.b is hidden by the SET on line 4"),
    (
        "FROM x / SET a.b = 1",
        "3 sign-in-value the value of a.b begins with =: it is part of it",
    ),
    ("FROM x / SET a.b 1 / UNSET a.b", "3 hidden-set this SET a.b is hidden by the UNSET on"),
    ("FROM x / UNSET a.b / SET a.b 1", ""),
    ("FROM x AS a / SET a.b 1 / FROM a / SET a.b 2", ""),
    ("FROM x / SET a.b 1 / SET a.c 1", ""),
    ("FROM x / FROM y", "2 unnamed-stage this stage has no name, and only the last stage is built"),
    ("FROM x / SET general.tags a", "3 bad-key SET general.tags: it is a list"),
    ("FROM x / QUANTIZE q4_K_M,q8_0", "3 bad-quantize unknown quantization 'q4_K_M,q8_0'"),
    ("FROM x / SET general.architecture gemma", "3 bad-key general.architecture says how the file"),
    ("FROM x / UNSET general.file_type", "3 bad-key general.file_type says how the file is made"),
    ("FROM x / SET llama.context_length many", "3 bad-key SET llama.context_length many: its type"),
    ("FROM x / SET llama.context_length uint:4096", ""),
    ("FROM x / SET General.Name x", "3 bad-key General.Name cannot be a key of metadata"),
    ("ARG A=1 / FROM x / SYSTEM is $A / MESSAGE user ${A}, \\$A, $$A, $B", "4 unbraced-argument $A"
     " is text: an argument is put in as ${A}"),
    ("ARG A=1 / FROM x$A", "3 unbraced-argument"),
    ("FROM x / MERGE l WEIGHT \u20130,5", "3 bad-weight WEIGHT \u20130,5 is not a weight"),
    ("FROM x / MERGE l SCALE 0.5", "3 bad-clause MERGE cannot go on with SCALE"),
    ("FROM x / QUANTIZE q8_0 # small", "3 comment-in-value QUANTIZE cannot go on with #"),
    ("FROM x / MERGE l // mine", "3 bad-clause MERGE cannot go on with //"),
    ("FROM x / CHECK kdl < 0.1 TEXT t", "3 bad-clause CHECK cannot go on with kdl"),
    ("FROM x / QUANTIZE q8_0 OUTTYPE f17", "3 bad-quantize OUTTYPE f17 is not an outtype"),
    ("FROM x / QUANTIZE q8_0 OUTTYPE BF16", ""),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "wanted"), TABLE)
def test_what_lines_come_to_together(lines: str, wanted: str) -> None:
    """One problem at its line with its code and words, or none; a remedy always."""
    problems = found(lines)
    if not wanted:
        assert problems == []
        return
    (problem,) = problems
    line, code, *words = wanted.split(" ", 2)
    assert problem.span is not None
    assert (str(problem.span.line), problem.code) == (line, code)
    assert problem.message.startswith(words[0] if words else "")
    assert problem.suggestion or code == "twice"


def test_every_rule_has_a_case() -> None:
    """Each row of the table of rules tells something of its own."""
    codes = {wanted.split(" ")[1] for _, wanted in TABLE if wanted}
    assert len(RULES) == len(set(RULES)) <= len(codes)


def test_a_change_is_offered_where_one_is_meant() -> None:
    """The name of the stage in place of the mistyped one; the line that has no effect goes."""
    (problem,) = found("FROM x AS tuned / FROM tunde")
    assert problem.edit is not None and problem.span is not None
    assert problem.edit == (problem.span.value, problem.span.value + 5, "tuned")
    (problem,) = found("FROM x / SET a.b 1 / SET a.b 2")
    assert problem.edit == (problem.span.start, problem.span.end, "")  # type: ignore[union-attr]
