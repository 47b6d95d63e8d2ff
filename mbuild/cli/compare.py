"""``mbuild diff``, and the tensors and metadata of ``mbuild show``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from mbuild.cli.common import (
    columns_of,
    format_option,
    human_size,
    model_name,
    open_store,
    printable,
    store_option,
    write_json,
)
from mbuild.cli.meter import meter, table
from mbuild.core.digest import Digest
from mbuild.models import library
from mbuild.models.compare import (
    ChangedValue,
    DifferenceCause,
    ModelDiff,
    Side,
    TensorDiff,
    TensorFacts,
    WeightsDiff,
    causes,
    gguf_side,
    measures_of,
    model_side,
)
from mbuild.models.compare import diff as compare
from mbuild.store import Store, StoredManifest
from mbuild.store.contents import metadata_rows, tensor_rows, weights_in
from mbuild.store.media import GGUF

_SHOWN = 100
"""Characters of a value that are shown."""

EPILOG = """\
\b
Examples:
  mbuild diff mario luigi
  mbuild diff mario luigi --quick           types and shapes only, reads no weights
  mbuild diff mario ./other.gguf --format json
"""


@click.command("diff", epilog=EPILOG)
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@store_option
@click.option("--quick", is_flag=True, help="Compare tensors by type and shape only.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there are differences.")
@format_option
@click.pass_context
def diff_command(
    ctx: click.Context, /, *, old: str, new: str, store: str | None, style: str, **flags: bool
) -> int:
    """Show what differs between two models: layers, parameters, texts, metadata, tensors.

    A and B are models in the store or GGUF files. For tensors of equal shape
    the error of B's values against A's is given (relative RMS).
    """
    opened = open_store(ctx, store)
    with opened.reading(), meter("comparing") as show:
        sides = _side(opened, old), _side(opened, new)
        found = compare(*sides, values=not flags["quick"], progress=show)
        stored = [side.contents.stored if side.contents else None for side in sides]
        made = causes(found, stored, opened)
        measured = measures_of(stored[0], stored[1], opened)
    if style == "json":
        value = {**found.to_json(), "causes": [cause.to_json() for cause in made]}
        write_json({**value, "measures": [change.to_json() for change in measured]})
    else:
        lines = _lines(found) + _section("Measures", [_change(change) for change in measured])
        lines += _section("Written in", _causes(made))
        from mbuild.cli.screen import narrowed

        click.echo(narrowed("\n".join(map(printable, lines)), columns_of()))
    return 1 if flags["exit_code"] and found.differ else 0


def _side(store: Store, text: str) -> Side:
    """A GGUF file when it ends so or is one, else a model's name."""
    if text.endswith(".gguf") or text.startswith(("./", "../", "/", "~")):
        return gguf_side(Path(text).expanduser())
    return model_side(store, library.find(store, model_name(text)))


def _lines(found: ModelDiff) -> list[str]:
    lines = [f"--- {found.old}", f"+++ {found.new}"]
    if not found.differ:
        return [*lines, "no difference"]
    lines += _section("Layers", [_digests(change) for change in found.layers])
    lines += _section("Config", [_change(change) for change in found.config])
    lines += _section("Parameters", [_change(change) for change in found.parameters])
    for name, text in found.texts.items():
        lines += _section(name.capitalize(), list(text))
    for weights in found.weights:
        lines += _weights(weights)
    return lines


def _causes(made: Sequence[DifferenceCause]) -> list[str]:
    """What differs, the side, and the line or option that said so."""
    rows = []
    for number, cause in enumerate(made):
        repeated = number > 0 and made[number - 1].difference == cause.difference
        name = "" if repeated else cause.difference
        rows.append((name, cause.side, cause.place, cause.text[:_SHOWN]))
    return table(rows) if rows else []


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []


def _digests(change: ChangedValue) -> str:
    old, new = (digest.short if digest else "" for digest in (change.old, change.new))
    return _line(change.key, old, new)


def _change(change: ChangedValue) -> str:
    old, new = (
        "" if value is None else json.dumps(value, ensure_ascii=False)
        for value in (change.old, change.new)
    )
    return _line(change.key, old, new)


def _line(key: str, old: str, new: str) -> str:
    if not old:
        return f"+ {key}: {new}"
    if not new:
        return f"- {key}: {old}"
    return f"~ {key}: {old} -> {new}"


def _weights(weights: WeightsDiff) -> Iterator[str]:
    title = f"Weights ({weights.kind})"
    if weights.identical:
        old, new = weights.files
        same = "the same bytes" if old == new else f"the same tensors, in {old} and {new} files"
        yield from _section(title, [same])
        return
    if weights.only:
        yield from _section(title, ["+ only in B" if weights.only == "new" else "- only in A"])
        return
    yield from _section(f"{title}: metadata", [_metadata(change) for change in weights.metadata])
    rows = [("", "NAME", "TYPE", "SHAPE", "REL RMS"), *map(_tensor, weights.tensors)]
    count = len(weights.tensors)
    summary = (
        f"{weights.same} tensors are the same, {count} {'differs' if count == 1 else 'differ'}"
    )
    types = [_types(side) for side in weights.types]
    summary += f" ({types[0]})" if types[0] == types[1] else f" ({types[0]} -> {types[1]})"
    yield from _section(f"{title}: tensors", [summary, *(table(rows) if count else [])])


def _types(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _metadata(change: ChangedValue) -> str:
    sides: list[Mapping[str, str]] = [change.old or {}, change.new or {}]
    shown = [side.get("value", "") for side in sides]
    if change.old and change.new and change.old["type"] != change.new["type"]:
        shown = [f"{side['type']} {side['value']}" for side in sides]
    elif shown[0] == shown[1]:  # a long array or text that differs further on
        shown[1] = "(differs further on)"
    return _line(change.key, shown[0], shown[1])


def _tensor(tensor: TensorDiff) -> tuple[str, ...]:
    old, new = tensor.old, tensor.new
    if old is None or new is None:
        facts = old or new
        assert facts is not None
        mark = "+" if old is None else "-"
        return mark, tensor.name, facts.type, _shape(facts), ""
    error = tensor.note if tensor.error is None else f"{tensor.error:.3g}"
    types = old.type if old.type == new.type else f"{old.type} -> {new.type}"
    shapes = _shape(old) if old.shape == new.shape else f"{_shape(old)} -> {_shape(new)}"
    return "~", tensor.name, types, shapes, error


def _shape(facts: TensorFacts) -> str:
    return "x".join(map(str, facts.shape))


# For ``mbuild show``.


def inside(store: Store, stored: StoredManifest, parts: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Tensors and metadata, as far as asked for, of each GGUF layer of a model."""
    found = []
    with ExitStack() as stack:
        stack.enter_context(store.reading())
        for media_type in GGUF:
            for group, weights in weights_in(store, stored, media_type):
                layer = group[0]
                row: dict[str, Any] = {"layer": layer.kind, "digest": str(layer.digest)}
                if group[1:]:
                    row["shards"] = [str(each.digest) for each in group]
                if parts["metadata"]:
                    row["metadata"] = metadata_rows(weights)
                if parts["tensors"]:
                    row["tensors"] = tensor_rows(weights)
                found.append(row)
    return found


def inside_lines(layers: list[dict[str, Any]]) -> list[str]:
    """The same for people."""
    lines: list[str] = []
    for layer in layers:
        more = f" and {len(layer['shards']) - 1} more" if "shards" in layer else ""
        lines += [f"{layer['layer']}  {Digest.parse(layer['digest']).short}{more}", ""]
        keys = [(row["key"], row["type"], _value(row)) for row in layer.get("metadata", ())]
        tensors = [
            (row["name"], row["type"], "x".join(map(str, row["shape"])), human_size(row["bytes"]))
            for row in layer.get("tensors", ())
        ]
        for rows, right in ((keys, frozenset[int]()), (tensors, frozenset({3}))):
            if rows:
                lines += [*(f"  {line}" for line in table(rows, right)), ""]
    return [printable(line) for line in lines[:-1]]


def _value(row: Mapping[str, Any]) -> str:
    text = json.dumps(row["value"], ensure_ascii=False)
    if "count" in row and row["count"] > len(row["value"]):
        text = f"{text[:-1]}, ...]"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
