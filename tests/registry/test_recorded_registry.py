"""Distribution 3 as it was probed: the tests' stand-in and ``mbuild serve`` answer like it.

No package has this registry, so ``data/registry/distribution3.json`` has what the main branch
of August 2026 said to each probe: the status, and the headers by which a client goes on. The
requests are sent anew, in their order, with a blob of our own.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from live_server import serving_here
from registries import digest_of
from stand_in import StandIn, stand_in

from mbuild.store.manifest import CONFIG_TYPE, MANIFEST_TYPE
from mbuild.store.media import MODEL

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "registry" / "distribution3.json").read_text()
)
CONTENT = bytes(range(256)) * 4096
SAID = ("Range", "Content-Range", "Content-Length")

DIFFERENCES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "mbuild serve": {
        "Content-Range written as bytes a-b/n": (202, "is understood, as 2.8 does"),
        "status after bytes a-b/n": (204, "so this part counts"),
        "two ranges": (206, "both are sent, as 2.8 does"),
        "status after the wrong digest": (404, "what is wrong is not kept"),
    },
    "the stand-in": {"status after the wrong digest": (404, "what is wrong is not kept")},
}
"""Where another status comes, which no client that goes on by these answers minds."""

UPLOADS = {row["what"] for row in RECORDED if "upload" in row or "begins" in row}
"""What the stand-in is asked: of blobs it knows closed ranges alone."""


class Probe:
    """Sends the recorded requests and follows the places that the answers name."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self.url = url
        self.places: dict[int, list[str]] = {}

    def answer(self, row: Mapping[str, Any]) -> httpx.Response:
        """What the registry says to one."""
        digest = digest_of(CONTENT)
        headers = {k: v.format(digest=digest) for k, v in row.get("headers", {}).items()}
        if "upload" in row:
            place = self.places[row["upload"]][0 if row.get("older") else -1]
        else:
            place = f"/v2/{row['path'].format(digest=digest)}"
        at = self.sent(row["upload"]) if row.get("sent") else 0
        content = CONTENT[at : at + row.get("sent", 0)] or None
        named = {"right": digest, "wrong": digest_of(b"other")}.get(row.get("digest", ""))
        if named:
            place += f"{'&' if '?' in place else '?'}digest={named}"
        found = self.http.request(row["method"], place, headers=headers, content=content)
        number = row.get("begins", row.get("upload"))
        if found.status_code in (202, 204) and "location" in found.headers:
            self.places.setdefault(number, []).append(urljoin(self.url, found.headers["location"]))
        return found

    def sent(self, number: int) -> int:
        """How far an upload is: its status tells."""
        said = self.http.get(self.places[number][-1]).headers["range"]
        return int(said.partition("-")[2]) + 1 if said != "0-0" else 0

    def cut(self, number: int, start: int, size: int, sent: int) -> None:
        """A part whose connection ends before its last bytes."""
        place = urlsplit(self.places[number][-1])
        head = f"PATCH {place.path}?{place.query} HTTP/1.1\r\nHost: {place.netloc}\r\n"
        head += f"Content-Range: {start}-{start + size - 1}\r\nContent-Length: {size}\r\n\r\n"
        assert place.hostname and place.port
        with socket.create_connection((place.hostname, place.port)) as sock:
            sock.sendall(head.encode() + CONTENT[start : start + sent])
        until = time.monotonic() + 10
        while self.sent(number) < start + sent and time.monotonic() < until:
            time.sleep(0.01)

    def name(self) -> None:
        """A model of the blob, for ``mbuild serve`` hands out what some model needs."""
        config = b"{}"
        begun = self.http.post("/v2/probe/x/blobs/uploads/").headers["location"]
        self.http.put(begun, params={"digest": digest_of(config)}, content=config)
        about = {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)}
        layer = {"mediaType": MODEL, "digest": digest_of(CONTENT), "size": len(CONTENT)}
        value = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": about, "layers": [layer]}
        place, kind = "/v2/probe/x/manifests/v1", {"Content-Type": MANIFEST_TYPE}
        found = self.http.put(place, content=json.dumps(value), headers=kind)
        assert found.status_code == 201, found.text


@pytest.fixture(params=sorted(DIFFERENCES))
def probe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Probe]:
    """Each of the two."""
    with ExitStack() as stack:
        if request.param == "the stand-in":
            _, host = stack.enter_context(stand_in(StandIn()))
            found = Probe(f"http://{host}")
        else:
            served = stack.enter_context(serving_here(tmp_path / "store", writable=True))
            found = Probe(served.url)
        stack.enter_context(found.http)
        yield found


def test_the_probes_of_distribution_3(probe: Probe, request: pytest.FixtureRequest) -> None:
    """Every probe is answered as it was recorded, or as DIFFERENCES says."""
    which = request.node.callspec.params["probe"]
    differences, wrong = DIFFERENCES[which], []
    for row in RECORDED:
        what = row["what"]
        if "method" not in row:
            probe.cut(1, 300_000, 200_000, 100_000)
            continue
        if which == "the stand-in" and what not in UPLOADS:
            continue
        if what == "range":
            probe.name()
        found = probe.answer(row)
        status, _ = differences.get(what, (row["status"], ""))
        said = {name: found.headers.get(name) for name in SAID if name in row}
        if found.status_code != status:
            wrong.append(f"{what}: {found.status_code} {found.text[:100]}")
        elif what not in differences and said != {name: row[name] for name in said}:
            wrong.append(f"{what}: {said}")
        elif which == "mbuild serve" and "code" in row and what not in differences:
            code = found.json()["errors"][0]["code"]
            if code != row["code"]:
                wrong.append(f"{what}: {code}")
    assert not wrong, "\n".join(wrong)
