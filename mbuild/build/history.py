"""What was built, when, from what and how long each step took: the store's log of builds.

The log is ``.mbuild/history.jsonl``, one JSON object a line, the newest last.
A build appends its line when it ends, whatever its end; a build with nothing to
do does so too, so appending is one write and waits for no disk. A line that
cannot be read is skipped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.build.request import BuildRequest
from mbuild.build.sources.values import Material
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple
from mbuild.store import Layer
from mbuild.store.files import inherit, open_regular
from mbuild.store.records import MODELFILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mbuild.build.request import Script, Target
    from mbuild.store import Store

FILE = "history.jsonl"
MAX_BYTES = 8 << 20
"""A longer log loses its older half."""

_CHUNK = 1 << 16
_CURRENT = b'"request":'  # in each line of this version's, and in none of an earlier one's
_NEAREST = 2


def keep_modelfile(data: bytes, store: Store) -> None:
    """Keep a Modelfile's bytes in the cache, under their digest."""
    store.cache.put(MODELFILE, str(Digest.of(data)), data)


def modelfile_text(digest: Digest, store: Store) -> bytes | None:
    """The bytes of a Modelfile that was built from this store before, if they are known."""
    return store.cache.get(MODELFILE, str(digest))


class StepRecord(NamedTuple):
    """One step of a build.

    ``inputs`` are places in the build's list of steps. ``key`` is the cache key,
    empty where the step never got one. ``status`` is ``cached``, ``ran``, or
    ``unfinished`` (it failed, was stopped, or never had its turn). ``reasons``
    say why it ran. ``started`` and ``seconds`` are seconds since the build's
    start and of work, of an unfinished step until the build's end, both 0 if it
    never had its turn; ``read`` and ``written`` are bytes of the user's files and
    of new blobs. ``materials`` are the files, folders and models it is made from. ``role``,
    ``subject`` and ``target`` say apart what ``label`` says to people, and ``causes`` (of
    :class:`mbuild.core.events.Cause`) what ``reasons`` say; builds of earlier versions have none.
    ``measured`` is what was measured, by the names of the facts. ``fetched`` are the bytes of
    layers that came from a shared cache, where another machine had made them.
    """

    kind: str
    label: str
    key: str
    inputs: tuple[int, ...]
    status: str
    reasons: tuple[str, ...] = ()
    started: float = 0.0
    seconds: float = 0.0
    read: int = 0
    written: int = 0
    layers: tuple[Layer, ...] = ()
    materials: tuple[Material, ...] = ()
    role: str = ""
    subject: str = ""
    target: str = ""
    causes: tuple[str, ...] = ()
    measured: Mapping[str, Any] = {}
    fetched: int = 0

    @property
    def findings(self) -> tuple[str, ...]:
        """What was measured, in words: a name and a value each."""
        return tuple(f"{name} {_written(value)}" for name, value in self.measured.items())

    def to_json(self) -> dict[str, Any]:
        """As the log keeps it; what says nothing is left out."""
        value = {**self._asdict(), "layers": [layer.to_json() for layer in self.layers]}
        value["materials"] = [material._asdict() for material in self.materials]
        value["started"], value["seconds"] = round(self.started, 4), round(self.seconds, 4)
        return {key: item for key, item in value.items() if item}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepRecord:
        """Read :meth:`to_json`'s value."""
        layers = tuple(Layer.from_json(layer) for layer in value.get("layers", ()))
        materials = tuple(Material(**material) for material in value.get("materials", ()))
        given = {key: item for key, item in value.items() if key in cls._fields}
        tuples = {key: tuple(given.get(key, ())) for key in ("inputs", "reasons", "causes")}
        return cls(**{"key": "", **given, **tuples, "layers": layers, "materials": materials})


class BuildRecord(NamedTuple):
    """One build.

    ``time`` is when it began, in nanoseconds since 1970. ``models`` maps each
    name that it gave to the model's id. ``result`` is ``built``, ``failed``
    (``error`` says why) or ``stopped``. ``manifests`` are the places among ``steps`` of
    those that make the request's targets, one each, none of a build that did not get so far.
    """

    id: str
    time: int
    seconds: float
    request: BuildRequest
    models: Mapping[str, Digest]
    result: str
    error: str
    steps: tuple[StepRecord, ...]
    version: str
    manifests: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the build's models are called, target by target."""
        return tuple(map(str, self.request.names))

    @property
    def names_by_step(self) -> dict[int, tuple[str, ...]]:
        """Which names each step that makes a model gives it."""
        return self.request.names_by_place(self.manifests)

    def target_of(self, name: str, identity: Digest) -> Target | None:
        """The target that this very model was, under this name or else under any other."""
        names = [name, *self.models]
        made = next((each for each in names if self.models.get(each) == identity), "")
        return next((t for t in self.request.targets if made in map(str, t.names)), None)

    @property
    def ran(self) -> int:
        """How many steps ran."""
        return sum(step.status == "ran" for step in self.steps)

    @property
    def cached(self) -> int:
        """How many steps had their result in the cache."""
        return sum(step.status == "cached" for step in self.steps)

    @property
    def written(self) -> int:
        """Bytes of new blobs."""
        return sum(step.written for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """As the log keeps it, and as ``mbuild history --format json`` prints it."""
        return {
            **self._asdict(),
            "seconds": round(self.seconds, 4),
            "names": self.names,
            "request": self.request.to_json(),
            "models": {name: str(digest) for name, digest in self.models.items()},
            "steps": [step.to_json() for step in self.steps],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BuildRecord:
        """Read :meth:`to_json`'s value, or that of an earlier version of mbuild.

        Raises ValueError, KeyError, TypeError, AttributeError or :class:`MbuildError`.
        """
        if "request" not in value:
            from mbuild.build.earlier import record_of

            value = record_of(value)
        given = {key: item for key, item in value.items() if key != "names"}
        return cls(
            **{
                **given,
                "request": BuildRequest.from_json(value["request"]),
                "models": {name: Digest.parse(text) for name, text in value["models"].items()},
                "steps": tuple(StepRecord.from_json(step) for step in value["steps"]),
                "manifests": tuple(value["manifests"]),
            }
        )


def _written(value: Any) -> str:
    """A measured value: numbers with six digits, what is not a text as JSON."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def new_id() -> str:
    """A build's id: twelve hexadecimal digits, the first eight of them the time."""
    return f"{int(time.time()):08x}{os.urandom(2).hex()}"


def _nearness(a: BuildRequest, b: BuildRequest) -> int:
    """How much two builds have in common: 0 nothing, 1 the Modelfile, 2 what ``-q`` says too."""
    one, two = a.script, b.script
    if one is None or two is None or (one.folder, one.name) != (two.folder, two.name):
        return 0
    return _NEAREST if a.variants == b.variants else 1


def _quoted(text: str) -> bytes:
    """How a text stands in the log."""
    return json.dumps(text).encode()


class History:
    """The log of a store's builds."""

    def __init__(self, store: Store) -> None:
        self._path = store.private / FILE

    @property
    def path(self) -> Path:
        """The log's file."""
        return self._path

    def append(self, record: BuildRecord) -> None:
        """Add a build; a log that cannot be written is left as it is.

        One write to a file opened for appending, so that builds that end at
        the same time each keep their line.
        """
        line = json.dumps(record.to_json(), separators=(",", ":")) + "\n"
        with suppress(OSError):
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                inherit(fd, self._path.parent)
                size = os.fstat(fd).st_size
                torn = size and os.pread(fd, 1, size - 1) != b"\n"  # its maker was killed
                size += os.write(fd, (b"\n" if torn else b"") + line.encode())
            finally:
                os.close(fd)
            if size > MAX_BYTES:
                self._shorten()

    def newest_first(
        self, fits: Callable[[bytes], bool] = lambda line: True
    ) -> Iterator[BuildRecord]:
        """Every build that can be read, the newest first; reads no further than it is asked.

        Lines that do not fit are passed over: to read one takes a hundred times longer than to
        find a name in it. Those of earlier versions of mbuild are read in any case.
        """
        for line in self._lines():
            if _CURRENT in line and not fits(line):
                continue
            with suppress(ValueError, KeyError, TypeError, AttributeError, MbuildError):
                yield BuildRecord.from_json(json.loads(line))

    def find(self, start: str) -> list[BuildRecord]:
        """The builds whose id begins so, the newest first."""
        return [record for record in self.newest_first() if record.id.startswith(start)]

    def last_of(self, request: BuildRequest) -> BuildRecord | None:
        """The last good build of a model that the request names, else of its Modelfile.

        Of several of the Modelfile one with the same ``-q`` comes before others.
        """
        wanted = set(map(str, request.names)) if request.named else set()
        names = [_quoted(name) for name in wanted]
        folder = _quoted(request.script.folder) if request.script is not None else b""
        other, nearest = None, 0

        def fits(line: bytes) -> bool:
            near = folder and nearest < _NEAREST and folder in line
            return bool(near) or any(name in line for name in names)

        for record in self.newest_first(fits):
            if record.result != "built":
                continue
            if wanted & record.models.keys():
                return record
            near = _nearness(record.request, request)
            if near > nearest:
                other, nearest = record, near
        return other

    def made_from(self, script: Script, name: str, identity: Digest) -> bool:
        """Whether a build from this Modelfile gave the model of this id that name."""
        return any(
            record.models.get(name) == identity
            and (made := record.request.script) is not None
            and (made.folder, made.name) == (script.folder, script.name)
            for record in self.newest_first(lambda line: _quoted(name) in line)
        )

    def maker_of(self, name: str, identity: Digest) -> BuildRecord | None:
        """The last build that gave a model of this id this name, or else any name."""
        other = None
        given = _quoted(str(identity))
        for record in self.newest_first(lambda line: given in line):
            if record.models.get(name) == identity:
                return record
            if other is None and identity in record.models.values():
                other = record
        return other

    def _lines(self) -> Iterator[bytes]:
        """The file's lines from the last to the first, read in pieces from its end."""
        try:
            fd, _ = open_regular(self._path)
        except OSError:
            return
        with open(fd, "rb") as file:
            position = file.seek(0, os.SEEK_END)
            rest = b""
            while position > 0:
                size = min(_CHUNK, position)
                position -= size
                file.seek(position)
                first, *lines = (file.read(size) + rest).split(b"\n")
                yield from (line for line in reversed(lines) if line)
                rest = first
            if rest:
                yield rest

    def _shorten(self) -> None:
        """Drop the older half. A build that ends at that very moment may lose its line."""
        data = self._path.read_bytes()
        start = data.find(b"\n", len(data) // 2) + 1
        temporary = self._path.with_name(f"{FILE}.{os.getpid()}")
        temporary.write_bytes(data[start:])
        temporary.replace(self._path)
