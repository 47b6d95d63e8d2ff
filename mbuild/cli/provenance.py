"""``mbuild provenance`` and ``mbuild sign``: how a model was made, and who signs for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import (
    NameType,
    columns_of,
    format_option,
    harmless,
    human_size,
    open_store,
    store_option,
    write_json,
)
from mbuild.cli.meter import counted
from mbuild.core.errors import UsageError
from mbuild.models import library

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.models.provenance.statements import Statement
    from mbuild.store import Store, StoredManifest

PROVENANCE_EPILOG = """\
\b
Examples:
  mbuild provenance mario
  mbuild provenance mario --format json > mario.intoto.json
  mbuild provenance mario --sbom > mario.cdx.json
"""


@click.command("provenance", epilog=PROVENANCE_EPILOG)
@click.argument("name", type=NameType())
@click.option("--sbom", is_flag=True, help="Print the bill of materials (CycloneDX, JSON).")
@store_option
@format_option
@click.pass_context
def provenance_command(
    ctx: click.Context, *, name: ModelName, sbom: bool, store: str | None, style: str
) -> None:
    """Show how a model was made: from what, by which steps, on what kind of machine.

    Every build writes a statement (in-toto with SLSA provenance), of which a bill of materials
    is made; push and pull take both along. JSON is the statement itself.
    """
    from mbuild.models.provenance.statements import keep_bill, newest

    opened = open_store(ctx, store)
    stored = library.find(opened, name)
    if sbom:
        found = keep_bill(opened, stored)
        if found is None:
            newest(opened, stored)  # raises why there is none
        else:
            write_json(json.loads(found.data))
        return
    statement = newest(opened, stored)
    if style == "json":
        write_json(statement.value)
        return
    from mbuild.cli.screen import narrowed

    lines = map(harmless, _lines(opened, stored, statement))
    click.echo(narrowed("\n".join(lines), columns_of()))


def _lines(store: Store, stored: StoredManifest, statement: Statement) -> Iterator[str]:
    from mbuild.models.provenance.signing import signers

    run, inside = statement.run, statement.definition["internalParameters"]
    machine, when = inside["machine"], run["metadata"]["finishedOn"]
    yield f"{stored.name}  {stored.id.short}"
    yield ""
    version = run["builder"]["version"]["mbuild"]
    yield _row("built", f"{when} by mbuild {version}, build {statement.build}")
    yield _row("machine", f"{machine['os']} {machine['arch']} ({' '.join(machine['cpu'])})")
    for word, each in _sources(statement.definition["resolvedDependencies"]):
        yield _row(word, each)
    for flag, value in _options(inside["lock"]["options"]):
        yield _row(flag, value)
    for step in inside["steps"]:
        words = " ".join(filter(None, (step["kind"], step.get("role"))))
        yield _row("step", f"{words}  key {step.get('key', '')[:12]}  {step['status']}")
    for each in statement.value["subject"][1:]:
        yield _row("layer", f"{each['name']}  sha256:{each['digest']['sha256']}")
    keys = signers(store, stored.id)
    shown = ", ".join(key[:12] or "without a name" for key in keys)
    yield _row("signed", f"by {shown} (mbuild verify --signed checks)" if keys else "no")
    yield _row("statement", str(statement.document.digest))


def _row(word: str, text: str) -> str:
    return f"  {word:<12}{text}"


def _sources(rows: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each source: what it is for, its name where that is told, its size and its digest."""
    for each in rows:
        notes = each["annotations"]
        size = notes.get("size")
        algorithm = "sha256" if "sha256" in each["digest"] else next(iter(each["digest"]))
        parts = [each.get("name", "elsewhere"), human_size(size) if size is not None else ""]
        parts.append(f"{algorithm}:{each['digest'][algorithm]}")
        yield str(notes["role"]), "  ".join(part for part in parts if part)


def _options(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was asked beside the Modelfile."""
    for name, value in options.items():
        if name == "quantize":
            for variant, fields in value.items():
                said = [key for key, item in fields.items() if item and key != "tensor_types"]
                yield "quantize", " ".join([variant, *(f"({key})" for key in said)])
        elif value not in (None, "auto", False):
            yield "option", f"{name} {value}"


SIGN_EPILOG = """\
\b
Examples:
  mbuild sign --new-key my.key               writes my.key and my.key.pub
  mbuild sign mario --key my.key
  mbuild verify mario --signed --key my.key.pub
"""


@click.command("sign", epilog=SIGN_EPILOG)
@click.argument("name", type=NameType(), required=False)
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="The private key.")
@click.option(
    "--new-key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Make a key: FILE for you alone, FILE.pub for all.",
)
@click.option(
    "--identity",
    metavar="HOST/PATH",
    help="The repository that the signature is for  [default: the model's name]",
)
@store_option
@format_option
@click.pass_context
def sign_command(
    ctx: click.Context,
    *,
    name: ModelName | None,
    key: Path | None,
    new_key: Path | None,
    identity: str | None,
    store: str | None,
    style: str,
) -> None:
    """Sign a model's id, and the statement about how it was made, with an ed25519 key.

    The key is a PEM file without a passphrase, as openssl writes it. The signatures are kept
    beside the model; push puts them where cosign looks for them.
    """
    from mbuild.core import keys

    if new_key is not None:
        made = keys.make_key(new_key)
        click.echo(f"made the key {made.public.id[:12]}: {new_key} and {new_key}.pub", err=True)
        key = key or new_key
        if name is None:
            return
    if name is None or key is None:
        raise UsageError("sign needs a model's name and a key", hint="mbuild sign NAME --key FILE")
    from mbuild.models.provenance.signing import sign

    opened = open_store(ctx, store)
    stored = library.find(opened, name)
    if keys.is_exposed(key):
        click.echo(f"warning: others than you may read {key}: chmod 600 {key}", err=True)
    with opened.using():
        done = sign(opened, stored, keys.private_key(key), identity or "")
    if style == "json":
        said = str(done.statement) if done.statement else None
        write_json({"key": done.key, "model": str(done.model), "statement": said})
        return
    click.echo(f"signed {stored.name}  {done.model}  with the key {done.key[:12]}")
    if done.statement is not None:
        click.echo(f"signed its statement  {done.statement}")
    else:
        click.echo("there is no statement about how it was made, which could be signed", err=True)


def signed_lines(opened: Store, stored: StoredManifest, key: Path) -> tuple[list[str], bool]:
    """What ``verify --signed`` found, for people, and whether the key signed the model."""
    from mbuild.core.keys import public_key
    from mbuild.models.provenance.signing import check

    found = check(opened, stored, public_key(key))
    name = f"key {found.key[:12]}"
    if not found.good:
        there = f"{counted(found.others, 'signature')} of others" if found.others else "none at all"
        return [f"{stored.name}: not signed by the {name}; there is {there}"], False
    lines = [f"{stored.name}: signed by the {name}  {stored.id}"]
    lines += [f"  its statement too  {digest}" for digest in dict.fromkeys(found.statements)]
    lines += [f"  not signed: the statement  {digest}" for digest in found.unsigned]
    return lines, True
