"""Which hosts may be asked, and which of their addresses."""

from __future__ import annotations

import pytest

from mbuild.core.errors import ForbiddenHostError, UnreachableError, UsageError
from mbuild.registry.client.access import (
    EVERYWHERE,
    PUBLIC,
    Access,
    Nearness,
    nearness,
    nearness_of_host,
)


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("10.1.2.3", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("224.0.0.1", "private"),
        ("8.8.8.8", "public"),
        ("2606:4700::1111", "public"),
    ],
)
def test_what_is_not_for_all_of_the_internet_is_near(address: str, near: str) -> None:
    """Spellings of IPv4 in IPv6 included."""
    assert nearness(address) == near


def test_the_nearest_address_of_a_host_counts() -> None:
    """And a host without an address is an error with its name."""
    assert nearness_of_host("localhost", 80) is Nearness.LOOPBACK
    with pytest.raises(UnreachableError, match=r"nowhere\.invalid"):
        nearness_of_host("nowhere.invalid", 80)


def test_a_server_asks_what_its_operator_allows() -> None:
    """The public registries at public addresses, and named ones wherever they are."""
    access = Access.of_operator(["http://127.0.0.1:5000", "Registry.LAN"])
    access.check("registry.ollama.ai")
    access.check("hf.co")
    access.check("registry.lan")
    assert access.plain == {"127.0.0.1:5000"}
    with pytest.raises(ForbiddenHostError) as caught:
        access.check("ghcr.io")
    assert "--registry ghcr.io" in caught.value.hint
    assert access.reach("127.0.0.1:5000") == EVERYWHERE
    assert access.reach("hf.co") == PUBLIC
    assert not access.is_named("hf.co")


@pytest.mark.parametrize(
    "text", ["", "http://", "ftp://x", "a/b", "https://a/b", "a b", "u@a", "a:65536"]
)
def test_what_is_no_registry_is_refused(text: str) -> None:
    """With how to write one."""
    with pytest.raises(UsageError, match="not a registry"):
        Access.of_operator([text])


def test_a_registry_leads_no_nearer_than_it_is_itself() -> None:
    """From the internet not into this network, from here not to the cloud's own addresses."""
    user, server = Access(), Access.of_operator(["r.lan"])
    assert user.reach_from("ghcr.io", Nearness.PUBLIC, "storage.io") == PUBLIC
    assert Nearness.PRIVATE in user.reach_from("r.lan", Nearness.PRIVATE, "minio.lan")
    assert Nearness.LOOPBACK not in user.reach_from("r.lan", Nearness.PRIVATE, "localhost")
    assert Nearness.LINK not in user.reach_from("r.lan", Nearness.LINK, "169.254.169.254")
    assert server.reach_from("r.lan", Nearness.PRIVATE, "minio.lan") == PUBLIC
    assert server.reach_from("r.lan", Nearness.PRIVATE, "r.lan") == EVERYWHERE
