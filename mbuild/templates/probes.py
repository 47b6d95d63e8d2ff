"""The conversations on which two templates are compared.

No text begins or ends with space: many chat templates trim what they are given
and Go's language cannot. No text contains a mark of any format. The first set
finds a template, the second, of other texts, lengths and days, proves it.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from mbuild.core.values import NamedTuple, replace
from mbuild.templates.conversation import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Sequence


class Probe(NamedTuple):
    """A conversation; ``date`` is the day on which the chat template believes to run.

    ``thinks`` switches the model's thoughts on or off; None leaves them as they are.
    """

    messages: tuple[ChatMessage, ...]
    date: str
    thinks: bool | None = None

    @property
    def day(self) -> datetime.date:
        """The same day, for ``currentDate``."""
        return datetime.date.fromisoformat(self.date)

    @property
    def generates(self) -> bool:
        """Whether a generation prompt is asked for: only where the model's turn is next."""
        return self.messages[-1].role == "user"


_ROLES = {"s": "system", "u": "user", "a": "assistant"}


def probes(shapes: Sequence[str], texts: Sequence[str], date: str) -> tuple[Probe, ...]:
    """Conversations with turns as each shape says (``sua``: system, user, assistant)."""
    found = []
    for offset, shape in enumerate(shapes):
        messages = tuple(
            ChatMessage(_ROLES[turn], texts[(offset + place) % len(texts)])
            for place, turn in enumerate(shape)
        )
        found.append(Probe(messages, date))
    return tuple(found)


FINDING = probes(
    ("u", "uau", "su", "suau", "uauau", "ua", "sua"),
    (
        "Why is the sky blue?",
        "Because of Rayleigh.",
        "And at dusk & dawn, <b>red</b>?",
        "Äpfel 苹果 🍎.",
    ),
    "2011-03-04",
)
PROVING = probes(
    ("u", "su", "uau", "suauau", "uauauau", "uaua", "suaua"),
    (
        "One line\n\n  and another, indented;\tdone",
        "x",
        "{'key': \"value\", 'n': [1, 2]} \\n %s $HOME #",
        "No.",
        "A rather longer text. It has two sentences, one of which ends — here!",
    ),
    "2019-11-25",
)
PROVING += tuple(replace(probe, thinks=thinks) for probe in FINDING[:4] for thinks in (False, True))
