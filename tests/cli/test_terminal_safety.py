"""Texts that come from anywhere do nothing to a terminal: controls are shown, not sent."""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from pathlib import Path

import pytest
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.cli.common import harmless, write_json, write_text

EVIL = "a\x1b]0;title\x07b\x1b[31m\x9bc\x85d\u202ee\u2066f\u061cg\u200eh\x7fi\x08j\u2028k"
"""A title is set, colors, a C1 control, next line, bidi override, isolate and marks, DEL."""

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
LAYER = "application/vnd.ollama.image."


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose model ``evil`` has controls in every text that Ollama's format has."""
    mbuild = in_process(tmp_path, monkeypatch)
    tiny_gguf(tmp_path / "model.gguf", metadata={"general.name": EVIL, "evil.list": [EVIL]})
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    assert mbuild("-t", "good").returncode == 0
    blobs, models = tmp_path / "store/blobs", tmp_path / "store/manifests/registry.ollama.ai"

    def blob(data: bytes, media_type: str, **more: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / f"sha256-{digest}").write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    manifest = json.loads((models / "library/good/latest").read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"].replace(":", "-")).read_bytes())
    for key in ("model_family", "model_type", "file_type", "renderer", "parser", "requires"):
        config[key] = EVIL
    manifest["config"] = blob(json.dumps(config).encode(), manifest["config"]["mediaType"])
    manifest["layers"][0]["from"] = EVIL
    for kind in ("template", "system", "license"):
        manifest["layers"].append(blob(EVIL.encode() + kind.encode(), LAYER + kind))
    params = json.dumps({"stop": [EVIL], EVIL: 1}).encode()
    messages = json.dumps([{"role": EVIL, "content": EVIL}]).encode()
    manifest["layers"] += [
        blob(params, f"{LAYER}params"),
        blob(messages, f"{LAYER}messages"),
        blob(b"{}", LAYER + EVIL),
    ]
    (models / "library/evil").mkdir()
    (models / "library/evil/latest").write_text(json.dumps(manifest))
    tiny_gguf(tmp_path / f"{EVIL}.gguf", metadata={"general.name": EVIL})
    (tmp_path / "Modelfile.evil").write_text(
        f'FROM ./{EVIL}.gguf\nFROM good\nSYSTEM """{EVIL}"""\n'
        f"PARAMETER {EVIL} 1\nMESSAGE {EVIL} x\n"
    )
    (tmp_path / "Modelfile.built").write_text(f'FROM evil\nSYSTEM """{EVIL}"""\nLICENSE {EVIL}\n')
    return tmp_path


COMMANDS = [
    "show evil",
    "show evil --format json",
    *(f"show evil --{part}" for part in ("template", "system", "license", "parameters")),
    "show evil --modelfile",
    "show evil --tensors --metadata",
    "show evil --metadata --format json",
    *("list", "list --json", "du", "verify", "prune --dry-run", "history"),
    *("diff good evil", "diff good evil --format json"),
    *("check Modelfile.evil", "check --format json Modelfile.evil", "check Modelfile.built"),
    *("fmt Modelfile.built", "fmt --check Modelfile.built", "fmt Modelfile.evil"),
    *("-f Modelfile.evil -t x", "-f Modelfile.built -t y", "explain -f Modelfile.built -t y"),
    *("-f Modelfile.built -t y --dry-run", "graph -f Modelfile.built -t y"),
    *("cp evil other", "export evil -o out.gguf", "export evil -o out.tar", "history y"),
    *("rebuild evil", "rm evil"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_sends_controls_to_a_terminal(
    command: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what it prints nor what it says is wrong has a character that a terminal obeys."""
    monkeypatch.setattr(io, "StringIO", Terminal)
    mbuild = in_process(project, monkeypatch)
    if command.startswith("history "):
        mbuild("-f", "Modelfile.built", "-t", "y")
    done = mbuild(*command.split())
    assert done.stdout or done.stderr
    assert "Traceback" not in done.stderr
    assert "No such" not in done.stderr, done.stderr
    # A build moves the cursor itself, to the start of a row and over what it covers.
    own = re.compile("\r|\x1b\\[K")
    assert not UNSAFE.findall(own.sub("", done.stdout + done.stderr))


def test_texts_are_shown_escaped(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a control is shown as Python writes it; nothing is left out."""
    monkeypatch.setattr(io, "StringIO", Terminal)
    mbuild = in_process(project, monkeypatch)
    assert mbuild("show", "evil", "--system").stdout == f"{harmless(EVIL)}system\n"
    shown = mbuild("show", "evil").stdout
    assert r"\x1b]0;title\x07b" in shown


def test_a_program_gets_texts_as_they_are(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a pipe the options for one text give its very characters, and the overview does not."""
    mbuild = in_process(project, monkeypatch)
    for part in ("template", "system", "license"):
        assert mbuild("show", "evil", f"--{part}").stdout == f"{EVIL}{part}\n"
    assert EVIL in mbuild("show", "evil", "--modelfile").stdout
    assert not UNSAFE.findall(mbuild("show", "evil").stdout)


def test_json_means_the_same(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is escaped in JSON is read back as it was, everywhere."""
    found = json.loads(in_process(project, monkeypatch)("show", "evil", "--format", "json").stdout)
    assert found["system"] == f"{EVIL}system"
    assert found["parameters"]["stop"] == [EVIL]


def test_no_other_character_is_touched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Joiners, wide and no-break spaces are part of texts; JSON keeps the meaning of all."""
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    write_json({"x": every})
    out = capsys.readouterr().out
    assert json.loads(out) == {"x": every}
    assert not UNSAFE.search(out)
    assert "\u200d\u3000\xa0" in harmless("\u200d\u3000\xa0")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write_text(f"a\r\nb\tc\n{every}")
    shown = capsys.readouterr().out
    assert shown.startswith("a\nb\tc\n") and not UNSAFE.search(shown)
    kept = [char for char in every if char not in "\t\n" and not UNSAFE.match(char)]
    assert "".join(re.findall(r"[^\x00-\x7f]", shown)) == "".join(c for c in kept if c > "\x7f")
