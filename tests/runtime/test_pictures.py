"""Images that the engine reads, and WebP that becomes one of them."""

from __future__ import annotations

import io

import pytest

from mbuild.core.errors import UsageError
from mbuild.runtime import pictures
from mbuild.runtime.asked import Ask, ChatTurn
from mbuild.runtime.pictures import png_of, readable

Image = pytest.importorskip("PIL.Image")


def _webp(size: tuple[int, int] = (3, 2)) -> bytes:
    made = io.BytesIO()
    Image.new("RGBA", size, (255, 0, 0, 128)).save(made, "WEBP", lossless=True)
    return made.getvalue()


def test_webp_becomes_png() -> None:
    """Of the same size and colors, without transparency; other images stay as they are."""
    ask = Ask((ChatTurn("user", "a", images=(b"\x89PNG x", _webp())), ChatTurn("user", "b")))
    found = readable(ask)
    assert found.turns[1] == ask.turns[1] and found.images[0] == b"\x89PNG x"
    with Image.open(io.BytesIO(found.images[1])) as png:
        assert (png.format, png.size, png.getpixel((0, 0))) == ("PNG", (3, 2), (255, 0, 0))
    plain = Ask((ChatTurn("user", "a", images=(b"\xff\xd8",)),))
    assert readable(plain) is plain


def test_what_is_no_webp_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged, cut short, or larger than memory is given for."""
    for data in (b"RIFF\0\0\0\0WEBPVP8 ", _webp()[:24]):
        with pytest.raises(UsageError, match="begins like WebP"):
            png_of(data)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 5)
    with pytest.raises(UsageError, match="3 x 2 pixels"):
        png_of(_webp())
