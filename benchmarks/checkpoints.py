"""Checkpoints of other families and of quantized weights, beside a Llama and another converter.

    python benchmarks/checkpoints.py families [NAME...] [--repeats 3] [--work FOLDER]
    python benchmarks/checkpoints.py quantized [NAME...] --converter LLAMA.CPP --python PYTHON

The first converts a generated checkpoint of 1.2 GB of each of five families and of a Llama; the
bound is 1.3 times the Llama's time. The second converts a Llama whose matrices are quantized, with
mbuild and with ``convert_hf_to_gguf.py`` of a checkout of llama.cpp, whose Python has torch and
transformers; both files are compared byte for byte first, and the bound is a fifth of that
converter's time. Formats that it does not take have no such time. Programs run in turn; figures are
medians, and CPU seconds are those of all threads.
"""

from __future__ import annotations

import filecmp
import os
import sys
from pathlib import Path

from common import (
    MBUILD,
    Program,
    Runs,
    arguments,
    generate,
    in_turn,
    machine,
    mib,
    remover,
    run_once,
    seconds,
    table,
    work_folder,
)

FAMILIES = ("llama", "minimax_m2", "dots1", "mamba2", "llama4", "lfm2_moe")
QUANTIZED = (
    *("fp8_block", "fp8_tensor", "gptq_4", "ct_int4", "ct_int8", "ct_nvfp4", "mxfp4"),
    *("awq_4", "mlx_4", "bnb_nf4", "bnb_int8"),
)
REFUSED = ("mxfp4", "awq_4", "mlx_4", "bnb_nf4", "bnb_int8")
"""What llama.cpp's converter does not take."""


def mbuild(work: Path, name: str) -> Program:
    """A build of one checkpoint with an empty store."""
    store, folder = work / f"store-{name}", work / f"from-{name}"
    folder.mkdir(exist_ok=True)
    (folder / "Modelfile").write_text(f"FROM ../{name}\n", encoding="utf-8")
    command = (*MBUILD, "--store", str(store), "-t", "m", "--pre", "gpt-2", "--progress", "plain")
    return Program(name, [command], remover(store), folder=folder)


def theirs(work: Path, name: str, converter: Path, python: Path) -> Program:
    """llama.cpp's converter, which is told the pre-tokenizer by a program of two lines."""
    file = work / f"{name}.gguf"
    program = (
        "import sys, runpy, conversion.base as b;"
        "b.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'gpt-2';"
        f"sys.argv = ['', {str(work / name)!r}, '--outfile', {str(file)!r}];"
        f"runpy.run_path({str(converter / 'convert_hf_to_gguf.py')!r}, run_name='__main__')"
    )
    paths = [str(converter), str(converter / "gguf-py"), os.environ.get("REFERENCE_PATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    return Program(f"{name}, converter", [(str(python), "-c", program)], remover(file), environment)


def written(work: Path, name: str) -> Path:
    """The layer that a build wrote."""
    return max((work / f"store-{name}/blobs").iterdir(), key=lambda path: path.stat().st_size)


def families(work: Path, names: list[str], repeats: int) -> None:
    """Print the table of families; the first is what the others are compared with."""
    names = ["llama", *(names or FAMILIES[1:])]
    for name in names:
        if not (work / name).exists():
            generate("family", work / name, name)
    runs = in_turn([mbuild(work, name) for name in names], repeats)
    base = runs["llama"]
    rows = [_row(name, runs[name], f"{runs[name].wall / base.wall:.2f}") for name in names]
    print(table(["family", "time", "range", "CPU", "to the Llama's", "peak"], rows))


def quantized(
    work: Path, names: list[str], repeats: int, converter: Path | None, python: Path | None
) -> None:
    """Print the table of quantized sources."""
    rows = []
    for name in names or QUANTIZED:
        if not (work / name).exists():
            generate("quantized", work / name, name)
        programs = [mbuild(work, name)]
        if name not in REFUSED and converter is not None and python is not None:
            programs.append(theirs(work, name, converter, python))
            for program in programs:
                run_once(program)
            if not filecmp.cmp(written(work, name), work / f"{name}.gguf", shallow=False):
                raise SystemExit(f"{name}: the converter's file differs from mbuild's")
        runs = in_turn(programs, repeats, warm=len(programs) == 1)
        own, other = runs[name], runs.get(f"{name}, converter")
        faster = f"{other.wall / own.wall:.1f}, CPU {other.cpu / own.cpu:.1f}" if other else "-"
        rows.append(_row(name, own, faster))
        remover(work / f"store-{name}", work / f"{name}.gguf", work / name)()
    print(table(["source", "time", "range", "CPU", "converter's time to it", "peak"], rows))


def _row(name: str, runs: Runs, ratio: str) -> list[str]:
    return [name, seconds(runs.wall), runs.spread, seconds(runs.cpu), ratio, mib(runs.peak)]


def main() -> None:
    """One of the two tables."""
    parser = arguments(__doc__ or "")
    parser.add_argument("what", choices=("families", "quantized"))
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--converter", type=Path, help="a checkout of llama.cpp")
    parser.add_argument("--python", type=Path, help="its Python")
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    known = FAMILIES if options.what == "families" else QUANTIZED
    for name in options.names:
        if name not in known:
            sys.exit(f"{name} is none of {', '.join(known)}")
    print(f"{machine()}; medians of {options.repeats}\n")
    with work_folder(options.work) as work:
        if options.what == "families":
            families(work, options.names, options.repeats)
        else:
            paths = options.converter, options.python
            quantized(work, options.names, options.repeats, *paths)


if __name__ == "__main__":
    main()
