"""Compile the kernels that a wheel carries: of types, of BLAKE3, of merging; for each level.

    python release/kernels.py FOLDER [--types Q4_K,Q6_K] [--levels x86-64-v3]

FOLDER gets what mbuild/quant/compiled/packed.py reads. The same versions of Python, numba, llvmlite
and gguf, which the index records, make the same bytes: numba numbers what it compiles, so each
kernel is compiled by a process of its own, which has compiled nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import llvmlite

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mbuild.gguf.types import GGMLType  # noqa: E402
from mbuild.quant.compiled import (  # noqa: E402
    cache,
    chunk_text,
    chunks,
    decode_text,
    decoding,
    elf,
    llvm,
    merge_text,
    merges,
    packed,
    repack_text,
    repacking,
)
from mbuild.quant.compiled.isolation import import_numba  # noqa: E402
from mbuild.quant.kernels import target  # noqa: E402
from mbuild.quant.table import TYPES, Kernel, kernel, supports  # noqa: E402
from mbuild.work.cores import cores  # noqa: E402


def kernels(level: str, types: list[GGMLType]) -> list[Kernel]:
    """Every kernel of these types on a processor of this level, each once."""
    lanes = target.lanes_of(target.features_of(level))
    pairs = [(type_, weighted) for type_ in types for weighted in (False, True)]
    made = [kernel(*pair, lanes) for pair in pairs if supports(*pair)]
    return list(dict.fromkeys(made))


def settings(level: str) -> dict[str, str]:
    """The environment in which numba compiles for a level, and for nothing that is beyond it."""
    inherited = {name: value for name, value in os.environ.items() if name[:6] != "NUMBA_"}
    features = ",".join(target.features_of(level))
    ours = {"NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": features, "PYTHONHASHSEED": "0"}
    return {**inherited, **ours}


def compiled(one: Kernel) -> bytes:
    """The object file of a kernel, made by this process, whose only one it should be."""
    from mbuild.quant.compiled import compiler

    return bytes(compiler.library(one).emit_native_object())


def texts() -> Iterator[tuple[str, str]]:
    """The names of the functions whose LLVM text mbuild writes, and the texts."""
    yield chunks.kernel_name(), chunk_text.ChunksText(chunks.NAME).write()
    for pair in merges.PAIRS:
        yield merges.kernel_name(pair), merge_text.MergeText(merges.NAME, *pair).write()
    for form in decoding.FORMS:
        yield decoding.kernel_name(form), decode_text.DecodeText(decoding.NAME, *form).write()
    for type_, sizes in repacking.FORMS.items():
        text = repack_text.RepackText(repacking.NAME, *sizes).write()
        yield repacking.kernel_name(type_), text


def write_level(folder: Path, level: str, types: list[GGMLType]) -> None:
    """Compile a level's kernels, as many at a time as there are cores, and write them.

    Their digests go into a file beside the level's folder.

    The environment has to be that of :func:`settings` since this process began.
    """
    import_numba()
    # What is imported before processes are made, they need not import each for itself.
    importlib.import_module("mbuild.quant.compiled.compiler")
    todo = kernels(level, types)
    (folder / level).mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    digests = {}
    with context.Pool(min(cores(), len(todo)), maxtasksperchild=1) as pool:
        made = zip((one.name for one in todo), pool.imap(compiled, todo), strict=True)
        features = ",".join(target.features_of(level))
        further = ((name, llvm.compiled(text, level, features)) for name, text in texts())
        for name, code in chain(made, further):
            elf.ObjectFile(code).image(0)  # raises for a file that only LLVM could load
            (folder / level / f"{name}.o.z").write_bytes(zlib.compress(code, 9))
            digests[name] = hashlib.sha256(code).hexdigest()
            print(f"{level}: {name}, {len(code)} bytes", flush=True)
    (folder / f"{level}.json").write_text(json.dumps(digests))


def write(folder: Path, levels: list[str], types: list[GGMLType]) -> None:
    """Write a folder of kernels with its index."""
    shutil.rmtree(folder, ignore_errors=True)
    sources, digests = cache.sources_digest().hex(), {}
    for level in levels:
        command = [sys.executable, __file__, str(folder), "--only", "--levels", level]
        names = ",".join(type_.name for type_ in types)
        subprocess.run([*command, "--types", names], env=settings(level), check=True)
        made = folder / f"{level}.json"
        digests[level] = json.loads(made.read_text())
        made.unlink()
    index = {
        "made_with": {
            "python": platform.python_version(),
            "numba": version("numba"),
            "llvmlite": llvmlite.__version__,
            "gguf": version("gguf"),
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
        },
        "sources": sources,
        "levels": digests,
    }
    (folder / packed.INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and compile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", default=",".join(type_.name for type_ in TYPES))
    parser.add_argument("--levels", default=",".join(target.LEVELS))
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    types = [GGMLType[name] for name in args.types.split(",")]
    levels = args.levels.split(",")
    if args.only:
        write_level(args.folder, levels[0], types)
    else:
        write(args.folder, levels, types)


if __name__ == "__main__":
    main()
