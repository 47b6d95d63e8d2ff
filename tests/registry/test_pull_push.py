"""Pull and push against Debian's docker-registry: open, with a password, with tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import PASSWORD, USER, TokenServer, docker_registry, serving_tokens, with_password
from stores import check_promise

from mbuild.core.errors import AbsentError, DamagedError, DeniedError, UsageError
from mbuild.core.names import ModelName
from mbuild.core.transfers import BlobDone, Transferred
from mbuild.registry.auth.keeping import keep
from mbuild.registry.auth.login import Login
from mbuild.registry.client.access import Access
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.mounting import remember
from mbuild.registry.transfer.pull import pull
from mbuild.registry.transfer.push import push
from mbuild.store import Store

TINY = ModelName.parse("tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without logins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An open registry for all tests of this module; each has repositories of its own."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def pushed(store: Store, reference: ModelReference, name: ModelName = TINY) -> Transferred:
    *_, last = push(name, reference, store, Access())
    assert isinstance(last, Transferred)
    return last


def pulled(store: Store, reference: ModelReference) -> Transferred:
    *_, last = pull(reference, reference.local, store, Access())
    assert isinstance(last, Transferred)
    return last


def test_a_model_comes_back_byte_for_byte(host: str, tiny_store: Store, tmp_path: Path) -> None:
    """With its id; the second time in either direction no blob moves."""
    reference, other = ModelReference.parse(f"{host}/a/tiny:v1"), Store(tmp_path / "other")
    first = pushed(tiny_store, reference)
    assert (
        first.moved
        == first.size
        == sum(b.size for b in tiny_store.manifests.read(TINY).manifest.blobs())
    )
    assert pushed(tiny_store, reference).moved == 0
    back = pulled(other, reference)
    assert (back.id, back.moved, back.replaced) == (first.id, first.size, None)
    assert pulled(other, reference).moved == 0
    assert other.manifests.read_bytes(reference.local) == tiny_store.manifests.read_bytes(TINY)
    assert check_promise(other.root) == 1
    assert not any((other.private / "partial").iterdir())


def test_a_digest_names_a_model(host: str, tiny_store: Store, tmp_path: Path) -> None:
    """Whatever its tag names since; a digest that is not there is an error."""
    tagged = ModelReference.parse(f"{host}/b/tiny:v1")
    identity = pushed(tiny_store, tagged).id
    exact = ModelReference.parse(f"{host}/b/tiny@{identity}")
    store = Store(tmp_path / "other")
    assert pulled(store, exact).id == identity
    assert store.manifests.read(exact.local).id == identity
    wrong = ModelReference.parse(f"{host}/b/tiny@sha256:{'0' * 64}")
    with pytest.raises(AbsentError, match="unknown"):
        pulled(store, wrong)


def test_a_pull_replaces_a_model_and_says_so(host: str, tiny_store: Store, tmp_path: Path) -> None:
    """With the id of the one before."""
    reference, store = ModelReference.parse(f"{host}/c/tiny:v1"), Store(tmp_path / "other")
    before = pushed(tiny_store, reference).id
    pulled(store, reference)
    data = tiny_store.manifests.read_bytes(TINY)
    assert data is not None
    tiny_store.replace(TINY, data.rstrip(b"\n"))  # as a registry has what Ollama pushed
    after = pushed(tiny_store, reference).id
    again = pulled(store, reference)
    assert (again.replaced, again.id) == (before, after) and before != after


def test_layers_of_a_base_are_mounted(host: str, tiny_store: Store) -> None:
    """A repository that they were inherited from lends them, before any other one."""
    base = ModelReference.parse(f"{host}/d/base:v1")
    pushed(tiny_store, base)
    stored = tiny_store.manifests.read(TINY).manifest
    layers = tuple(layer._replace(origin=str(base.local)) for layer in stored.layers)
    name = ModelName.parse("child")
    tiny_store.replace(name, stored._replace(layers=layers).encode())
    remember([layer.digest for layer in stored.blobs()], base._replace(path="d/gone"), tiny_store)
    last = pushed(tiny_store, ModelReference.parse(f"{host}/d/child:v1"), name)
    assert last.moved == stored.config.size


def test_blobs_are_mounted_from_where_they_were_pushed(
    host: str, tiny_store: Store, tmp_path: Path
) -> None:
    """Or pulled: models that share weights send them to a registry once."""
    first = ModelReference.parse(f"{host}/m/first:v1")
    assert pushed(tiny_store, first).moved
    assert pushed(tiny_store, ModelReference.parse(f"{host}/m/second:v1")).moved == 0
    other = Store(tmp_path / "other")
    pulled(other, first)
    assert pushed(other, ModelReference.parse(f"{host}/m/third:v1"), first.local).moved == 0


def test_what_cannot_be_mounted_any_more_is_sent(host: str, tiny_store: Store) -> None:
    """The registry lost it, or another repository was named: the push goes on all the same."""
    reference = ModelReference.parse(f"{host}/n/tiny:v1")
    stored = tiny_store.manifests.read(TINY).manifest
    remember(
        [layer.digest for layer in stored.blobs()], reference._replace(path="n/gone"), tiny_store
    )
    weights = max(stored.layers, key=lambda layer: layer.size)
    new = tiny_store.blobs.put(os.urandom(5000))
    remember([new.digest], reference._replace(path="n/gone"), tiny_store)
    layers = tuple(
        layer._replace(digest=new.digest, size=new.size) if layer is weights else layer
        for layer in stored.layers
    )
    name = ModelName.parse("changed")
    tiny_store.replace(name, stored._replace(layers=layers).encode())
    assert pushed(tiny_store, reference, name).moved >= new.size


def test_what_is_absent_is_said(host: str, tiny_store: Store) -> None:
    """A model here, a model there; nothing is left in the store."""
    before = {path for path in tiny_store.root.rglob("*") if path.is_file()}
    with pytest.raises(AbsentError, match=r"e/nothing:v1 cannot be pulled: manifest unknown"):
        pulled(tiny_store, ModelReference.parse(f"{host}/e/nothing:v1"))
    after = {path for path in tiny_store.root.rglob("*") if path.is_file()}
    assert {path.name for path in after - before} <= {
        *("cache.db", "cache.db-wal", "cache.db-shm", "lock")
    }
    weights = max(tiny_store.manifests.read(TINY).manifest.layers, key=lambda layer: layer.size)
    tiny_store.blobs.path(weights.digest).unlink()
    with pytest.raises(DamagedError, match="missing or damaged"):
        pushed(tiny_store, ModelReference.parse(f"{host}/e/tiny:v1"))


def test_a_large_blob_in_parts(host: str, tiny_store: Store, tmp_path: Path) -> None:
    """More than goes in one request, from several threads, and every digest is right."""
    weights = tiny_store.blobs.put(os.urandom((130 << 20) + 12345))
    stored = tiny_store.manifests.read(TINY).manifest
    first, *others = stored.layers
    layer = first._replace(digest=weights.digest, size=weights.size)
    name = ModelName.parse("large")
    tiny_store.replace(name, stored._replace(layers=(layer, *others)).encode())
    reference, store = ModelReference.parse(f"{host}/f/large:v1"), Store(tmp_path / "other")
    assert pushed(tiny_store, reference, name).moved == stored.config.size + weights.size
    assert pulled(store, reference).moved == stored.config.size + weights.size
    assert check_promise(store.root) == 1


def test_blobs_that_are_there_are_told_apart(host: str, tiny_store: Store, tmp_path: Path) -> None:
    """Each blob is told of once at its end, with what travelled for it."""
    reference, store = ModelReference.parse(f"{host}/g/tiny:v1"), Store(tmp_path / "other")
    pushed(tiny_store, reference)
    config = tiny_store.manifests.read(TINY).manifest.config
    store.blobs.put(tiny_store.blobs.read(config.digest, 1 << 20))
    done = [
        event
        for event in pull(reference, reference.local, store, Access())
        if isinstance(event, BlobDone)
    ]
    assert {event.digest: event.moved == 0 for event in done} == {
        layer.digest: layer.digest == config.digest
        for layer in tiny_store.manifests.read(TINY).manifest.blobs()
    }


def test_a_password(tmp_path: Path, tiny_store: Store) -> None:
    """Without it, with a wrong one, with the right one; a pull needs it, too."""
    with docker_registry(tmp_path / "registry", with_password(tmp_path / "login")) as host:
        reference = ModelReference.parse(f"{host}/a/tiny:v1")
        with pytest.raises(DeniedError) as caught:
            pushed(tiny_store, reference)
        assert caught.value.hint == f"mbuild login {host}"
        keep(host, Login(USER, "wrong"))
        with pytest.raises(DeniedError):
            pushed(tiny_store, reference)
        keep(host, Login(USER, PASSWORD))
        assert pushed(tiny_store, reference).moved
        assert pulled(Store(tmp_path / "other"), reference).moved
        # What asks over HTTP does not see logins of hosts that its operator did not name.
        stranger = Access(frozenset({host}), frozenset(), frozenset({host}))
        with pytest.raises(Exception, match="loopback address"):
            list(pull(reference, reference.local, Store(tmp_path / "third"), stranger))


@pytest.fixture
def tokens(tmp_path: Path) -> TokenServer:
    """A token server's keys."""
    return TokenServer(tmp_path / "tokens")


def test_tokens(tmp_path: Path, tiny_store: Store, tokens: TokenServer) -> None:
    """One for all of a push, one for all of a pull; mounts ask for the source, too."""
    with (
        serving_tokens(tokens) as realm,
        docker_registry(tmp_path / "registry", tokens.configuration(realm)) as host,
    ):
        reference = ModelReference.parse(f"{host}/a/tiny:v1")
        with pytest.raises(DeniedError):
            pushed(tiny_store, reference)
        keep(host, Login(USER, PASSWORD))
        tokens.asked.clear()
        assert pushed(tiny_store, reference).moved
        assert [dict(row["fields"])["scope"] for row in tokens.asked] == [
            "repository:a/tiny:pull,push"
        ]
        assert ("service", "test") in tokens.asked[0]["fields"]
        tokens.asked.clear()
        assert pulled(Store(tmp_path / "other"), reference).moved
        assert [dict(row["fields"])["scope"] for row in tokens.asked] == ["repository:a/tiny:pull"]
        stored = tiny_store.manifests.read(TINY).manifest
        layers = tuple(x._replace(origin=str(reference.local)) for x in stored.layers)
        name = ModelName.parse("child")
        tiny_store.replace(name, stored._replace(layers=layers).encode())
        child = ModelReference.parse(f"{host}/a/child:v1")
        assert pushed(tiny_store, child, name).moved == 0
        scopes = [value for row in tokens.asked for key, value in row["fields"] if key == "scope"]
        assert "repository:a/tiny:pull" in scopes
        tokens.closed.add("a/child")  # where all were last
        assert pushed(tiny_store, ModelReference.parse(f"{host}/a/late:v1"), TINY).moved


def test_an_anonymous_token(tmp_path: Path, tiny_store: Store, tokens: TokenServer) -> None:
    """Public models are pulled without a login, from registries that want a token all the same."""
    tokens.anonymous = True
    with (
        serving_tokens(tokens) as realm,
        docker_registry(tmp_path / "registry", tokens.configuration(realm)) as host,
    ):
        reference = ModelReference.parse(f"{host}/a/tiny:v1")
        keep(host, Login(USER, PASSWORD))
        pushed(tiny_store, reference)
        (tmp_path / ".docker" / "config.json").unlink()
        assert pulled(Store(tmp_path / "other"), reference).moved
        assert tokens.asked[-1]["login"] == ""


def test_a_refresh_token(tmp_path: Path, tiny_store: Store, tokens: TokenServer) -> None:
    """Goes in the OAuth2 form, and nowhere else."""
    tokens.oauth = True
    (tmp_path / ".docker").mkdir()
    with (
        serving_tokens(tokens) as realm,
        docker_registry(tmp_path / "registry", tokens.configuration(realm)) as host,
    ):
        file = tmp_path / ".docker" / "config.json"
        file.write_text(f'{{"auths": {{"{host}": {{"identitytoken": "REFRESH"}}}}}}')
        assert pushed(tiny_store, ModelReference.parse(f"{host}/a/tiny:v1")).moved
        assert {row["method"] for row in tokens.asked} == {"POST"}
        assert ("grant_type", "refresh_token") in tokens.asked[0]["fields"]


def test_a_registry_that_has_only_http_is_not_asked_so_unasked(
    host: str, tiny_store: Store
) -> None:
    """A server asks over http only those whose operator says so."""
    reference = ModelReference.parse(f"{host}/z/tiny:v1")
    access = Access(frozenset({host}), frozenset({host}))
    with pytest.raises(Exception, match="does not speak https") as caught:
        list(pull(reference, reference.local, tiny_store, access))
    assert f"mbuild serve --registry http://{host}" in getattr(caught.value, "hint", "")


def test_a_damaged_file_of_logins_stops_a_push(tmp_path: Path, tiny_store: Store) -> None:
    """It is named; nobody goes on as somebody else."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text("{")
    with (
        docker_registry(tmp_path / "registry", with_password(tmp_path / "login")) as host,
        pytest.raises(UsageError, match=r"config\.json"),
    ):
        pushed(tiny_store, ModelReference.parse(f"{host}/a/tiny:v1"))
