"""Keeping and forgetting logins, where Docker keeps its own."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mbuild.core.errors import UsageError
from mbuild.registry.auth import helpers
from mbuild.registry.auth.login import Login
from mbuild.registry.auth.logins import (
    docker_config,
    keys_of,
    plain_key,
    read_config,
)
from mbuild.registry.reference import DOCKER_HOSTS

_FOLDER_RIGHTS = 0o700


def keep(host: str, login: Login) -> str:
    """Keep a login under a host, with the helper that Docker would use; where it is now.

    Raises :class:`UsageError`.
    """
    file = docker_config()
    config, key = read_config(file), keys_of(host)[0]
    helper = _helper(config, key)
    auths = dict(_auths(config))
    if helper:
        helpers.store(helper, key, login)
        auths[key] = {}  # as Docker writes it, which then asks the helper
    else:
        auth = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
        auths[key] = {"auth": auth}
    _write(file, {**config, "auths": auths})
    return f"docker-credential-{helper}" if helper else str(file)


def forget(host: str) -> bool:
    """Remove a host's login; whether there was one. Raises :class:`UsageError`."""
    file = docker_config()
    config = read_config(file)
    auths = dict(_auths(config))
    there = [key for key in (*keys_of(host), f"https://{host}") if key in auths]
    first = keys_of(host)[0]
    if helper := _helper(config, first):
        there = there or ([first] if helpers.get(helper, first) is not None else [])
        helpers.erase(helper, first)
    if not there:
        return False
    for key in there:
        auths.pop(key, None)
    _write(file, {**config, "auths": auths})
    return True


def hosts() -> list[str]:
    """The hosts of which Docker's file has a login, sorted."""
    found = {plain_key(key) for key in _auths(read_config(docker_config()))}
    return sorted("docker.io" if host in DOCKER_HOSTS else host for host in found)


def _auths(config: Mapping[str, Any]) -> Mapping[str, Any]:
    auths = config.get("auths")
    return auths if isinstance(auths, dict) else {}


def _helper(config: Mapping[str, Any], key: str) -> str:
    """The helper that keeps this login, "" where the file itself does."""
    named = config.get("credHelpers")
    helper = named.get(key) if isinstance(named, dict) else None
    helper = helper or config.get("credsStore")
    return helper if isinstance(helper, str) else ""


def _write(file: Path, config: Mapping[str, Any]) -> None:
    """Replace the file in one piece, for nobody else to read; a link stays one."""
    target = Path(os.path.realpath(file))
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(mode=_FOLDER_RIGHTS, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # a killed one with the same number
            temporary.unlink()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "w", encoding="utf-8") as stream:
                json.dump(config, stream, indent="\t")
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"the login cannot be kept in {file}: {error.strerror or error}",
            hint="set DOCKER_CONFIG to a writable folder",
        ) from None
