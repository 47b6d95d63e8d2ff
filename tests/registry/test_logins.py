"""Stored logins: Docker's and podman's files, helpers, the Hub's token; keeping and forgetting."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from mbuild.core.errors import UsageError
from mbuild.registry.auth import helpers
from mbuild.registry.auth.keeping import forget, hosts, keep
from mbuild.registry.auth.login import Login
from mbuild.registry.auth.logins import find, read_config


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without logins, where files of logins are written."""
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN", "HF_HOME", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
        ("docker.io", "registry-1.docker.io"),
    ],
)
def test_docker_file_under_each_spelling(home: Path, key: str, host: str) -> None:
    """A password may hold a colon."""
    write(home / ".docker" / "config.json", {"auths": {key: auth("mario:a:b")}})
    assert find(host) == Login("mario", "a:b")
    assert find("elsewhere.io") is None


def test_tokens_in_the_place_of_passwords(home: Path) -> None:
    """Identity and registry tokens, user and password apart, and entries that hold nothing."""
    entries = {
        "a.io": {"identitytoken": "ID", **auth("<token>:")},
        "b.io": {"registrytoken": "RT"},
        "c.io": {"username": "u", "password": "p"},
        "d.io": {},
    }
    write(home / ".docker" / "config.json", {"auths": entries})
    found = find("a.io")
    assert found is not None and found.identity == "ID"
    assert find("b.io") == Login(bearer="RT")
    assert find("c.io") == Login("u", "p")
    assert find("d.io") is None


def test_podman_files_with_paths(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest key counts, and Docker's file comes first."""
    entries = {"q.io": auth("all:1"), "q.io/org": auth("org:2"), "q.io/org/m": auth("one:3")}
    write(home / ".config/containers/auth.json", {"auths": entries})
    for path, user in (("x/y", "all"), ("org/z", "org"), ("org/m", "one"), ("organ/z", "all")):
        found = find("q.io", path)
        assert found is not None and found.user == user
    write(home / "other.json", {"auths": {"q.io": auth("named:4")}})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "other.json"))
    found = find("q.io", "org/m")
    assert found is not None and found.user == "named"
    write(home / ".docker" / "config.json", {"auths": {"q.io": auth("docker:5")}})
    found = find("q.io", "org/m")
    assert found is not None and found.user == "docker"


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "[" * 100_000])
def test_a_damaged_file_is_named(home: Path, text: str) -> None:
    """And nobody logs in without a word as nobody."""
    file = home / ".docker" / "config.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(UsageError, match=r"config\.json"):
        find("ghcr.io")
    file.write_text(json.dumps({"auths": {"ghcr.io": {"auth": "???"}}}))
    with pytest.raises(UsageError, match="base64"):
        find("ghcr.io")
    file.write_text(json.dumps({"auths": 3, "credHelpers": [], "credsStore": 5}))
    assert find("ghcr.io") is None


HELPER = """#!/bin/sh
echo "$1" >> {log}
case "$1" in
  get) read server
    case "$server" in
      gcr.io) echo '{{"ServerURL":"gcr.io","Username":"_json_key","Secret":"S"}}' ;;
      acr.io) echo '{{"ServerURL":"acr.io","Username":"<token>","Secret":"R"}}' ;;
      bad.io) echo 'no JSON' ;;
      broken.io) echo 'the keyring is locked'; exit 1 ;;
      beside.io) printf '\\033[1mno agent\\033[0m %0400d\\nmore\\n' 0 >&2; exit 1 ;;
      secret.io) echo '{{"Username":"u","Secret":"hidden"}}'; exit 3 ;;
      agent.io) sleep 20 > /dev/null & echo 'no agent' >&2; exit 1 ;;
      *) echo 'credentials not found in native keychain'; exit 1 ;;
    esac ;;
  store|erase) cat > {kept} ;;
esac
"""


@pytest.fixture
def helper(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program ``docker-credential-test``; gives the file with what it was told to keep."""
    program, kept = home / "bin" / "docker-credential-test", home / "kept"
    program.parent.mkdir()
    program.write_text(HELPER.format(log=home / "log", kept=kept))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return kept


def test_helpers(home: Path, helper: Path) -> None:
    """One for a host before the one for all; what they do not have is no error."""
    write(
        home / ".docker" / "config.json", {"credsStore": "none", "credHelpers": {"gcr.io": "test"}}
    )
    assert find("gcr.io") == Login("_json_key", "S")
    with pytest.raises(UsageError, match="docker-credential-none is not installed"):
        find("other.io")
    write(home / ".docker" / "config.json", {"credsStore": "test", "auths": {"x.io": auth("u:p")}})
    assert find("acr.io") == Login(identity="R")
    assert find("x.io") == Login("u", "p")  # the helper has none, the file has one
    assert find("y.io") is None
    with pytest.raises(UsageError, match="gives no login"):
        find("bad.io")
    with pytest.raises(UsageError, match="the keyring is locked"):
        find("broken.io")


def test_what_a_helper_says_beside_its_output(home: Path, helper: Path) -> None:
    """One line of it, limited and harmless, also if it leaves something running; no secret."""
    write(home / ".docker" / "config.json", {"credsStore": "test"})
    with pytest.raises(UsageError, match="no agent") as caught:
        find("beside.io")
    message = caught.value.message
    assert message.isprintable() and "more" not in message and len(message) < 400
    with pytest.raises(UsageError, match="it says nothing") as caught:
        find("secret.io")
    assert "hidden" not in caught.value.message
    began = time.monotonic()
    with pytest.raises(UsageError, match="no agent"):
        find("agent.io")
    assert time.monotonic() - began < 15


def test_a_helper_that_does_not_work(
    home: Path, helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to do about it is said, too."""
    write(home / ".docker" / "config.json", {"credsStore": "test"})
    program = home / "bin" / "docker-credential-test"
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr(helpers, "_SECONDS", 0.2)
    with pytest.raises(UsageError, match="it took more than") as caught:
        find("x.io")
    assert "unlock" in caught.value.hint
    program.write_bytes(b"\0\0")
    with pytest.raises(UsageError, match="does not work") as caught:
        find("x.io")
    assert "chmod" in caught.value.hint


@pytest.mark.parametrize("name", ["../x", "a b", "a;b", "", "a/b"])
def test_a_helper_is_a_plain_name(name: str) -> None:
    """Nothing else is started."""
    with pytest.raises(UsageError, match="credential helper"):
        helpers.get(name, "x.io")


def test_the_token_of_the_hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment or its file, for the Hub only."""
    assert find("hf.co") is None
    token = home / ".cache/huggingface/token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_file\n")
    assert find("hf.co") == Login(bearer="hf_file")
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    assert find("huggingface.co") == Login(bearer="hf_environment")
    assert find("ghcr.io") is None


def test_a_login_is_kept_for_nobody_else_to_read(home: Path) -> None:
    """What else the file says stays, and a link stays one; forgetting removes only its own."""
    real = home / "real.json"
    write(real, {"auths": {"a.io": auth("u:p")}, "currentContext": "x", "unknown": [1, {"y": 2}]})
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").symlink_to(real)
    assert keep("b.io", Login("mario", "a:b")) == str(home / ".docker" / "config.json")
    assert find("b.io") == Login("mario", "a:b")
    value = read_config(real)
    assert value["unknown"] == [1, {"y": 2}] and value["currentContext"] == "x"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert (home / ".docker" / "config.json").is_symlink()
    assert hosts() == ["a.io", "b.io"]
    assert forget("b.io") and not forget("b.io")
    assert hosts() == ["a.io"]
    assert [path.name for path in home.iterdir() if path.name.startswith(".real")] == []


def test_docker_hub_is_kept_as_docker_keeps_it(home: Path) -> None:
    """So that Docker finds it."""
    keep("docker.io", Login("u", "p"))
    value = read_config(home / ".docker" / "config.json")
    assert list(value["auths"]) == ["https://index.docker.io/v1/"]
    assert hosts() == ["docker.io"]
    assert find("registry-1.docker.io") == Login("u", "p")
    assert forget("docker.io")


def test_a_login_is_kept_by_the_helper(home: Path, helper: Path) -> None:
    """And not in the file."""
    write(home / ".docker" / "config.json", {"credsStore": "test"})
    assert keep("b.io", Login("mario", "s3cret")) == "docker-credential-test"
    assert json.loads(helper.read_text()) == {
        "ServerURL": "b.io",
        "Username": "mario",
        "Secret": "s3cret",
    }
    assert "s3cret" not in (home / ".docker" / "config.json").read_text()
    assert forget("b.io")
    assert helper.read_text() == "b.io"


def test_a_login_is_never_printed() -> None:
    """Not even by mistake, with the value that holds it."""
    login = Login("user", "pass", "identity", "bearer")
    assert not any(part in f"{login!r} {login}" for part in login)
