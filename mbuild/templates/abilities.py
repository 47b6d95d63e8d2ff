"""What a model can do by its templates, and which of two makes its prompts, as Ollama decides.

A model may have a Go template of its own and a Jinja template inside its weights, which llama.cpp
uses. The rules and the words are those of Ollama 0.33 (``Capabilities`` and
``shouldPreferChatTemplate`` in its ``server/images.go``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.templates.failure import TemplateError
from mbuild.templates.fields import identifiers
from mbuild.templates.nodes import Action, Branch, BranchKind, Field, Text, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from mbuild.templates.nodes import ParsedTemplate

_BLANK = " \t\r\n"
_HARMONY_FAMILIES = frozenset({"gptoss", "gpt-oss"})
_ANSWERS_IN_JINJA = (
    "tool_response",
    "tool_results",
    "ipython",
    *(f"role{close} == {quote}tool{quote}" for close in ("']", '"]') for quote in "'\""),
    *(f"message.role == {quote}tool{quote}" for quote in "'\""),
)
_ANSWERS_IN_GO = regex(r'eq\s+\.Role\s+"tool"|tool_response|TOOL_RESULTS')


class InnerTemplate(NamedTuple):
    """What a Jinja template in the weights does, by the words in it.

    ``tools``: it writes tools; ``returns``: also calls and what came of them. ``thinks``: it has
    the tags of thoughts; ``switches``: a request can turn thoughts on, whatever their tags are.
    """

    exists: bool = False
    tools: bool = False
    returns: bool = False
    thinks: bool = False
    switches: bool = False

    @property
    def abilities(self) -> tuple[str, ...]:
        """What a model can do whose prompts it makes, in Ollama's words.

        Where Ollama knows only thoughts between <think> tags, llama.cpp finds others, too.
        """
        found = ["tools"] if self.tools else []
        return (*found, "thinking") if self.thinks or self.switches else tuple(found)


def inner_template(text: str) -> InnerTemplate:
    """What the Jinja template of weights does; "" for weights that have none."""
    tools = "tools" in text or "tool_call" in text
    calls = "tool_calls" in text or "assistant_tool_call" in text
    return InnerTemplate(
        exists=bool(text),
        tools=tools,
        returns=tools and calls and any(words in text for words in _ANSWERS_IN_JINJA),
        thinks=_thinks(text),
        switches="enable_thinking" in text or "reasoning_effort" in text or "<think>" in text,
    )


def _thinks(text: str) -> bool:
    """Whether thoughts stand between tags, or earlier ones are cut off at the closing tag."""
    if "<think>" in text and "</think>" in text:
        return True
    cuts = any(f"content.split({quote}</think>{quote})" in text for quote in "'\"")
    return cuts and "reasoning_content" not in text and "<SPECIAL_12>" not in text


def builtin_code(config: Mapping[str, Any], go: str) -> str:
    """The prompt builder or answer parser inside Ollama that a model needs; "" for none.

    It is named by the model's config; of gpt-oss Ollama takes apart what a template with the
    marks of the harmony format leads to.
    """
    named = str(config.get("renderer") or config.get("parser") or "")
    harmony = str(config.get("model_family", "")) in _HARMONY_FAMILIES
    return named or ("harmony" if harmony and "<|start|>" in go and "<|end|>" in go else "")


def uses_inner(inner: InnerTemplate, go: ParsedTemplate | None, builtin: str) -> bool:
    """Whether the template in the weights makes the prompts, and the engine reads the answers.

    So it is for a model without a Go template, for one that needs code inside Ollama, and
    where the template in the weights can do more.
    """
    if not inner.exists:
        return False
    return go is None or bool(builtin) or _does_more(inner, go)


def _does_more(inner: InnerTemplate, go: ParsedTemplate) -> bool:
    own = [word for word, has in (("tools", inner.tools), ("thinking", inner.thinks)) if has]
    other = go_abilities(go)
    if len(own) > len(other):
        return inner.returns or not _returns_tools(go)
    same = sorted(own) == sorted(other) and "tools" in own
    return same and inner.returns and not _returns_tools(go)


def _returns_tools(go: ParsedTemplate) -> bool:
    """Whether a Go template writes calls of tools, and what came of them."""
    return {"tools", "toolcalls"} <= identifiers(go) and bool(_ANSWERS_IN_GO.search(go.source))


def go_abilities(go: ParsedTemplate | None) -> tuple[str, ...]:
    """What a model can do by its Go template, in Ollama's words."""
    if go is None:
        return ()
    used = identifiers(go)
    has = {"tools": "tools" in used, "insert": "suffix" in used, "thinking": bool(tags_of(go))}
    return tuple(word for word, there in has.items() if there)


def capabilities(
    header: Iterable[str], inner: InnerTemplate, go: str, builtin: str
) -> tuple[str, ...]:
    """What a model can do, in Ollama's words and in its order.

    ``header``: what the weights and the projectors say; ``go``: the text of the Go template,
    "" for none. One that does not parse says nothing. A text with a gap is completed by the
    Go template, whichever makes the other prompts.
    """
    from mbuild.templates.gotemplate import parse

    try:
        template = parse(go) if go else None
    except TemplateError:
        return tuple(header)
    own = go_abilities(template)
    if uses_inner(inner, template, builtin):
        found = (*inner.abilities, *header, *(word for word in own if word == "insert"))
    else:
        found = (*header, *own)
    return tuple(dict.fromkeys(found))


def tags_of(template: ParsedTemplate) -> tuple[str, str] | None:
    """The texts that open and close a thought, from how a template writes earlier thoughts.

    In ``{{ range .Messages }}`` they are the first and last texts of the nodes in which
    ``.Thinking`` is written (Ollama's ``thinking.InferTags``); None where there are none.
    """
    for part in walk(template.body):
        if not isinstance(part, Branch) or part.kind is not BranchKind.RANGE:
            continue
        if not any(isinstance(p, Field) and "Messages" in p.names for p in walk([part.pipe])):
            continue
        for inner in walk([part]):
            if isinstance(inner, Branch):
                for nodes in (inner.body, inner.otherwise):
                    found = _around(nodes)
                    if found is not None:
                        return found
    return None


def _around(nodes: tuple[object, ...]) -> tuple[str, str] | None:
    """The first and last texts of nodes of which one writes ``.Thinking``."""
    writes = any(
        isinstance(node, Action)
        and any(isinstance(p, Field) and "Thinking" in p.names for p in walk([node.pipe]))
        for node in nodes
    )
    texts = [node.text.strip(_BLANK) for node in nodes if isinstance(node, Text)]
    if not writes or len(texts) < 2 or not texts[0] or not texts[-1]:
        return None
    return texts[0], texts[-1]
