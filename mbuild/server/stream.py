"""A build's lines on the wire: how often they come, how each is written, who still reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive

PROGRESS_SECONDS = 0.1
"""Progress lines come no faster than this."""

PATIENCE_SECONDS = 0.5
"""Nobody needs to see the progress of a build that is over by then."""

HEARTBEAT_SECONDS = 20.0
"""After this long without a line the last one is repeated: a client's proxy must not give up."""

Line = Mapping[str, Any]

_written = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def encode(line: Line) -> bytes:
    """One line of the stream, with its end."""
    return _written(line).encode() + b"\n"


async def disconnected(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
