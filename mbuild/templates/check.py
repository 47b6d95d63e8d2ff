"""The part of Go's rules that no grammar says, checked token by token as Lark parses.

Go's parser reads a template once and stops at the first fault, whatever its kind:
an unknown function, a ``break`` without ``range`` or a token out of place. So
that the same fault is reported, each token is judged here right before and right
after the LALR parser takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lark import UnexpectedToken

from mbuild.core.suggest import did_you_mean, near
from mbuild.templates import literals
from mbuild.templates.failure import TemplateError
from mbuild.templates.tokens import (
    CONSTANTS,
    CONTEXTS,
    FAULTS,
    GAP,
    NUMBERS,
    SPACE,
    WORDS,
    describe_token,
    line_of,
    trim_token,
    word_fault,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lark import Lark, Token

MAX_PARENTHESES = 10_000
"""How deep Go lets parentheses nest (``maxStackDepth`` of text/template/parse)."""

MAX_COMMANDS = 100_000
"""How many commands Go allows in a pipeline (``maxPipelineCmds``)."""

MAX_TOKENS = 100_000
"""How much is parsed, to stay within seconds; real templates have some hundred tokens."""

OPERANDS = CONSTANTS | {"FIELD", "VARIABLE", "DECLARED", "IDENTIFIER", "_RPAREN"}
STARTS = frozenset({"LDELIM", "IF", "RANGE", "WITH", "_LPAREN", "DECLARE", "ASSIGN", "COMMA"})
"""After these a pipeline still has no value."""


@dataclass(slots=True)
class _Pipeline:
    """A pipeline being read: where Go says it is, and what is amiss with its stages."""

    context: str
    stage: int = 1
    not_callable: int = 0
    declared: int = 0


@dataclass(slots=True)
class _Tree:
    """The template, or one that it defines: each has variables of its own."""

    name: str = ""
    variables: dict[str, int] = field(default_factory=lambda: {"$": 1})
    ranges: int = 0
    has_content: bool = False


@dataclass(slots=True)
class _Frame:
    """What waits for its ``end``; the outermost frame is the template itself."""

    kind: str
    tree: _Tree
    added: list[str] = field(default_factory=list)
    after_else: bool = False


def parse_checked(lark: Lark, text: str, functions: frozenset[str]) -> tuple[Any, ...]:
    """The template's nodes, definitions among them; raises :class:`TemplateError`."""
    parser: Any = lark.parse_interactive(text)
    lexer: Any = parser.lexer_thread
    tokens: Iterator[Token] = lexer.lex(parser.parser_state)
    checker = _Checker(functions)
    for count, token in enumerate(tokens):
        if count == MAX_TOKENS:
            raise TemplateError(token.line or 1, f"more than {MAX_TOKENS:,} words and signs")
        if token.type == "TEXT":
            token = trim_token(token, text)
            if not token:
                continue
        checker.before(token)
        try:
            parser.feed_token(token)
        except UnexpectedToken:
            raise checker.unexpected(token, tokens, text) from None
        checker.after(token)
    checker.end(text)
    nodes: tuple[Any, ...] = parser.feed_eof()
    return nodes


class _Checker:
    """Go's parser without its grammar: scopes, contexts and the words for what is wrong."""

    def __init__(self, functions: frozenset[str]) -> None:
        self._functions = functions
        self._frames = [_Frame("", _Tree())]
        self._pipelines: list[_Pipeline] = []
        self._defined: dict[str, bool] = {}
        self._action_line = 0
        self._head = ""
        self._last = ""
        self._last_text = ""
        self._named = False
        self._name = ""
        self._spaced = False

    # ---- before the parser sees a token

    def before(self, token: Token) -> None:
        """Raises what Go's scanner, or a pipeline that ends here, has against the token."""
        kind = token.type
        if not self._pipelines:
            if kind in FAULTS:
                raise TemplateError(token.line or 1, FAULTS[kind](token))
            return
        if self._last == "COMMA" and kind not in ("VARIABLE", "DECLARED", "_RDELIM"):
            raise TemplateError(line_of(token), "range can only initialize variables")
        self._check_scanned(token)
        if kind in ("_RDELIM", "_RPAREN"):
            self._check_pipeline(token)
        elif kind == "COMMA" and self._last == "DECLARED":
            pipeline = self._pipelines[-1]
            if pipeline.declared > (pipeline.context == "range"):
                raise TemplateError(line_of(token), f"too many declarations in {pipeline.context}")

    def _check_scanned(self, token: Token) -> None:
        kind, reason = token.type, ""
        if kind in FAULTS and not kind.startswith("BAD_COMMENT"):
            reason = FAULTS[kind](token)
        elif kind == "_RDELIM" and len(self._pipelines) > 1:
            reason = "unclosed left paren"
        elif kind == "_RPAREN" and len(self._pipelines) == 1:
            reason = "unexpected right paren"
        if kind in WORDS and not token.isascii():
            reason = word_fault(token) or reason
        if reason:
            raise self._scan_error(reason, line_of(token))

    def _scan_error(self, reason: str, line: int) -> TemplateError:
        if self._action_line not in (0, line):
            started = f" started at :{self._action_line}"
            reason += started if reason.endswith(" action") else f" in action{started}"
        return TemplateError(line, reason)

    def _check_pipeline(self, token: Token) -> None:
        """A pipeline ends here: it needs a value, and what can be called after each pipe."""
        pipeline = self._pipelines[-1]
        no_block_value = self._named and self._head == "_BLOCK"
        if self._last in STARTS or no_block_value:
            raise TemplateError(line_of(token), f"missing value for {pipeline.context}")
        if pipeline.not_callable:
            stage = pipeline.not_callable
            raise TemplateError(line_of(token), f"non executable command in pipeline stage {stage}")

    # ---- after the parser took a token

    def after(self, token: Token) -> None:
        """Follows the token, and raises what it means wrongly."""
        kind = token.type
        if not self._pipelines:
            if kind == "LDELIM":
                self._begin_action(token)
            elif kind == "TEXT" and token.strip(SPACE):
                self._frames[-1].tree.has_content = True
            return
        if kind == "_SPACE":
            self._spaced = True
            return
        try:
            self._check_meaning(token)
        except ValueError as error:
            unknown = kind == "IDENTIFIER" and token not in self._functions
            hint = self._near_function(token) if kind == "IDENTIFIER" else ""
            name = str(token) if unknown else ""
            raise TemplateError(line_of(token), str(error), hint=hint, function=name) from None
        if kind == "_LPAREN":
            self._pipelines.append(_Pipeline(CONTEXTS[kind]))
        elif kind in CONTEXTS:
            self._follow_keyword(kind)
        elif kind == "_RPAREN":
            self._pipelines.pop()
        elif kind == "_PIPE":
            self._pipelines[-1].stage += 1
        elif kind == "_RDELIM":
            self._end_action(token)
        self._named = self._last in ("_DEFINE", "_BLOCK", "_TEMPLATE")
        if self._named:
            self._name = literals.unquote(token)
        self._last, self._last_text, self._spaced = kind, str(token), False

    def _begin_action(self, token: Token) -> None:
        self._action_line = token.line or 1
        self._pipelines = [_Pipeline("command")]
        self._head = self._last = "LDELIM"
        self._named = self._spaced = False

    def _check_meaning(self, token: Token) -> None:
        """Raises ``ValueError`` with Go's words."""
        kind, pipeline = token.type, self._pipelines[-1]
        if self._last == "_PIPE" and kind != "_RDELIM":
            if pipeline.stage > MAX_COMMANDS:
                raise ValueError("pipeline too long")
            if kind in CONSTANTS and not pipeline.not_callable:
                pipeline.not_callable = pipeline.stage
        if kind == "IDENTIFIER" and token not in self._functions:
            raise ValueError(f"function {literals.quote(token)} not defined")
        if kind in ("VARIABLE", "DECLARED"):
            self._check_variable(token)
        elif kind in NUMBERS:
            NUMBERS[kind](token)
        elif kind in ("STRING", "RAW_STRING"):
            literals.unquote(token)
        elif kind == "FIELD" and self._last in CONSTANTS and not self._named:
            if not self._spaced:
                raise ValueError(f"unexpected . after term {literals.quote(self._last_text)}")
        elif kind == "_LPAREN" and len(self._pipelines) > MAX_PARENTHESES:
            raise ValueError("max expression depth exceeded")

    def _near_function(self, name: str) -> str:
        return did_you_mean(near(name, sorted(self._functions)))

    def _check_variable(self, token: Token) -> None:
        name, frame = token.rstrip(GAP), self._frames[-1]
        if token.type == "DECLARED" and (self._last in STARTS or self._named):
            self._pipelines[-1].declared += 1
            frame.added.append(name)
            frame.tree.variables[name] = frame.tree.variables.get(name, 0) + 1
        elif not frame.tree.variables.get(name):
            raise ValueError(f"undefined variable {literals.quote(name)}")

    def _follow_keyword(self, kind: str) -> None:
        self._pipelines[0].context = CONTEXTS[kind]
        if self._last == "ELSE":
            # For Go this "if" is an action of its own, without an opening delimiter.
            self._head = "ELSE_IF"
            self._action_line = 0
            return
        self._head = kind
        if kind in ("IF", "RANGE", "WITH"):
            self._frames.append(_Frame(kind, self._frames[-1].tree))

    def _end_action(self, token: Token) -> None:
        frame, head = self._frames[-1], self._head
        self._pipelines = []
        if head == "_END":
            self._end_frame(token)
        elif head == "ELSE":
            frame.after_else = True
            frame.tree.ranges -= frame.kind == "RANGE"
        elif head == "_DEFINE":
            self._frames.append(_Frame(head, _Tree(self._name)))
        elif head in ("_BREAK", "_CONTINUE") and not frame.tree.ranges:
            raise TemplateError(line_of(token), f"{CONTEXTS[head]} outside {{{{range}}}}")
        else:
            frame.tree.has_content = True
            frame.tree.ranges += head == "RANGE"
        if head == "_BLOCK":
            self._frames.append(_Frame(head, _Tree(self._name)))

    def _end_frame(self, token: Token) -> None:
        frame = self._frames.pop()
        for name in frame.added:
            frame.tree.variables[name] -= 1
        if frame.kind == "RANGE" and not frame.after_else:
            frame.tree.ranges -= 1
        if frame.kind in ("_DEFINE", "_BLOCK"):
            self._define(frame.tree, line_of(token))

    def _define(self, tree: _Tree, line: int) -> None:
        """Two templates of one name are a fault unless one of them is empty."""
        if not self._defined.get(tree.name):
            self._defined[tree.name] = tree.has_content
        elif tree.has_content:
            name = literals.quote(tree.name)
            raise TemplateError(line, f"template: multiple definition of template {name}")

    # ---- the end, and tokens out of place

    def end(self, text: str) -> None:
        """Raises what is unfinished at the end of the text."""
        line = 1 + text.count("\n")
        if self._pipelines:
            if self._last == "COMMA":
                raise TemplateError(line, "range can only initialize variables")
            raise self._scan_error("unclosed action", line)
        if len(self._frames) > 1:
            hint = "{{ if }}, {{ range }}, {{ with }} and {{ block }} need an {{ end }} each"
            raise TemplateError(line, "unexpected EOF", hint=hint)
        self._define(self._frames[0].tree, line)

    def unexpected(self, token: Token, tokens: Iterator[Token], text: str) -> TemplateError:
        """What to say of a token that the grammar has no place for."""
        if token.type in ("_END", "ELSE") and self._last == "LDELIM":
            return self._unexpected_end(token, tokens, text)
        if token.type == "_SPACE":
            following = next(tokens, None)
            if following is None:
                return self._scan_error("unclosed action", 1 + text.count("\n"))
            self.before(following)
            token = following
        if self._last == "ELSE" and token.type in ("IF", "WITH"):
            context = "input"
        elif self._last in OPERANDS and not self._named:
            context = "operand"
        else:
            context = self._pipelines[-1].context
        return TemplateError(line_of(token), f"unexpected {describe_token(token)} in {context}")

    def _unexpected_end(self, token: Token, tokens: Iterator[Token], text: str) -> TemplateError:
        """An ``end`` or ``else`` that ends nothing: Go reads it whole before it says so."""
        context = CONTEXTS[token.type]
        following = next(tokens, None)
        if following is None:
            return self._scan_error("unclosed action", 1 + text.count("\n"))
        if not (token.type == "ELSE" and following.type in ("IF", "WITH")):
            self._last = token.type
            self.before(following)
            if following.type != "_RDELIM":
                found = describe_token(following)
                return TemplateError(line_of(following), f"unexpected {found} in {context}")
        frame, name = self._frames[-1], f"{{{{{context}}}}}"
        if frame.after_else:
            reason = f"expected end; found {name}"
        elif frame.kind in ("_DEFINE", "_BLOCK"):
            reason = f"unexpected {name} in {CONTEXTS[frame.kind]}"
        else:
            reason = f"unexpected {name}"
        return TemplateError(line_of(following), reason)
