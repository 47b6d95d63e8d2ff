"""``login`` and ``logout``: what registries know a user by."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import ParamType
from mbuild.cli.meter import meter
from mbuild.core.errors import UsageError
from mbuild.core.names import InvalidNameError
from mbuild.registry.client.access import Access
from mbuild.registry.reference import ModelReference

if TYPE_CHECKING:
    from mbuild.registry.auth.login import Login


insecure_option = click.option("--insecure", is_flag=True, help="Use http instead of https.")


class HostType(ParamType):
    """A registry's host, with its port if it has one, perhaps with a scheme; any path in it."""

    name = "host"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> ModelReference:
        """Parse, or refuse as wrong usage."""
        if isinstance(value, ModelReference):
            return value
        scheme, mark, rest = str(value).rpartition("://")
        try:
            found = ModelReference.parse(f"{scheme}{mark}{rest.partition('/')[0]}/a/b")
            return found._replace(host=found.host.lower())
        except InvalidNameError:
            self.fail(f"{value!r} is not a host: write HOST or HOST:PORT", param, ctx)


def access_to(reference: ModelReference, insecure: bool) -> Access:
    """Any registry that the user names; that one over http, if he says so.

    Raises :class:`UsageError` where he says both.
    """
    if insecure and reference.scheme == "https":
        raise UsageError(
            "--insecure and https:// contradict each other",
            hint="leave out --insecure, or write the name without https://",
        )
    return Access(plain=frozenset({reference.endpoint} if insecure else ()))


LOGIN_EPILOG = """\
\b
Examples:
  mbuild login ghcr.io -u USER --password-stdin < token
"""


@click.command("login", epilog=LOGIN_EPILOG)
@click.argument("host", type=HostType())
@click.option("-u", "--username", metavar="USER", help="The user name.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@insecure_option
def login_command(
    *, host: ModelReference, username: str | None, password_stdin: bool, insecure: bool
) -> None:
    """Log in to a registry, for mbuild and all programs that read Docker's config.json.

    The password is asked for or read from standard input, checked with the registry, and kept
    by Docker's credential helper if one is configured, else in the file, for nobody else to
    read. For ollama.com there is no password: the public key is shown, and created if necessary.
    """
    from mbuild.registry.reference import OLLAMA_HOSTS

    if host.host in OLLAMA_HOSTS:
        from mbuild.registry.auth.ollama_key import public_key

        click.echo(public_key())
        click.echo("add this key to your account: https://ollama.com/settings/keys", err=True)
        return
    login = _asked(username, stdin=password_stdin)
    from mbuild.registry.auth.keeping import keep
    from mbuild.registry.client.registry import Registry
    from mbuild.work.cancel import Cancel

    registry = Registry(host, access_to(host, insecure), Cancel(), login)
    try:
        with meter("", f"waiting for {host.endpoint}"):
            checked = registry.ping()
    finally:
        registry.web.close()
    kept = keep(host.host, login)
    click.echo(f"logged in to {host.host}; the login is kept in {kept}", err=True)
    if not checked:
        click.echo(f"{host.host} asked for no login, so the password was not checked", err=True)


def _asked(username: str | None, *, stdin: bool) -> Login:
    """The user and the password, from standard input or from whoever sits there."""
    from mbuild.registry.auth.login import Login

    if not stdin and not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal on which to ask for the password",
            hint="mbuild login HOST -u USER --password-stdin < FILE",
        )
    if stdin and not username:
        raise UsageError("--password-stdin needs a user name", hint="add -u USER")
    try:
        user = username or click.prompt("Username", err=True)
        if stdin:
            password = sys.stdin.read(1 << 16).removesuffix("\n").removesuffix("\r")
        else:
            password = click.prompt("Password", hide_input=True, err=True)
        (user + password).encode()
    except UnicodeError:  # what is no UTF-8 is an error, or stands in the text as surrogates
        raise UsageError(
            "the user name or the password is not UTF-8",
            hint="registries take both as UTF-8: iconv -f latin1 -t utf-8 converts them",
        ) from None
    if not password or ":" in user:
        said = "a user name cannot contain ':'" if password else "the password is empty"
        raise UsageError(said)
    return Login(user, password)


LOGOUT_EPILOG = """\
\b
Examples:
  mbuild logout ghcr.io
"""


@click.command("logout", epilog=LOGOUT_EPILOG)
@click.argument("host", type=HostType())
def logout_command(*, host: ModelReference) -> None:
    """Log out of a registry: remove the login that is kept for it."""
    from mbuild.registry.auth.keeping import forget

    name = host.host
    gone = forget(name)
    click.echo(f"logged out of {name}" if gone else f"no login for {name} is kept", err=True)
