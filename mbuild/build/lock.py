"""``Modelfile.lock``: what a model was built from and what came out, by digest; compared here.

A lock is JSON with sorted keys and without paths or times, so that equal builds
have equal locks and a changed file is a changed line. ``docs/lock.md`` describes
the format. Nothing here looks at the disk.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbuild import __version__
from mbuild.build.pins import FILES, STAGES, UNQUANTIZED, is_revision
from mbuild.build.request import BuildRequest, Target
from mbuild.build.splitting import HALVES, SPLITTING, Halves, Splitting
from mbuild.convert.conversion import CONVERSION, Conversion
from mbuild.core.digest import Digest
from mbuild.core.errors import FormatError, MbuildError
from mbuild.core.values import NamedTuple
from mbuild.quant.choose.options import OPTIONS, Option, Quantization

if TYPE_CHECKING:
    from mbuild.build.request import Script

FORMAT = 1
"""Counts up when locks of another shape are written."""

ASKED = "asked"
"""What the command line asked of a Modelfile with stages, for the next time."""

_FOREIGN = (MbuildError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading raises where the JSON is not that of a lock."""

_TEXTS = {"template": "TEMPLATE", "system": "SYSTEM"}
_LISTS = {"licenses": "LICENSE", "messages": "MESSAGE", "changes": "instruction", "unset": "UNSET"}
_SETTINGS = {"renderer": "RENDERER", "parser": "PARSER", "requires": "REQUIRES"}
_SOURCES = {"from": "FROM", "adapter": "ADAPTER", "draft": "DRAFT"}
_OF_CHANGES = {"merge": "MERGE", "take": "TAKE"}


class LockPlace(NamedTuple):
    """What a locked value is about: an instruction by word and number, or what is in none.

    ``number`` counts the instructions of that word from 0; -1 is the last one,
    where only the last counts. ``label`` is the part of it: a file's or a
    parameter's name, an option.
    """

    word: str
    number: int
    label: str


class Drift(NamedTuple):
    """One difference: ``old`` in the lock, ``new`` now; None where there is nothing."""

    place: LockPlace
    old: str | None
    new: str | None

    @property
    def message(self) -> str:
        """The difference in words."""
        what = self.place.label or self.place.word
        if self.old is None:
            return f"{what} is not in the lock file: {self.new}"
        if self.new is None:
            return f"{what} is in the lock file ({self.old}), but not there now"
        return f"{what} changed: {self.old} in the lock file, {self.new} now"


class BuildLock(NamedTuple):
    """A lock: what the build starts from, and each variant's result.

    ``inputs`` and ``results`` are the JSON of the file; ``mbuild`` is the
    version that wrote it, which is not compared: the versions of the steps are.
    """

    inputs: Mapping[str, Any]
    results: Mapping[str, Any]
    mbuild: str = __version__

    def to_text(self) -> str:
        """The file's text."""
        value = {"lock": FORMAT, "mbuild": self.mbuild, **self.inputs, "results": self.results}
        return json.dumps(value, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_text(cls, text: str, name: str) -> BuildLock:
        """Read a lock; raises :class:`FormatError` naming ``name`` for anything else."""
        again = "write it again with mbuild lock"
        try:
            value = json.loads(text)
            number = value.pop("lock")
            if isinstance(number, int) and number > FORMAT:
                raise FormatError(
                    f"{name} has lock format {number}; this mbuild reads format {FORMAT}",
                    hint="use a newer mbuild",
                )
            if number != FORMAT:
                raise ValueError(f"lock format {number!r}")
            results, mbuild = value.pop("results"), value.pop("mbuild")
            lock = cls(value, results, str(mbuild))
            locked_inputs(lock.inputs, results)
            for variant in results:
                _flat_result(results[variant])
        except FormatError:
            raise
        except _FOREIGN as error:
            raise FormatError(f"{name} is not a lock file: {_reason(error)}", hint=again) from None
        return lock


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


# Asking again.


def locked_quantization(lock: BuildLock, variant: str) -> Quantization | None:
    """How a variant of a lock is quantized; None for one that is not, or that it does not have.

    Raises :class:`UsageError` for options that this mbuild cannot read.
    """
    fields = lock.inputs["options"]["quantize"].get(variant)
    if fields is None:
        return None
    given = {row.name: fields[field] for field, row in OPTIONS.items() if field in fields}
    given |= {name: next(iter(given.get(name) or ()), None) for name in FILES}
    return Quantization.parse(variant, given)


def locked_request(lock: BuildLock, target: Target, source: Script) -> BuildRequest:
    """The request for one target, with the lock's options for what all targets share."""
    options = lock.inputs["options"]
    draft = options["draft_quantize"]
    if draft is not None:
        from mbuild.quant.choose.types import file_type

        draft = file_type(draft)
    outtype, pre, splitting = options["outtype"], options["pre"], locked_splitting(lock)
    request = BuildRequest((target,), source, outtype, pre, draft, splitting=splitting)
    conversion = Conversion.parse(_given(lock, CONVERSION))
    return request._replace(conversion=conversion, halves=Halves.parse(_given(lock, HALVES)))


def locked_splitting(lock: BuildLock) -> Splitting | None:
    """In which files a lock's weights are kept; raises :class:`UsageError` for what cannot be."""
    return Splitting.parse(_given(lock, SPLITTING))


def _given(lock: BuildLock, table: Mapping[str, Option]) -> dict[str, Any]:
    """The options of a table that a lock has, by their names."""
    options = lock.inputs["options"]
    return {row.name: options[row.name] for row in table.values() if row.name in options}


def pinned_manifests(lock: BuildLock) -> dict[str, Digest]:
    """The ids of the models that a locked build starts from, by their names in the store."""
    found: dict[str, str] = {}
    for source in _all_sources(lock):
        if "manifest" in source:
            found[str(source["model"])] = source["manifest"]
        found.update(source.get("pulled", {}))
    return {name: Digest.parse(text) for name, text in found.items()}


def pinned_commits(lock: BuildLock) -> dict[str, str]:
    """The commits of the Hub's repositories that a locked build starts from, by repository."""
    commits = {}
    for source in _all_sources(lock):
        revision = str(source.get("revision", ""))
        if is_revision(revision):
            repository, _, commit = revision.partition("@")
            commits[repository] = commit
    return commits


def _all_sources(lock: BuildLock) -> Iterator[Mapping[str, Any]]:
    """What all instructions of all targets name."""
    for part in lock.inputs[STAGES].values() if STAGES in lock.inputs else (lock.inputs,):
        for kind in part["sources"].values():
            yield from kind


# Comparing.


def drift_of_inputs(lock: BuildLock, now: Mapping[str, Any], asked: Collection[str]) -> list[Drift]:
    """What differs between a lock and the build that would run now.

    ``asked`` are the variants of that build; others that the lock has do not
    count, nor do versions of steps that it does not need. (Downloads are no such steps; locks
    of earlier versions have theirs where something was not in the store.)
    """
    missing = [variant for variant in asked if variant not in lock.results]
    if missing:
        has = ", ".join(lock.results)
        return [Drift(LockPlace("", -1, _variant(name)), None, f"it has {has}") for name in missing]
    old, new = locked_inputs(lock.inputs, asked), locked_inputs(now, asked)
    for kind in set(lock.inputs["steps"]) - set(now["steps"]):
        del old[_step(kind)]
    return _differences(old, new)


def drift_of_results(lock: BuildLock, now: Mapping[str, Any]) -> list[Drift]:
    """What differs between a lock's results and those of a build, by variant and layer."""
    found = []
    for variant, result in now.items():
        prefix = f"{variant}: " if variant != UNQUANTIZED else ""
        rows = _differences(_flat_result(lock.results[variant]), _flat_result(result))
        for place, old, new in rows:
            found.append(Drift(LockPlace("", -1, prefix + place.label), old, new))
    return found


def locked_inputs(value: Mapping[str, Any], asked: Iterable[str]) -> dict[LockPlace, str]:
    """A lock's inputs as places and texts; raises KeyError, TypeError, ... for foreign JSON."""
    flat: dict[LockPlace, str] = {}
    if STAGES in value:
        for variant in asked:
            part = value[STAGES][variant]
            named = [*part["options"]["quantize"]] or [UNQUANTIZED]
            for place, text in locked_inputs({**part, "steps": {}}, named).items():
                label = f"{variant}: {' '.join(each for each in (place.word, place.label) if each)}"
                flat[LockPlace("", place.number, label)] = text
        flat |= {_step(kind): str(version) for kind, version in value["steps"].items()}
        return flat
    sources, modelfile, options = value["sources"], value["modelfile"], value["options"]
    named = [(sources[key], word) for key, word in _SOURCES.items()]
    named += [(sources.get(key, ()), word) for key, word in _OF_CHANGES.items()]
    for rows, word in named:
        for number, source in enumerate(rows):
            flat |= {LockPlace(word, number, label): text for label, text in _flat_source(source)}
    for key, word in (_TEXTS | _SETTINGS).items():
        if key in modelfile:
            flat[LockPlace(word, -1, "")] = str(modelfile[key])
    for key, word in _LISTS.items():
        for number, text in enumerate(modelfile.get(key, ())):
            flat[LockPlace(word, number, "")] = str(text)
    for name, item in modelfile.get("parameters", {}).items():
        flat[LockPlace("PARAMETER", -1, name)] = json.dumps(item)
    for name in ("outtype", "pre", "draft_quantize"):
        flat[LockPlace("", -1, f"--{name.replace('_', '-')}")] = json.dumps(options[name])
    for row in (*SPLITTING.values(), *CONVERSION.values(), *HALVES.values()):
        flat[LockPlace("", -1, row.flag)] = json.dumps(options.get(row.name))
    if "converter" in options:
        flat[LockPlace("", -1, "--converter")] = str(options["converter"])
    for variant in asked:
        if variant != UNQUANTIZED:
            flat |= _flat_quantization(variant, options["quantize"][variant])
    flat |= {_step(kind): str(version) for kind, version in value["steps"].items()}
    return flat


def _flat_source(source: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "model" in source:
        yield f"model {source['model']}", str(source["manifest"])
        return
    if "checkpoint" in source:
        yield "the folder's name", str(source["checkpoint"])
    if is_revision(revision := str(source.get("revision", ""))):
        yield "the Hub's commit", revision
    for name, digest in source["files"].items():
        yield name, str(digest)
    for projector in source.get("projectors", ()):
        yield from _flat_source(projector)


def _flat_quantization(variant: str, fields: Mapping[str, Any]) -> dict[LockPlace, str]:
    """The options of a variant; one that the lock does not have yet has its default."""
    flat = {}
    for field, option in OPTIONS.items():
        label, item = f"{_variant(variant)} {option.flag}", fields.get(field)
        if field in FILES and item is not None:
            for file, digest in item.items():
                flat[LockPlace("", -1, f"{label} {file}")] = str(digest)
        else:
            value = option.default if item is None else option.parse(item)
            flat[LockPlace("", -1, label)] = json.dumps(option.write(value))
    for name, item in fields.items():
        if name not in OPTIONS:
            flat[LockPlace("", -1, f"{_variant(variant)} --{name}")] = json.dumps(item)
    return flat


def _flat_result(result: Mapping[str, Any]) -> dict[LockPlace, str]:
    rows = {"the model's id": result["id"], "the config": result["config"]["digest"]}
    for number, layer in enumerate(result["layers"], start=1):
        kind = str(layer["mediaType"]).rpartition(".")[2]
        origin = f" from {layer['from']}" if "from" in layer else ""
        rows[f"layer {number}"] = f"{kind} {layer['digest']}{origin}"
    return {LockPlace("", -1, label): str(text) for label, text in rows.items()}


def _variant(name: str) -> str:
    return f"-q {name}" if name != UNQUANTIZED else "the unquantized model"


def _step(kind: str) -> LockPlace:
    return LockPlace("", -1, f"the version of the step {kind!r}")


def _differences(old: Mapping[LockPlace, str], new: Mapping[LockPlace, str]) -> list[Drift]:
    """In the order of the old places, then the new ones."""
    return [
        Drift(place, old.get(place), new.get(place))
        for place in dict.fromkeys((*old, *new))
        if old.get(place) != new.get(place)
    ]
