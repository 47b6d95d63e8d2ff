"""A statement held against a model that was made again, digest by digest.

What making it again proves: the model's id and layers, the Modelfile and the sources, what was
asked, the instructions, options and versions that a lock has, and every step with its key. What
nobody can prove so (times, the machine, a build's id) is left to whoever signed the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import BLAKE3, Digest, DigestError, canonical_json
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.build.lock import BuildLock

Alias = Callable[[Digest], Digest | None]
"""The other digest of a content, where it is known."""

_Row = Mapping[str, Any] | None

Describe = Callable[[str], Mapping[str, Any] | None]
"""What was hashed for a key, where that is known."""


class Compared(NamedTuple):
    """One thing that a statement says: what it is, what it says, and what came out."""

    what: str
    said: str
    found: str
    agrees: bool


def compare(
    said: Mapping[str, Any], found: Mapping[str, Any], same_key: Callable[[str, str], bool]
) -> list[Compared]:
    """Hold a statement against that of the same build made again.

    ``same_key`` tells of two keys whether they stand for the same step.
    """
    one, two = (value["predicate"]["buildDefinition"] for value in (said, found))
    rows = [_text("type of build", one.get("buildType"), two.get("buildType"))]
    rows += _named("", said["subject"], found["subject"])
    rows += _named("source ", _list(one, "resolvedDependencies"), two["resolvedDependencies"])
    rows.append(_value("request", _asked(one), _asked(two)))
    own, other = (_dict(value, "internalParameters") for value in (one, two))
    for part in ("modelfile", "options", "steps", "results"):
        locks = (_without_pull(_dict(value, "lock").get(part)) for value in (own, other))
        rows.append(_value(f"lock {_PARTS[part]}", *locks))
    rows += _steps(_made(own), _made(other), same_key)
    return rows


def _made(parameters: Mapping[str, Any]) -> list[Any]:
    """The steps of a build that made something; ``inputs`` counts among these alone."""
    steps = _list(parameters, "steps")
    places = [number for number, step in enumerate(steps) if step.get("kind") != _PULL]
    new = {old: number for number, old in enumerate(places)}
    made = []
    for step in (steps[place] for place in places):
        inputs = step.get("inputs")
        rest = {key: value for key, value in step.items() if key != "inputs"}
        known = [new[each] for each in inputs if each in new] if _are_places(inputs) else inputs
        made.append({**rest, "inputs": known} if known else rest)
    return made


def _are_places(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int for each in value)


_PULL = "pull"
"""The kind of steps that only bring what digests name: who has that already has no such step."""


def _without_pull(part: Any) -> Any:
    """Versions of steps, as locks of today have them: earlier ones counted downloads."""
    if isinstance(part, dict):
        return {kind: version for kind, version in part.items() if kind != _PULL}
    return part


_PARTS = {
    "modelfile": "instructions",
    "options": "options",
    "steps": "versions of steps",
    "results": "result",
}


def _dict(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _list(value: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = value.get(key)
    rows = found if isinstance(found, list) else []
    return [row if isinstance(row, dict) else {} for row in rows]


def _text(what: str, said: Any, found: Any) -> Compared:
    return Compared(what, str(said), str(found), said == found)


def _value(what: str, said: Any, found: Any) -> Compared:
    """Two JSON values, each shown by the digest of its text."""
    one, two = (str(Digest.of(canonical_json(value).encode())) for value in (said, found))
    return Compared(what, one, two, one == two)


def _asked(definition: Mapping[str, Any]) -> Any:
    """A request without the names that the model got: it is the same under any."""
    request = dict(_dict(_dict(definition, "externalParameters"), "request"))
    request["targets"] = [
        {key: value for key, value in target.items() if key != "names"}
        for target in _list(request, "targets")
    ]
    return request


def _named(
    prefix: str, said: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> Iterator[Compared]:
    """Subjects or sources, in their order: each has digests of one or two kinds."""
    pairs: Iterator[tuple[_Row, _Row]] = zip_longest(said, found)
    for number, (one, two) in enumerate(pairs):
        row = two or one or {}
        notes = _dict(row, "annotations")
        label = "manifest" if not prefix and not number else str(row.get("name") or "")
        what = f"{prefix}{label or notes.get('role', 'file')}"
        agrees = one is not None and two is not None and _agree(one, two)
        yield Compared(what, _digests(one), _digests(two), agrees)


def _agree(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether two things are the same: a digest in common, none that differs, one kind of use."""
    a, b = _dict(one, "digest"), _dict(two, "digest")
    common = a.keys() & b.keys()
    same = bool(common) and all(a[key] == b[key] for key in common)
    use = [_dict(each, "annotations") for each in (one, two)]
    kinds = [(each.get("mediaType"), each.get("uri")) for each in (one, two)]
    # A source that was brought from elsewhere has no name there; a subject's is the model's.
    sources = bool(use[0] or use[1])
    names = {each["name"] for each in (one, two) if "name" in each and sources}
    return same and use[0] == use[1] and kinds[0] == kinds[1] and len(names) < 2


def _digests(row: _Row) -> str:
    found = _dict(row or {}, "digest")
    return " ".join(f"{kind}:{found[kind]}" for kind in sorted(found, reverse=True)) or "none"


def _steps(
    said: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    same_key: Callable[[str, str], bool],
) -> Iterator[Compared]:
    none: Mapping[str, Any] = {}
    for one, two in zip_longest(said, found, fillvalue=none):
        words = (str((two or one).get(key, "")) for key in ("kind", "role"))
        keys = str(one.get("key", "none")), str(two.get("key", "none"))
        own = ({k: v for k, v in step.items() if k not in _OWN} for step in (one, two))
        agrees = canonical_json(next(own)) == canonical_json(next(own)) and (
            keys[0] == keys[1] or same_key(*keys)
        )
        yield Compared(f"step {' '.join(filter(None, words))}", *keys, agrees)


_OWN = frozenset({"key", "status"})
"""Of a step: its key is compared by what it stands for, and whether it ran is that build's own."""


def same_steps(known: Describe, again: Describe, alias: Alias) -> Callable[[str, str], bool]:
    """Tells whether two keys stand for the same, but for which digest of a content was known."""

    def same(one: str, two: str) -> bool:
        a, b = known(one), again(two)
        if a is None or b is None:
            return False
        return canonical_json(_plain(a, alias)) == canonical_json(_plain(b, alias))

    return same


def _plain(value: Any, alias: Alias) -> Any:
    """A description with SHA-256 in place of every BLAKE3 whose content's is known."""
    if isinstance(value, dict):
        return {key: _plain(item, alias) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, alias) for item in value]
    if isinstance(value, str) and value.startswith(f"{BLAKE3}:"):
        try:
            other = alias(Digest.parse_any(value))
        except DigestError:
            return value
        return value if other is None else str(other)
    return value


def compare_lock(
    lock: BuildLock, text: str, said: Mapping[str, Any], alias: Alias
) -> list[Compared]:
    """Hold a lock file against a statement: what both tell of this one model."""
    definition = said["predicate"]["buildDefinition"]
    own = _dict(_dict(definition, "internalParameters"), "lock")
    result = _dict(own, "results")
    variant = next((n for n, r in lock.results.items() if r["id"] == result.get("id")), "")
    part = lock.inputs.get("stages", {}).get(variant, lock.inputs)
    own_options = _dict(own, "options")
    asked = _dict(own_options, "quantize")
    locked = {name: part["options"]["quantize"].get(name) for name in asked}
    options = {**part["options"], "quantize": _without_matrix(locked)}
    own_options = {**own_options, "quantize": _without_matrix(asked)}
    versions = _without_pull(_dict(own, "steps"))
    needed = {kind: lock.inputs["steps"].get(kind) for kind in versions}
    rows = [
        _value("lock file's form", text, lock.to_text()),
        _value("lock file's result", lock.results.get(variant), result),
        _value("lock file's instructions", part["modelfile"], own.get("modelfile")),
        _value("lock file's options", options, own_options),
        _value("lock file's versions of steps", needed, versions),
    ]
    sources = _list(definition, "resolvedDependencies")
    for name, digest in _locked_files(part["sources"]):
        found = any(_is_locked(name, digest, each, alias) for each in sources)
        rows.append(Compared(f"lock file's {name}", digest, digest, found))
    return rows


def _is_locked(name: str, digest: str, source: Mapping[str, Any], alias: Alias) -> bool:
    """Whether a source is what a lock names so: by its digest, and its name as far as it is told.

    A lock names the files of a folder with it, a statement as they lie below the Modelfile. A
    lock has SHA-256, and a statement of a file that was only hashed for a key has its BLAKE3.
    """
    if digest.startswith(_HUB):
        return bool(source.get("uri") == digest)
    told = str(source.get("name") or name)
    if not (name.endswith(told) or told.endswith(name)):
        return False
    digests = [f"{kind}:{digits}" for kind, digits in _dict(source, "digest").items()]
    if len(digests) == 1:
        digests.append(_plain(digests[0], alias))
    return digest in digests


_HUB = "pkg:huggingface/"


def _without_matrix(variants: Mapping[str, Any]) -> dict[str, Any]:
    """Options without how the path of an importance matrix is written: its digest is a source."""
    found: dict[str, Any] = {}
    for name, fields in variants.items():
        there = [key for key in ("imatrix", "imatrix_from") if key in (fields or {})]
        files = {key: bool(fields[key]) for key in there}
        found[name] = {**fields, **files} if fields else fields
    return found


def _locked_files(sources: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every file and model that a lock names, with its digest, and the Hub's commits."""
    for each in (row for rows in sources.values() for row in rows):
        if "manifest" in each:
            yield str(each["model"]), str(each["manifest"])
        if "revision" in each:
            yield "revision", f"{_HUB}{each['revision']}"
        folder = f"{each['checkpoint']}/" if "checkpoint" in each else ""
        for name, digest in each.get("files", {}).items():
            yield f"{folder}{name}", str(digest)
        yield from _locked_files({"projectors": each.get("projectors", [])})
