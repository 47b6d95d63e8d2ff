"""No word that people read decides anything: a program with other words finds the same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import other_words
import pytest
from documents import generate
from example_models import write_chat
from gguf_files import tiny_gguf

MODELFILE = """\
FROM ./chat
SYSTEM You are Mario.
PARAMETER temperature 0.7
LICENSE MIT
MESSAGE user hello
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The places of all words in the code, as a file."""
    sentences = generate().sentences.found()
    assert len(sentences.words) > 500
    path = tmp_path_factory.mktemp("words") / "words.json"
    path.write_text(json.dumps(sorted(sentences.words)))
    return path


def build(folder: Path, store: str, *program: str | Path) -> list[dict[str, Any]]:
    """Two variants of a checkpoint, and an imported model with a draft; the events of both."""
    environment = {**os.environ, "OLLAMA_MODELS": str(folder / store)}
    events = []
    for arguments in (
        ("-f", "Modelfile", "-t", "m", "-q", "Q4_0", "-q", "Q8_0"),
        ("-f", "Imported", "-t", "imported"),
    ):
        command = [sys.executable, *program, *arguments, "--progress", "json"]
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        events += [json.loads(line) for line in done.stdout.splitlines()]
    return events


def keys(folder: Path, store: str) -> list[list[str]]:
    """The keys of each build's steps, from the store's log."""
    log = folder / store / ".mbuild" / "history.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [[step["key"] for step in record["steps"]] for record in records]


def texts(events: list[dict[str, Any]]) -> set[str]:
    """What people would read of a build: its statuses and labels."""
    return {str(event[name]) for event in events for name in ("text", "label") if name in event}


def test_other_words_find_the_same_results(tmp_path: Path, words: Path) -> None:
    """With each word, label and status changed the same keys are found, and no step runs."""
    write_chat(tmp_path / "chat", LAYERS=1)
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text(MODELFILE)
    (tmp_path / "Imported").write_text("FROM ./tiny.gguf\nDRAFT ./tiny.gguf\n")
    other = other_words.__file__, words
    first = build(tmp_path, "store", "-m", "mbuild")
    again = build(tmp_path, "store", *other)
    assert [event["ran"] for event in again if event["event"] == "BuildFinished"] == [0, 0]
    fresh = build(tmp_path, "fresh", *other)
    assert keys(tmp_path, "fresh") == keys(tmp_path, "store")[:2] == keys(tmp_path, "store")[2:]
    said, changed = texts(first), texts(fresh)
    assert {"converting model", "using autodetected template chatml"} <= said
    # The kinds of layers are no words: they are what steps are called in the cache.
    assert said & changed <= {"system", "license", "messages"}
    assert {other_words.other(text) for text in ("converting model", "config")} <= changed
