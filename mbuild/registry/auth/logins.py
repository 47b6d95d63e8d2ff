"""Stored logins: Docker's ``config.json`` and its helpers, podman's files, the Hub's token.

Nothing here changes a file (:mod:`mbuild.registry.auth.keeping` does).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mbuild.core.errors import UsageError
from mbuild.registry.auth.login import Login
from mbuild.registry.reference import DOCKER_ENDPOINT, DOCKER_HOSTS, HUB_HOSTS

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
"""What Docker's login of Docker Hub is kept under."""

MAX_FILE = 4 << 20


def docker_config() -> Path:
    """Docker's file: ``$DOCKER_CONFIG/config.json``, else ``~/.docker/config.json``."""
    folder = os.environ.get("DOCKER_CONFIG", "").strip()
    return (Path(folder) if folder else Path("~/.docker").expanduser()) / "config.json"


def podman_files() -> Iterator[Path]:
    """Where podman, buildah and skopeo keep their logins (containers-auth.json, 5)."""
    if named := os.environ.get("REGISTRY_AUTH_FILE", "").strip():
        yield Path(named)
    if runtime := os.environ.get("XDG_RUNTIME_DIR", "").strip():
        yield Path(runtime) / "containers" / "auth.json"
    config = os.environ.get("XDG_CONFIG_HOME", "").strip()
    yield (Path(config) if config else Path("~/.config").expanduser()) / "containers" / "auth.json"


def find(host: str, path: str = "") -> Login | None:
    """The stored login for a repository of a host, None where there is none.

    Docker's file comes before podman's, in each of them the helper of the host before the
    helper of all before what is written in the file. Raises :class:`UsageError` for a file
    that is not JSON, and for a helper that fails.
    """
    for file in (docker_config(), *podman_files()):
        config = read_config(file)
        if config and (found := _in_config(config, host, path, file)) is not None:
            return found
    return hub_token() if host in HUB_HOSTS else None


def read_config(file: Path) -> dict[str, Any]:
    """A file's JSON object, empty where there is none; raises :class:`UsageError`."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        value = json.loads(data)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise UsageError(
            f"the logins in {file} cannot be read: {reason}", hint="repair the file, or remove it"
        ) from None
    if not isinstance(value, dict):
        raise UsageError(
            f"the logins in {file} cannot be read: it is not a JSON object",
            hint="repair the file, or remove it",
        )
    return value


def _in_config(config: Mapping[str, Any], host: str, path: str, file: Path) -> Login | None:
    helpers, store = config.get("credHelpers"), config.get("credsStore")
    named = helpers if isinstance(helpers, dict) else {}
    for key in keys_of(host):
        helper = named.get(key, store)
        if isinstance(helper, str) and helper:
            from mbuild.registry.auth.helpers import get

            if (found := get(helper, key)) is not None:
                return found
    auths = config.get("auths")
    entries = auths if isinstance(auths, dict) else {}
    wanted = {key: entry for key, entry in entries.items() if isinstance(entry, dict)}
    for key in _spellings(host, path):
        for spelled, entry in wanted.items():
            if plain_key(spelled) == key and (found := _entry(entry, file)) is not None:
                return found
    return None


def keys_of(host: str) -> tuple[str, ...]:
    """What helpers and ``auths`` call a host; the first is what a login is kept under."""
    if host in DOCKER_HOSTS:
        return (DOCKER_HUB_KEY, "docker.io", "index.docker.io", DOCKER_ENDPOINT)
    return (host,)


def _spellings(host: str, path: str) -> Iterator[str]:
    """The keys that fit, the longest first: podman's may name a part of the path."""
    names = sorted(DOCKER_HOSTS) if host in DOCKER_HOSTS else [host]
    parts = path.split("/") if path else []
    for count in range(len(parts), -1, -1):
        for name in names:
            yield "/".join([name, *parts[:count]])


def plain_key(key: str) -> str:
    """A key of ``auths`` without scheme and version: ``https://host/v1/`` is ``host``."""
    rest = key.split("://", 1)[-1].rstrip("/")
    for version in ("/v1", "/v2"):
        rest = rest.removesuffix(version)
    host, slash, path = rest.partition("/")
    return host.lower() + slash + path


def _entry(entry: Mapping[str, Any], file: Path) -> Login | None:
    """The login of one entry; an empty one, as helpers leave it, is none."""

    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    user, password = text("username"), text("password")
    if auth := text("auth"):
        try:
            user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon:
            raise UsageError(
                f"a login in {file} is not the base64 of user:password",
                hint="log in again with mbuild login",
            )
        password = password.rstrip("\0")
    found = Login(user, password, text("identitytoken"), text("registrytoken"))
    return found if any(found) else None


def hub_token() -> Login | None:
    """Hugging Face's token: ``HF_TOKEN``, else its file."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        home = os.environ.get("HF_HOME", "").strip() or "~/.cache/huggingface"
        named = os.environ.get("HF_TOKEN_PATH", "").strip()
        file = Path(named) if named else Path(home).expanduser() / "token"
        with suppress(OSError, ValueError), file.open(encoding="utf-8") as stream:
            token = stream.read(4096).strip()
    return Login(bearer=token) if token and token.isascii() and token.isprintable() else None
