"""What ``check`` says of Modelfiles that Ollama takes or refuses: one row a slip of the pen."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.core.errors import ModelfileError
from mbuild.language.instructions import Problem, Severity
from mbuild.language.stages.evaluate import Brought
from mbuild.lint import check, plain
from mbuild.lint.stages import check_stages

GO = sorted((Path(__file__).parents[2] / "mbuild" / "templates" / "go").glob("*.gotmpl"))
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/Modelfile"))


def problems(text: str, folder: Path | None = None) -> list[Problem]:
    """Errors and warnings of a text, in its order."""
    try:
        return check(text.encode(), "Modelfile", folder)[1]
    except ModelfileError as error:
        return list(error.problems)


def said(text: str) -> str:
    """All of it as one text."""
    return "\n".join(f"{p.severity.value} {p.code} {p}" for p in problems(text))


ERRORS = [
    # Parameters that Ollama had, and those of other programs.
    ("PARAMETER rope_frequency_base 1e6", ["older versions of Ollama"], ["frequency_penalty"]),
    ("PARAMETER tfs_z 1", ["older versions of Ollama"], ["top_"]),
    ("PARAMETER num_gqa 8", ["older versions of Ollama"], ["num_gpu"]),
    ("PARAMETER numa true", ["older versions of Ollama"], ["num_"]),
    ("PARAMETER max_tokens 100", ["did you mean num_predict?"], []),
    ("PARAMETER maxTokens 100", ["did you mean num_predict?"], []),
    ("PARAMETER max_new_tokens 100", ["did you mean num_predict?"], []),
    ("PARAMETER n_ctx 8192", ["did you mean num_ctx?"], []),
    ("PARAMETER ctx_size 8192", ["did you mean num_ctx?"], []),
    ("PARAMETER context_length 8192", ["did you mean num_ctx?"], []),
    ("PARAMETER n_gpu_layers 33", ["did you mean num_gpu?"], []),
    ("PARAMETER repetition_penalty 1.1", ["did you mean repeat_penalty?"], []),
    ("PARAMETER stop_sequences x", ["did you mean stop?"], []),
    ("PARAMETER temp 1", ["did you mean temperature?"], []),
    ("PARAMETER keep_alive 5m", ["OLLAMA_KEEP_ALIVE"], ["did you mean"]),
    ("PARAMETER system Hi", ["SYSTEM TEXT"], ["did you mean"]),
    ("PARAMETER max-tokens 5\nSYSTEM", ["PARAMETER num_predict VALUE"], []),
    ("PARAMETER zzz 5", ["unknown parameter 'zzz'"], ["did you mean"]),
    ("PARAMETER rope_freq_base 1e6", ["own metadata says it"], ["did you mean"]),
    ("PARAMETER model_type llama", ["own metadata says it"], ["did you mean"]),
    ("PARAMETER num_beams 4", ["Ollama has no such setting"], ["did you mean"]),
    ("PARAMETER xtc-probability 1\nPARAMETER dryMultiplier 1", ["Ollama has no such setting"], []),
    ("PARAMETER system_prompt Hi", ["SYSTEM TEXT"], ["did you mean"]),
    ("PARAMETER json_schema {}", ["as format"], ["did you mean"]),
    ("PARAMETER zzz 5", ["Ollama has draft_num_predict, ", "use_mmap"], []),
    # Roles of other programs.
    ("MESSAGE human hi", ["did you mean user?"], ["write MESSAGE"]),
    ("MESSAGE Bot: hi", ["did you mean assistant?"], []),
    ("MESSAGE developer hi", ["did you mean system?"], []),
    ("MESSAGE tool hi", ["write MESSAGE ROLE TEXT"], ["did you mean"]),
    # Numbers and truth values as people write them.
    ("PARAMETER temperature 0,7", ["did you mean 0.7?"], []),
    ("PARAMETER temperature “0.7”", ["did you mean 0.7?"], []),
    ("PARAMETER temperature = 0.7", ["did you mean 0.7?"], []),
    ("PARAMETER top_p 90%", ["did you mean 0.9?"], []),
    ("PARAMETER num_ctx 8k", ["did you mean 8192 or 8000?"], []),
    ("PARAMETER num_ctx 32K", ["did you mean 32768 or 32000?"], []),
    ("PARAMETER num_ctx 8,192", ["did you mean 8192?"], []),
    ("PARAMETER num_ctx 4096.0", ["did you mean 4096?"], []),
    ("PARAMETER num_ctx 1e4", ["did you mean 10000?"], []),
    ("PARAMETER num_ctx 4096 tokens", ["did you mean 4096?"], []),
    ("PARAMETER use_mmap yes", ["did you mean true?"], []),
    ("PARAMETER use_mmap off", ["did you mean false?"], []),
    ("PARAMETER num_predict \u22121", ["did you mean -1?"], []),
    ("PARAMETER top_k ４０", ["did you mean 40?"], []),
    ("PARAMETER num_ctx=4096", ["PARAMETER num_ctx 4096"], []),
    ("PARAMETER temperature: 0.7", ["PARAMETER temperature VALUE"], []),
    ("PARAMETER num_ctx auto", ["invalid int value [auto]"], ["did you mean"]),
    ("PARAMETER temperature 0.7  # warm", ["comment", "PARAMETER temperature 0.7"], []),
    ("PARAMETER num_ctx 4096 // tokens", ["comment", "PARAMETER num_ctx 4096"], []),
    ("PARAMETER use_mmap true # fast", ["comment", "PARAMETER use_mmap true"], []),
    # Lines without their word, and words that are no instructions.
    ("repeat_last_n 2048", ["did you mean PARAMETER repeat_last_n?"], []),
    ("temperature: 0.7", ["did you mean PARAMETER temperature?"], []),
    ("STOP x", ["did you mean PARAMETER stop?"], []),
    ("max_tokens 100", ["did you mean PARAMETER num_predict?"], []),
    ("tfs_z 1", ["older versions of Ollama"], ["did you mean"]),
    ("PROMPT hi", ["older versions of Ollama", "TEMPLATE"], ["FROM?"]),
    ("EMBED ./x.txt", ["older versions of Ollama"], ["did you mean"]),
    ("USER hello", ["did you mean MESSAGE user?"], ["PARSER"]),
    ("ASSISTANT: hello", ["did you mean MESSAGE assistant?"], []),
    ("SYSTEM x\nLABEL a=b", ["Dockerfile"], []),
    ("SYSTEM x\nRUN make", ["Dockerfile"], []),
    # Characters that look like a space, like nothing, like a letter.
    ("PARAMETER\u00a0stop y", ["U+00A0 (no-break space)"], ["did you mean"]),
    ("PARAMETER num_ctx\u30002048", ["U+3000 (ideographic space)"], ["did you mean"]),
    ("MESSAGE user\u00a0hi", ["U+00A0 (no-break space)"], ["did you mean"]),
    ("\u200b\u200bSYSTEM x", ["U+200B (zero width space)"], ["did you mean"]),
    ("SYSTЕM x", ["U+0415 (cyrillic capital letter ie)", "did you mean SYSTEM?"], []),
    ("ＳＹＳＴＥＭ x", ["fullwidth", "did you mean SYSTEM?"], []),
    # Values that ended before they should.
    (
        'SYSTEM """Function:\ndef f(arg):\n  """\n    Text\n  """\n"""',
        ['the """ on line 4 ended the value that SYSTEM opened on line 2'],
        [],
    ),
    ('SYSTEM "say "hi"\nand "bye"', ['the " on line 2 ended the value'], []),
    ('PARAMETER stop "a" # one', ["a comment needs a line of its own"], []),
    ("SYSTEM You are\nkind.", ["the value of SYSTEM ended with line 2"], []),
    ('SYSTEM """a\n"""\nSYTEM """b\nc"""', ["did you mean SYSTEM?"], ["ended"]),
    # Templates.
    ('TEMPLATE "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"', ["Jinja"], []),
    ("TEMPLATE \"{{ message['content'] }}\"", ["Jinja"], []),
    ('TEMPLATE "{{ prompt }}"', ["did you mean .Prompt?"], ["Jinja"]),
]


@pytest.mark.parametrize(("line", "words", "not_words"), ERRORS, ids=lambda v: str(v)[:40])
def test_errors(line: str, words: list[str], not_words: list[str]) -> None:
    """What Ollama refuses is an error that names what was meant, and nothing that was not."""
    found = said(f"FROM x\n{line}\n")
    assert found.startswith("error"), found
    for word in words:
        assert word in found
    for word in not_words:
        assert word not in found


NO_BREAK = [
    ("FROM\u00a0tiny\n", "U+00A0 (no-break space) follows FROM"),
    ("FROM\u2007tiny\n", "U+2007 (figure space) follows FROM"),
    ("\u00a0\u00a0FROM tiny\n", "U+00A0 (no-break space) stands where an instruction should start"),
]


@pytest.mark.parametrize(("text", "words"), NO_BREAK)
def test_the_first_line_has_a_blank_that_is_none(text: str, words: str) -> None:
    """The character is named; FROM is not offered in FROM's place."""
    assert words in said(text)
    assert "did you mean" not in said(text)


WARNINGS = [
    ("SYSTEM You are ${NAME}.", "argument-in-value"),
    ("FROM ${BASE}", "argument-in-value"),
    ("PARAMETER stop ${STOP:-x}", "argument-in-value"),
    ("SYSTEM @./system.txt", "path-as-text"),
    ("TEMPLATE @template", "path-as-text"),
    ("# syntax=mbuild/1", "syntax-line"),
    ("# syntax=docker/dockerfile:1", "syntax-line"),
    ("#sytnax = mbuild", "syntax-line"),
    ("SYSTEM “““You are kind.”””", "quotes-in-value"),
    ("SYSTEM ```You are kind.```", "quotes-in-value"),
    ("PARAMETER stop <|im_end|>,<|eot_id|>", "list-in-value"),
    ("PARAMETER stop <|im_end|> <|eot_id|>", "list-in-value"),
    ("SYSTEM You are kind. # persona", "comment-in-value"),
    ("PARAMETER stop ", "empty-stop"),
    ('PARAMETER stop ""', "empty-stop"),
    ("PARAMETER stop “</s>”", "quotes-in-value"),
    ("PARAMETER stop '</s>'", "quotes-in-value"),
    ("SYSTEM “You are kind.”", "quotes-in-value"),
    ("SYSTEM „Du bist nett.“", "quotes-in-value"),
    ("SYSTEM «Soyez gentil.»", "quotes-in-value"),
    ("SYSTEM ‘Be kind.’", "quotes-in-value"),
    ("MESSAGE user “Hi”", "quotes-in-value"),
    ('PARAMETER stop ["a","b"]', "list-in-value"),
    ("PARAMETER stop ['a', 'b']", "list-in-value"),
    ('PARAMETER stop "a", "b"', "list-in-value"),
    ('PARAMETER stop "a" "b"', "list-in-value"),
    ('PARAMETER stop "\\n"', "escape-in-value"),
    ("PARAMETER stop \\n\\nUser:", "escape-in-value"),
    ("PARAMETER stop \\u003c/s>", "escape-in-value"),
    ("SYSTEM You are kind.\\nYou are brief.", "escape-in-value"),
    ('TEMPLATE "{{ .System }}\\nUser: {{ .Prompt }}"', "escape-in-value"),
    ("PARAMETER stop <|im_end|> # the end", "comment-in-value"),
    ("FROM tiny # my model", "comment-in-value"),
    ("FROM tiny \\\nSYSTEM x", "backslash-in-value"),
    ("SYSTEM You are kind. \\", "backslash-in-value"),
    ("PARAMETER stop </s> \\", "backslash-in-value"),
    ('PARAMETER stop "a" # one\nPARAMETER stop "b"', "comment-in-value"),
    ('SYSTEM "Be kind." # always\nPARAMETER stop "b"', "comment-in-value"),
    ("FROM ./m.gguf AS base", "from-stage"),
    ("PARAMETER num_ctx 99999999999999", "odd-value"),
    ("PARAMETER num_ctx -5", "odd-value"),
    ("PARAMETER temperature 99", "odd-value"),
    ("PARAMETER temperature -1", "odd-value"),
    ("PARAMETER top_p 90", "odd-value"),
    ('SYSTEM """a\r\nb"""', "carriage-return"),
    ('TEMPLATE """{{ .System }}\r\n{{ .Prompt }}"""', "carriage-return"),
    ('TEMPLATE "User: {{ .Input }} {{ .Prompt }}"', "template-unknown-field"),
    ('TEMPLATE "{{ .prompt }}{{ .Prompt }}"', "template-unknown-field"),
    ('TEMPLATE "{{ if .First }}{{ .System }}{{ end }}{{ .Prompt }}"', "template-unknown-field"),
    ('TEMPLATE "USER: { .Prompt } ASSISTANT: "', "template-ignores-prompt"),
    ('TEMPLATE "{{ .System }}"', "template-ignores-prompt"),
    ('TEMPLATE "{% for m in messages %}x{% endfor %}"', "template-jinja"),
    ('TEMPLATE "{{ range .Messages }}{{ .content }}{{ end }}"', "template-fails"),
    ('TEMPLATE "{{ range $i, $n := 3 }}{{ .Prompt }}{{ end }}"', "template-fails"),
    ("LICENSE ./LICENSE", "path-as-text"),
    ("SYSTEM ./system.txt", "path-as-text"),
    ("SYSTEM prompts/kind.md", "path-as-text"),
    ("TEMPLATE ./chat.tmpl", "path-as-text"),
    ("ADAPTER ./l.gguf\nADAPTER l.gguf", "adapter-without-effect"),
    ("ADAPTER ./a/../l.gguf\nADAPTER l.gguf", "adapter-without-effect"),
]


@pytest.mark.parametrize(("line", "code"), WARNINGS, ids=lambda v: str(v)[:40])
def test_warnings(line: str, code: str) -> None:
    """What Ollama takes and nobody means is a warning with a remedy, never an error."""
    text = line if line.startswith("FROM") else f"FROM x\n{line}"
    found = [p for p in problems(f"{text}\n") if p.code == code]
    assert found, said(text)
    assert all(p.severity is Severity.WARNING and p.suggestion and p.span for p in found)


def test_every_rule_about_the_other_language_has_a_case() -> None:
    """Arguments, files and syntax lines of mbuild/1 in a plain Modelfile."""
    codes = {code for _, code in WARNINGS}
    assert {"argument-in-value", "path-as-text", "syntax-line"} <= codes
    assert len(plain.RULES) == 3


QUIET = [
    'SYSTEM """Write JavaScript:\nlet a = `${NAME}`"""',
    "SYSTEM Write to @mario or to mario@example.com",
    "LICENSE ${YEAR} by me",
    "# syntax of the texts below: English",
    "PARAMETER stop <|im_end|><|im_start|>",
    "PARAMETER stop <|start header id|>",
    "SYSTEM Begin titles with # and a blank",
    "PARAMETER stop [INST]",
    "PARAMETER stop [/INST]",
    "PARAMETER stop ### Instruction:",
    "PARAMETER stop #",
    'PARAMETER stop "User:"',
    "PARAMETER stop <|im_end|>",
    "PARAMETER stop `",
    'PARAMETER stop """\n\nUser:"""',
    "SYSTEM “Hello” is how you greet, “Bye” is how you leave.",
    "SYSTEM You're kind.",
    "SYSTEM /no_think",
    "SYSTEM Write \\n for a line end, and LaTeX such as \\nabla.",
    "SYSTEM C:\\new\\thing is a folder.",
    "LICENSE MIT",
    "LICENSE https://example.com/LICENSE.txt",
    "LICENSE Apache-2.0",
    "MESSAGE user 'Hi' she said.",
    "PARAMETER temperature 2",
    "PARAMETER num_ctx 1048576",
    "PARAMETER num_predict -2",
    "PARAMETER num_gpu 999",
    "PARAMETER seed -1",
    "PARAMETER repeat_last_n -1",
    "TEMPLATE {{ .Prompt }}",
    'TEMPLATE "{{ printf "%s\\n" .Prompt }}"',
    "TEMPLATE {{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}{{ else }}{{ .Prompt }}{{ end }}",
    "TEMPLATE {{ range .Messages }}{{ .Role }}: {{ .Content }}{{ end }}",
    "TEMPLATE {{ $x := .Prompt }}{{ $x }}",
    "ADAPTER ./a.gguf\nADAPTER ./b.gguf",
    "FROM ./mmproj.gguf",
]


@pytest.mark.parametrize("line", QUIET)
def test_no_false_alarms(line: str) -> None:
    """Lines that mean what they say, though they look like the slips above."""
    assert said(f"FROM x\n{line}\n") == ""


@pytest.mark.parametrize("path", GO, ids=lambda path: path.stem)
def test_the_known_templates_are_sound(path: Path) -> None:
    """No Go template that mbuild brings along gets a warning."""
    text = path.read_text(encoding="utf-8").replace("<%", "").replace("%>", "")
    assert said(f'FROM x\nTEMPLATE """{text}"""\n') == ""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples_are_sound(path: Path) -> None:
    """Nor does an example's Modelfile."""
    assert said(path.read_text(encoding="utf-8")) == ""


FOREIGN = [
    ("GGUF\x03\0\0\0", "m.gguf", "a GGUF file", "FROM ./m.gguf"),
    ('\x30\0\0\0\0\0\0\0{"a": 1}', "m.safetensors", "a safetensors file", "folder"),
    ("manifestVersion: 1.0.0\nmodel:\n  path: ./m.gguf\n", "Kitfile", "KitOps", "Modelfile"),
    ("# my kit\nmanifestVersion: 1.0.0\n", "Kitfile", "KitOps", "Modelfile"),
    ("FROM python:3.11\nWORKDIR /app\nRUN pip install x\n", "Dockerfile", "a Dockerfile", "docker"),
    ('FROM a AS base\nCOPY . .\nENTRYPOINT ["x"]\n', "Modelfile", "a Dockerfile", "docker"),
    ("NAME x\nARCH transformer\nMODEL m.gguf\n", "Modelfile", "modctl", "FROM"),
    ('{"model": "x"}', "config.json", "JSON", "Modelfile"),
    ("services:\n  ollama:\n    image: x\n", "compose.yaml", "compose", "Modelfile"),
    ("#!/bin/sh\necho x\n", "build.sh", "a script", "Modelfile"),
    ("<!DOCTYPE html>\n<html>", "Modelfile", "HTML", "download"),
    ("version https://git-lfs.github.com/spec/v1\n", "Modelfile", "git-lfs", "git lfs pull"),
]


@pytest.mark.parametrize(("text", "name", "what", "remedy"), FOREIGN, ids=lambda v: str(v)[:20])
def test_foreign_files_are_named(text: str, name: str, what: str, remedy: str) -> None:
    """A file of another program gets one error that says what it is, and what to do."""
    with pytest.raises(ModelfileError) as caught:
        check(text.encode("latin-1"), name)
    (problem,) = caught.value.problems
    assert problem.code == "foreign-file"
    assert what in problem.message
    assert remedy in problem.suggestion


def test_a_modelfile_with_one_foreign_word_is_still_one() -> None:
    """One slip in a Modelfile is reported on its line, beside the other problems."""
    found = problems("FROM x\nSYSTEM hi\nRUN make\nPARAMETER zzz 1\n")
    assert [(p.span.line, p.code) for p in found if p.span] == [
        (3, "unknown-instruction"),
        (4, "unknown-parameter"),
    ]


def test_the_last_number_of_a_name_counts() -> None:
    """A value that a later line overrides is never odd."""
    assert said("FROM x\nPARAMETER temperature 99\nPARAMETER temperature 1\n") == ""


def test_files_beside_the_modelfile(tmp_path: Path) -> None:
    """A text of one word that is a file's name is named, where such a file exists."""
    text = "FROM x\nLICENSE LICENSE\nSYSTEM prompt\n"
    assert problems(text, tmp_path) == []
    (tmp_path / "LICENSE").write_text("MIT")
    (tmp_path / "prompt").write_text("Be kind.")
    assert [p.code for p in problems(text, tmp_path)] == ["path-as-text", "path-as-text"]


PLAIN = "FROM {}\nADAPTER {}\nDRAFT {}\n"
STAGED = "# syntax=mbuild/1\nFROM {}\nMERGE {} WEIGHT 0.5\nTAKE ^output FROM {}\n"


@pytest.mark.parametrize("text", [PLAIN, STAGED], ids=["plain", "mbuild/1"])
def test_paths_that_lead_nowhere(tmp_path: Path, text: str) -> None:
    """Each instruction that names a file: told at its line, with what it was meant to be."""

    def found(*values: str) -> list[Problem]:
        data = text.format(*values).encode()
        if text is PLAIN:
            return check(data, "Modelfile", tmp_path)[1]
        checked = check_stages(data, "Modelfile", lambda *asked: Brought("", b""), folder=tmp_path)
        return list(checked.warnings)

    there = ["./model.gguf", "./lora", "other.gguf"]
    (tmp_path / "lora").mkdir()
    for name in ("model.gguf", "other.gguf"):
        (tmp_path / name).touch()
    assert found(*there) == []
    assert found("tiny", "lora", "me/other") == []  # they may be models
    for place, value in enumerate(("./Model.gguf", "/nowhere/lora", "ohter.gguf")):
        (told,) = found(*there[:place], value, *there[place + 1 :])
        assert told.code == "no-such-file"
        assert f" {value}: no such file or directory" in told.message
        assert told.span is not None
        assert told.span.line == place + (1 if text is PLAIN else 2)
        assert told.suggestion


def test_a_name_and_a_file_in_from(tmp_path: Path) -> None:
    """The first FROM is not hidden by a file; together with one a model's name is refused."""
    text = "FROM tiny\nFROM ./mmproj.gguf\n"
    (tmp_path / "mmproj.gguf").touch()
    assert problems(text) == []
    assert [p.code for p in problems(text, tmp_path)] == ["from-name-and-file"]
    (tmp_path / "tiny").write_bytes(b"GGUF")
    assert problems(text, tmp_path) == []
    (tmp_path / "vision").mkdir()
    found = problems("FROM other\nFROM vision\n", tmp_path)
    assert [p.code for p in found] == ["from-name-and-file"]
