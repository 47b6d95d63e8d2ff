"""The kinds of cached record: all in one table, each read back as it was written."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from mbuild.core.digest import BLAKE3, Digest
from mbuild.store import records
from mbuild.store.database import Database
from mbuild.store.records import RECORDS, RangePlace, RecordKind, Took

PACKAGE = Path(__file__).parents[2] / "mbuild"

SAMPLES: dict[str, Any] = {
    "step": '{"facts":{},"layers":[]}',
    "description": {"kind": "import", "fields": {"source": "sha256:0"}, "version": 1},
    "range": RangePlace("blobs/sha256-0", 1 << 40, 3, Digest("ab" * 32, BLAKE3)),
    "source-ranges": {"0 token_embd.weight": Digest("ab" * 32, BLAKE3)},
    "source-range": Digest("cd" * 32, BLAKE3),
    "recipe": [{"models": ["x"]}, ["a warning"]],
    "chat-template": ["chatml", "{{ .Prompt }}", ["<|im_end|>"]],
    "gguf-kind": "projector",
    "shard": [1, 3],
    "measure": {"perplexity": 7.5},
    "imatrix": {"digest": "sha256:00", "chunks": 2},
    "type-error": [0.25, 1e300],
    "part-read": {"parts": 2, "spans": {}, "files": {}, "ranges": {}},
    "took": Took(12.5, 16),
    "rates": [[1 << 30, 12.5], [7, 0.25]],
    "modelfile": bytes(range(256)),
    "posted": '{"models": [["./é", null]]}',
    "text": '{"a": "é"}\n',
    "manifest": b'{"schemaVersion":2}\n',
    "alias": Digest("0" * 64, BLAKE3),
    "made": True,
    "content": True,
    "hub-commit": "0123456789" * 4,
    "hub-listing": {"repository": "org/chat", "commit": "0" * 40, "files": [], "shards": []},
    "git-content": Digest("0" * 64),
    "model-card": Digest("1" * 64),
    "remote-model": Digest("2" * 64),
    "adopted": Digest("3" * 64),
    "remote-size": 1 << 40,
    "repository": "org/chat",
}

every_kind = pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.name)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty cache."""
    return Database(tmp_path / "cache.db")


def test_every_kind_is_in_the_table_and_has_a_name_of_its_own() -> None:
    """What the module defines is what its table lists; no two kinds share a table."""
    defined = [value for value in vars(records).values() if isinstance(value, RecordKind)]
    assert set(map(id, defined)) == set(map(id, RECORDS))
    assert len({kind.table for kind in RECORDS}) == len(RECORDS)
    assert SAMPLES.keys() == {kind.name for kind in RECORDS}


def test_no_other_module_makes_a_kind_or_names_one_by_a_text() -> None:
    """Every look-up in the cache names a row of the table."""
    calls = ("get", "get_many", "put", "forget", "find")
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            if isinstance(function, ast.Name) and function.id == "RecordKind":
                wrong += [path.name] if path.name != "records.py" else []
            if isinstance(function, ast.Attribute) and function.attr in calls:
                owner = ast.unparse(function.value)
                if owner.endswith(("database", "cache")) and isinstance(node.args[0], ast.Constant):
                    wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong


@every_kind
def test_a_value_is_read_back_as_it_was_recorded(kind: RecordKind[Any], database: Database) -> None:
    """Before it is written, after, and by another process's connection."""
    value = SAMPLES[kind.name]
    database.put(kind, "key", value)
    assert database.get(kind, "key") == value
    database.flush()
    assert database.get(kind, "key") == value
    again = Database(database._path)
    assert again.get_many(kind, ["other", "key"]) == {"key": value}
    assert again.find(kind, "ke") == {"key": value}
    again.forget(kind, "key")
    again.flush()
    assert database.get(kind, "key") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '{"a": 1}', "[1, 2]"])
@every_kind
def test_a_value_of_another_form_counts_as_missing(kind: RecordKind[Any], text: str) -> None:
    """Whatever stands in a record, reading it gives a value of the kind's form or nothing."""
    found = kind.read(text)
    assert found is None or isinstance(found, type(SAMPLES[kind.name]))


def test_a_second_version_is_filed_under_another_name() -> None:
    """Records of an old format are not found any more, and so are never misread."""
    assert records.TEXT.table == "text"
    assert records.TEXT._replace(version=2).table == "text.2"


def test_many_keys_are_asked_for_in_few_queries(database: Database) -> None:
    """More keys than SQLite takes values at once, some of them not yet written."""
    keys = [f"{number:04}" for number in range(2500)]
    for key in keys[:2000]:
        database.put(records.TEXT, key, key)
    database.flush()
    for key in keys[2000:2400]:
        database.put(records.TEXT, key, key)
    assert database.get_many(records.TEXT, keys) == {key: key for key in keys[:2400]}
    assert database.get_many(records.TEXT, []) == {}


def test_what_people_wrote_or_one_store_has_is_not_shared() -> None:
    """A shared cache holds results, never a Modelfile's text, a model's name or a path's.

    Nor what a branch or a tag was when somebody asked, and what a private repository holds.
    """
    private = {kind.name for kind in RECORDS if not kind.shared}
    written = {"modelfile", "posted", "text", "manifest", "made", "content"}
    asked = {"hub-commit", "hub-listing", "remote-model", "adopted", "repository"}
    assert private == written | asked | {"rates"}
