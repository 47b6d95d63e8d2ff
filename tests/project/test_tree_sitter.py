"""The tree-sitter grammar: generated, compiled and run on every Modelfile that tests have."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import conformance
import pytest
from installed import from_debian, wheels
from programs import need

from mbuild.editor.open_text import OpenText

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "editors/tree-sitter"
CORPUS = sorted((ROOT / "grammar/corpus").rglob("*.Modelfile"))

pytestmark = pytest.mark.clients

PROGRAM = """
import ctypes, json, sys
sys.path.insert(0, sys.argv[1])
from tree_sitter import Language, Parser, Query
library = ctypes.CDLL(sys.argv[2])
library.tree_sitter_modelfile.restype = ctypes.c_void_p
capsule = ctypes.pythonapi.PyCapsule_New
capsule.restype = ctypes.py_object
capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
language = Language(capsule(library.tree_sitter_modelfile(), b"tree_sitter.Language", None))
parser = Parser(language)
Query(language, open(sys.argv[3], encoding="utf-8").read())

def leaves(node, source):
    if node.is_named and not node.named_children:
        yield [node.type, source[node.start_byte : node.end_byte].decode()]
    for child in node.children:
        yield from leaves(child, source)

found = []
for text in json.load(sys.stdin):
    source = text.encode()
    tree = parser.parse(source)
    found.append([tree.root_node.has_error, list(leaves(tree.root_node, source))])
print(json.dumps(found))
"""
"""Reads texts as JSON, and says of each whether there is an error and what its parts are."""

Parts = list[tuple[str, str]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parser, made of the grammar by tree-sitter's own generator."""
    need("node", "gcc")
    place = tmp_path_factory.mktemp("tree-sitter")
    shutil.copytree(FOLDER, place, dirs_exist_ok=True)
    command = [shutil.which("tree-sitter") or ""]
    if not command[0]:
        packages = ("tree-sitter-cli", "libc6", "libgcc-s1")
        root = from_debian("tree-sitter-cli", "trixie", packages)
        (loader,) = root.glob("usr/lib*/ld-linux-*.so.*")
        (libraries,) = {path.parent for path in root.glob("usr/lib/*/libc.so.6")}
        command = [str(loader), "--library-path", str(libraries), str(root / "usr/bin/tree-sitter")]
    for line in ([*command, "generate"], ["gcc", "-shared", "-fPIC", "-O1", "-Isrc", "src/parser.c",
                                          "-o", "modelfile.so"]):  # fmt: skip
        done = subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return place / "modelfile.so"


def parsed(library: Path, texts: list[str]) -> list[tuple[bool, Parts]]:
    """Of each text whether the grammar has no place for something in it, and its parts."""
    runtime = wheels("tree-sitter", ["tree-sitter==0.25.2"])
    queries = FOLDER / "queries/highlights.scm"
    command = [sys.executable, "-c", PROGRAM, str(runtime), str(library), str(queries)]
    done = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [
        (wrong, [(kind, text) for kind, text in parts]) for wrong, parts in json.loads(done.stdout)
    ]


def words(parts: Parts) -> list[str]:
    """The instructions among the parts, in upper case."""
    return [text.strip().upper() for kind, text in parts if kind == "keyword"]


def test_the_recorded_modelfiles_have_the_same_instructions(library: Path) -> None:
    """All that Ollama takes and that hold no hidden characters, and the language's own corpus."""
    taken = [
        case.modelfile.decode() for case in conformance.cases()
        if case.ok and not case.nonprintable and _is_text(case.modelfile)
    ]  # fmt: skip
    taken += [path.read_text() for path in CORPUS if path.parent.name == "valid"]
    assert len(taken) > 550
    for text, (wrong, parts) in zip(taken, parsed(library, taken), strict=True):
        assert not wrong, text
        assert words(parts) == [each.word for each in OpenText(text).instructions], text


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except ValueError:
        return False


def test_what_is_no_modelfile_is_marked(library: Path) -> None:
    """The invalid files of the corpus have errors, where the form is wrong."""
    forms = {"missing-value", "parameter-names", "roles", "unclosed"}
    texts = [path.read_text() for path in CORPUS if path.stem in forms]
    assert len(texts) == len(forms)
    assert all(wrong for wrong, _ in parsed(library, texts))


SAMPLE = """\
# syntax=mbuild/1
ARG BITS=q8_0
FROM ./base AS tuned
merge ./lora WEIGHT 0.5
QUANTIZE q4_K_M ${BITS:-q5_0} \\
  TENSOR attn_v=q8_0 PURE
PARAMETER stop "<end>"
SYSTEM say "hi" to you
TEMPLATE \"\"\"{{ .System }}
\"\"\" FROM x " # no comment
{{ .Prompt }}\"\"\"
MESSAGE user FROM here
UNSET PARAMETER stop
CHECK size < 5GB
SET general.name "My model"
# the end"""

PARTS = [
    ("comment", "# syntax=mbuild/1"), ("path", "./base"), ("as", "AS"), ("path", "tuned"),
    ("option", "WEIGHT"), ("word", "0.5"), ("word", "q4_K_M"), ("argument", "${BITS:-q5_0}"),
    ("continued", "\\\n"), ("option", "TENSOR"), ("option", "PURE"), ("name", "stop"),
    ("quoted", '"<end>"'), ("bare", 'say "hi" to you'), ("role", "user"), ("bare", "FROM here"),
    ("triple", '"""{{ .System }}\n""" FROM x " # no comment\n{{ .Prompt }}"""'),
    ("option", "PARAMETER"), ("compared", "<"), ("word", "5GB"), ("key", "general.name"),
    ("quoted", '"My model"'), ("comment", "# the end"),
]  # fmt: skip


def test_the_parts_of_a_line_are_told_apart(library: Path) -> None:
    """Each part that highlights colour, and a value that ends where the language ends it."""
    ((wrong, parts),) = parsed(library, [SAMPLE])
    assert not wrong
    assert [part for part in PARTS if part not in parts] == []
    expected = "ARG FROM MERGE QUANTIZE PARAMETER SYSTEM TEMPLATE MESSAGE UNSET CHECK SET"
    assert words(parts) == expected.split()
