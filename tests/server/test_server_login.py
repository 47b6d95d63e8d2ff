"""Logins of ``/v2/``: tokens for a password, for a form, for a signature; addresses of blobs."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from conftest import Run
from inprocess import in_process
from live_server import Server, serving_here
from programs import need
from stores import check_promise, copy_tiny_store
from test_server_ollama import key_in

from mbuild.core.errors import UsageError
from mbuild.core.names import ModelName
from mbuild.registry.auth.challenge import challenges
from mbuild.registry.auth.ollama_key import signed
from mbuild.server import gate, tokens
from mbuild.server.errors import UnauthorizedError
from mbuild.server.security import AccessPolicy, keys_of
from mbuild.server.tokens import RegistryTokens, read_keys
from mbuild.store import Store

TOKEN = "s3cret"
TINY = ModelName.parse("tiny")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A client's key, which the server knows."""
    return key_in(tmp_path)


@pytest.fixture
def server(tmp_path: Path, key: Path) -> Iterator[Server]:
    """A server with ``tiny``, a token, and one key of Ollama."""
    root = copy_tiny_store(tmp_path / "there")
    keys = read_keys(key.with_suffix(".pub"))
    with serving_here(root, policy=AccessPolicy(token=TOKEN), keys=keys, writable=True) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, at home in an empty folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return in_process(tmp_path, monkeypatch)


def token_for(server: Server, *scopes: str) -> str:
    answer = server.http.get("/v2/token", params={"scope": list(scopes)}, auth=("me", TOKEN))
    assert answer.status_code == 200
    return str(answer.json()["token"])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_the_challenge_names_our_own_place(server: Server) -> None:
    """The host as the client called it, https where a proxy says so, and what is needed."""
    path = "/v2/library/tiny/manifests/latest"
    for host, forwarded, realm in (
        (f"127.0.0.1:{server.port}", "", f"http://127.0.0.1:{server.port}/v2/token"),
        ("models.internal", "https", "https://models.internal/v2/token"),
    ):
        headers = {"Host": host, **({"X-Forwarded-Proto": forwarded} if forwarded else {})}
        answer = server.http.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
        (asked,) = challenges(answer.headers["www-authenticate"])
        assert (asked.scheme, asked.realm, asked.service) == ("bearer", realm, host)
        assert asked.scopes == ("repository:library/tiny:pull",)
    odd = server.http.get(path, headers={"Host": 'localhost:1",realm="evil'})
    assert [x.realm for x in challenges(odd.headers["www-authenticate"])] == [
        "http://localhost:1realmevil/v2/token"
    ]
    pushing = server.http.post("/v2/a/b/blobs/uploads/").headers["www-authenticate"]
    assert 'scope="repository:a/b:pull,push"' in pushing
    assert "scope" not in server.http.get("/v2/").headers["www-authenticate"]


def test_a_token_is_for_what_was_asked(server: Server) -> None:
    """One repository, one action, some minutes; a changed one is none."""
    token = token_for(server, "repository:library/tiny:pull")
    path = "/v2/library/tiny/manifests/latest"
    assert server.http.get(path, headers=bearer(token)).status_code == 200
    assert server.http.get("/v2/", headers=bearer(token)).status_code == 200
    assert server.http.get("/v2/library/other/tags/list", headers=bearer(token)).status_code == 401
    assert (
        server.http.post("/v2/library/tiny/blobs/uploads/", headers=bearer(token)).status_code
        == 401
    )
    assert server.http.get("/api/tags", headers=bearer(token)).status_code == 401
    claims, _, seal = token.partition(".")
    more = json.dumps({"access": ["repository:a/b:push"], "exp": time.time() + 99}).encode()
    forged = base64.urlsafe_b64encode(more).decode().rstrip("=")
    for wrong in (f"{forged}.{seal}", claims, f"{claims}.", f"{claims}.{'A' * 43}", "x.y", "x"):
        assert server.http.get(path, headers=bearer(wrong)).status_code == 401, wrong


def test_tokens_and_addresses_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one server's are nothing to another."""
    ours, now = RegistryTokens(), time.time()
    token = ours.give(["repository:a:pull,push", "registry:catalog:*"])["token"]
    place = ours.signed("/v2/a/blobs/x")
    query = dict(parse_qsl(urlsplit(place).query))
    given = (query["expires"], query["signature"])
    assert ours.allows(token, "repository:a:push") and ours.allows(token, "")
    assert not ours.allows(token, "repository:ab:pull")
    assert not RegistryTokens().allows(token, "")
    assert ours.is_signed("/v2/a/blobs/x", *given)
    assert not RegistryTokens().is_signed("/v2/a/blobs/x", *given)
    assert not ours.is_signed("/v2/b/blobs/x", *given)
    assert not ours.is_signed("/v2/a/blobs/x", str(int(given[0]) + 1), given[1])
    for bad in ("", "-1", "x", "9" * 30, "١"):
        assert not ours.is_signed("/v2/a/blobs/x", bad, given[1])
    assert not ours.is_signed("/v2/a/blobs/x", given[0], "ä")
    monkeypatch.setattr(tokens.time, "time", lambda: now + tokens.TOKEN_SECONDS + 1)
    assert not ours.allows(token, "") and ours.is_signed("/v2/a/blobs/x", *given)
    monkeypatch.setattr(tokens.time, "time", lambda: now + tokens.ADDRESS_SECONDS + 1)
    assert not ours.is_signed("/v2/a/blobs/x", *given)


def test_who_gets_a_token(server: Server) -> None:
    """The password as Basic or in the form, the token itself; a wrong one is told how to log in."""
    good = [
        server.http.get("/v2/token", auth=("anybody", TOKEN)),
        server.http.get("/v2/token", headers=bearer(TOKEN)),
        server.http.post(
            "/v2/token",
            data={"grant_type": "password", "username": "me", "password": TOKEN, "scope": "a:b:c"},
        ),
    ]
    for answer in good:
        value = answer.json()
        assert value["token"] == value["access_token"] and value["expires_in"] == 300
        assert answer.headers["cache-control"] == "no-store"
        assert server.http.get("/v2/", headers=bearer(value["token"])).status_code == 200
    bad = [
        server.http.get("/v2/token"),
        server.http.get("/v2/token", auth=("me", "wrong")),
        server.http.get("/v2/token", headers=bearer(good[0].json()["token"])),
        server.http.post("/v2/token", data={"password": "wrong"}),
        server.http.post("/v2/token", content=b"\xff"),
        server.http.get("/v2/token", headers={"Authorization": "AAAAx:y"}),
        server.http.get("/v2/token", headers={"Authorization": "AAAA"}),
    ]
    for answer in bad:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="mbuild"'
        assert TOKEN not in answer.text


def test_a_signature_counts_once_and_for_its_request(server: Server, key: Path) -> None:
    """Not again, not for another scope, not of another time, not by another key."""
    realm, scopes = f"{server.url}/v2/token", ["repository:library/tiny:pull"]

    def asked(url: str, header: str) -> httpx.Response:
        return server.http.get(url, headers={"Authorization": header})

    url, header = signed(key, realm, "here", scopes)
    token = asked(url, header).json()["token"]
    path = "/v2/library/tiny/manifests/latest"
    assert server.http.get(path, headers=bearer(token)).status_code == 200
    assert asked(url, header).status_code == 401
    url, header = signed(key, realm, "here", scopes)
    assert asked(url.replace("pull", "push"), header).status_code == 401
    for seconds in (-400, 400):
        late = asked(*signed(key, realm, "here", scopes, now=int(time.time()) + seconds))
        assert late.status_code == 401 and "clock" in late.text
    other = asked(*signed(key_in(key.parent), realm, "here", scopes))
    assert other.status_code == 401 and "does not have this client's key" in other.text


def test_no_more_signatures_are_remembered_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many come at once the next is refused, until the oldest do not matter."""
    ours, now = RegistryTokens(), time.time()
    monkeypatch.setattr(tokens, "_SEEN", 2)
    ours._once("a", now)
    ours._once("b", now)
    with pytest.raises(UnauthorizedError):
        ours._once("c", now)
    ours._once("c", now + 2 * tokens.CLOCK_SECONDS + 1)


def test_a_blob_has_an_address_that_needs_no_login(server: Server) -> None:
    """Which the answer to a login names; it is for that blob and for reading."""
    layer = server.store.manifests.read(TINY).manifest.layers[0]
    path = f"/v2/library/tiny/blobs/{layer.digest}"
    place = server.http.get(path, auth=("me", TOKEN)).headers["location"]
    assert place.startswith(f"{path}?expires=")
    ranged = server.http.get(place, headers={"Range": "bytes=0-9"})
    assert (ranged.status_code, len(ranged.content)) == (206, 10)
    assert server.http.head(place).status_code == 200
    query = place.partition("?")[2]
    assert server.http.get(f"{path}?{query[:-1]}0").status_code in (200, 401)
    for other in ("/v2/library/tiny/manifests/latest", f"{path}0", "/v2/"):
        assert server.http.get(f"{other}?{query}").status_code == 401
    assert server.http.put(place, content=b"").status_code in (401, 405)


def test_login_pull_and_push_of_the_command_line(server: Server, run: Run, tmp_path: Path) -> None:
    """``mbuild login`` checks the token; then models come and go, and without it they do not."""
    host = f"127.0.0.1:{server.port}"
    refused = run("pull", f"{host}/library/tiny")
    assert refused.returncode == 1 and "requires a login" in refused.stderr
    wrong = run("login", host, "-u", "me", "--password-stdin", input="wrong")
    assert wrong.returncode == 1 and "does not accept the login" in wrong.stderr
    assert "check the user and the password" in wrong.stderr
    done = run("login", host, "-u", "me", "--password-stdin", input=TOKEN)
    assert done.returncode == 0, done.stderr
    assert run("pull", f"{host}/library/tiny", "-t", "tiny").returncode == 0
    done = run("push", "tiny", f"{host}/org/mine:v1", "--dialect", "ollama", "--dialect", "docker")
    assert done.returncode == 0, done.stderr
    assert check_promise(server.root) == 2
    assert Store(tmp_path / "store").manifests.read(TINY).id == server.store.manifests.read(TINY).id


def test_skopeo_logs_in(server: Server) -> None:
    """With Docker's flow: challenge, token by Basic, Bearer."""
    need("skopeo")
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false"]
    place = f"docker://127.0.0.1:{server.port}/library/tiny:latest"
    options = {"capture_output": True, "timeout": 60, "check": False}
    done = subprocess.run([*command, "--creds", f"me:{TOKEN}", place], **options)  # type: ignore[call-overload]
    assert done.stdout == server.store.manifests.read_bytes(TINY), done.stderr
    assert subprocess.run([*command, "--creds", "me:no", place], **options).returncode != 0  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "text",
    [
        "ssh-rsa AAAA",
        "ssh-ed25519",
        "ssh-ed25519 !!!",
        "ssh-ed25519 AAAA",
        "# only a remark",
        "",
    ],
)
def test_a_file_of_keys_that_is_none(tmp_path: Path, text: str) -> None:
    """Is refused at the start, with the line."""
    file = tmp_path / "keys"
    file.write_text(text + "\n")
    with pytest.raises(UsageError, match=r"is not an ed25519 key|has no keys"):
        read_keys(file)


def test_keys_need_a_token_to_stand_beside(tmp_path: Path, key: Path) -> None:
    """Without one everybody may pull; a file that is not there is named."""
    file = key.with_suffix(".pub")
    file.write_text(f"# who may pull\n\n{file.read_text()}")
    assert len(keys_of(file, TOKEN)) == 1 and keys_of(None, "") == ()
    with pytest.raises(UsageError, match="needs a token"):
        keys_of(file, "")
    with pytest.raises(UsageError, match="No such file"):
        keys_of(tmp_path / "none", TOKEN)
    assert gate.TOKEN_PATH == "/v2/token"
