"""A record on its way: its text, for which key it was made, a check of both, perhaps a signature.

The check finds what was damaged, cut, or copied to another name. It does not find a lie: whoever
may write to the storage can compute it. For that records are signed (``MBUILD_CACHE_KEY``) and
only signed ones count (``--cache-verify``).
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.core.keys import PublicKey, SigningKey

_FIELDS = ("kind", "key", "value", "check")
_PURPOSE = "mbuild shared record 1"
"""What is signed begins with it, so that the signature stands for nothing else."""


class Seal(NamedTuple):
    """Who signs what is written, and whose signatures count; both may be nobody."""

    signer: SigningKey | None = None
    trusted: tuple[PublicKey, ...] = ()

    def close(self, table: str, key: str, value: str) -> bytes:
        """A record's bytes."""
        text = _signed(table, key, value)
        record = {
            "kind": table,
            "key": key,
            "value": value,
            "check": sha256(text).hexdigest(),
        }
        if self.signer is not None:
            record["signature"] = self.signer.sign(text).hex()
        return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()

    def open(self, data: bytes, table: str, key: str) -> str | None:
        """The text of the record that was asked for; None for anything else that came.

        That is a damaged one, one of another key, and one that nobody trusted has signed.
        """
        try:
            record: Any = json.loads(data)
            kind, own, value, check = (record[field] for field in _FIELDS)
            signature = bytes.fromhex(record.get("signature", ""))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        if (kind, own) != (table, key) or not isinstance(value, str):
            return None
        text = _signed(table, key, value)
        if check != sha256(text).hexdigest():
            return None
        if self.trusted and not any(each.verifies(signature, text) for each in self.trusted):
            return None
        return value


UNSIGNED = Seal()
"""Nobody signs, and nobody has to."""


def _signed(table: str, key: str, value: str) -> bytes:
    """What a check and a signature are of: unambiguous, as no part holds a NUL unescaped."""
    return json.dumps([_PURPOSE, table, key, value], separators=(",", ":")).encode()
