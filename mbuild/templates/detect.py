"""Finds the Go template that says what a model's Jinja chat template says.

By the text first: chat templates that are widely used are known by their digest.
By meaning otherwise: the chat template is rendered on probe conversations, in a
child process, and a Go template of ours matches if it gives the same prompts.

What "the same" means, for Ollama's side of it:

- One beginning-of-sequence token at the start of the chat template's text does
  not count: the runtime puts it there, a Go template never does.
- A conversation that ends with the user's turn is compared with a generation
  prompt. One that ends with the assistant's turn has none: Ollama lets the model
  go on with that turn, so the Go template's text must be the beginning of the
  chat template's, up to the end of the last message's text.
- Conversations that the chat template refuses (some take no system message) do
  not count, but it must take those of the user and the assistant.
- Where the Go template looks at ``.Think``, switching thoughts on and off has to
  give the same prompts as ``enable_thinking`` does.
- Neither tools nor earlier thoughts are compared, and texts have no space at their ends
  (see mbuild.templates.probes).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple
from mbuild.templates.conversation import Values
from mbuild.templates.fields import identifiers
from mbuild.templates.gotemplate import parse
from mbuild.templates.known import HOLES, KNOWN, Known, text_digest
from mbuild.templates.probes import FINDING, PROVING, Probe
from mbuild.templates.render import render

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mbuild.templates.nodes import ParsedTemplate

WALL_SECONDS = 10
"""How long the child may take on a busy machine; its processor time is limited besides."""

MAX_SIZE = 1 << 20
"""The longest chat template looked at, in characters."""

_MARK = "\x00hole\x00"


class Detected(NamedTuple):
    """A Go template, the name to tell, and where generation has to stop."""

    name: str
    template: str
    stop: tuple[str, ...]


def detect(
    chat_template: str, bos: str = "", eos: str = "", *, adds_bos: bool = True
) -> Detected | None:
    """The Go template that gives the same prompts as the Jinja one, or None.

    ``bos`` and ``eos`` are the texts of the model's tokens that begin and end a
    sequence; ``adds_bos`` whether the runtime puts the first one there itself.
    Nothing is raised: a template that is hostile, broken or beyond
    what Go's language can say is simply not detected.
    """
    if len(chat_template) > MAX_SIZE or "{{" in bos + eos:
        return None
    exact = _by_digest(chat_template, bos, eos)
    if exact is not None:
        return exact
    probes = (*FINDING, *PROVING)
    wanted = expected_texts(chat_template, probes, bos, eos, adds_bos=adds_bos)
    if wanted is None or wanted[0] is None or wanted[1] is None:
        return None
    for known in KNOWN:
        text = _filled(known, wanted, bos, eos)
        if text is not None and matches(text, probes, wanted):
            return Detected(known.name, text, known.stop)
    return None


def _by_digest(chat_template: str, bos: str, eos: str) -> Detected | None:
    """A chat template known by its text; one with a hole has to be rendered all the same."""
    digest = text_digest(chat_template)
    for known in KNOWN:
        if digest in known.digests:
            text = known.text(bos, eos)
            if not any(hole in text for hole in HOLES):
                return Detected(known.name, text, known.stop)
    return None


def expected_texts(
    chat_template: str, probes: Sequence[Probe], bos: str, eos: str, *, adds_bos: bool = True
) -> list[str | None] | None:
    """What the chat template makes of each probe, without the ``bos`` that the runtime adds.

    None for a probe that it refuses; None as a whole where the child did not
    come to an end within its limits.
    """
    request = {
        "template": chat_template,
        "bos": bos,
        "eos": eos,
        "renderings": [
            {
                "messages": [{"role": m.role, "content": m.content} for m in probe.messages],
                "generate": probe.generates,
                "date": probe.date,
                "thinks": probe.thinks,
            }
            for probe in probes
        ],
    }
    # -P keeps the current folder, which may hold anything, off the import path.
    package = Path(__file__).parent.parent.parent
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mbuild.templates.jinja_worker"],
            env={**os.environ, "PYTHONPATH": str(package)},
            input=json.dumps(request).encode("utf-8"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=WALL_SECONDS,
            check=True,
        )
        texts = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    first = bos if adds_bos else ""
    return [None if text is None else text.removeprefix(first) for text in texts]


@lru_cache(maxsize=256)
def _parsed(text: str) -> ParsedTemplate:
    """Our own templates are parsed again for every chat template they are compared with."""
    return parse(text)


def matches(text: str, probes: Iterable[Probe], wanted: Iterable[str | None]) -> bool:
    """Whether the Go template gives the wanted texts; see this module's rules."""
    try:
        template = _parsed(text)
        knows_thoughts = "think" in identifiers(template)
        return all(
            _agrees(template, probe, target)
            for probe, target in zip(probes, wanted, strict=True)
            if target is not None and (probe.thinks is None or knows_thoughts)
        )
    except MbuildError:
        return False


def _agrees(template: ParsedTemplate, probe: Probe, target: str) -> bool:
    values = Values(probe.messages, think=bool(probe.thinks), is_think_set=probe.thinks is not None)
    given = render(template, values, today=probe.day)
    if probe.generates:
        return given == target
    return target.startswith(given) and given.endswith(probe.messages[-1].content)


def _filled(known: Known, wanted: Sequence[str | None], bos: str, eos: str) -> str | None:
    """The template with the model's tokens, and each hole filled from one probe's text.

    A hole stands for a text that differs between models of one format, such as
    the system message that they have when none is given.
    """
    text = known.text(bos, eos)
    for hole, place in HOLES.items():
        if hole not in text:
            continue
        # Other holes do not show on this probe.
        probe = FINDING[place]
        marked = render(_parsed(text.replace(hole, _MARK)), Values(probe.messages), today=probe.day)
        before, mark, after = marked.partition(_MARK)
        target = wanted[place] or ""
        inside = target[len(before) : len(target) - len(after)]
        if not (mark and target == before + inside + after) or "{{" in inside:
            return None
        text = text.replace(hole, inside)
    return text
