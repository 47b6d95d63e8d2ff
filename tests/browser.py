"""Headless Chromium, driven through ChromeDriver's HTTP interface and the DevTools commands."""

from __future__ import annotations

import base64
import json
import re
import shutil
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from installed import packed

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": (" ", 32, " "),
    "ArrowDown": ("ArrowDown", 40, ""),
}
"""Keys by their codes: what they are called, their number, and the text that they write."""


class Browser:
    """One window. Sizes are in CSS pixels."""

    def __init__(self, address: str, session: str) -> None:
        self._at = f"{address}/session/{session}"

    def command(self, name: str, **parameters: Any) -> Any:
        """Send a DevTools command; its result."""
        return call(f"{self._at}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def open(self, url: str) -> None:
        """Load a page, and wait until it is there."""
        call(f"{self._at}/url", {"url": url})

    def look(self, width: int, height: int, *, dark: bool = False, media: str = "screen") -> None:
        """Show pages at this size, light or dark, as on a ``screen`` or in ``print``."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise.

        Runs whatever the page's own security policy says.
        """
        done = self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression: str, seconds: float = 15) -> Any:
        """The value of an expression once it is true, as JavaScript has it; True for an element."""
        end = time.monotonic() + seconds
        look = f"(found => found instanceof Node ? true : found)({expression})"
        while not (value := self.run(look)):
            assert time.monotonic() < end, f"{expression} is not true: {self.text()}"
            time.sleep(0.05)
        return value

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.run("document.body.innerText"))

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press keys one after the other: Tab, Enter, Space, ArrowDown."""
        for key in keys:
            name, code, text = KEYS[key]
            event = {"key": name, "code": key, "windowsVirtualKeyCode": code}
            event |= {"modifiers": 8} if shift else {}
            self.command("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
            self.command("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, text: str) -> None:
        """Type a text where the focus is."""
        self.command("Input.insertText", text=text)

    def choose(self, element: str, *paths: Path) -> None:
        """Choose files or a folder of this machine in an input, as its dialog would."""
        found = self.command("Runtime.evaluate", expression=element)["result"]
        files = [str(path) for path in paths]
        self.command("DOM.setFileInputFiles", objectId=found["objectId"], files=files)

    def screenshot(self, path: Path, *, height: int | None = None) -> None:
        """Write a PNG of the window, or of the page's first ``height`` pixels."""
        whole = {}
        if height is not None:
            width = self.run("document.documentElement.clientWidth")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            whole = {"clip": clip, "captureBeyondViewport": True}
        shot = self.command("Page.captureScreenshot", format="png", **whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed on A4."""
        self.command("Emulation.setEmulatedMedia", media="", features=[])
        done = self.command("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(done["data"])

    def requests(self) -> list[str]:
        """The addresses that were asked for since this was last called."""
        log = call(f"{self._at}/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in log]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


def axe_source() -> str:
    """The source of the accessibility checker axe-core; skips the test where there is no npm."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    return (packed("axe", "axe-core") / "axe.min.js").read_text(encoding="utf-8")


def call(url: str, body: Any, method: str = "POST") -> Any:
    """One WebDriver command; its value."""
    request = urllib.request.Request(url, json.dumps(body).encode(), method=method)
    request.add_header("Content-Type", "application/json")
    # Never through a proxy of the environment: this is a port of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)["value"]


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in ``folder``; skips the test where there is none."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium-driver)")
    driver = subprocess.Popen(
        [str(programs[1]), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        address = f"http://127.0.0.1:{_port(driver)}"
        options = {"binary": programs[0], "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL"},
        }
        made = call(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
        browser = Browser(address, made["sessionId"])
        try:
            yield browser
        finally:
            call(f"{address}/session/{made['sessionId']}", {}, "DELETE")
    finally:
        driver.terminate()
        driver.communicate(timeout=20)


def _port(driver: subprocess.Popen[str]) -> int:
    """The port that ChromeDriver says it listens on."""
    assert driver.stdout is not None
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = re.search(r"on port (\d+)\.", driver.stdout.readline())
        if found:
            return int(found[1])
    raise AssertionError("ChromeDriver does not start")


def same_picture(browser: Browser, path: Path, documented: Path) -> float:
    """How far two PNGs are apart: the mean difference of a channel, 0 to 255, when scaled down."""
    first, second = (base64.b64encode(each.read_bytes()).decode() for each in (path, documented))
    browser.open("about:blank")
    difference: float = browser.run(f"""
        (async () => {{
            const pixels = async data => {{
                const image = new Image();
                image.src = "data:image/png;base64," + data;
                await image.decode();
                const canvas = document.createElement("canvas");
                canvas.width = canvas.height = 48;
                const context = canvas.getContext("2d");
                context.drawImage(image, 0, 0, 48, 48);
                return context.getImageData(0, 0, 48, 48).data;
            }};
            const [a, b] = [await pixels("{first}"), await pixels("{second}")];
            return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;
        }})()
    """)
    return difference


def png_size(path: Path) -> tuple[int, int]:
    """How wide and how high a PNG is, in pixels."""
    wide, high = struct.unpack(">II", path.read_bytes()[16:24])
    return wide, high
