"""``pull``, ``push``, ``login`` and ``logout``: models from and to registries."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import (
    NameType,
    ParamType,
    format_option,
    human_size,
    left_out,
    open_store,
    store_option,
    write_json,
)
from mbuild.cli.meter import meter
from mbuild.core.errors import CancelledError, MbuildError, UsageError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.transfers import (
    BlobDone,
    BlobProgress,
    Direction,
    DocumentsMoved,
    LeftOut,
    ManifestPut,
    TransferEvent,
    Transferred,
)
from mbuild.registry.client.access import Access
from mbuild.registry.reference import HUB_HOSTS, ModelReference, is_tag

if TYPE_CHECKING:
    from mbuild.registry.auth.login import Login
    from mbuild.registry.transfer.push import Wanted
    from mbuild.store import Store

_DONE = {Direction.PULL: ("pulled", "fetched"), Direction.PUSH: ("pushed", "sent")}

insecure_option = click.option("--insecure", is_flag=True, help="Use http instead of https.")


class ReferenceType(ParamType):
    """A model in a registry."""

    name = "name"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> ModelReference:
        """Parse, or refuse as wrong usage."""
        if isinstance(value, ModelReference):
            return value
        try:
            return ModelReference.parse(value)
        except InvalidNameError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


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


def _access(reference: ModelReference, insecure: bool) -> Access:
    """Any registry that the user names; that one over http, if he says so.

    Raises :class:`UsageError` where he says both.
    """
    if insecure and reference.scheme == "https":
        raise UsageError(
            "--insecure and https:// contradict each other",
            hint="leave out --insecure, or write the name without https://",
        )
    return Access(plain=frozenset({reference.endpoint} if insecure else ()))


PULL_EPILOG = """\
\b
Examples:
  mbuild pull ghcr.io/org/mario:v2
  mbuild pull ghcr.io/org/mario:v2 -t mario      under another name
"""


@click.command("pull", epilog=PULL_EPILOG)
@click.argument("reference", metavar="NAME", type=ReferenceType())
@click.option("-t", "--tag", "local", metavar="NAME", type=NameType(), help="Name in the store.")
@store_option
@insecure_option
@format_option
@click.pass_context
def pull_command(
    ctx: click.Context,
    *,
    reference: ModelReference,
    local: ModelName | None,
    store: str | None,
    insecure: bool,
    style: str,
) -> None:
    """Pull a model from a registry into the store.

    NAME is [HOST/]PATH[:TAG] or HOST/PATH@sha256:...; without HOST it is in Ollama's registry.
    A pull that was stopped continues where it left off; what the store has is not fetched again.
    """
    from mbuild.registry.transfer.pull import pull

    opened = open_store(ctx, store)
    name = local or reference.local
    _follow(
        pull(reference, name, opened, _access(reference, insecure)), "pulling", reference, style
    )


class DialectType(ParamType):
    """A form of manifest, perhaps with the tag that it gets: ``NAME[=TAG]``."""

    name = "dialect"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Wanted:
        """Parse, or refuse as wrong usage."""
        from mbuild.registry.dialects.table import BY_NAME
        from mbuild.registry.transfer.push import Wanted

        if isinstance(value, Wanted):
            return value
        name, equals, tag = str(value).partition("=")
        if name not in BY_NAME:
            known = ", ".join(BY_NAME)
            self.fail(f"there is no dialect {name!r}; there are {known}", param, ctx)
        if equals and not is_tag(tag):
            self.fail(f"{tag!r} cannot be a tag", param, ctx)
        return Wanted(BY_NAME[name], tag)


PUSH_EPILOG = """\
\b
Examples:
  mbuild push mario ghcr.io/org/mario:v2
  mbuild push mario ghcr.io/org/mario:v2 --dialect ollama --dialect docker
  mbuild push mario hf.co/org/mario-GGUF --dry-run
"""


@click.command("push", epilog=PUSH_EPILOG)
@click.argument("name", type=NameType())
@click.argument("target", required=False, type=ReferenceType())
@click.option("--dry-run", is_flag=True, help="Show what would be sent; send nothing.")
@click.option("--private", is_flag=True, help="Make a new repository of the Hub private.")
@click.option(
    "--dialect",
    "dialects",
    metavar="NAME[=TAG]",
    multiple=True,
    type=DialectType(),
    help="Push this form of manifest: ollama, modelpack, docker; repeatable.  [default: ollama]",
)
@store_option
@insecure_option
@format_option
@click.pass_context
def push_command(
    ctx: click.Context,
    *,
    name: ModelName,
    target: ModelReference | None,
    dialects: tuple[Wanted, ...],
    store: str | None,
    insecure: bool,
    style: str,
    dry_run: bool,
    private: bool,
) -> None:
    """Push a model from the store to a registry, or to a repository of the Hub.

    TARGET is HOST/PATH[:TAG]; without it NAME says where the model goes. The model keeps its
    id, and blobs that the registry has are not sent again. Manifests of ModelPack and of Docker
    Model Runner are tagged TAG-modelpack and TAG-docker, unless --dialect says another tag. To
    hf.co/ORG/REPO go its GGUF files, named after the repository and the quantization, and a card.
    """
    from mbuild.registry.transfer.push import AS_OLLAMA, push, would_send

    opened = open_store(ctx, store)
    reference = target or ModelReference.of(name)
    if reference.digest is not None:
        raise UsageError(
            f"{reference} cannot be pushed to: a digest only names what is already there",
            hint="name a tag: HOST/PATH:TAG",
        )
    stored = opened.manifests.resolve(name)
    if opened.manifests.read_bytes(stored) is None:
        from mbuild.models.library import find

        find(opened, name)  # raises the error, with what can have been meant
    if reference.endpoint in HUB_HOSTS:
        if dialects:
            raise UsageError("the Hub has no dialects: files go there", hint="leave --dialect out")
        from mbuild.cli.publish import publish

        publish(opened, stored, reference, style, dry_run=dry_run, private=private)
        return
    if private:
        raise UsageError("--private is for repositories of the Hub", hint="leave it out")
    access, wanted = _access(reference, insecure), dialects or AS_OLLAMA
    _check_tags(reference, wanted)
    if dry_run:
        from mbuild.cli.publish import show_dry_run

        show_dry_run(would_send(stored, reference, opened, access, wanted), style)
        return
    _make_bill(opened, stored)
    _follow(push(stored, reference, opened, access, wanted), "pushing", reference, style)


def _make_bill(store: Store, name: ModelName) -> None:
    """Have the bill of materials there, which goes with the model; a push does without, too."""
    from mbuild.models.provenance.statements import keep_bill

    try:
        keep_bill(store, store.manifests.read(name))
    except MbuildError as error:
        click.echo(f"warning: {error.message}", err=True)


def _check_tags(reference: ModelReference, wanted: Sequence[Wanted]) -> None:
    """Raise :class:`UsageError` for two manifests under one tag, and for a tag too long."""
    tags = [tag or f"{reference.tag}{dialect.suffix}" for dialect, tag in wanted]
    twice = next((tag for tag in tags if tags.count(tag) > 1), "")
    if twice:
        raise UsageError(
            f"two dialects would have the tag {twice!r}", hint="name the tags: --dialect NAME=TAG"
        )
    long = next((tag for tag in tags if not is_tag(tag)), "")
    if long:
        raise UsageError(f"{long!r} cannot be a tag", hint="name one: --dialect NAME=TAG")


def _follow(
    events: Generator[TransferEvent, None, None], label: str, there: ModelReference, style: str
) -> None:
    """Show a transfer, on a terminal by a bar, and in the end what it came to."""
    blobs: dict[Any, tuple[int, int]] = {}
    manifests: list[ManifestPut] = []
    not_taken: tuple[str, ...] = ()
    documents: DocumentsMoved | None = None
    done: Transferred | None = None
    try:
        with closing(events), meter(label, f"waiting for {there.endpoint}") as show:
            for event in events:
                if isinstance(event, BlobProgress):
                    blobs[event.digest] = event.completed, event.total
                elif isinstance(event, BlobDone):
                    blobs[event.digest] = event.total, event.total
                elif isinstance(event, Transferred):
                    done = event
                    continue
                elif isinstance(event, ManifestPut):
                    manifests.append(event)
                    continue
                elif isinstance(event, LeftOut):
                    not_taken = event.names
                    continue
                elif isinstance(event, DocumentsMoved):
                    documents = event
                    continue
                show(sum(each[0] for each in blobs.values()), sum(e[1] for e in blobs.values()))
    except KeyboardInterrupt:
        raise CancelledError(
            "interrupted: what was transferred is kept; the same command continues from there"
        ) from None
    assert done is not None
    if style == "json":
        write_json(
            {
                "name": done.name,
                "id": done.id.hex,
                "size": done.size,
                "moved": done.moved,
                "replaced": done.replaced.hex if done.replaced else None,
                **({"manifests": [_manifest(put) for put in manifests]} if manifests else {}),
                **({"left_out": list(not_taken)} if not_taken else {}),
                **({"documents": documents.number} if documents else {}),
            }
        )
        return
    verb, moved = _DONE[done.direction]
    what = f"{human_size(done.moved)} {moved}" if done.moved else "all of it was there"
    click.echo(f"{verb} {done.name}  {done.id.short}  {human_size(done.size)}, {what}")
    for put in manifests[1:]:
        click.echo(f"{verb} {put.name}  {put.digest.short}  the same blobs for {put.dialect}")
    if documents is not None:
        _show_documents(documents)
    if not_taken:
        click.echo(left_out(not_taken), err=True)
    if done.replaced is not None:
        click.echo(f"replaced {done.name} (was {done.replaced.short})", err=True)


def _show_documents(moved: DocumentsMoved) -> None:
    """How many statements and signatures went along, and why not all of them did."""
    verb, what = _DONE[moved.direction][0], "statements and signatures about it"
    if moved.number:
        click.echo(f"{verb} {moved.number} {what}: mbuild provenance shows them")
    if moved.problem:
        click.echo(f"warning: not all {what} were {verb}: {moved.problem}", err=True)


def _manifest(put: ManifestPut) -> dict[str, str]:
    return {"dialect": put.dialect, "name": put.name, "id": put.digest.hex}


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

    registry = Registry(host, _access(host, insecure), Cancel(), login)
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
    user = username or click.prompt("Username", err=True)
    if stdin:
        password = sys.stdin.read(1 << 16).removesuffix("\n").removesuffix("\r")
    else:
        password = click.prompt("Password", hide_input=True, err=True)
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
