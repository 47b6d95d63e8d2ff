"""``pull`` and ``push``: models from and to registries."""

from __future__ import annotations

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
from mbuild.cli.login import access_to, insecure_option
from mbuild.cli.meter import meter
from mbuild.core.errors import CancelledError, MbuildError, NameNotFoundError, UsageError
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
from mbuild.core.values import NamedTuple
from mbuild.registry.reference import HUB_HOSTS, ModelReference, is_tag

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.registry.transfer.push import Wanted
    from mbuild.store import Store

_DONE = {Direction.PULL: ("pulled", "fetched"), Direction.PUSH: ("pushed", "sent")}


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


PULL_EPILOG = """\
\b
Examples:
  mbuild pull ghcr.io/org/mario:v2
  mbuild pull ghcr.io/org/mario:v2 -t mario      under another name
  mbuild pull ghcr.io/org/mario:v2 -t mario -t mario:v2
"""


@click.command("pull", epilog=PULL_EPILOG)
@click.argument("reference", metavar="NAME", type=ReferenceType())
@click.option(
    "-t",
    "--tag",
    "names",
    metavar="NAME",
    multiple=True,
    type=NameType(),
    help="Name in the store; repeatable.",
)
@store_option
@insecure_option
@format_option
@click.pass_context
def pull_command(
    ctx: click.Context,
    *,
    reference: ModelReference,
    names: tuple[ModelName, ...],
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
    first, *others = dict.fromkeys(names) or [reference.local]
    events = pull(reference, first, opened, access_to(reference, insecure))
    tally = _followed(events, "pulling", reference)
    tally.also = [_named_too(first, other, opened) for other in others]
    _show(tally, style)


def _named_too(first: ModelName, name: ModelName, store: Store) -> AnotherName:
    """Give a model that came one more name."""
    from mbuild.models.library import copy

    replaced = copy(store, first, name)
    return AnotherName(str(store.manifests.resolve(name)), replaced)


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
    opened = open_store(ctx, store)
    reference = target or ModelReference.of(name)
    stored = _to_push(name, reference, opened)
    if reference.endpoint in HUB_HOSTS:
        if dialects:
            raise UsageError("the Hub has no dialects: files go there", hint="leave --dialect out")
        from mbuild.cli.publish import publish

        publish(opened, stored, reference, style, dry_run=dry_run, private=private)
        return
    if private:
        raise UsageError("--private is for repositories of the Hub", hint="leave it out")
    from mbuild.registry.transfer.push import AS_OLLAMA, push, would_send

    access, wanted = access_to(reference, insecure), dialects or AS_OLLAMA
    _check_tags(reference, wanted)
    if dry_run:
        from mbuild.cli.publish import show_dry_run

        show_dry_run(would_send(stored, reference, opened, access, wanted), style)
        return
    _make_bill(opened, stored)
    tally = _followed(push(stored, reference, opened, access, wanted), "pushing", reference)
    _show(tally, style)


def _to_push(name: ModelName, reference: ModelReference, store: Store) -> ModelName:
    """The stored name of the model; raises where it is not there, or the place is a digest."""
    if reference.digest is not None:
        raise UsageError(
            f"{reference} cannot be pushed to: a digest only names what is already there",
            hint="name a tag: HOST/PATH:TAG",
        )
    stored = store.manifests.resolve(name)
    if store.manifests.read_bytes(stored) is None:
        from mbuild.models.library import find

        here = store.manifests.resolve(ModelName.parse(f"{name.model}:{name.tag}"))
        if here != name and store.manifests.read_bytes(here) is not None:
            hint = f"mbuild push {here} {reference} sends the model that is called so here"
            raise NameNotFoundError(f"model '{name}' not found", hint=hint)
        find(store, name)  # raises the error, with what can have been meant
    return stored


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


class AnotherName(NamedTuple):
    """A further name that a pulled model got; ``replaced`` is the id of the model that had it."""

    name: str
    replaced: Digest | None


class TransferTally:
    """What the events of a transfer come to: bytes so far, and in the end what was moved."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, tuple[int, int]] = {}
        self.manifests: list[ManifestPut] = []
        self.also: list[AnotherName] = []
        self.left_out: tuple[str, ...] = ()
        self.documents: DocumentsMoved | None = None
        self.done: Transferred | None = None

    def take(self, event: TransferEvent) -> bool:
        """Note an event; whether it is one about bytes."""
        if isinstance(event, BlobProgress):
            self.blobs[event.digest] = event.completed, event.total
        elif isinstance(event, BlobDone):
            self.blobs[event.digest] = event.total, event.total
        elif isinstance(event, Transferred):
            self.done = event
        elif isinstance(event, ManifestPut):
            self.manifests.append(event)
        elif isinstance(event, LeftOut):
            self.left_out = event.names
        elif isinstance(event, DocumentsMoved):
            self.documents = event
        return isinstance(event, (BlobProgress, BlobDone))

    @property
    def so_far(self) -> tuple[int, int]:
        """Bytes that are there, and all of those that are known to come."""
        pairs = self.blobs.values()
        return sum(completed for completed, _ in pairs), sum(total for _, total in pairs)


def _followed(
    events: Generator[TransferEvent, None, None], label: str, there: ModelReference
) -> TransferTally:
    """Show a transfer, on a terminal by a bar; what it came to."""
    tally, direction = TransferTally(), Direction.PULL
    try:
        with closing(events), meter(label, f"waiting for {there.endpoint}") as show:
            for event in events:
                direction = event.direction
                if tally.take(event):
                    show(*tally.so_far)
    except KeyboardInterrupt:
        raise CancelledError(_INTERRUPTED[direction]) from None
    return tally


_INTERRUPTED = {
    Direction.PULL: "interrupted: what was transferred is kept; the same command continues from"
    " there",
    Direction.PUSH: "interrupted: the same command continues from what the registry keeps",
}


def _show(tally: TransferTally, style: str) -> None:
    """What a transfer came to."""
    assert tally.done is not None
    if style == "json":
        _show_json(tally, tally.done)
    else:
        _show_text(tally, tally.done)


def _show_json(tally: TransferTally, done: Transferred) -> None:
    """What a transfer came to, for programs."""
    write_json(
        {
            "name": done.name,
            "id": done.id.hex,
            "size": done.size,
            "moved": done.moved,
            "replaced": done.replaced.hex if done.replaced else None,
            **({"also": [_another(each) for each in tally.also]} if tally.also else {}),
            **(
                {"manifests": [_manifest(put) for put in tally.manifests]}
                if tally.manifests
                else {}
            ),
            **({"left_out": list(tally.left_out)} if tally.left_out else {}),
            **({"documents": tally.documents.number} if tally.documents else {}),
        }
    )


def _show_text(tally: TransferTally, done: Transferred) -> None:
    """What a transfer came to, for people."""
    verb, moved = _DONE[done.direction]
    what = f"{human_size(done.moved)} {moved}" if done.moved else "all of it was there"
    click.echo(f"{verb} {done.name}  {done.id.short}  {human_size(done.size)}, {what}")
    for also in tally.also:
        click.echo(f"{verb} {also.name}  {done.id.short}  the same blobs")
    for put in tally.manifests[1:]:
        click.echo(f"{verb} {put.name}  {put.digest.short}  the same blobs for {put.dialect}")
    if tally.documents is not None:
        _show_documents(tally.documents)
    if tally.left_out:
        click.echo(left_out(tally.left_out), err=True)
    for name, replaced in ((done.name, done.replaced), *tally.also):
        if replaced is not None:
            click.echo(f"replaced {name} (was {replaced.short})", err=True)


def _show_documents(moved: DocumentsMoved) -> None:
    """How many statements and signatures went along, and why not all of them did."""
    verb, what = _DONE[moved.direction][0], "statements and signatures about it"
    if moved.number:
        click.echo(f"{verb} {moved.number} {what}: mbuild provenance shows them")
    if moved.problem:
        click.echo(f"warning: not all {what} were {verb}: {moved.problem}", err=True)


def _manifest(put: ManifestPut) -> dict[str, str]:
    return {"dialect": put.dialect, "name": put.name, "id": put.digest.hex}


def _another(also: AnotherName) -> dict[str, str | None]:
    return {"name": also.name, "replaced": also.replaced.hex if also.replaced else None}
