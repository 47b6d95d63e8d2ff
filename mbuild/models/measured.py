"""Models measured on texts, and importance matrices: computed once for what they are of."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError, UsageError
from mbuild.core.patterns import regex
from mbuild.core.system import unreadable
from mbuild.core.values import NamedTuple
from mbuild.models.artifacts.sharing import ExportTarget, writing
from mbuild.quant.choose.imatrix import open_imatrix
from mbuild.runtime.abandoned import OwnFolder
from mbuild.runtime.options import settings
from mbuild.runtime.process import linked_shards
from mbuild.runtime.runnable import read_model
from mbuild.runtime.statistics.jobs import (
    Progress,
    engine_features,
    imatrix_job,
    measure_job,
    run_job,
)
from mbuild.runtime.statistics.texts import MAX_TEXT, check_text, too_long
from mbuild.store.media import MODEL
from mbuild.store.records import IMATRIX, MEASURE

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.store import Store

METRICS = ("perplexity", "kld", "kld99", "same_top")
"""What a gate can look at; all but the first need a model to compare with."""
ALONE = METRICS[0]

_GATE = regex(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*")


class Bound(NamedTuple):
    """A bound on what was measured, such as ``kld < 0.05``."""

    metric: str
    relation: str
    bound: float

    @classmethod
    def parse(cls, text: str, *, compares: bool = True) -> Bound:
        """Read a gate; raises :class:`UsageError`.

        ``compares``: whether there is another model, which all metrics but perplexity need.
        """
        found = _GATE.fullmatch(text)
        try:
            bound = float(found[3]) if found else None
        except ValueError:
            bound = None
        if found is None or bound is None or found[1] not in METRICS:
            raise UsageError(
                f"{text!r} is not a check",
                hint=f"write METRIC < NUMBER; the metrics are {', '.join(METRICS)}",
            )
        if not compares and found[1] != ALONE:
            raise _needs_another(found[1])
        return cls(found[1], found[2], bound)

    def passes(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return {
            "<": value < self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            ">=": value >= self.bound,
        }[self.relation]


def _needs_another(metric: str) -> UsageError:
    return UsageError(f"{metric} compares two models", hint="name the other one with --against")


class Measured(NamedTuple):
    """What a model is on a text; None where there was no model to compare with."""

    positions: int
    perplexity: float
    perplexity_error: float
    base_perplexity: float | None
    mean_kld: float | None
    mean_kld_error: float | None
    kld_99: float | None
    max_kld: float | None
    same_top: float | None

    def value(self, metric: str) -> float:
        """The value of a metric; raises :class:`UsageError` where it was not measured."""
        found = {
            "perplexity": self.perplexity,
            "kld": self.mean_kld,
            "kld99": self.kld_99,
            "same_top": self.same_top,
        }[metric]
        if found is None:
            raise _needs_another(metric)
        return found


class _Weights(NamedTuple):
    """A model's weights: where they are, and their digests."""

    path: str
    digests: tuple[Digest, ...]
    shards: tuple[str, ...]


def _weights(store: Store, name: ModelName) -> _Weights:
    model = read_model(store, name, {})
    spec = model.spec(settings({}, {}))
    layers = model.contents.stored.manifest.of_kind(MODEL)
    return _Weights(spec.model, tuple(layer.digest for layer in layers), spec.shards)


def _text(path: Path, given: bytes | None) -> tuple[bytes, Digest]:
    data = _read(path) if given is None else given
    if len(data) > MAX_TEXT:
        raise too_long(str(path))
    check_text(str(path), data)
    return data, Digest.of(data)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT + 1)
    except OSError as error:
        raise unreadable(str(path), error) from None


def _key(kind: str, of: Sequence[Any]) -> str:
    data = json.dumps([kind, *of, engine_features()])
    return hashlib.blake2b(data.encode(), digest_size=32).hexdigest()


def measure(
    store: Store,
    name: ModelName,
    against: ModelName | None,
    text: Path,
    chunks: int,
    threads: int,
    *,
    given: bytes | None = None,
) -> Generator[Progress, None, tuple[Measured, bool]]:
    """Measure a model's weights on a text; what was found, and whether that was remembered.

    ``given``: the text where it is in no file, as one from a pipe; ``text`` is then its name.
    Raises what :func:`mbuild.runtime.statistics.jobs.run_job` raises, and :class:`SourceError`
    for a text that cannot be read.
    """
    data, digest = _text(text, given)
    own = _weights(store, name)
    base = _weights(store, against) if against is not None else None
    others = [str(digest) for digest in base.digests] if base else None
    key = _key("measure", [[str(d) for d in own.digests], others, str(digest), chunks])
    with store.using():
        found = store.database.get(MEASURE, key)
        if found is not None:
            return Measured(**found), True
        with OwnFolder() as folder:
            held = folder.path / "text"
            held.write_bytes(data)
            path = _loadable(own, folder.path / "own")
            other = _loadable(base, folder.path / "base") if base else None
            found = yield from run_job(measure_job(path, other, str(held), chunks, threads))
        store.database.put(MEASURE, key, found)
        store.database.flush()
    return Measured(**found), False


class MadeImatrix(NamedTuple):
    """An importance matrix that was written; ``unseen`` experts were never reached, by weight."""

    chunks: int
    tensors: int
    unseen: dict[str, list[int]]
    cached: bool


def make_imatrix(
    store: Store,
    name: ModelName,
    text: Path,
    output: Path,
    chunks: int,
    threads: int,
    *,
    special: bool = False,
    given: bytes | None = None,
) -> Generator[Progress, None, MadeImatrix]:
    """Write the importance matrix of a model on a text, unless the file is that already.

    ``given`` is as in :func:`measure`. Raises as that, :class:`StoreError` for a file that
    cannot be written, and :class:`UsageError` for one that is something else.
    """
    _check_output(output)
    data, digest = _text(text, given)
    own = _weights(store, name)
    of = [[str(d) for d in own.digests], str(digest), text.name, chunks, special]
    key = _key("imatrix", of)
    with store.using():
        known = store.database.get(IMATRIX, key)
        if known is not None and _digest(output) == known["digest"]:
            return MadeImatrix(known["chunks"], known["tensors"], known["unseen"], True)
        with OwnFolder() as folder:
            held, made = folder.path / "text", folder.path / "made"
            held.write_bytes(data)
            path = _loadable(own, folder.path / "own")
            job = imatrix_job(
                path, str(held), str(made), text.name, chunks, threads, special=special
            )
            found = yield from run_job(job)
            result = made.read_bytes()
        with ExportTarget.beside(output) as target:
            target.write(result)
            target.publish(output)
        row = {**found, "digest": str(Digest.of(result))}
        store.database.put(IMATRIX, key, row)
        store.database.flush()
    return MadeImatrix(found["chunks"], found["tensors"], found["unseen"], False)


def _check_output(output: Path) -> None:
    """Raise before hours of computing what would be in the way of the file in the end.

    Only an importance matrix is replaced: another file of that name was hardly meant.
    """
    with writing(output):
        if not output.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder")
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, name a file in it")
        if not os.access(output.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not output.exists() or not output.stat().st_size:
            return
    try:
        open_imatrix(output)
    except MbuildError:
        raise UsageError(
            f"{output} exists and is not an importance matrix: it is not replaced",
            hint="name another file, or remove that one first",
        ) from None


def _loadable(weights: _Weights, folder: Path) -> str:
    """A path by which the engine loads the weights, also those in several files."""
    if not weights.shards:
        return weights.path
    folder.mkdir()
    return linked_shards(weights.shards, folder)


def _digest(path: Path) -> str:
    """The digest of a small file, "" where there is none."""
    try:
        return str(Digest.of(path.read_bytes()))
    except OSError:
        return ""
