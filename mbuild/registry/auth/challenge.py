"""``WWW-Authenticate``: what a registry wants to see, as RFC 9110 (11.6.1) writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME = regex(_TOKEN)
_PARAMETER = regex(rf'({_TOKEN})\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*)')
_TOKEN68 = regex(r"[A-Za-z0-9\-._~+/]+=*(?=\s*(?:,|$))")
_BETWEEN = regex(r"[\s,]*")
_LONGEST = 8 << 10  # characters of the header that are looked at

BASIC, BEARER = "basic", "bearer"


class Challenge(NamedTuple):
    """One way to be let in; ``scheme`` and the names of parameters are in lower case."""

    scheme: str
    parameters: Mapping[str, str]

    @property
    def realm(self) -> str:
        """For Bearer the address of the server that gives tokens."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """What the token is for."""
        return self.parameters.get("service", "")

    @property
    def scopes(self) -> tuple[str, ...]:
        """What the token has to allow."""
        return tuple(self.parameters.get("scope", "").split())


def challenges(header: str) -> list[Challenge]:
    """The challenges of a header, in its order; what is malformed ends the reading."""
    text = header[:_LONGEST]
    found: list[tuple[str, dict[str, str]]] = []
    place = 0
    while True:
        place = _end(_BETWEEN, text, place)
        parameter = _PARAMETER.match(text, place)
        if parameter and found:
            name, value = parameter[1].lower(), parameter[2]
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            found[-1][1].setdefault(name, value)
            place = parameter.end()
            continue
        scheme = _SCHEME.match(text, place)
        if scheme is None:
            return [Challenge(*each) for each in found]
        found.append((scheme[0].lower(), {}))
        place = _end(_BETWEEN, text, scheme.end())
        blank = text[scheme.end() : place].isspace()  # no comma: what follows belongs to it
        if blank and (one := _TOKEN68.match(text, place)):
            place = one.end()


def _end(pattern: re.Pattern[str], text: str, place: int) -> int:
    found = pattern.match(text, place)
    return found.end() if found else place
