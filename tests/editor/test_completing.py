"""What is offered where one writes, as a table; ``^`` is where."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.editor import choices
from mbuild.editor.around import Around
from mbuild.editor.completing import Kind, Suggestion, complete
from mbuild.editor.open_text import OpenText
from mbuild.language.parameters import PARAMETERS
from mbuild.language.stages.clauses import USAGE
from mbuild.language.stages.words import CLAUSES, STAGED_TYPES
from mbuild.language.word_help import INSTRUCTIONS, KEYWORDS, PARAMETER_HELP

HEAD = "# syntax=mbuild/1\n"
STAGES = f"{HEAD}ARG A=1 BITS\nFROM ./base AS tuned\nARG C\nFROM tuned AS small\n"


@pytest.fixture
def around(tmp_path: Path) -> Around:
    """A folder with a model, a checkpoint, an adapter, a text and a hidden file."""
    for name in ("m.gguf", "system.txt", ".hidden.gguf", "base/model.safetensors", "lora/a.gguf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return Around(tmp_path, lambda: ["gemma:2b", "mario:latest"])


def offered(text: str, around: Around) -> list[Suggestion]:
    """What is offered at the ``^`` of a text."""
    before, _, after = text.partition("^")
    return complete(OpenText(before + after), len(before), around)


TABLE = [
    ("^", "FROM ADAPTER DRAFT"),
    ("FROM x\nPA^", "FROM"),
    (f"{HEAD}^", "ARG INCLUDE FROM"),
    (f"{HEAD}FROM x\n^", "FROM ADAPTER"),
    ("#^", "# syntax=mbuild/1"),
    ("FROM x\n# ^", ""),
    ("FROM ^", "./base/ ./lora/ ./m.gguf gemma:2b mario:latest"),
    ("FROM ./b^", "./base/ ./lora/ ./m.gguf"),
    ("FROM ./base/^", "./base/model.safetensors"),
    ("FROM .^", "./base/ ./lora/ ./m.gguf"),
    (f"{STAGES}FROM ^", "tuned small ./base/ ./lora/ ./m.gguf gemma:2b mario:latest"),
    (f"{HEAD}FROM x ^", "AS"),
    (f"{HEAD}FROM x A^", "AS"),
    (f"{HEAD}FROM x AS ^", ""),
    ("FROM x ^", ""),
    ("FROM x\nADAPTER ^", "./base/ ./lora/ ./m.gguf"),
    ("FROM x\nPARAMETER ^", "num_ctx num_predict temperature"),
    ("FROM x\nPARAMETER use_mmap ^", "true false"),
    ("FROM x\nPARAMETER num_ctx ^", ""),
    ("FROM x\nMESSAGE ^", "system user assistant"),
    ("FROM x\nMESSAGE user ^", ""),
    ("FROM x\nSYSTEM @^", ""),
    (f"{STAGES}SYSTEM @^", "base/ lora/ m.gguf system.txt"),
    (f"{STAGES}SYSTEM @s^", "base/ lora/ m.gguf system.txt"),
    (f'{STAGES}SYSTEM "@^', "base/ lora/ m.gguf system.txt"),
    (f"{STAGES}SYSTEM @@^", ""),
    (f"{STAGES}MESSAGE user @^", "base/ lora/ m.gguf system.txt"),
    (f"{STAGES}SYSTEM ${{^", "A} BITS} C}"),
    (f"{STAGES}SYSTEM ${{^}}", "A BITS C"),
    (f"{STAGES}SYSTEM \\${{^", ""),
    (f"{STAGES}QUANTIZE ${{B^", "A} BITS} C}"),
    ("FROM x\nSYSTEM ${^", ""),
    (f"{STAGES}QUANTIZE ^", "f32 f16 q4_0"),
    (f"{STAGES}QUANTIZE q4_0 ^", "f32 f16 q4_0"),
    (f"{STAGES}QUANTIZE q4_0 IMATRIX ^", "base/ lora/ m.gguf system.txt FROM"),
    (f"{STAGES}QUANTIZE q4_0 OUTPUT ^", "f32 f16 bf16"),
    (f"{STAGES}QUANTIZE q4_0 TENSOR attn_v=^", "f32 f16 bf16"),
    (f"{STAGES}QUANTIZE q4_0 TENSOR ^", ""),
    (f"{STAGES}QUANTIZE q4_0 RECIPE ^", "llama.cpp ollama"),
    (f"{STAGES}QUANTIZE q4_0 OUTTYPE ^", "auto f32 f16 bf16"),
    (f"{STAGES}QUANTIZE q4_0 SPLIT ^", "KEEP"),
    (f"{STAGES}QUANTIZE q4_0 \\\n  RECIPE ^", "llama.cpp ollama"),
    (f"{STAGES}MERGE ^", "./base/ ./lora/ ./m.gguf"),
    (f"{STAGES}MERGE ./lora ^", "WEIGHT"),
    (f"{STAGES}MERGE ./lora WEIGHT ^", ""),
    (f"{STAGES}UNSET ^", "general.name general.description"),
    (f"{STAGES}UNSET PARAMETER ^", "num_ctx num_predict"),
    (f"{STAGES}SET ^", "general.name general.description"),
    (f"{STAGES}SET general.name ^", ""),
    (f"{STAGES}DROP ^", "LAYER"),
    (f"{STAGES}TAKE attn_q ^", "FROM"),
    (f"{STAGES}TAKE attn_q FROM ^", "tuned small ./base/ ./lora/ ./m.gguf gemma:2b"),
    (f"{STAGES}CHECK ^", "nan template size"),
    (f"{STAGES}CHECK size ^", "< <= > >="),
    (f"{STAGES}INCLUDE ^", "base/ lora/ m.gguf system.txt"),
    (f"{STAGES}INCLUDE x ^", ""),
    (f"{STAGES}MERGE a b c ^", ""),
    ("FROM x\nTEMPLATE {{ .^", "System Prompt"),
    ('FROM x\nTEMPLATE """\n{{ .Pr^', "System Prompt"),
    ('FROM x\nTEMPLATE """\n{{ .Pr^ }}\n"""\nSYSTEM x\n', "System Prompt"),
    ('FROM x\nSYSTEM """\nFROM ^\n"""\n', ""),
    ("FROM x\nRUN ^", ""),
    ("FROM x\nREQUIRES ^", ""),
]


@pytest.mark.parametrize(("text", "wanted"), TABLE)
def test_what_is_offered(around: Around, text: str, wanted: str) -> None:
    """It begins with these words, and where there are none nothing is offered."""
    found = [each.text for each in offered(text, around)]
    words = [wanted] if wanted.startswith("#") else wanted.split()
    assert found[: len(words)] == words
    assert bool(found) == bool(words)


def test_keywords_follow_the_types_of_a_line(around: Around) -> None:
    """Those that the grammar takes there, none that it does not."""
    found = offered(f"{STAGES}QUANTIZE q4_0 ^", around)
    keywords = [each.text for each in found if each.kind is Kind.KEYWORD]
    assert keywords[:4] == ["IMATRIX", "TENSOR", "OUTPUT", "EMBEDDING"]
    assert "KEEP" not in keywords and "WORD" not in keywords


def test_what_is_offered_takes_the_place_of_what_is_written(around: Around) -> None:
    """From where the word begins, also behind quotes and equals signs."""
    for text, begun in (
        ("FROM x\nPARAMETER num_^", "num_"),
        (f"{STAGES}QUANTIZE q4_0 TENSOR attn_v=q^", "q"),
        (f"{STAGES}SYSTEM @sys^", "sys"),
        ("FROM ./ba^", "./ba"),
    ):
        before = text.partition("^")[0]
        starts = {each.start for each in offered(text, around)}
        assert starts == {len(before) - len(begun)}


def test_a_stage_is_offered_only_below_it(around: Around) -> None:
    """FROM begins with an earlier stage."""
    found = offered(f"{HEAD}FROM x AS a\nFROM ^\nFROM y AS b\n", around)
    assert [each.text for each in found if each.kind is Kind.STAGE] == ["a"]


def test_hidden_files_are_offered_once_their_dot_is_written(around: Around) -> None:
    """As shells do."""
    assert "./.hidden.gguf" in [each.text for each in offered("FROM ./.^", around)]


def test_a_folder_that_is_not_there_offers_nothing(around: Around) -> None:
    """Neither does an untitled text, which lies nowhere."""
    assert not offered("FROM ./nowhere/^", around)
    assert not offered("FROM ./^", Around(None, list))


def test_every_word_of_the_language_is_explained() -> None:
    """Instructions, keywords of the grammar, and parameters have a sentence each."""
    assert INSTRUCTIONS.keys() == STAGED_TYPES.keys()
    assert PARAMETER_HELP.keys() == PARAMETERS.keys()
    assert {kind.word for kind in CLAUSES} == USAGE.keys()
    for word in INSTRUCTIONS:
        assert INSTRUCTIONS[word].usage.startswith(word)
        assert ("*Needs the first line" in INSTRUCTIONS[word].markdown(word)) == (
            word in {*USAGE, "SET"}
        )
    assert {word for word, _ in KEYWORDS} <= {*USAGE, "FROM"}


def test_each_keyword_of_the_grammar_has_a_sentence(around: Around) -> None:
    """Whatever may follow the beginnings of all clauses."""
    begun = ["MERGE x", "DROP", "TAKE x", "QUANTIZE q8_0", "QUANTIZE q8_0 IMATRIX",
             "QUANTIZE q8_0 SPLIT 1", "UNSET", "CHECK", "CHECK size", "CHECK kld < 1",
             "CHECK template", "CHECK answers x"]  # fmt: skip
    for text in begun:
        found = [e for e in offered(f"{STAGES}{text} ^", around) if e.kind is Kind.KEYWORD]
        assert found, text
        assert all(each.help for each in found), text


def test_types_say_what_they_take() -> None:
    """Bits of a weight, and whether they are made only with an importance matrix."""
    assert choices.file_types()["q4_K_M"] == "most tensors in Q4_K, 4.5 bits a weight"
    assert "needs an importance matrix" in choices.file_types()["iq2_xxs"]
    assert choices.tensor_types()["q8_0"] == "8.5 bits a weight"
