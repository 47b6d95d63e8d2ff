"""Images in the forms that the engine reads: of those that Ollama takes it has no WebP."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from mbuild.core.errors import UsageError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.runtime.asked import Ask

MAX_PIXELS = 64_000_000
"""Of the largest image that is decoded: 256 MB of memory."""


def is_webp(image: bytes) -> bool:
    """Whether a file's bytes begin as WebP does (https://developers.google.com/speed/webp)."""
    return image[:4] == b"RIFF" and image[8:12] == b"WEBP"


def readable(ask: Ask) -> Ask:
    """The request with PNG for WebP. Raises :class:`UsageError` for what is no such image."""
    if not any(map(is_webp, ask.images)):
        return ask
    turns = (
        replace(
            turn, images=tuple(png_of(image) if is_webp(image) else image for image in turn.images)
        )
        for turn in ask.turns
    )
    return replace(ask, turns=tuple(turns))


def png_of(image: bytes) -> bytes:
    """A WebP image as PNG; of several frames the first."""
    try:
        from PIL import Image
    except ImportError:
        raise UsageError(
            "there is nothing here that decodes WebP images",
            hint="give a PNG or a JPEG, or install the extra again: it brings pillow",
        ) from None
    made = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image), formats=["WEBP"]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise UsageError(
                    f"an image has {opened.width} x {opened.height} pixels; at most"
                    f" {MAX_PIXELS:,} are taken",
                    hint="make it smaller",
                )
            opened.convert("RGB").save(made, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UsageError("an image begins like WebP, but it is damaged or something else") from None
    return made.getvalue()
