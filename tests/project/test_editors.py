"""The grammar and the extension for editors: up to date, right on samples, fit to be packed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import zipfile
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from installed import from_npm
from programs import need

ROOT = Path(__file__).parents[2]
EDITORS = ROOT / "editors"
EXTENSION = EDITORS / "vscode"
TEXTMATE = ("vscode-textmate@9.3.2", "vscode-oniguruma@2.0.1")


@cache
def generator() -> ModuleType:
    """``editors/generate.py``."""
    spec = importlib.util.spec_from_file_location("editors_generate", EDITORS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_up_to_date() -> None:
    """``python editors/generate.py`` would change nothing."""
    for name, text in generator().files().items():
        assert (EDITORS / name).read_text(encoding="utf-8") == text, (
            f"run editors/generate.py: {name}"
        )


def test_the_extension_has_what_its_manifest_names() -> None:
    """Each path, the licence of the project, and the settings that the program reads."""
    manifest = json.loads((EXTENSION / "package.json").read_text())
    contributed = manifest["contributes"]
    paths = [manifest["main"], *(each["path"] for each in contributed["grammars"])]
    paths += [each["configuration"] for each in contributed["languages"] if "configuration" in each]
    assert all((EXTENSION / path).is_file() for path in paths)
    assert (EXTENSION / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    program = (EXTENSION / "extension.js").read_text()
    read = re.findall(r'settings\.get\("(\w+)"', program)
    settings = contributed["configuration"]["properties"]
    assert sorted(settings) == sorted(f"mbuild.server.{name}" for name in read)
    for command in contributed["commands"]:
        assert f'registerCommand("{command["command"]}"' in program


@pytest.fixture(scope="module")
def textmate() -> Path:
    """A folder with the engine that Visual Studio Code colours with."""
    need("node", "npm")
    place = from_npm("textmate", TEXTMATE)
    shutil.copyfile(ROOT / "tests/clients/textmate.mjs", place / "textmate.mjs")
    return place


def coloured(place: Path, text: str) -> list[tuple[str, str]]:
    """The parts of a text with the innermost scope of each."""
    grammar = EDITORS / generator().GRAMMAR
    done = subprocess.run(
        ["node", str(place / "textmate.mjs"), str(grammar)],
        input=text, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[tuple[str, str]] = []
    for line in done.stdout.splitlines():
        part, _, scopes = line.partition("\t")
        scope = scopes.split(" ")[-1].removesuffix(".modelfile")
        if found and found[-1][1] == scope and scope.startswith("string"):
            found[-1] = (found[-1][0] + json.loads(part), scope)
        else:
            found.append((json.loads(part), scope))
    return found


SAMPLE = """\
# syntax=mbuild/1
# a comment
ARG BITS=q8_0 EMPTY
FROM ./base AS tuned
merge ./lora WEIGHT 0.5
QUANTIZE q4_K_M ${BITS:-q5_0} \\
  TENSOR attn_v=q8_0 PURE
PARAMETER num_ctx 4096
PARAMETER stop "<end>"
SYSTEM @./system.txt
SYSTEM say "hi" to ${NAME} now
TEMPLATE \"\"\"{{ if .System }}<s>{{ .System }}
{{- end }}# no comment
{{ .Prompt }}\"\"\"
MESSAGE user FROM here
UNSET PARAMETER stop
TAKE attn_q FROM tuned
DROP LAYER 3 5-6
CHECK size < 5GB
SET general.name "My model"
INCLUDE more NAME=x
# the end
"""

SCOPES = {
    "syntax": "keyword.control.keyword",
    "mbuild/1": "keyword.control.version",
    "# a comment": "comment.line.number-sign",
    "ARG": "keyword.other.instruction",
    "BITS": "variable.other.argument",
    "AS": "keyword.other.as",
    "merge": "keyword.other.instruction",
    "WEIGHT": "keyword.other.option",
    "0.5": "constant.numeric",
    "q4_K_M": "support.constant.type",
    "${BITS:-q5_0}": "variable.other.argument",
    "TENSOR": "keyword.other.option",
    "PURE": "keyword.other.option",
    "num_ctx": "variable.parameter",
    "4096": "constant.numeric",
    '"<end>"': "string.quoted.double",
    "@./system.txt": "string.unquoted.path",
    "${NAME}": "variable.other.argument",
    ".System": "variable.other.field",
    "if": "keyword.control",
    "<s>": "string.quoted.triple",
    ".Prompt": "variable.other.field",
    "user": "constant.language",
    "LAYER": "keyword.other.option",
    "size": "keyword.other.option",
    "5GB": "constant.numeric",
    "general.name": "variable.other.key",
    '"My model"': "string.quoted.double",
    "NAME": "variable.other.argument",
    "# the end": "comment.line.number-sign",
}
"""Parts of the sample, each once at least, and what they are."""


@pytest.mark.clients
def test_the_grammar_colours_each_part(textmate: Path) -> None:
    """With the engine of Visual Studio Code; a value never runs over the end of its line."""
    found: dict[str, set[str]] = {}
    for part, scope in coloured(textmate, SAMPLE):
        found.setdefault(part.strip(), set()).add(scope)
    assert {part: scope for part, scope in SCOPES.items() if scope not in found.get(part, ())} == {}
    for line in SAMPLE.split("\n")[14:21]:
        parts = coloured(textmate, f"{line}\nFROM x\n")
        assert parts[-4] == ("FROM", "keyword.other.instruction"), line


@pytest.mark.clients
def test_every_instruction_of_the_corpus_is_coloured(textmate: Path) -> None:
    """Each that the parser finds begins with a word that the grammar marks."""
    from mbuild.editor.open_text import OpenText

    files = sorted((ROOT / "grammar/corpus/valid").glob("*.Modelfile"))
    assert len(files) >= 3
    for file in files:
        reading = OpenText(file.read_bytes().decode("utf-8", "replace"))
        if not reading.text.isprintable() and "\0" in reading.text:
            continue
        parts = coloured(textmate, reading.text)
        marked = [part.upper() for part, scope in parts if scope == "keyword.other.instruction"]
        assert marked == [item.word for item in reading.instructions], file.name


@pytest.mark.clients
def test_the_extension_can_be_packed(tmp_path: Path) -> None:
    """By vsce, with the client that it needs and without what it does not."""
    need("node", "npm")
    tools = from_npm("vsce", ("@vscode/vsce@3.9.2", "vscode-languageclient@9.0.1"))
    folder = tmp_path / "vscode"
    shutil.copytree(EXTENSION, folder, ignore=shutil.ignore_patterns("node_modules", "*.vsix"))
    command = ["npm", "install", "--no-audit", "--no-fund", "--omit=dev", "--prefer-offline"]
    subprocess.run(command, cwd=folder, check=True, timeout=300, capture_output=True)
    vsce = [str(tools / "node_modules/.bin/vsce"), "package", "--allow-missing-repository"]
    done = subprocess.run(
        [*vsce, "-o", "out.vsix"], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "VSCE_STORE": "file"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(folder / "out.vsix") as packed:
        names = packed.namelist()
        manifest = json.loads(packed.read("extension/package.json"))
    assert manifest["name"] == "mbuild-modelfile"
    wanted = ("extension.js", "language-configuration.json", "syntaxes/modelfile.tmLanguage.json",
              "node_modules/vscode-languageclient/node.js")  # fmt: skip
    assert {f"extension/{name}" for name in wanted} <= set(names)
    assert not [name for name in names if name.endswith((".d.ts", ".map", ".vsix"))]


@pytest.mark.clients
def test_the_program_of_the_extension_can_be_read(tmp_path: Path) -> None:
    """It is JavaScript, and exports what the editor calls."""
    need("node")
    done = subprocess.run(
        ["node", "--check", str(EXTENSION / "extension.js")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "module.exports = { activate, deactivate" in (EXTENSION / "extension.js").read_text()
