"""``build``, ``convert``, ``quantize`` and ``merge``: one build each, through one request."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from mbuild.api.asking import (
    TEXT,
    PythonCall,
    StrPath,
    as_value,
    modelfile_of,
    open_store,
    sharing,
    wanted_build,
)
from mbuild.api.keywords import BuildOptions, several
from mbuild.api.verbs import verb
from mbuild.build.build import build as run
from mbuild.core.digest import Digest
from mbuild.core.errors import UsageError
from mbuild.core.events import BuildEvent, BuildFinished, ModelBuilt, Warned
from mbuild.core.values import NamedTuple
from mbuild.language.stages.opening import SYNTAX_LINE

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from mbuild.build.plan import Plan
    from mbuild.build.prepare import Build, Resolved
    from mbuild.store import Store

Adapters = StrPath | Sequence[StrPath] | Mapping[str, float] | Mapping[Path, float]
"""One adapter, several, or several with their weights."""


class Built(NamedTuple):
    """What a build came to.

    ``models`` has one for each target, ``ran`` and ``cached`` count steps, ``written`` are
    bytes of new blobs, ``seconds`` the time that it took. ``files`` are the GGUF files that
    were asked for.
    """

    models: tuple[ModelBuilt, ...]
    ran: int
    cached: int
    written: int
    seconds: float
    warnings: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The first model's name; empty where it has none."""
        return self.models[0].name

    @property
    def id(self) -> Digest:
        """The first model's id."""
        return self.models[0].id


@verb
def build(
    modelfile: StrPath | None = None,
    *,
    text: str | None = None,
    name: str | Sequence[str] = (),
    folder: StrPath | None = None,
    store: StrPath | None = None,
    quantize: str | Sequence[str] = (),
    target: str | Sequence[str] = (),
    arguments: Mapping[str, str] | None = None,
    use_cache: bool = True,
    threads: int | None = None,
    executor: Executor | str | None = None,
    cache_from: str | Sequence[str] = (),
    cache_to: str | None = None,
    cache_verify: str | Sequence[str] = (),
    **options: Unpack[BuildOptions],
) -> Generator[BuildEvent, None, Built]:
    """Build what a Modelfile asks for, as ``mbuild build`` does.

    ``modelfile`` is its path (default: ``Modelfile`` in ``folder``), or ``text`` is what stands
    in it. Its paths start from ``folder``, by default where it lies. ``name`` is what the
    model is called, one or several, with ``{quant}`` and ``{target}`` as on the command line
    (default: the folder's name). ``quantize`` names types, ``target`` stages, ``arguments`` the
    values of ARG. Without ``use_cache`` every step runs. ``executor`` is any executor, whose
    workers compute for the build, or what ``--on`` takes (``local:4``).
    ``cache_from``, ``cache_to`` and ``cache_verify`` are the shared caches of the options of
    these names.
    """
    data, label, start = modelfile_of(modelfile, text, folder)
    call = PythonCall(
        data,
        label,
        start,
        several(name),
        several(quantize),
        several(target),
        dict(arguments or {}),
        use_cache,
        given=options,
        caches=(several(cache_from), cache_to, several(cache_verify)),
    )
    return (yield from _run(call, store, threads, executor=executor))


@verb
def convert(
    checkpoint: StrPath,
    *,
    name: str | Sequence[str] = (),
    output: StrPath | None = None,
    overwrite: bool = False,
    store: StrPath | None = None,
    threads: int | None = None,
    **options: Unpack[BuildOptions],
) -> Generator[BuildEvent, None, Built]:
    """Convert a checkpoint, as ``FROM`` its folder does, without quantizing it.

    The result gets a ``name`` in the store, or is written to the GGUF file ``output``, which
    has the very bytes of llama.cpp's converter, or both.
    """
    call = _from(checkpoint, (), name, output, (), options)
    return (yield from _run(call, store, threads, output, overwrite=overwrite))


@verb
def quantize(
    model: StrPath,
    types: str | Sequence[str],
    *,
    name: str | Sequence[str] = (),
    output: StrPath | None = None,
    overwrite: bool = False,
    store: StrPath | None = None,
    threads: int | None = None,
    **options: Unpack[BuildOptions],
) -> Generator[BuildEvent, None, Built]:
    """Quantize a checkpoint, a GGUF file or a model of the store to one type or several.

    The results get a ``name`` in the store (``mine:{quant}`` for several types), or one type
    is written to the GGUF file ``output``, or both.
    """
    call = _from(model, (), name, output, several(types), options)
    return (yield from _run(call, store, threads, output, overwrite=overwrite))


@verb
def merge(
    model: StrPath,
    adapters: Adapters,
    *,
    name: str | Sequence[str] = (),
    output: StrPath | None = None,
    overwrite: bool = False,
    quantize: str | Sequence[str] = (),
    store: StrPath | None = None,
    threads: int | None = None,
    **options: Unpack[BuildOptions],
) -> Generator[BuildEvent, None, Built]:
    """Merge LoRA adapters into a model, as ``MERGE`` does; ``quantize`` the result, if asked.

    ``adapters`` is one folder or GGUF file, several, or a mapping of them to their weights.
    """
    call = _from(model, _weighted(adapters), name, output, several(quantize), options)
    return (yield from _run(call, store, threads, output, overwrite=overwrite))


def _weighted(adapters: Adapters) -> tuple[tuple[StrPath, float], ...]:
    """Each adapter with its weight; raises :class:`UsageError` where there is none."""
    rows: tuple[tuple[StrPath, float], ...]
    if isinstance(adapters, Mapping):
        rows = tuple(adapters.items())
    else:
        listed = [adapters] if isinstance(adapters, (str, os.PathLike)) else adapters
        rows = tuple((each, 1.0) for each in listed)
    if not rows:
        raise UsageError("there is no adapter to merge", hint="name at least one")
    return rows


def _from(
    model: StrPath,
    adapters: Sequence[tuple[StrPath, float]],
    name: str | Sequence[str],
    output: StrPath | None,
    types: tuple[str, ...],
    options: BuildOptions,
) -> PythonCall:
    """A build of one model; its values go into the text as ARGs, so that nothing is quoted."""
    names = several(name)
    if not names and output is None:
        raise UsageError(
            "the result has neither a name nor a file",
            hint="give it a name=NAME or an output=FILE.gguf",
        )
    if output is not None and len(types) > 1:
        raise UsageError(f"{len(types)} types cannot be put into one file", hint="give them a name")
    lines = [SYNTAX_LINE, "ARG BASE", "FROM ${BASE}"]
    arguments = {"BASE": as_value(model)}
    for number, (adapter, weight) in enumerate(adapters, start=1):
        lines[1:1] = [f"ARG ADAPTER{number}", f"ARG WEIGHT{number}"]
        lines.append(f"MERGE ${{ADAPTER{number}}} WEIGHT ${{WEIGHT{number}}}")
        arguments |= {f"ADAPTER{number}": as_value(adapter), f"WEIGHT{number}": f"{weight:g}"}
    data = "\n".join([*lines, ""]).encode()
    called = names or ("result",)
    return PythonCall(
        data, TEXT, Path(), called, types, (), arguments, named=bool(names), given=options
    )


def _run(
    call: PythonCall,
    place: StrPath | None,
    threads: int | None,
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    executor: Executor | str | None = None,
) -> Generator[BuildEvent, None, Built]:
    """Run a build, gather what it comes to, and write the file that is asked for."""
    from mbuild.work.cores import computing_on
    from mbuild.work.pools import any_pool

    said: list[str] = []
    store = open_store(place, said)
    kept = _Kept()
    wanted = wanted_build(call, store)._replace(gate=kept)
    heard: list[str] = []
    models: list[ModelBuilt] = []
    end: BuildFinished | None = None
    with ExitStack() as stack:
        stack.enter_context(computing_on(threads))
        stack.enter_context(sharing(call.caches, store, said))
        if output is not None:  # what it is written from must not be removed before
            stack.enter_context(store.using())
        if executor is not None:
            wanted = wanted._replace(pool=stack.enter_context(any_pool(executor)))
        with closing(run(wanted, store)) as events:
            for event in events:
                for text in said:
                    heard.append(text)
                    yield Warned(text)
                said.clear()
                if isinstance(event, Warned):
                    heard.append(event.text)
                elif isinstance(event, ModelBuilt):
                    models.append(event)
                elif isinstance(event, BuildFinished):
                    end = event
                yield event
        files: tuple[Path, ...] = ()
        if output is not None:
            files = _write(kept.manifests[0], wanted, store, Path(output), overwrite=overwrite)
    assert end is not None
    numbers = (end.ran, end.cached, end.written, end.seconds)
    return Built(tuple(models), *numbers, tuple(heard), files)


class _Kept:
    """A gate that refuses nothing, and keeps the manifests that come through it."""

    def __init__(self) -> None:
        self.manifests: Sequence[bytes] = ()

    def before(self, found: Sequence[Resolved], plans: Sequence[Plan]) -> None:
        """Nothing to refuse."""

    def after(self, manifests: Sequence[bytes]) -> None:
        """Keep them."""
        self.manifests = manifests


def _write(
    data: bytes, wanted: Build, store: Store, target: Path, *, overwrite: bool
) -> tuple[Path, ...]:
    """Write a model's weights to a GGUF file, byte for byte; the caller holds the store."""
    from mbuild.models.artifacts import ExportForm, ExportOptions, export
    from mbuild.store import Manifest
    from mbuild.store.manifests import StoredManifest

    if target.suffix.lower() != ".gguf":
        raise UsageError(
            f"{target} is not the name of a GGUF file", hint="give it the ending .gguf"
        )
    name = wanted.request.names[0]
    manifest = Manifest.decode(data, str(name))
    stored = StoredManifest(name, Digest.of(data), manifest, 0)
    options = ExportOptions(ExportForm.GGUF, raw=True, overwrite=overwrite)
    return tuple(file.path for file in export(store, stored, target, options))
