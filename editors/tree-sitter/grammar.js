// The grammar of Modelfiles, Ollama's and mbuild's: written by python editors/generate.py

const blank = /[ \t]/;

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
const QUOTED = /"([^"]|"[ \t"]*[^ \t\r\n"])*"[ \t"]*/;
const ENDED = /[^" \t\r\n]|"{1,2}[^"]|"""+[^" \t\r\n]/.source;
const TRIPLE = new RegExp(
  `"""([^"]|${ENDED}|("""+[ \t]+)+(${ENDED}))*("""+[ \t]+)*"""+[ \t]*`,
);

module.exports = grammar({
  name: "modelfile",
  extras: () => [],
  word: ($) => $.word,
  rules: {
    source_file: ($) =>
      seq(
        optional($._gap),
        optional(seq($._line, repeat(seq($._end, $._line)), optional($._end))),
      ),
    _gap: () => /[ \t\r\n]+/,
    _end: () => token(prec(2, /[\r\n][ \t\r\n]*/)),
    _line: ($) => choice($.comment, $._instruction),
    comment: () => /#[^\r\n]*/,
    _instruction: ($) =>
      choice($.from, $.text, $.parameter, $.message, $.set, $.clause),

    from: ($) =>
      seq(alias(instruction("FROM"), $.keyword), repeat($._pad), optional($._model)),
    _model: ($) => choice($._quotes, seq($.path, repeat(choice($._pad, $.as, $.path)))),
    as: () => anyCase("AS"),
    path: () => /[^" \t\r\n][^ \t\r\n]*/,

    text: ($) =>
      seq(
        alias(choice(instruction("ADAPTER"), instruction("DRAFT"), instruction("TEMPLATE"), instruction("SYSTEM"), instruction("LICENSE"), instruction("RENDERER"), instruction("PARSER"), instruction("REQUIRES")), $.keyword),
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
    role: () => choice("system", "user", "assistant"),
    set: ($) =>
      seq(
        alias(instruction("SET"), $.keyword),
        optional(seq(optional($.key), blank, optional($._pad), optional($._value))),
      ),
    key: () => /[^ \t\r\n"]+/,
    _value: ($) => choice($._quotes, $.bare),
    _quotes: ($) => choice($.quoted, $.triple),
    quoted: () => token(QUOTED),
    triple: () => token(prec(1, TRIPLE)),
    bare: () => /[^" \t\r\n][^\r\n]*/,
    _pad: () => token(prec(1, /[ \t]+/)),

    clause: ($) =>
      seq(
        alias(choice(instruction("ARG"), instruction("INCLUDE"), instruction("QUANTIZE"), instruction("MERGE"), instruction("UNSET"), instruction("DROP"), instruction("TAKE"), instruction("CHECK")), $.keyword),
        repeat(choice($._pad, $.continued, $.option, $.compared, $.word, $._part)),
      ),
    continued: () =>
      token(prec(2, /\\[ \t]*(\r\n|\r|\n)([ \t]*#[^\r\n]*(\r\n|\r|\n))*/)),
    option: () => choice(anyCase("ADAPTER"), anyCase("ANSWERS"), anyCase("BPW"), anyCase("CHUNKS"), anyCase("DRAFT"), anyCase("EMBEDDING"), anyCase("ERROR"), anyCase("EXCLUDE"), anyCase("FROM"), anyCase("IMATRIX"), anyCase("INCLUDE"), anyCase("KEEP"), anyCase("KLD"), anyCase("KLD99"), anyCase("LAYER"), anyCase("LAYERS"), anyCase("LICENSE"), anyCase("MESSAGE"), anyCase("NAN"), anyCase("OUTPUT"), anyCase("OUTTYPE"), anyCase("PARAMETER"), anyCase("PARSER"), anyCase("PERPLEXITY"), anyCase("PRUNE"), anyCase("PURE"), anyCase("RECIPE"), anyCase("RENDERER"), anyCase("RENDERS"), anyCase("REQUANTIZE"), anyCase("REQUIRES"), anyCase("SAME_TOP"), anyCase("SIZE"), anyCase("SPLIT"), anyCase("SYSTEM"), anyCase("TEMPLATE"), anyCase("TENSOR"), anyCase("TEXT"), anyCase("WEIGHT"), anyCase("WITH")),
    compared: () => token(choice("<=", "<", ">=", ">")),
    word: () => /[A-Za-z0-9_.]+/,
    _part: ($) => choice($.argument, $.string, $.other),
    argument: () =>
      token(prec(1, /\$\{[^{}\r\n]*(\{[^{}\r\n]*\}[^{}\r\n]*)*\}/)),
    string: () => /"[^"\r\n]*"/,
    other: () => /[^A-Za-z0-9_. \t\r\n"<>]/,
  },
});
