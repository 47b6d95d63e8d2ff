"""The tree-sitter grammar and its highlights, from mbuild's tables: part of ``generate.py``.

Tree-sitter reads both languages with one grammar. Its lexer takes the longest token, so that the
quote that ends a value is the last before what may not follow one: the end of its line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from mbuild.language.instructions import ROLES, TYPES
from mbuild.language.stages.words import CLAUSES
from mbuild.language.word_help import KEYWORDS
from mbuild.quant.choose.types import ALIASES, FILE_TYPES
from mbuild.quant.table import TYPES as TENSOR_TYPES

GRAMMAR = "tree-sitter/grammar.js"
HIGHLIGHTS = "tree-sitter/queries/highlights.scm"

_NAMED = ("FROM", "PARAMETER", "MESSAGE")
_COMPARED = "COMPARE"

_HEAD = """\
// The grammar of Modelfiles, Ollama's and mbuild's: written by python editors/generate.py

const blank = /[ \\t]/;

// A word in either case, with the blank that it needs behind it.
function instruction(word) {
  return token(seq(anyCase(word), blank));
}

function anyCase(word) {
  const either = (c) => (/[a-z]/i.test(c) ? `[${c.toUpperCase()}${c.toLowerCase()}]` : c);
  return new RegExp([...word].map(either).join(""));
}

// A value between quotes ends where they are the last thing on a line. Three in a row open and
// close one of their own; text between them may hold any that something else follows.
const QUOTED = /"([^"]|"[ \\t"]*[^ \\t\\r\\n"])*"[ \\t"]*/;
const ENDED = /[^" \\t\\r\\n]|"{1,2}[^"]|\"\"\"+[^" \\t\\r\\n]/.source;
const TRIPLE = new RegExp(
  `\"\"\"([^"]|${ENDED}|(\"\"\"+[ \\t]+)+(${ENDED}))*(\"\"\"+[ \\t]+)*\"\"\"+[ \\t]*`,
);
"""


def _choice(words: Iterable[str], form: str) -> str:
    return ", ".join(form.format(word) for word in words)


def grammar() -> str:
    """``grammar.js``: what a line can begin with, and what stands behind it."""
    clauses = [kind.word for kind in CLAUSES if kind.word != "SET"]
    texts = [word for word in TYPES if word not in _NAMED]
    options = sorted({word for _, word in KEYWORDS if word not in (_COMPARED, "AS")} | {"KEEP"})
    return f"""{_HEAD}
module.exports = grammar({{
  name: "modelfile",
  extras: () => [],
  word: ($) => $.word,
  rules: {{
    source_file: ($) =>
      seq(
        optional($._gap),
        optional(seq($._line, repeat(seq($._end, $._line)), optional($._end))),
      ),
    _gap: () => /[ \\t\\r\\n]+/,
    _end: () => token(prec(2, /[\\r\\n][ \\t\\r\\n]*/)),
    _line: ($) => choice($.comment, $._instruction),
    comment: () => /#[^\\r\\n]*/,
    _instruction: ($) =>
      choice($.from, $.text, $.parameter, $.message, $.set, $.clause),

    from: ($) =>
      seq(alias(instruction("FROM"), $.keyword), repeat($._pad), optional($._model)),
    _model: ($) => choice($._quotes, seq($.path, repeat(choice($._pad, $.as, $.path)))),
    as: () => anyCase("AS"),
    path: () => /[^" \\t\\r\\n][^ \\t\\r\\n]*/,

    text: ($) =>
      seq(
        alias(choice({_choice(texts, 'instruction("{}")')}), $.keyword),
        optional($._pad),
        optional($._value),
      ),
    parameter: ($) =>
      seq(
        alias(instruction("PARAMETER"), $.keyword),
        optional(seq(optional($.name), blank, optional($._pad), optional($._value))),
      ),
    name: () => /[A-Za-z0-9_]+/,
    message: ($) =>
      seq(
        alias(instruction("MESSAGE"), $.keyword),
        optional(seq($.role, blank, optional($._pad), optional($._value))),
      ),
    role: () => choice({_choice(ROLES, '"{}"')}),
    set: ($) =>
      seq(
        alias(instruction("SET"), $.keyword),
        optional(seq(optional($.key), blank, optional($._pad), optional($._value))),
      ),
    key: () => /[^ \\t\\r\\n"]+/,
    _value: ($) => choice($._quotes, $.bare),
    _quotes: ($) => choice($.quoted, $.triple),
    quoted: () => token(QUOTED),
    triple: () => token(prec(1, TRIPLE)),
    bare: () => /[^" \\t\\r\\n][^\\r\\n]*/,
    _pad: () => token(prec(1, /[ \\t]+/)),

    clause: ($) =>
      seq(
        alias(choice({_choice(clauses, 'instruction("{}")')}), $.keyword),
        repeat(choice($._pad, $.continued, $.option, $.compared, $.word, $._part)),
      ),
    continued: () =>
      token(prec(2, /\\\\[ \\t]*(\\r\\n|\\r|\\n)([ \\t]*#[^\\r\\n]*(\\r\\n|\\r|\\n))*/)),
    option: () => choice({_choice(options, 'anyCase("{}")')}),
    compared: () => token(choice("<=", "<", ">=", ">")),
    word: () => /[A-Za-z0-9_.]+/,
    _part: ($) => choice($.argument, $.string, $.other),
    argument: () =>
      token(prec(1, /\\$\\{{[^{{}}\\r\\n]*(\\{{[^{{}}\\r\\n]*\\}}[^{{}}\\r\\n]*)*\\}}/)),
    string: () => /"[^"\\r\\n]*"/,
    other: () => /[^A-Za-z0-9_. \\t\\r\\n"<>]/,
  }},
}});
"""


def highlights() -> str:
    """``highlights.scm``: what editors colour."""
    types = {each.name for each in FILE_TYPES} | set(ALIASES) | {each.name for each in TENSOR_TYPES}
    pattern = "^({})$".format("|".join(sorted({name.lower() for name in types})))
    both = pattern + pattern.upper().replace("^(", "|^(", 1)
    return f"""\
; What editors colour in Modelfiles: written by python editors/generate.py

(comment) @comment
((comment) @keyword.directive
  (#match? @keyword.directive "^#[ \\t]*syntax[ \\t]*=[ \\t]*mbuild/1"))
(keyword) @keyword
(as) @keyword
(option) @keyword
(compared) @operator
(continued) @string.escape
(name) @variable.parameter
(role) @constant.builtin
(key) @property
(path) @string.special.path
((as) . (_)* . (path) @type)
[(quoted) (triple) (string)] @string
(bare) @string
((bare) @number
  (#match? @number "^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?[ \\t]*$"))
((bare) @boolean
  (#match? @boolean "^(true|false)[ \\t]*$"))
(argument) @variable
((word) @number
  (#match? @number "^[0-9]+([.][0-9]+)?([KkMmGgTt]i?[Bb])?$"))
((word) @type
  (#match? @type {json.dumps(both)}))
"""
