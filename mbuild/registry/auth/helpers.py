"""Credential helpers: programs ``docker-credential-NAME`` that keep logins.

They get a word as argument and read standard input (docker-credential-helpers, README).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import Any

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.registry.auth.login import TOKEN_USER, Login

_NAME = regex(r"[A-Za-z0-9_-]+")
_SECONDS = 60.0  # a helper may ask its user for something
_NOT_THERE = "credentials not found in native keychain"
_SHOWN = 300  # characters of what a helper says
_READ = 64 << 10
_REPAIR = "repair the helper, or remove it from Docker's config.json"


class _Ended(NamedTuple):
    """What a helper's run came to: what it printed, and what it said beside that."""

    status: int
    text: str
    errors: str

    @property
    def reason(self) -> str:
        """Why it failed, in one line.

        By the helpers' protocol that is on standard output, but many use standard error, where
        no login belongs. What may be a login is not repeated.
        """
        said = "" if "{" in self.text else self.text
        return _line(self.errors) or _line(said) or "it says nothing"


def get(name: str, server: str) -> Login | None:
    """A server's login, None where the helper has none; raises :class:`UsageError`."""
    ended = _run(name, "get", server)
    if ended.status:
        if _NOT_THERE in ended.text:
            return None
        raise UsageError(
            f"docker-credential-{name} fails for {server}: {ended.reason}", hint=_REPAIR
        )
    try:
        value = json.loads(ended.text)
        user, secret = value["Username"], value["Secret"]
        if not isinstance(user, str) or not isinstance(secret, str):
            raise TypeError
        (user + secret).encode()  # JSON can write halves of characters, which no header carries
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"docker-credential-{name} gives no login for {server}", hint=_REPAIR
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
    ended = _run(name, word, text)
    if ended.status and _NOT_THERE not in ended.text:
        raise UsageError(
            f"docker-credential-{name} cannot {word} the login of {server}: {ended.reason}",
            hint=_REPAIR,
        )


def _run(name: str, word: str, text: str) -> _Ended:
    """Run a helper. What it got is never repeated."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"Docker's config.json names a credential helper {name[:_SHOWN]!r}",
            hint="a helper's name has letters, digits, '_' and '-'",
        )
    program = f"docker-credential-{name}"
    try:
        # A file and no pipe: what the helper leaves running, such as an agent, may keep it open.
        with tempfile.TemporaryFile() as errors:
            done = subprocess.run(
                [program, word],
                input=text.encode(),
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=_SECONDS,
                check=False,
            )
            errors.seek(0)
            said = errors.read(_READ)
    except FileNotFoundError:
        raise UsageError(
            f"the credential helper {program} is not installed",
            hint="install it, or remove it from Docker's config.json",
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the credential helper {program} does not work: it took more than"
            f" {_SECONDS:.0f} seconds",
            hint="unlock what it reads from if it waits for that, or remove it from Docker's"
            " config.json",
        ) from None
    except OSError as error:
        raise UsageError(
            f"the credential helper {program} does not work: {error}",
            hint="make the file a program that you may run (chmod +x), or remove it from Docker's"
            " config.json",
        ) from None
    return _Ended(
        done.returncode, done.stdout.decode("utf-8", "replace"), said.decode("utf-8", "replace")
    )


def _line(text: str) -> str:
    """The first line of a text, without what a terminal would obey."""
    first = text.strip().partition("\n")[0]
    return "".join(c if c.isprintable() else " " for c in first)[:_SHOWN].strip()
