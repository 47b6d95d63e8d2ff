"""Credential helpers: programs ``docker-credential-NAME`` that keep logins.

They get a word as argument and read standard input (docker-credential-helpers, README).
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.registry.auth.login import TOKEN_USER, Login

_NAME = regex(r"[A-Za-z0-9_-]+")
_SECONDS = 60.0  # a helper may ask its user for something
_NOT_THERE = "credentials not found in native keychain"
_SHOWN = 200  # characters of what a helper says


def get(name: str, server: str) -> Login | None:
    """A server's login, None where the helper has none; raises :class:`UsageError`."""
    status, text = _run(name, "get", server)
    if status:
        if _NOT_THERE in text:
            return None
        raise UsageError(
            f"docker-credential-{name} fails for {server}: {_line(text)}",
            hint="repair the helper, or remove it from Docker's config.json",
        )
    try:
        value = json.loads(text)
        user, secret = value["Username"], value["Secret"]
        if not isinstance(user, str) or not isinstance(secret, str):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"docker-credential-{name} gives no login for {server}",
            hint="repair the helper, or remove it from Docker's config.json",
        ) from None
    if not user and not secret:
        return None
    return Login(identity=secret) if user == TOKEN_USER else Login(user, secret)


def store(name: str, server: str, login: Login) -> None:
    """Keep a login; raises :class:`UsageError`."""
    value: dict[str, Any] = {"ServerURL": server, "Username": login.user, "Secret": login.password}
    _done(name, "store", server, json.dumps(value))


def erase(name: str, server: str) -> None:
    """Forget a login; raises :class:`UsageError`, but not where there was none."""
    _done(name, "erase", server, server)


def _done(name: str, word: str, server: str, text: str) -> None:
    status, said = _run(name, word, text)
    if status and _NOT_THERE not in said:
        raise UsageError(
            f"docker-credential-{name} cannot {word} the login of {server}: {_line(said)}",
            hint="repair the helper, or remove it from Docker's config.json",
        )


def _run(name: str, word: str, text: str) -> tuple[int, str]:
    """Run a helper; its status and what it printed. What it got is never repeated."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"Docker's config.json names a credential helper {name[:_SHOWN]!r}",
            hint="a helper's name has letters, digits, '_' and '-'",
        )
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, word],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise UsageError(
            f"the credential helper {program} is not installed",
            hint="install it, or remove it from Docker's config.json",
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        reason = f"it took more than {_SECONDS:.0f} seconds" if late else str(error)
        raise UsageError(f"the credential helper {program} does not work: {reason}") from None
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _line(text: str) -> str:
    """The first line that a helper printed: with an error that is what is wrong."""
    return text.strip().partition("\n")[0][:_SHOWN] or "it says nothing"
