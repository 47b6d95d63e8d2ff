"""Words in quotes, and what other languages quote them with."""

from __future__ import annotations

OTHER_QUOTES = "'\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"
"""Signs that other languages quote words with."""

QUOTED_HINT = 'a word with a blank in it stands in double quotes: "two words"'
