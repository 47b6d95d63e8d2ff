"""The canonical form of a text that is being written."""

from __future__ import annotations

from mbuild.core.errors import MbuildError
from mbuild.editor.open_text import OpenText
from mbuild.language.formatter import format
from mbuild.language.parser import parse, parse_stages
from mbuild.language.stages.opening import SYNTAX_LINE, opens_stages


def formatted(reading: OpenText) -> str | None:
    """What ``mbuild fmt`` writes; None where a line is broken.

    An included file has the line that opens the language only where it had it before.
    """
    try:
        if not reading.staged:
            return format(parse(reading.data))
        name = "included" if reading.included else ""
        text = format(parse_stages(reading.data, included=name))
        has_line = opens_stages(reading.data)
    except MbuildError:
        return None
    return text if has_line else text.removeprefix(f"{SYNTAX_LINE}\n")
