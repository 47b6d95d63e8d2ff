"""What is known about a model is asked for with few questions, and none of it is missed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from registries import digest_of
from stand_in import Handler, StandIn, stand_in

from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.core.transfers import DocumentsMoved
from mbuild.registry.client.access import Access
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.attached import fetch_documents
from mbuild.registry.transfer.pull import pull
from mbuild.registry.transfer.push import push
from mbuild.store import Store
from mbuild.store.attached import ENVELOPE, PROVENANCE, SBOM, attach

NAME = ModelName.parse("mine")


def asked(store: Store, registry: StandIn, host: str) -> list[str]:
    """What a pull asks for beside the model: the ends of the paths."""
    registry.requests.clear()
    list(pull(ModelReference.parse(f"{host}/a/m:v1"), NAME, store, Access()))
    identity = store.manifests.read(NAME).id
    paths = [path.removeprefix("/v2/a/m/").partition("?")[0] for _, path, _ in registry.requests]
    short = [p.replace(str(identity), "ID").replace(identity.filename, "ID") for p in paths]
    return [path for path in short if "ID" in path or path.startswith("tags")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return Store(tmp_path / "store")


LISTS: dict[str, Callable[[str], dict[str, Any] | Sequence[Any] | None]] = {
    "no list": lambda tag: None,
    "something else": lambda tag: ["tags"],
    "tags that are none": lambda tag: {"tags": [1, "v1"]},
    "by date, and more follows": lambda tag: {"tags": ["v1", "a"], "more": True},
    "the first page again": lambda tag: {"tags": ["a", "v1"], "more": True},
    "as many as were asked for": lambda tag: {"tags": [f"v{n}" for n in range(20)]},
    "a page that ends too soon": lambda tag: {"tags": [tag], "more": True},
}


def test_two_questions_where_there_is_nothing(store: Store) -> None:
    """The referrers, and the tags that begin with the model's digest; not each of those tags."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")
        assert asked(store, registry, host) == ["referrers/ID", "tags/list"]
        (path,) = {path for _, path, _ in registry.requests if "tags/list" in path}
        assert path.endswith(f"&last=sha256-{store.manifests.read(NAME).id.hex[:-1]}")


@pytest.mark.parametrize("ending", ["", ".sig", ".att"])
def test_a_tag_that_is_there_is_asked_for(store: Store, ending: str) -> None:
    """The list of referrers that a client keeps, and the two of cosign."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")
        tag = digest_of(registry.manifests["a/m:v1"]).replace(":", "-") + ending
        registry.put(f"a/m:{tag}", b'{"manifests":[],"layers":[]}')
        expected = ["referrers/ID", "tags/list", f"manifests/ID{ending}"]
        assert asked(store, registry, host) == expected


@pytest.mark.parametrize("what", LISTS)
def test_a_list_that_may_lack_one_is_not_believed(store: Store, what: str) -> None:
    """Then each tag is asked for, as if there were no list."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")
        tag = digest_of(registry.manifests["a/m:v1"]).replace(":", "-")

        def listed(handler: Handler) -> bool:
            if "/tags/list" not in handler.path:
                return False
            found = LISTS[what](tag)
            more = isinstance(found, dict) and found.get("more")
            link = {"link": '</v2/a/m/tags/list?n=1>; rel="next"'} if more else {}
            handler.answer(200 if found else 404, json.dumps(found).encode(), **link)
            return True

        registry.before = listed
        tags = ["manifests/ID", "manifests/ID.sig", "manifests/ID.att"]
        assert asked(store, registry, host) == ["referrers/ID", "tags/list", *tags]


def test_a_page_that_goes_on_behind_them_is_believed(store: Store) -> None:
    """Where a repository has very many tags."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")
        for number in range(30):
            registry.put(f"a/m:x{number}", registry.manifests["a/m:v1"])
        assert asked(store, registry, host) == ["referrers/ID", "tags/list"]


@pytest.mark.parametrize("host", ["registry.ollama.ai", "hf.co"])
def test_registries_that_take_no_documents_are_not_asked(store: Store, host: str) -> None:
    """Nor is anything but models there: not even a connection is needed."""
    reference = ModelReference.parse(f"{host}/a/m")
    registry: Any = None
    found = list[DocumentsMoved]()
    found += fetch_documents(registry, reference, Digest("0" * 64), store)  # type: ignore[arg-type]
    assert not found


@pytest.mark.parametrize("what", ["a blob", "a manifest", "what others signed"])
def test_a_document_that_is_refused_keeps_no_other_back(tiny_store: Store, what: str) -> None:
    """It is named, in plain words; the others arrive, and are counted."""
    name = ModelName.parse("tiny")
    identity = tiny_store.manifests.read(name).id
    bill = b'{"bomFormat": "CycloneDX"}'
    attach(tiny_store, identity, PROVENANCE, b'{"predicateType": "p"}')
    attach(tiny_store, identity, SBOM, bill)
    attach(tiny_store, identity, ENVELOPE, b'{"payload": "e30="}')
    tag = identity.filename

    def refuse(handler: Handler) -> bool:
        path = handler.path
        blob = handler.command == "PUT" and path.endswith(digest_of(bill))
        put = handler.command == "PUT" and "/manifests/sha256:" in path
        signed = handler.command == "GET" and path.endswith(f"/manifests/{tag}.att")
        if not {"a blob": blob, "a manifest": put, "what others signed": signed}[what]:
            return False
        handler.body()
        handler.answer(400, b'{"errors": [{"message": "not here"}]}')
        return True

    with stand_in() as (registry, host):
        registry.before = refuse
        found = push(name, ModelReference.parse(f"{host}/a/m:v1"), tiny_store, Access())
        (moved,) = (event for event in found if isinstance(event, DocumentsMoved))
        there = {key.partition(":")[2] for key in registry.manifests}
    number, words = {
        "a blob": (2, ["the bill of materials: "]),
        "a manifest": (1, ["the statement about how it was built: ", "the bill of materials: "]),
        "what others signed": (2, ["the signed statements: "]),
    }[what]
    assert moved.number == number
    assert [each in moved.problem for each in words] == [True] * len(words)
    assert moved.problem.count("not here") == len(words)
    assert ":@" not in moved.problem
    assert (f"{tag}.att" in there) == (what != "what others signed")
