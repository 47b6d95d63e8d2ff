"""Write what editors take from mbuild's tables: grammars, highlights, the extension's manifest.

python editors/generate.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mbuild import __version__
from mbuild.language.instructions import ROLES, TYPES
from mbuild.language.parameters import DEPRECATED, PARAMETERS
from mbuild.language.stages.words import CLAUSES
from mbuild.language.word_help import KEYWORDS
from mbuild.quant.choose.types import ALIASES, FILE_TYPES
from mbuild.quant.table import TYPES as TENSOR_TYPES

EDITORS = Path(__file__).parent
sys.path.insert(0, str(EDITORS))  # for those who load this file by its path

import tree_sitter_grammar as tree_sitter  # noqa: E402

GRAMMAR = "vscode/syntaxes/modelfile.tmLanguage.json"
MANIFEST = "vscode/package.json"

Rule = dict[str, Any]

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"

_TEXTS = ("TEMPLATE", "SYSTEM", "LICENSE")
_NAMED = ("PARAMETER", "MESSAGE", "SET")


def files() -> dict[str, str]:
    """Each generated file's path in this folder, and its text."""
    return {
        GRAMMAR: json.dumps(grammar(), indent=2) + "\n",
        MANIFEST: json.dumps(manifest(), indent=2) + "\n",
        tree_sitter.GRAMMAR: tree_sitter.grammar(),
        tree_sitter.HIGHLIGHTS: tree_sitter.highlights(),
    }


# The grammar. Its scopes are TextMate's; Oniguruma reads the expressions.


def grammar() -> Rule:
    """The whole of it: what a line can begin with, and what can stand in its value."""
    return {
        "name": "Modelfile",
        "scopeName": "source.modelfile",
        "comment": "written by python editors/generate.py",
        "patterns": [{"include": f"#{name}"} for name in ("syntax", "comment", *_lines())],
        "repository": {**_shared(), **_lines()},
    }


def _lines() -> dict[str, Rule]:
    """A rule for each form of line."""
    plain = [word for word in TYPES if word not in ("FROM", *_TEXTS, *_NAMED)]
    clauses = {kind.word: kind for kind in CLAUSES}
    return {
        "from": _line(["FROM"], ["#stage", "#argument", "#continued"]),
        **{word.lower(): _line([word], ["#file", "#value"]) for word in _TEXTS},
        "parameter": _line(["PARAMETER"], ["#number", "#file", "#value"], _parameter()),
        "message": _line(["MESSAGE"], ["#file", "#value"], _name(_any(ROLES), "constant.language")),
        "set": _line(["SET"], ["#number", "#file", "#value"], _name(r"\S+", "variable.other.key")),
        "plain": _line(plain, ["#value"]),
        **{word.lower(): _line([word], _of_clause(word)) for word in clauses},
    }


def _line(words: Iterable[str], inside: list[str], name: str = "") -> Rule:
    """A line that begins with one of these words, up to where its value ends."""
    captures: Rule = {"1": {"name": "keyword.other.instruction.modelfile"}}
    behind = ""
    if name:
        pattern, scope = name.split("\t")
        behind, captures["2"] = f"({pattern})[ \\t]", {"name": f"{scope}.modelfile"}
    first = "TEMPLATE" in words
    patterns = [{"include": "#go-template"}] if first else []
    return {
        "begin": rf"^[ \t]*((?i:{_any(words)}))[ \t]{'+' if not behind else ''}{behind}",
        "beginCaptures": captures,
        "end": r"(?<!\n)$",  # not behind the line end that a backslash takes
        "patterns": patterns + [{"include": each} for each in inside],
    }


def _name(pattern: str, scope: str) -> str:
    return f"{pattern}\t{scope}"


def _parameter() -> str:
    return _name(rf"{_any([*PARAMETERS, *sorted(DEPRECATED)])}|\w*", "variable.parameter")


def _any(words: Iterable[str]) -> str:
    """One of the words, the longest first, so that none is taken for the beginning of another."""
    return "|".join(sorted(words, key=lambda word: (-len(word), word)))


def _of_clause(word: str) -> list[str]:
    found = [f"#{word.lower()}-keywords"] if any(of == word for of, _ in KEYWORDS) else []
    return [*found, "#word-in-quotes", "#argument", "#type", "#assignment", "#size", "#continued"]


def _shared() -> dict[str, Rule]:
    """What lines have in common."""
    types = {each.name for each in FILE_TYPES} | set(ALIASES) | {each.name for each in TENSOR_TYPES}
    return {
        "syntax": _match(r"\A#[ \t]*(syntax)[ \t]*=[ \t]*(mbuild/1)[ \t]*$",
                         "comment.line.number-sign", keyword=1, version=2),
        "comment": _match(r"^[ \t]*#.*$", "comment.line.number-sign"),
        "stage": {
            "match": r"[ \t]((?i:AS))[ \t]+([A-Za-z][A-Za-z0-9_.-]*)[ \t]*$",
            "captures": {
                "1": {"name": "keyword.other.as.modelfile"},
                "2": {"name": "entity.name.type.stage.modelfile"},
            },
        },
        "value": {"patterns": [{"include": "#triple"}, {"include": "#quoted"},
                               {"include": "#argument"}]},
        "triple": _quotes('"""', '"""', "string.quoted.triple"),
        "quoted": _quotes('"(?!"")', '"', "string.quoted.double"),
        "word-in-quotes": {
            "name": "string.quoted.double.modelfile", "match": r'"[^"\r\n]*"',
        },
        "argument": _match(r"(?<!\\)\$\{[A-Za-z_][A-Za-z0-9_]*(?::[-+](?:[^{}]|\{[^{}]*\})*)?\}",
                           "variable.other.argument"),
        "file": _match(r'\G[ \t]*"?@(?!@)[^"\r\n]+"?', "string.unquoted.path"),
        "number": _match(rf"\G[ \t]*(?:{_NUMBER}|(?i:true|false))[ \t]*$", "constant.numeric"),
        "size": _match(r"[<>]=?|(?<![\w./-])[0-9]+(?:\.[0-9]+)?(?i:[KMGT]i?B)?(?![\w./-])",
                       "constant.numeric"),
        "type": _match(rf"(?<![\w./-])(?i:{_any(types)})(?![\w./-])", "support.constant.type"),
        "assignment": {
            "match": r"(?<![^ \t])([A-Za-z_][A-Za-z0-9_]*)(=)",
            "captures": {
                "1": {"name": "variable.other.argument.modelfile"},
                "2": {"name": "keyword.operator.assignment.modelfile"},
            },
        },
        "continued": _match(r"\\[ \t]*\n", "constant.character.escape"),
        "go-template": {"patterns": [
            {**_quotes('"""', '"""', "string.quoted.triple"), "patterns": [{"include": "#action"}]},
            {**_quotes('"(?!"")', '"', "string.quoted.double"),
             "patterns": [{"include": "#action"}]},
            {"include": "#action"},
        ]},
        "action": _action(),
        **{f"{kind.word.lower()}-keywords": _keywords(kind.word) for kind in CLAUSES
           if any(of == kind.word for of, _ in KEYWORDS)},
    }  # fmt: skip


def _keywords(word: str) -> Rule:
    """The words inside one instruction."""
    words = [keyword for of, keyword in KEYWORDS if of == word and keyword != "COMPARE"]
    words += ["KEEP"] if word == "QUANTIZE" else ["LAYERS"] if word == "DROP" else []
    return _match(rf"(?<![^ \t])(?i:{_any(words)})(?![^ \t\r\n<>])", "keyword.other.option")


def _match(pattern: str, scope: str, **captures: int) -> Rule:
    found: Rule = {"name": f"{scope}.modelfile", "match": pattern}
    if captures:
        found["captures"] = {
            str(number): {"name": f"keyword.control.{name}.modelfile"}
            for name, number in captures.items()
        }
    return found


def _quotes(opening: str, closing: str, scope: str) -> Rule:
    """A value between quotes: it ends where they are the last thing on a line."""
    return {
        "name": f"{scope}.modelfile",
        "begin": rf"\G[ \t]*{opening}",
        "end": rf"{closing}[ \t]*$",
        "patterns": [{"include": "#argument"}],
    }


def _action() -> Rule:
    """An action of Go's text/template."""
    words = "if|else|end|range|with|define|block|template|break|continue"
    functions = "and|or|not|eq|ne|lt|le|gt|ge|len|index|slice|print|printf|println|json"
    return {
        "name": "meta.embedded.action.modelfile",
        "begin": r"\{\{-?",
        "end": r"-?\}\}",
        "beginCaptures": {"0": {"name": "punctuation.section.embedded.begin.modelfile"}},
        "endCaptures": {"0": {"name": "punctuation.section.embedded.end.modelfile"}},
        "patterns": [
            {"name": "comment.block.modelfile", "begin": r"/\*", "end": r"\*/"},
            _match(r'"(?:[^"\\]|\\.)*"|`[^`]*`', "string.quoted.other"),
            _match(rf"\b(?:{words})\b", "keyword.control"),
            _match(rf"(?<![.$\w])(?:{functions})\b", "support.function"),
            _match(r"\$\w*|\.\w*", "variable.other.field"),
            _match(r"\b[0-9]+\b|\b(?:true|false|nil)\b", "constant.language"),
        ],
    }


# The extension for Visual Studio Code.


def manifest() -> Rule:
    """``package.json``: what the extension brings."""
    setting = "mbuild.server"
    return {
        "name": "mbuild-modelfile",
        "displayName": "Modelfile (mbuild, Ollama)",
        "description": "Modelfiles of Ollama and mbuild: colours, completion, hints, fixes.",
        "version": __version__,
        "publisher": "mbuild",
        "license": "Apache-2.0",
        "engines": {"vscode": "^1.82.0"},
        "categories": ["Programming Languages", "Linters", "Formatters"],
        "keywords": ["modelfile", "ollama", "gguf", "llm"],
        "main": "./extension.js",
        "activationEvents": [],
        "contributes": {
            "languages": [
                {
                    "id": "modelfile",
                    "aliases": ["Modelfile"],
                    "filenames": ["Modelfile"],
                    "filenamePatterns": ["Modelfile.*", "*.Modelfile"],
                    "extensions": [".modelfile"],
                    "firstLine": r"^#\s*syntax\s*=\s*mbuild/",
                    "configuration": "./language-configuration.json",
                },
                {"id": "json", "filenames": ["Modelfile.lock"]},
            ],
            "grammars": [
                {
                    "language": "modelfile",
                    "scopeName": "source.modelfile",
                    "path": "./syntaxes/modelfile.tmLanguage.json",
                }
            ],
            "commands": [
                {"command": "mbuild.restart", "title": "mbuild: Restart the language server"}
            ],
            "configuration": {
                "title": "mbuild",
                "properties": {
                    f"{setting}.path": {
                        "type": "string",
                        "default": "mbuild",
                        "scope": "machine-overridable",
                        "description": "The program that is started: mbuild, with the extra lsp.",
                    },
                    f"{setting}.buildArguments": {
                        "type": "array",
                        "items": {"type": "string"},
                        "default": [],
                        "description": "Values of ARG lines, each as NAME=VALUE.",
                    },
                },
            },
        },
        "scripts": {"package": "vsce package"},
        "dependencies": {"vscode-languageclient": "^9.0.1"},
        "devDependencies": {"@vscode/vsce": "^3.9.2"},
    }


def main() -> None:
    """Write the files."""
    for name, text in files().items():
        (EDITORS / name).parent.mkdir(parents=True, exist_ok=True)
        (EDITORS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
