"""``pull``, ``push``, ``login`` and ``logout`` on the command line, and their documentation."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import Run
from documents import DOCS, documented
from http_in_thread import answering
from hub_stand_in import HubStandIn, hub_stand_in
from inprocess import in_process
from registries import PASSWORD, USER, docker_registry, with_password
from stand_in import stand_in
from stores import copy_tiny_store

from mbuild.cli import meter
from mbuild.cli.common import model_name
from mbuild.cli.completion import hosts
from mbuild.cli.login import login_command
from mbuild.cli.main import cli
from mbuild.cli.registry import TransferTally
from mbuild.core.digest import Digest
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.transfers import BlobDone, BlobProgress, Direction, LeftOut
from mbuild.registry.client import web
from mbuild.registry.reference import ModelReference
from mbuild.store import Store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without logins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An open registry."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, on a store with ``tiny``."""
    copy_tiny_store(tmp_path / "store")
    return in_process(tmp_path, monkeypatch)


def test_the_documented_session(host: str, tmp_path: Path) -> None:
    """Each command of docs/registry.md prints what the page shows."""
    copy_tiny_store(tmp_path / "store")
    documented("registry.md", tmp_path, names={"localhost:5000": host})


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """A Hub without repositories."""
    with hub_stand_in() as found:
        yield found


@pytest.mark.parametrize("name", ["push", "pull", "login"])
def test_the_examples_of_help_run(
    name: str, host: str, mbuild: Run, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With this registry in the place of GitHub's, and a stand-in in that of the Hub."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    lines = (command.epilog or "").partition("Examples:\n")[2].splitlines()
    assert mbuild("cp", "tiny", "mario").returncode == 0
    assert mbuild("push", "mario", f"{host}/org/mario:v2").returncode == 0
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for line in filter(None, (re.split(r"\s{2,}", line.strip())[0] for line in lines)):
        words = shlex.split(line.replace("ghcr.io", host).partition("<")[0])
        done = mbuild(*words[1:], input="token\n" if "<" in line else "")
        assert done.returncode == 0, (line, done.stderr)


def test_what_a_transfer_prints(host: str, mbuild: Run) -> None:
    """One line, or one JSON object; what was replaced is said apart."""
    target = f"{host}/x/tiny:v1"
    first = mbuild("push", "tiny", target)
    assert first.stdout.startswith(f"pushed {target}  eb18f3bd1d77  156 KB, 156 KB sent")
    assert mbuild("push", "tiny", target).stdout.endswith(", all of it was there\n")
    pulled = mbuild("pull", target, "--format", "json")
    value = json.loads(pulled.stdout)
    assert value == {
        "name": target,
        "id": value["id"],
        "size": 156339,
        "moved": 0,
        "replaced": None,
    }
    assert value["id"].startswith("eb18f3bd1d77")
    assert mbuild("cp", "tiny", "other").returncode == 0
    assert (pulled.stderr, first.stderr) == ("", "")


def test_a_pull_gives_all_the_names_that_were_asked_for(
    host: str, mbuild: Run, tmp_path: Path
) -> None:
    """From one download; a name that was another model's is told of, as for the first one."""
    target = f"{host}/several/tiny:v1"
    assert mbuild("push", "tiny", target).returncode == 0
    store = ("--store", tmp_path / "other")
    done = mbuild("pull", target, "-t", "one", "-t", "two:v2", "-t", "one", *store)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "pulled one:latest  eb18f3bd1d77  156 KB, 156 KB fetched\n"
        "pulled two:v2  eb18f3bd1d77  the same blobs\n"
    )
    opened = Store(tmp_path / "other")
    assert {str(name) for name in opened.manifests.names()} == {"one:latest", "two:v2"}
    other = opened.replace(ModelName.parse("two:v2"), b" " + _manifest_of(opened, "one"))
    assert other is not None
    said = mbuild("pull", target, "-t", "one", "-t", "two:v2", *store)
    assert said.stderr.startswith("replaced two:v2 (was ")
    rows = json.loads(mbuild("pull", target, "-t", "a", "-t", "b", "--format", "json").stdout)
    assert rows["name"] == "a:latest"
    assert rows["also"] == [{"name": "b:latest", "replaced": None}]


def _manifest_of(store: Store, name: str) -> bytes:
    found = store.manifests.read_bytes(ModelName.parse(name))
    assert found is not None
    return found


def test_a_model_that_is_not_here_cannot_be_pushed(host: str, mbuild: Run) -> None:
    """What can have been meant is said, and nobody is asked."""
    done = mbuild("push", "tinny", f"{host}/x/y")
    assert done.returncode == 1
    assert "tiny" in done.stderr
    done = mbuild("push", "tiny", f"{host}/x/y@sha256:{'0' * 64}")
    assert done.returncode == 2 and "name a tag" in done.stderr


@pytest.mark.parametrize("name", ["ghcr.io/Org/x", "a/b/c/../d", "ghcr.io/a/b:", "x@y"])
def test_a_wrong_name_is_wrong_usage(name: str, mbuild: Run) -> None:
    """With how to write one."""
    done = mbuild("pull", name)
    assert done.returncode == 2
    assert "a name is" in done.stderr


def test_a_model_that_the_registry_does_not_have(host: str, mbuild: Run) -> None:
    """The remedy names what can be wrong; a port that cannot be is wrong usage."""
    done = mbuild("pull", f"{host}/no/such:v1")
    assert done.returncode == 1
    assert f"check its name and tag; it may want a login: mbuild login {host}" in done.stderr
    for command in (("pull",), ("push", "tiny")):
        assert mbuild(*command, "localhost:99999/a/b").returncode == 2
    built = mbuild("-f", "-", "-t", "x", input="FROM localhost:99999/a/b\n")
    assert built.returncode == 1 and "neither a file nor a model's name" in built.stderr


def test_the_scheme_that_is_written_counts(host: str, mbuild: Run) -> None:
    """https is never given up for http, on this machine either; both at once is wrong usage."""
    target = f"{host}/scheme/tiny:v1"
    assert mbuild("push", "tiny", f"http://{target}").returncode == 0
    for command in (("pull",), ("push", "tiny")):
        done = mbuild(*command, f"https://{target}")
        assert done.returncode == 1 and "does not speak https" in done.stderr
        both = mbuild(*command, f"https://{target}", "--insecure")
        assert both.returncode == 2 and "contradict" in both.stderr
    login = ("login", f"https://{host}", "-u", "mario", "--password-stdin")
    done = mbuild(*login, input="secret\n")
    assert done.returncode == 1 and "does not speak https" in done.stderr
    built = mbuild("-f", "-", "-t", "x", input=f"FROM https://{host}/scheme/other\n")
    assert built.returncode == 1 and "does not speak https" in built.stderr
    assert mbuild("pull", f"http://{target}", "-t", "again").returncode == 0


def test_a_login_that_is_not_utf8_is_refused(host: str, mbuild: Run) -> None:
    """Bytes of another encoding reach the program as surrogates, which no header can carry."""
    login = ("login", f"http://{host}", "--password-stdin")
    for user, password in (("m", "caf\udce9\n"), ("caf\udce9", "secret\n")):
        done = mbuild(*login, "-u", user, input=password)
        assert done.returncode == 2 and "is not UTF-8" in done.stderr, done.stderr
        assert "secret" not in done.stderr and "iconv" in done.stderr


def test_a_host_that_says_nothing_is_named(mbuild: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits hears for whom, before the wait has an end."""
    monkeypatch.setattr(web, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(meter, "_LONG", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        place = f"http://{host}"
        login = ("login", place, "-u", "m", "--password-stdin")
        for command in (("pull", f"{place}/a/b"), ("push", "tiny", f"{place}/a/b"), login):
            began = time.monotonic()
            done = mbuild(*command, input="secret\n")
            assert time.monotonic() - began < 6, command  # three tries, not six
            assert done.returncode == 1
            assert done.stderr.splitlines()[0] == f"waiting for {host}"
            assert "does not answer" in done.stderr


class _Page(http.server.BaseHTTPRequestHandler):
    """A web server that answers everything with a page."""

    def do_GET(self) -> None:
        """The page, whatever is asked for."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Welcome</html>")

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def test_a_web_server_gets_no_login(tmp_path: Path, mbuild: Run) -> None:
    """What answers /v2/ with a page is no registry: the password is kept nowhere."""
    with answering(_Page) as host:
        done = mbuild("login", f"http://{host}", "-u", "m", "--password-stdin", input="secret\n")
    assert done.returncode == 1 and "is not a registry" in done.stderr
    assert not (tmp_path / ".docker").exists()


@pytest.mark.parametrize("path", ["a/b/c/deep", "short"])
def test_a_pulled_model_is_found_by_the_name_it_was_pulled_by(
    path: str, host: str, mbuild: Run
) -> None:
    """However many parts its path has: in every command, and in FROM."""
    name = f"{host}/{path}:v1"
    assert mbuild("push", "tiny", name).returncode == 0
    assert mbuild("pull", name).returncode == 0
    assert mbuild("show", name).returncode == 0
    assert mbuild("diff", name, "tiny").returncode == 0
    assert mbuild("cp", name, f"{host}/{path}:v2").returncode == 0
    assert mbuild("push", f"{host}/{path}:v2").returncode == 0
    assert mbuild("pull", f"{host}/{path}:v2", "-t", "other").returncode == 0
    built = mbuild("-f", "-", "-t", f"{host}/{path}:v3", input=f"FROM {name}\nSYSTEM x\n")
    assert built.returncode == 0, built.stderr
    assert mbuild("history", f"{host}/{path}:v3").returncode == 0
    assert mbuild("rm", name, f"{host}/{path}:v2", f"{host}/{path}:v3").returncode == 0
    assert mbuild("show", name).returncode == 1


def test_localhost_is_a_host(mbuild: Run) -> None:
    """A namespace cannot be called so: it is looked for where a pull puts it."""
    assert model_name("localhost/m") == ModelReference.parse("localhost/m").local
    assert str(model_name("localhost/m")) == "localhost/_/m:latest"
    assert str(model_name("org/m")) == "org/m:latest"
    with pytest.raises(InvalidNameError, match="more parts"):
        model_name("a/b/c/d")


def test_login_checks_before_it_keeps(tmp_path: Path, mbuild: Run) -> None:
    """A wrong password is not kept; the right one is, and is never shown."""
    with docker_registry(tmp_path / "registry", with_password(tmp_path / "login")) as host:
        arguments = ("login", host, "-u", USER, "--password-stdin")
        wrong = mbuild(*arguments, input="wrong\n")
        assert wrong.returncode == 1 and "refuses the login" in wrong.stderr
        assert "check the user and the password" in wrong.stderr  # another login helps nobody
        assert not (tmp_path / ".docker").exists()
        assert mbuild("push", "tiny", f"{host}/a/tiny").returncode == 1
        done = mbuild(*arguments, input=f"{PASSWORD}\n")
        assert done.returncode == 0, done.stderr
        assert "was not checked" not in done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        assert mbuild("push", "tiny", f"{host}/a/tiny").returncode == 0
        assert list(hosts(click.Context(cli))) == [host]
        assert mbuild("logout", host).returncode == 0
        again = mbuild("logout", f"https://{host}/v2/")
        assert again.returncode == 0 and "no login" in again.stderr
        assert mbuild("push", "tiny", f"{host}/a/tiny").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "input", "said"),
    [
        (("x.io",), "", "no terminal"),
        (("x.io", "--password-stdin"), "p", "-u USER"),
        (("x.io", "-u", "a:b", "--password-stdin"), "p", "cannot contain ':'"),
        (("x.io", "-u", "a", "--password-stdin"), "\n", "empty"),
        (
            ("x.io:65536", "-u", "a", "--password-stdin"),
            "p",
            "is not a host: write HOST or HOST:",
        ),
        (("x io", "-u", "a", "--password-stdin"), "p", "is not a host: write HOST or HOST:"),
    ],
)
def test_what_login_refuses(arguments: tuple[str, ...], input: str, said: str, mbuild: Run) -> None:
    """Before it asks anybody; a password is no argument."""
    done = mbuild("login", *arguments, input=input)
    assert done.returncode == 2
    assert said in done.stderr
    assert not any(
        "password" in name for p in login_command.params for name in p.opts if "stdin" not in name
    )


def test_login_for_ollama_shows_the_key(tmp_path: Path) -> None:
    """Makes it where there is none, for nobody else to read, and never again."""
    pytest.importorskip("cryptography")
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-m", "mbuild", "login", "ollama.com"]
    said = [
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
        for _ in range(2)
    ]
    key = tmp_path / ".ollama" / "id_ed25519"
    assert key.stat().st_mode & 0o777 == 0o600
    assert said[0] == said[1] == (tmp_path / ".ollama" / "id_ed25519.pub").read_text()


def test_a_pull_says_when_the_store_has_no_room_for_the_name(mbuild: Run) -> None:
    """A namespace with a dot is none of the store's: -t gives a name."""
    with stand_in() as (registry, there):
        registry.model("my.org/m:v1", b"weights")
        done = mbuild("pull", f"{there}/my.org/m:v1", "--insecure")
        assert done.returncode == 1 and "-t NAME" in done.stderr
        assert mbuild("pull", f"{there}/my.org/m:v1", "--insecure", "-t", "m").returncode == 0


def test_a_build_loads_no_registry(tmp_path: Path) -> None:
    """Neither urllib3 nor this layer is on the path of a build with nothing to do."""
    store = Store(copy_tiny_store(tmp_path / "store"))
    (tmp_path / "Modelfile").write_text("FROM tiny\nSYSTEM x\n")
    code = (
        "import sys; from mbuild.cli.main import run; run(['-t', 'x', '--quiet']);"
        " print([m for m in sys.modules if m.startswith(('mbuild.registry', 'urllib3', 'ssl'))])"
    )
    environment = {**os.environ, "OLLAMA_MODELS": str(store.root)}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_a_dry_run_of_a_push(host: str, mbuild: Run) -> None:
    """Each blob with its size, the bytes and the tag; nothing is sent."""
    target = f"{host}/dry/tiny:v1"
    done = mbuild("push", "tiny", target, "--dry-run")
    assert done.returncode == 0, done.stderr
    *blobs, last = done.stdout.splitlines()
    assert blobs and all(line.startswith("send ") for line in blobs)
    assert last == f"would send 156 KB and tag {target}"
    assert mbuild("pull", target).returncode == 1
    assert mbuild("push", "tiny", target).returncode == 0
    value = json.loads(mbuild("push", "tiny", target, "--dry-run", "--format", "json").stdout)
    assert value["bytes"] == 0 and value["targets"] == [target]
    assert not any(blob["send"] for blob in value["blobs"])
    assert "repositories of the Hub" in mbuild("push", "tiny", target, "--private").stderr


def test_a_transfer_is_told_in_bytes() -> None:
    """A blob that is done counts with all its bytes, however far it was said to be."""
    tally, one, two = TransferTally(), Digest.of(b"1"), Digest.of(b"2")
    assert tally.take(BlobProgress(Direction.PULL, one, 10, 100))
    assert tally.take(BlobProgress(Direction.PULL, two, 20, 50))
    assert tally.so_far == (30, 150)
    assert tally.take(BlobDone(Direction.PULL, one, 100, 100))
    assert not tally.take(LeftOut(Direction.PULL, ("card.md",)))
    assert tally.so_far == (120, 150)
    assert (tally.left_out, tally.done) == (("card.md",), None)


# --- the page ---------------------------------------------------------------------------


def registries_of_the_page() -> list[list[str]]:
    """The rows of the page's table of registries: cells between its bars."""
    text = (DOCS / "registry.md").read_text(encoding="utf-8")
    table = text.partition("| registry | a model there |")[2].partition("\n\n")[0]
    return [re.split(r"(?<!\\) \| ", row.strip("| ")) for row in table.split("\n")[2:]]


@pytest.mark.parametrize("row", registries_of_the_page(), ids=lambda row: row[0][:12])
def test_each_registry_of_the_page_has_a_name_and_commands_that_are_understood(
    row: list[str],
) -> None:
    """The name leads to its host; each command has the options and arguments that it takes."""
    name = row[1].strip("`")
    host, _, rest = name.partition("/")
    reference = ModelReference.parse(name if host == "hf.co" else f"{host}/{rest.lower()}")
    assert reference.host == host and reference.tag in ("v1", "Q4_K_M")
    for line in re.findall(r"`mbuild ([^`]*)`", " ".join(row[2:])):
        words = shlex.split(line)
        if words[0] == "serve" and len(words) == 1:
            continue
        command = cli.get_command(click.Context(cli), words[0])
        assert command is not None, line
        with command.make_context(words[0], words[1:]) as context:
            given = context.params.get("host") or context.params.get("target")
            assert given.host.lower() == host.lower(), line
