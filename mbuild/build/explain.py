"""Why a step runs: what differs between two descriptions.

A description is what was hashed for a step's key (:func:`mbuild.build.results.describe`),
so what is said here is what decided. Nothing else is looked at, but for the
texts of small JSON files, whose digests the description holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mbuild.build.reasons import MISSING, Change, Explanation, canonical, digests
from mbuild.build.sources.values import README
from mbuild.build.steps.header import ReadHeader
from mbuild.build.steps.kinds import KINDS
from mbuild.core.digest import Digest
from mbuild.core.events import Cause, Note
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.store import Store

_MOST = 12
"""Values of a JSON file that are named, of those that differ."""

ReadText = Callable[[Digest], str | None]
"""The text of a small file by its digest, if it was kept."""

Alias = Callable[[Digest], Digest | None]
"""The other digest of a content, if it is known."""


class DescribedStep(NamedTuple):
    """A step of a build that was or is to be: what it is for and what decides it.

    ``lost`` is why it has no cached result, should nothing have changed.
    """

    kind: str
    role: str
    subject: str
    target: str
    key: str
    description: Mapping[str, Any] | None
    lost: Note | None = None


def explain(
    new: Sequence[DescribedStep], old: Sequence[DescribedStep], store: Store
) -> list[Explanation]:
    """For each step of a build what differs from the build before.

    Of a step without a description nothing can be said yet.
    """

    from mbuild.build.sources.reading import read_text

    return [
        _explanation(step, before, partial(read_text, store), store.files.alias)
        for step, before in zip(new, match(new, old), strict=True)
    ]


def _explanation(
    step: DescribedStep, before: DescribedStep | None, read_text: ReadText, alias: Alias
) -> Explanation:
    if before is None:
        return Explanation(note=Note(Cause.NEW_STEP))
    if step.description is None or before.description is None:
        return Explanation(note=Note(Cause.NOTHING_KEPT))
    found = changes(before.description, step.description, read_text, alias)
    if not found and canonical(before.description) != canonical(step.description):
        return Explanation(note=Note(Cause.REWRITTEN))
    return Explanation(found, None if found else step.lost or Note(Cause.INPUT))


def match(new: Sequence[DescribedStep], old: Sequence[DescribedStep]) -> list[DescribedStep | None]:
    """For each new step the old one that it stands for, if there is one.

    Steps of one kind stand for each other: those with the same key first, then
    those of the same role, subject and target, then in order. What makes the weights is one
    kind: an import can become a conversion.
    """
    left = list(old)
    found: list[DescribedStep | None] = [None] * len(new)
    for same in (_same_key, _same_place, _same_kind):
        for number, step in enumerate(new):
            if found[number] is None:
                found[number] = next((other for other in left if same(step, other)), None)
                if found[number] is not None:
                    left.remove(found[number])  # type: ignore[arg-type]
    return found


def _makes_weights(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].makes_weights


def _same_key(a: DescribedStep, b: DescribedStep) -> bool:
    return a.kind == b.kind and a.key != "" and a.key == b.key


def _same_place(a: DescribedStep, b: DescribedStep) -> bool:
    return (a.kind, a.role, a.subject, a.target) == (b.kind, b.role, b.subject, b.target)


def _same_kind(a: DescribedStep, b: DescribedStep) -> bool:
    return a.kind == b.kind or (_makes_weights(a.kind) and _makes_weights(b.kind))


def changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    read_text: ReadText,
    alias: Alias = lambda digest: None,
) -> tuple[Change, ...]:
    """Every input that differs between two descriptions; none if they are equal.

    Two digests of the same content, as ``alias`` tells, are no difference.
    """
    if old["kind"] != new["kind"]:
        return (Change("step", old["kind"], new["kind"], Cause.STEP),)
    found = list(_version(old, new))
    new = json.loads(canonical(new))
    kinds = _other_source(old, new)
    if kinds is not None:
        found.append(Change("step", *kinds, Cause.STEP))
        old, new = _without(old, kinds[0]), _without(new, kinds[1])
    a, b = _one_weights(_leaves(old), _leaves(new))
    for path in dict.fromkeys((*a, *b)):
        before, after = a.get(path, MISSING), b.get(path, MISSING)
        if path[0] == _VALUES:
            before, after = _as_written(before), _as_written(after)
        if before != after and not _same_content(before, after, read_text, alias):
            cause = Cause.VERSION if path in _VERSIONS else Cause.INPUT
            name = _name(new["kind"], path)
            found += (
                change._replace(cause=cause) for change in _expanded(name, before, after, read_text)
            )
    return tuple(found)


def _version(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    if old["version"] != new["version"]:
        name = f"mbuild's version of the step {new['kind']}"
        yield Change(name, old["version"], new["version"], Cause.VERSION)


def _other_source(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str] | None:
    """The kinds of the input that knew the model, and of the one that knows it now.

    It is the step that makes the weights or, where they are quantized, one that reads the
    header of their source.
    """
    before, after = ({source["kind"] for source in each["inputs"]} for each in (old, new))
    gone, added = before - after, after - before
    made, makes = (list(filter(_makes_weights, kinds)) for kinds in (gone, added))
    if added == {ReadHeader.kind} and len(made) == 1:
        return made[0], ReadHeader.kind
    if gone == {ReadHeader.kind} and len(makes) == 1:
        return ReadHeader.kind, makes[0]
    return None


def _without(description: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A description without its inputs of that kind."""
    kept = [source for source in description["inputs"] if source["kind"] != kind]
    return {**description, "inputs": kept}


_Leaves = dict[tuple[str, ...], Any]


def _one_weights(old: _Leaves, new: _Leaves) -> tuple[_Leaves, _Leaves]:
    """The same leaves; weights that another kind of step makes now are one input, not two."""
    gone = [path for path in old if path not in new and _makes_weights(path[-1])]
    added = [path for path in new if path not in old and _makes_weights(path[-1])]
    if len(gone) != 1 or len(added) != 1:
        return old, new
    both = ("inputs", "weights")
    return (
        {both if path == gone[0] else path: value for path, value in old.items()},
        {both if path == added[0] else path: value for path, value in new.items()},
    )


def _leaves(description: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Fields and inputs as one flat mapping; an input is named by its kind.

    What is empty or not there says nothing: it has no leaf.
    """
    leaves = {_moved(path): leaf for path, leaf in _flat(description["fields"], ())}
    if leaves.get(_BASE) is None:
        leaves.pop(_BASE, None)
    sources = description["inputs"]
    names = _numbered([_input_name(s["kind"]) for s in sources])
    for name, source in zip(names, sources, strict=True):
        leaves |= _result(name, source["result"], _shown_facts(source["kind"]))
    return leaves


def _moved(path: tuple[str, ...]) -> tuple[str, ...]:
    """Where a leaf stands today: builds before the key field ``card`` had it among the files."""
    return (*path[:-2], "card") if path[-2:] == ("files", README) else path


def _same_content(old: Any, new: Any, read_text: ReadText, alias: Alias) -> bool:
    """Whether both are digests, of one kind and the other, of the same files."""
    if _named_file(old) and _named_file(new) and old[0] == new[0]:
        old, new = old[1], new[1]
    before, after = digests(old), digests(new)

    def same(a: Digest, b: Digest) -> bool:
        text = read_text(a)
        return b in (a, alias(a)) or (text is not None and text == read_text(b))

    return len(before) == len(after) > 0 and all(map(same, before, after))


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of which each is there once: further ones are numbered, ``license 2``."""
    counts: dict[str, int] = {}
    found = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        found.append(name if counts[name] == 1 else f"{name} {counts[name]}")
    return found


def _result(
    name: str, result: Mapping[str, Any], shown: Sequence[str]
) -> dict[tuple[str, ...], Any]:
    """What an earlier step came out as: its layers by digest; each fact where it made none.

    ``shown``: the facts that say all, where there are such.
    """
    layers = [layer["digest"] for layer in result["layers"]]
    if layers:
        return {("inputs", name): ", ".join(layers)}
    facts = result["facts"]
    if shown:
        facts = {fact: facts.get(fact) for fact in shown}
    return dict(_flat(facts, ("inputs", name)))


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves of nested mappings; layers, and lists that are values, stay whole."""
    if isinstance(value, Mapping) and "mediaType" not in value:
        for key, item in value.items():
            yield from _flat(item, (*path, str(key)))
    elif path == ("entries",):
        kept = [entry for entry in value if entry is not None]
        names = _numbered([entry["mediaType"].rpartition(".")[2] for entry in kept])
        for name, entry in zip(names, kept, strict=True):
            yield (*path, name), entry["digest"]
    elif isinstance(value, (list, tuple)) and value and all(map(digests, value)):
        for number, digest in enumerate(value, start=1):
            yield ((*path, str(number)) if len(value) > 1 else path), digest
    else:
        yield path, value


_BASE = ("base",)
_VALUES = "values"

_VERSIONS = frozenset((("mbuild",), ("origin", "converter"), ("engine",)))
"""The places that hold a version of mbuild or of a part of it, or what computes."""


def _name(kind: str, path: tuple[str, ...]) -> str:
    """What a place in a description is called; the longest beginning that has a name counts."""
    names = {("inputs",): "", **(KINDS[kind].field_names if kind in KINDS else {})}
    for length in range(len(path), 0, -1):
        if path[:length] in names:
            words = (names[path[:length]], *path[length:])
            return " ".join(word for word in words if word)
    return ".".join(path)


def _input_name(kind: str) -> str:
    """What the result of a step of that kind is called where it is the input of another."""
    return (KINDS[kind].input_name if kind in KINDS else "") or kind


def _shown_facts(kind: str) -> tuple[str, ...]:
    """The facts of such a step that an explanation names; none where it names every one."""
    return KINDS[kind].input_facts if kind in KINDS else ()


def _expanded(name: str, old: Any, new: Any, read_text: ReadText) -> Iterator[Change]:
    """A change, or for a JSON file whose two texts are known one for each value in it."""
    if _named_file(old) and _named_file(new) and old[0] == new[0]:
        name, old, new = old[0], old[1], new[1]
    if MISSING not in (old, new) and name.endswith(".json"):
        before, after = _parsed(old, read_text), _parsed(new, read_text)
        if before is not None and after is not None:
            a, b = dict(_flat(before, ())), dict(_flat(after, ()))
            paths = [p for p in dict.fromkeys((*a, *b)) if a.get(p, MISSING) != b.get(p, MISSING)]
            for path in paths[:_MOST]:
                label = f"{name}: {'.'.join(path)}"
                yield Change(label, a.get(path, MISSING), b.get(path, MISSING))
            if paths:
                return
    yield Change(name, old, new)


def _named_file(value: Any) -> bool:
    """Whether a value is a file's name and digest."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and bool(digests(value[1]))


def _parsed(digest: Any, read_text: ReadText) -> Any:
    named = digests(digest)
    text = read_text(named[0]) if named else None
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _as_written(value: Any) -> Any:
    """A parameter's value as Modelfiles have it: numbers are kept as Go's floats, 5 as 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
