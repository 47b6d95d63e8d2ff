"""The Hub's names, lists, caches and refusals, each by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import TOKEN, HubStandIn, hub_stand_in
from stand_in import Handler, stand_in

from mbuild.core.digest import Digest
from mbuild.core.errors import (
    AbsentError,
    DeniedError,
    ForbiddenHostError,
    RegistryError,
    UnreachableError,
    UsageError,
)
from mbuild.core.names import InvalidNameError
from mbuild.core.transfers import Transferred
from mbuild.registry.client.access import Access
from mbuild.registry.client.registry import Registry
from mbuild.registry.client.site import Site
from mbuild.registry.hub.cached import cache_folder, cached_commit, snapshot
from mbuild.registry.hub.hub import Hub, is_named
from mbuild.registry.hub.listing import (
    HubFile,
    Listing,
    git_oid,
    is_plain,
    read_listing,
    shards_of,
)
from mbuild.registry.hub.reference import HubReference, endpoint, is_offline, names_the_hub
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.pull import pull
from mbuild.store import Store
from mbuild.work.cancel import Cancel

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own, and nothing of the Hub's in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE",
                 "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN_PATH"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A Hub with one repository."""
    with hub_stand_in() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        found.put("org/m", {"config.json": b"{}", "model.safetensors": b"w" * 2000})
        yield found


def ask(access: Access = Access(), name: str = "org/m") -> Listing:  # noqa: B008
    client = Hub(HubReference(name), access, Cancel())
    try:
        return client.listing()
    finally:
        client.web.close()


# Names.


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf.co/org/m", "org/m", "main"),
        ("https://huggingface.co/Org/M-1.5_x", "Org/M-1.5_x", "main"),
        ("hf.co/org/m@v1.0", "org/m", "v1.0"),
        ("hf.co/org/m@refs/pr/3", "org/m", "refs/pr/3"),
        (f"hf.co/org/m@{COMMIT}", "org/m", COMMIT),
        ("https://huggingface.co/org/m/", "org/m", "main"),
        ("hf.co/org/m/tree/v1", "org/m", "v1"),
        ("https://huggingface.co/org/m/tree/refs%2Fpr%2F3", "org/m", "refs/pr/3"),
        (f"https://huggingface.co/org/m/commit/{COMMIT}", "org/m", COMMIT),
    ],
)
def test_a_repository_and_its_revision(text: str, repository: str, revision: str) -> None:
    """Either host, with or without a scheme, or a page's address; without a revision it is main."""
    found = HubReference.parse(text)
    assert found == HubReference(repository, revision)
    assert found.is_commit == (revision == COMMIT)
    assert HubReference.parse(str(found)) == found
    assert names_the_hub(text)


@pytest.mark.parametrize(
    "text",
    ["hf.co/m", "hf.co/a/b/c", "hf.co/a/b/blob/main/c.json", "hf.co/datasets/a/b",
     "hf.co/../m", "hf.co/a/b@", "hf.co/a/b@..", "hf.co/a/b@x y",
     "hf.co/a/--b", "hf.co/a/b:Q4_K_M", "ghcr.io/a/b", "hf.co/a/" + "b" * 200],
)  # fmt: skip
def test_what_is_no_repository(text: str) -> None:
    """Is refused before anybody is asked."""
    with pytest.raises(InvalidNameError):
        HubReference.parse(text)
    assert not names_the_hub("ghcr.io/hf.co/a")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror, or none; offline as huggingface_hub reads it."""
    assert endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hf/")
    assert endpoint() == "https://mirror.example/hf"
    monkeypatch.setenv("HF_ENDPOINT", "mirror")
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        endpoint()
    for value, expected in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert is_offline() is expected


# Lists of files.


def answer(**changes: Any) -> bytes:
    rows = [
        {"rfilename": "config.json", "size": 2, "blobId": "ab"},
        {"rfilename": "m.gguf", "size": 9, "blobId": "cd", "lfs": {"sha256": "0" * 64, "size": 9}},
    ]
    return json.dumps({"id": "org/m", "sha": COMMIT, "siblings": rows, **changes}).encode()


def test_a_list_of_files() -> None:
    """Sizes and digests by name; it is read back from what a record holds."""
    found = read_listing(answer(), "x")
    assert found.commit == COMMIT and found.repository == "org/m"
    assert found.files["m.gguf"] == HubFile("m.gguf", 9, "cd", Digest("0" * 64))
    assert found.files["config.json"].sha256 is None
    kept = found._replace(shards=("m.gguf",))
    assert Listing.decode(json.loads(json.dumps(kept.encode()))) == kept


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"null", b"{}", b"[" * 100_000, answer(sha="main"), answer(id=7),
        answer(siblings=[{"rfilename": "a"}]), answer(siblings=[{"rfilename": "a", "size": -1}]),
        answer(siblings=[{"rfilename": "a", "size": 1, "lfs": {"sha256": "x", "size": 1}}]),
        answer(siblings=[{"rfilename": "a", "size": 1, "lfs": "x"}]), answer(siblings=[7]),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_list(data: bytes) -> None:
    """One error that says what is wrong, whatever a mirror sends."""
    with pytest.raises(RegistryError, match="not a list of files"):
        read_listing(data, "hf.co/org/m")


def test_names_that_lead_elsewhere_are_left_out() -> None:
    """Nothing that mbuild reads is called so."""
    rows = [{"rfilename": name, "size": 1} for name in ("../a", "/a", "a/../b", "a\\b", "C:a", "a")]
    assert list(read_listing(answer(siblings=rows), "x").files) == ["a"]
    assert not is_plain(7) and not is_plain("a\nb") and is_plain("a/b.json")


def test_an_index_names_shards_that_are_there() -> None:
    """Of one that cannot be read none."""
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "gone.safetensors"}}).encode()
    assert shards_of(index, {"1.safetensors", "x"}) == ("1.safetensors",)
    assert shards_of(b"{", {"x"}) == () and shards_of(b'{"weight_map": {"a": []}}', {"x"}) == ()


def test_gits_name_of_a_content() -> None:
    """As ``git hash-object`` gives it."""
    assert git_oid(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


# The cache on this disk.


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As huggingface_hub looks for it."""
    assert cache_folder() == tmp_path / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/home")
    assert cache_folder() == Path("/home/hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    place = tmp_path / "models--org--m"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(COMMIT)
    (place / "refs/bad").write_text("x")
    (place / "snapshots" / COMMIT).mkdir(parents=True)
    assert cached_commit("org/m", "main") == COMMIT == cached_commit("org/m", COMMIT)
    assert cached_commit("org/m", "bad") is None is cached_commit("org/m", "other")
    assert snapshot("org/m", COMMIT) == place / "snapshots" / COMMIT
    assert snapshot("org/m", "1" * 40) is None


# Who may be asked, and is shown a token.


def test_a_token_is_for_whoever_named_the_hub(
    hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For requests over HTTP only where the operator did; the storage never sees it."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories["org/m"].private = True
    host = hub.url.partition("://")[2]
    assert ask().commit
    assert ask(Access.of_operator([f"http://{host}"])).commit
    with pytest.raises(ForbiddenHostError) as caught:
        ask(Access.of_operator([]))
    assert f"--registry {host}" in caught.value.hint
    shown = {headers.get("Authorization") for _, _, headers in hub.requests}
    assert shown == {f"Bearer {TOKEN}"}


def test_strangers_ask_the_hub_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub itself may be asked for anybody, with its operator's token only if he names it."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    anybody, named = Access.of_operator([]), Access.of_operator(["hf.co"])
    assert not is_named(anybody, "huggingface.co") and is_named(named, "huggingface.co")
    assert not is_named(named, "mirror.example") and is_named(Access(), "mirror.example")
    assert Hub(HubReference("a/b"), anybody, Cancel())._login is None


def test_refusals_are_told_apart(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the Hub's own codes."""
    with pytest.raises(AbsentError, match="no such repository, or it is private"):
        ask(name="org/none")
    client = Hub(HubReference("org/m", "v2"), Access(), Cancel())
    with pytest.raises(AbsentError, match="no revision 'v2'"):
        client.listing()
    listing = ask()
    client = Hub(HubReference("org/m"), Access(), Cancel())
    with pytest.raises(AbsentError, match="no such file"):
        client.small_file(listing, HubFile("none", 1, ""))
    with pytest.raises(RegistryError, match="different content"):
        client.small_file(listing, listing.files["config.json"]._replace(oid="0" * 40))
    assert client.small_file(listing, listing.files["config.json"]) == b"{}"
    hub.repositories["org/m"].gated = True
    with pytest.raises(DeniedError, match="is gated"):
        client.small_file(listing, listing.files["config.json"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnreachableError, match="HF_HUB_OFFLINE"):
        Hub(HubReference("org/m"), Access(), Cancel())


def test_the_hubs_own_limit_of_requests_is_kept(hub: HubStandIn) -> None:
    """It says in a header of its own how long to wait."""
    import time

    hub.busy = 1
    started = time.monotonic()
    assert ask().commit
    assert time.monotonic() - started >= 1.0


def test_a_site_tells_how_large_a_file_is(hub: HubStandIn) -> None:
    """Or that it is not there."""
    digits = next(iter(hub.lfs))
    site = Site(hub.storage, Access(), Cancel())
    assert site.size_of(f"{hub.storage}/get/{digits}?name=x") == 2000
    with pytest.raises(AbsentError):
        site.size_of(f"{hub.storage}/none.gguf")
    with pytest.raises(ForbiddenHostError):
        Site(hub.storage, Access.of_operator([]), Cancel())


# The Hub's registry, by a mirror.


def registry_of_hub(host: str, access: Access = Access()) -> Registry:  # noqa: B008
    return Registry(ModelReference.parse(host), access, Cancel())


def test_a_mirror_stands_for_the_hubs_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """``HF_ENDPOINT`` counts for GGUF, too, with its path; other registries are themselves."""
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hf/")
    found = registry_of_hub("hf.co/Org/m:Q8_0")
    assert found.url("manifests/Q8_0") == "https://mirror.example/hf/v2/Org/m/manifests/Q8_0"
    assert registry_of_hub("ghcr.io/org/m").host == "ghcr.io"
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")
    assert registry_of_hub("hf.co/Org/m").host == "hf.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    with pytest.raises(ForbiddenHostError, match=r"mirror\.example"):
        registry_of_hub("hf.co/Org/m", Access.of_operator(()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnreachableError, match="HF_HUB_OFFLINE forbids"):
        registry_of_hub("hf.co/Org/m")


def wants_token(handler: Handler) -> bool:
    """Refuse whoever does not show the Hub's token."""
    if handler.headers.get("authorization") == f"Bearer {TOKEN}":
        return False
    realm = f"http://{handler.headers['host']}/token"
    handler.answer(401, www_authenticate=f'Bearer realm="{realm}"')
    return True


def test_a_model_comes_from_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the Hub's name, with the Hub's token, which whoever named the mirror trusts it with."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    store = Store(tmp_path / "store")
    with stand_in() as (registry, host):
        registry.model("org/m:Q8_0", b"GGUF" + bytes(99))
        registry.before = wants_token
        monkeypatch.setenv("HF_ENDPOINT", f"http://{host}")
        reference = ModelReference.parse("hf.co/org/m:Q8_0")
        *_, last = pull(reference, reference.local, store, Access())
    assert isinstance(last, Transferred) and last.name == "hf.co/org/m:Q8_0"
