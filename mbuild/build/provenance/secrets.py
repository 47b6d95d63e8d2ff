"""Which values of ``--build-arg`` a statement, which anybody may read, must not have.

Nobody can tell a secret for sure, so in doubt a value is withheld: then who builds again gives it.
"""

from __future__ import annotations

import re
from itertools import pairwise

from mbuild.core.patterns import regex

_NAMES = regex(
    r"(?:^|_)(?:api_?keys?|auth(?:entication|orization)?|bearer|cred\w*|cookie|key|keys|login|pass\w*|private|pwd|secrets?|"
    r"session|signature|tokens?)(?:_|$)",
    re.IGNORECASE,
)
"""Words in names that are given to secrets: ``HF_TOKEN``, ``API_KEY``."""

_VALUES = regex(
    r"(?:^|[^A-Za-z0-9])(?:hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|AIza|eyJ)"
    r"[A-Za-z0-9_\-]{8,}"
    r"|-----BEGIN |://[^/\s@]*@|[?&](?:sig|signature|token|key|x-amz-[a-z-]+|X-Amz-[A-Za-z-]+)="
)
"""What tokens of well-known services begin with, keys in PEM, logins and signatures in URLs."""

_RANDOM = regex(r"[A-Za-z0-9+/_\-]{20,}={0,2}")
_DIGEST = regex(r"(?:sha256|blake3)[:-][0-9a-f]{64}")
_PLACE = regex(r"(?:^|[\s=,])(?:/|~|[A-Za-z]:[\\/])|\.\.(?:/|$)|^file:")
"""Places of the machine: absolute paths, homes, and what leads out of the folder."""


def withheld(name: str, value: str) -> bool:
    """Whether a value may be a secret, or says where something lies on somebody's machine."""
    if _NAMES.search(name) or _VALUES.search(value) or _PLACE.search(value):
        return True
    return any(map(_looks_random, _RANDOM.findall(_DIGEST.sub("", value))))


def _looks_random(text: str) -> bool:
    """Whether letters and digits are mixed as nobody writes them: they alternate often."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in text if c.isalnum()]
    changes = sum(a != b for a, b in pairwise(kinds))
    return changes * 4 >= len(kinds)
