"""Make the wheel for Linux on x86-64, which carries compiled kernels and needs no numba.

    python release/wheel.py DIST [--pure WHEEL] [--types Q4_K,Q6_K] [--levels x86-64-v3]

The pure wheel, which any platform can install and which compiles with numba, is made by pip if it
is not given, the kernels by kernels.py: all, or those of some types and levels, and the grammars'
tables by tables.py. The new wheel is the pure one with these in it, another tag, and other
requirements: numba and llvmlite only as the extra ``compile``. The same inputs make the same
bytes; times are those of the pure wheel's files.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TAG = "py3-none-manylinux_2_17_x86_64"
"""Kernels call no function of any library; 2.17 is the oldest glibc that pip has a tag for that
needs no other name (PEP 600)."""
PLACES = {"kernels": "mbuild/quant/compiled/objects", "tables": "mbuild/core/tables"}
"""Where in the wheel lies what a script of that name makes."""
ELSEWHERE = "sys_platform != 'linux' or platform_machine != 'x86_64'"
"""Where this wheel cannot be installed: a resolver that takes its requirements for those of all
platforms' wheels is right there, too."""


def pure_wheel(folder: Path) -> Path:
    """The wheel that pip makes of the checkout."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (made,) = folder.glob("*-py3-none-any.whl")
    return made


def requirements(metadata: str) -> str:
    """METADATA with what the wheel with kernels needs: numba and llvmlite elsewhere only."""
    needed = r"(?m)^Requires-Dist: (numba|llvmlite)[^;\n]*$"
    changed, count = re.subn(needed, rf"\g<0>; {ELSEWHERE}", metadata)
    if count != 2:
        raise SystemExit("the pure wheel does not require numba and llvmlite")
    return changed


def record_line(name: str, content: bytes) -> str:
    """A file's line in RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def with_made(pure: Path, made_here: Path, dist: Path) -> Path:
    """Write the wheel with what lies in the folder, below the names of :data:`PLACES`; its path."""
    with zipfile.ZipFile(pure) as archive:
        entries = archive.infolist()
        files = {entry.filename: archive.read(entry) for entry in entries}
    (record,) = (name for name in files if name.endswith(".dist-info/RECORD"))
    info = record.removesuffix("RECORD")
    del files[record]
    files[f"{info}METADATA"] = requirements(files[f"{info}METADATA"].decode()).encode()
    described = files[f"{info}WHEEL"].decode()
    described = described.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false")
    files[f"{info}WHEEL"] = described.replace("Tag: py3-none-any", f"Tag: {TAG}").encode()
    for name, place in PLACES.items():
        for path in sorted(path for path in (made_here / name).rglob("*") if path.is_file()):
            files[f"{place}/{path.relative_to(made_here / name).as_posix()}"] = path.read_bytes()
    lines = [record_line(name, content) for name, content in files.items()]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    made = dist / pure.name.replace("py3-none-any", TAG)
    dist.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(made, "w") as archive:
        for name in sorted(files, key=lambda name: (name.startswith(info), name)):
            entry = zipfile.ZipInfo(name, entries[0].date_time)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED, 9)
    return made


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and make the wheel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dist", type=Path)
    parser.add_argument("--pure", type=Path, help="a pure wheel that is there already")
    parser.add_argument("--types", help="other types are compiled with numba, or made by numpy")
    parser.add_argument("--levels", help="other processors have to compile with numba")
    args = parser.parse_args(arguments)
    chosen = [f"--{name}={value}" for name in ("types", "levels") if (value := vars(args)[name])]
    with tempfile.TemporaryDirectory() as scratch:
        for name, given in (("kernels", chosen), ("tables", [])):
            script = Path(__file__).with_name(f"{name}.py")
            target = Path(scratch) / name
            # The checkout's own mbuild makes both, whichever is installed.
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            command = [sys.executable, str(script), str(target), *given]
            subprocess.run(command, check=True, env=environment)
        pure = args.pure or pure_wheel(Path(scratch))
        print(with_made(pure, Path(scratch), args.dist))


if __name__ == "__main__":
    main()
