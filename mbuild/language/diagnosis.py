"""What is wrong where the grammar cannot go on, in words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Container, Sequence

from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.values import NamedTuple
from mbuild.language.foreign import DOCKER, MODCTL
from mbuild.language.instructions import ROLES, TYPES, Edit, Instruction
from mbuild.language.parameters import PARAMETERS
from mbuild.language.printable import HIDDEN
from mbuild.language.spellings import known_parameter, meant_parameter, meant_role
from mbuild.language.stages.opening import SYNTAX_LINE
from mbuild.language.stages.words import STAGED_TYPES

_FIRST_WORD = regex(f"[^ \t\r\n{HIDDEN}]*")
_LETTERS = regex("[A-Za-z]*")
_INDENTED_LETTERS = regex(f"[ \t{HIDDEN}]*([A-Za-z]*)")
_TRIPLE = regex(f'"{HIDDEN}*"{HIDDEN}*"')
_LATE_SYNTAX = regex(r"^[ \t]*#[ \t]*syntax[ \t]*=[ \t]*mbuild/1[ \t\r]*$", re.M | re.I)
_COMMENT_SIGNS = ("//", "--", "/*", "<!--", ";", "%", "REM")
_SHOWN = 60  # characters of a word that a message quotes

_MODCTL_HINT = "this is modctl's Modelfile format (CNCF ModelPack), not Ollama's"
_DOCKER_HINT = "this is an instruction of Dockerfiles; a Modelfile has none like it"
_FOREIGN_WORDS: dict[str, str] = {
    **dict.fromkeys(DOCKER.split(), _DOCKER_HINT),
    **dict.fromkeys(MODCTL.split(), _MODCTL_HINT),
}
_WORDS: dict[str, str] = {
    "PROMPT": "only older versions of Ollama have it: TEMPLATE says where the prompt goes",
    "EMBED": "only older versions of Ollama have it: put the text into SYSTEM, or into"
    " each request",
    "USER": "did you mean MESSAGE user?",
    "ASSISTANT": "did you mean MESSAGE assistant?",
    "HUMAN": "did you mean MESSAGE user?",
    "BOT": "did you mean MESSAGE assistant?",
    "AI": "did you mean MESSAGE assistant?",
    "BASE": "did you mean FROM?",
    "IMPORT": "did you mean FROM?",
    "LORA": "did you mean ADAPTER?",
    "PROJECTOR": "a projector is one more FROM line",
    "MMPROJ": "a projector is one more FROM line",
    "DESCRIPTION": "write it as a comment, behind a #",
    "TAG": "mbuild --tag gives the name",
}
"""Words that are no instructions but look like some, and what to do, by their upper case."""

_STAGED_WORDS: dict[str, str] = {
    "LORA": "did you mean MERGE, which folds it in, or ADAPTER, which needs an older Ollama?",
    "PROJECTOR": "name the folder in which the model and its projector lie: FROM ./folder",
    "MMPROJ": "name the folder in which the model and its projector lie: FROM ./folder",
    "ENV": "did you mean ARG?",
    "LABEL": "did you mean SET?",
    "METADATA": "did you mean SET?",
    "COPY": "tensors of another model are taken by TAKE, a file's content by @: SYSTEM @./file",
    "ADD": "did you mean MERGE?",
    "PRUNE": "did you mean DROP LAYER?",
    "STAGE": "a stage is named where it begins: FROM MODEL AS NAME",
    "TARGET": "mbuild --target NAME says which stages are built",
    "QUANT": "did you mean QUANTIZE?",
    "ASSERT": "did you mean CHECK?",
    "TEST": "did you mean CHECK?",
}
"""The same in a file of mbuild/1, whose instructions can do more."""


class Description(NamedTuple):
    """An error between two character offsets; the rest as in :class:`Problem`."""

    start: int
    end: int
    message: str
    code: str
    suggestion: str
    edit: Edit | None = None


def describe(
    text: str,
    shape: str,
    offset: int,
    expected: Container[str],
    words: Collection[str] = TYPES,
) -> Description:
    """Describe an error at an offset of the text, of which ``shape`` is the prepared form.

    ``expected`` holds the names of the terminals that the grammar would have taken, ``words``
    are the instructions of the language.
    """
    kind = next((t for t in _DESCRIBE if t in expected), "FROM")
    if kind != "BARE" and (hidden := _not_a_space(text, shape, offset, kind, words)):
        return hidden
    if kind == "FROM":
        return _bad_instruction(shape, offset, words)
    return _DESCRIBE[kind](shape, offset)


def _not_a_space(
    text: str, shape: str, offset: int, kind: str, words: Collection[str]
) -> Description | None:
    """A character that looks like a space, or like nothing, where a space is needed."""
    start = offset
    while kind == "FROM" and shape.startswith(HIDDEN, start):
        start += 1
    end = _run(_FIRST_WORD, shape, start)
    word = shape[start:end]
    known = {
        "FROM": word.upper() in words,
        "ROLE": word in ROLES,
        "NAME": word in PARAMETERS,
        "KEY": False,
    }
    if (kind == "FROM" and start > offset + 1) or (start > offset and not known[kind]):
        what = f"{name_of(text[offset])} stands where an instruction should start"
        edit = Edit(offset, start, "")
        return Description(offset, start, what, "not-a-space", "remove it", edit)
    if not (known[kind] and word.isascii() and shape.startswith(HIDDEN, end)):
        return None
    what = f"{name_of(text[end])} follows {word}, where a space is needed"
    hint, edit = "write an ordinary space there", Edit(end, end + 1, " ")
    return Description(start, end + 1, what, "not-a-space", hint, edit)


def name_of(char: str) -> str:
    """A character by its number and its Unicode name: ``U+00A0 (no-break space)``."""
    name = unicodedata.name(char, "an invisible character").lower()
    return f"U+{ord(char):04X} ({name})"


def meant_instruction(shape: str, offset: int) -> str | None:
    """The instruction that the line at an offset was probably meant to be."""
    match = _INDENTED_LETTERS.match(shape, offset)
    return _nearest_word(match[1]) if match else None


def _bad_role(shape: str, offset: int) -> Description:
    end = _run(_FIRST_WORD, shape, offset)
    role = _clipped(shape[offset:end])
    message = 'message role must be one of "system", "user", or "assistant"'
    if role in ROLES:
        hint = f"the text must stand on the same line: MESSAGE {role} TEXT"
        return Description(offset, end, message, "bad-role", hint)
    meant = [known] if (known := meant_role(role)) else near(role, ROLES)
    hint = did_you_mean(meant, "write MESSAGE ROLE TEXT, with one space before ROLE")
    return Description(offset, end, message, "bad-role", hint, _instead(offset, end, meant))


def _bad_name(shape: str, offset: int) -> Description:
    end = _run(_FIRST_WORD, shape, offset)
    name = _clipped(shape[offset:end])
    if re.fullmatch("[A-Za-z0-9_]*", name):
        message, hint = "PARAMETER needs a name and a value", "write both on one line"
    else:
        message = f'"{name}" cannot be a parameter\'s name'
        hint = "names are made of letters, digits and underscores"
    plain = re.split("[=:]", name, maxsplit=1)[0]
    value = name[len(plain) + 1 :] or "VALUE"
    meant = known_parameter(plain) or next(iter(near(plain, PARAMETERS)), "")
    edit = None
    if meant in PARAMETERS:
        hint += f": PARAMETER {meant} {value}"
        edit = Edit(offset, end, f"{meant} {value}") if value != "VALUE" else None
    return Description(offset, end, message, "bad-name", hint, edit)


def _bad_key(shape: str, offset: int) -> Description:
    end = _run(_FIRST_WORD, shape, offset)
    hint = "write both on one line, with one space before the key: SET general.name NAME"
    key, equals, value = shape[offset:end].partition("=")
    edit = None
    if key and equals:
        hint = f"a space stands between them: SET {_clipped(key)} {_clipped(value) or 'VALUE'}"
        edit = Edit(offset + len(key), offset + len(key) + 1, " ")
    return Description(offset, end, "SET needs a key and a value", "bad-key", hint, edit)


def _unclosed(shape: str, offset: int) -> Description:
    start = shape.index('"', offset)
    quotes = '"""' if _TRIPLE.match(shape, start) else '"'
    message = f"the value that {quotes} opens is never closed"
    hint = f"{quotes} ends a value only at the end of its line; there are no escape sequences"
    line = shape[start : min(i for i in (shape.find("\n", start), len(shape)) if i >= 0)]
    if re.search(r'"[ \t]+(?:#|//)', line[len(quotes) :]):
        hint = "a comment needs a line of its own"
    return Description(start, start + len(quotes), message, "unclosed", hint)


def _bad_instruction(shape: str, offset: int, words: Collection[str] = TYPES) -> Description:
    start = offset + shape.startswith(HIDDEN, offset)
    end = _run(_FIRST_WORD, shape, start)
    word = shape[start:end]
    if word in STAGED_TYPES and word not in words:
        message = f"{word} is an instruction of the language mbuild/1, which this file does not use"
        hint = f"make {SYNTAX_LINE} the first line of the Modelfile"
        if late := _LATE_SYNTAX.search(shape):
            line = 1 + shape.count("\n", 0, late.start())
            hint = f"{SYNTAX_LINE} stands on line {line}: it counts only as the first line"
        edit = Edit(0, 0, f"{SYNTAX_LINE}\n")
        return Description(start, end, message, "needs-syntax", hint, edit)
    if word.isascii() and word.upper() in words and not shape.startswith(HIDDEN, end):
        message = f"{word.upper()} needs a value on the same line"
        hint = _usage_of(word.upper())
        return Description(start, end, message, "missing-value", hint)
    message = f'unknown instruction "{_clipped(word)}"'
    hint, meant = _hint_for(word, words)
    meant_edit = _instead(start, end, [meant] if meant else [])
    return Description(start, end, message, "unknown-instruction", hint, meant_edit)


def _usage_of(word: str) -> str:
    """How an instruction is written, and how one of a text that is to be empty."""
    from mbuild.language.word_help import INSTRUCTIONS

    usage = f"write {INSTRUCTIONS[word].usage.splitlines()[0]}"
    return f'{usage}; an empty value is written ""' if word in _TEXTS else usage


def _instead(start: int, end: int, meant: Sequence[str]) -> Edit | None:
    """The first of what may have been meant, in place of what stands there."""
    return Edit(start, end, meant[0]) if meant else None


def value_ended(shape: str, item: Instruction, line: int, region: str, hint: str) -> str:
    """That a text is no instruction because the value before it ended early, or nothing.

    ``item`` is the instruction before, ``line`` the text's line, ``region`` the text
    from there to the next instruction, ``hint`` what is said of it otherwise.
    """
    span = item.span
    if span is None:
        return ""
    first = region.split("\n", 1)[0]
    meant = _nearest_word(first.lstrip(" \t").split(" ", 1)[0])
    opening = shape[span.value : span.value + 8]
    quote = '"""' if _TRIPLE.match(opening) else '"' if opening.startswith('"') else ""
    if quote and quote in region and not (meant and quote in first):
        return (
            f"the {quote} on line {span.last_line} ended the value that {item.word} opened on line"
            f" {span.line}: a value between {quote} cannot hold {quote} as the last thing on a line"
        )
    follows = line == span.last_line + 1 and hint.startswith("one of ")
    if not quote and follows and item.word in _TEXTS:
        return f'the value of {item.word} ended with line {span.line}: put longer texts between """'
    return ""


_TEXTS = frozenset(("SYSTEM", "TEMPLATE", "LICENSE", "MESSAGE"))


def _hint_for(word: str, words: Collection[str] = TYPES) -> tuple[str, str]:
    """What was probably meant by a word that is no instruction: in words, and what to write."""
    if word == '"""':
        return "no value is open here", ""
    if word.startswith(_COMMENT_SIGNS):
        return "a comment begins with #", ""
    meant = _nearest_word(word, words) or ""
    odd = next((char for char in word if not char.isascii()), "")
    if odd and not any(char.isascii() and char.isalpha() for char in word):
        folded = unicodedata.normalize("NFKC", word)
        meant = folded.upper() if folded.upper() in TYPES else ""
    if odd and meant:
        return f"{did_you_mean([meant])} {odd} is {name_of(odd)}", meant
    letters = _LETTERS.match(word)
    plain = letters[0].upper() if letters else ""
    staged = _STAGED_WORDS.get(plain) if "MERGE" in words else None
    hint = staged or _WORDS.get(plain) or _FOREIGN_WORDS.get(word)
    if hint:
        return hint, ""
    name = re.split("[:=]", word, maxsplit=1)[0]
    if known := known_parameter(name):
        if known in PARAMETERS:
            meant = f"PARAMETER {known}"
            return did_you_mean([meant]), meant if name == word else ""
        other = meant_parameter(name) or f"{known} is a parameter without effect: remove the line"
        return other, ""
    return did_you_mean([meant] if meant else [], f"one of {', '.join(words)}"), meant


# By a terminal that the grammar would have taken, most telling first.
_DESCRIBE = {
    "ROLE": _bad_role,
    "NAME": _bad_name,
    "KEY": _bad_key,
    "BARE": _unclosed,
    "FROM": _bad_instruction,
}


def _run(pattern: re.Pattern[str], shape: str, offset: int) -> int:
    match = pattern.match(shape, offset)
    return match.end() if match else offset


def _nearest_word(word: str, words: Collection[str] = TYPES) -> str | None:
    """The instruction that a word was probably meant to be."""
    letters = _LETTERS.match(word)
    candidates = [word[:_SHOWN].upper(), letters[0][:_SHOWN].upper() if letters else ""]
    for candidate in candidates:
        if found := near(candidate, words):
            return found[0]
    return None


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
