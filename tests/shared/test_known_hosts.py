"""A folder over SSH is used only where the host is known by its key, as ``ssh`` has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run
from example_models import write_chat
from shared_storages import know, ssh_server

from mbuild.core.errors import RegistryError
from mbuild.shared.locations import Location
from mbuild.shared.naming import record_name
from mbuild.shared.storages import open_storage
from mbuild.store import records

NAME = record_name(records.STEP, "ab" * 32)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path, int]]:
    """The address of a folder over SSH, the home of who uses it, the server's port."""
    with ssh_server(tmp_path) as (url, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        port = int(url.partition("127.0.0.1:")[2].partition("/")[0])
        yield url, Path(environment["HOME"]), port


def test_nothing_is_asked_before_it_is_needed(server: tuple[str, Path, int]) -> None:
    """Nor is a connection made to be closed."""
    from mbuild.shared.ssh import connecting

    url, home, port = server
    know(home, port, "")
    system, path = connecting(Location.parse(url))
    assert path == "/srv"
    system.close()
    with pytest.raises(RegistryError, match="is not known"):
        system.exists("/srv")


def refused(url: str) -> RegistryError:
    """What is said when the storage is asked; opening it asks nothing."""
    found = open_storage(Location.parse(url), writes=True)
    with pytest.raises(RegistryError) as caught:
        found.read_many([NAME])
    found.close()
    return caught.value


def test_an_unknown_host_is_refused(server: tuple[str, Path, int]) -> None:
    """With its key's fingerprint, and what to do; and it is not written down as known."""
    url, home, port = server
    know(home, port, "")
    error = refused(url)
    assert error.message.startswith("the host 127.0.0.1 is not known: it shows the ssh-ed25519 key")
    assert "SHA256:" in error.message
    assert f"ssh -p {port} 127.0.0.1" in error.hint
    assert (home / ".ssh" / "known_hosts").read_text() == ""
    refused(url)


def test_a_host_with_another_key_is_refused(server: tuple[str, Path, int]) -> None:
    """Whoever stands in between has another one."""
    import asyncssh

    url, home, port = server
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    know(home, port, other)
    error = refused(url)
    assert "shows another key than the one it is known by" in error.message
    assert "ssh-keygen -R" in error.hint


def test_a_name_is_known_by_its_hash(server: tuple[str, Path, int]) -> None:
    """As ``ssh`` writes it where ``HashKnownHosts`` is set."""
    import paramiko

    url, home, port = server
    file = home / ".ssh" / "known_hosts"
    _, key = file.read_text().split(" ", 1)
    know(home, port, "")
    file.write_text(f"{paramiko.HostKeys.hash_host(f'[127.0.0.1]:{port}')} {key}")
    found = open_storage(Location.parse(url), writes=True)
    found.write_many({NAME: b"{}"})
    assert found.read_many([NAME]) == {NAME: b"{}"}
    found.close()


def test_a_build_goes_on_without_such_a_cache(
    server: tuple[str, Path, int], tmp_path: Path, mbuild: Run
) -> None:
    """One warning tells what to do; the same where nobody listens."""
    url, home, port = server
    know(home, port, "")
    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n", encoding="utf-8")
    for place, word in ((url, f"ssh -p {port}"), ("sftp://mario@127.0.0.1:9/srv", "port 9")):
        done = mbuild("-t", "m", "--cache-to", place, "--progress", "plain")
        assert done.returncode == 0, done.stderr
        lines = [row for row in done.stderr.splitlines() if "continuing without the cache" in row]
        assert len(lines) == 1 and word in lines[0], done.stderr
