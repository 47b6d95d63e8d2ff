"""Compiled kernels kept on disk, so that a kernel is compiled once per machine.

numba's own cache looks at the file that holds the function and at nothing that the
function calls; here the text of a kernel is spread over modules, and a stale entry
would give wrong bytes. So an entry's name is a digest of all that decides the code:
the sources of this package, the versions of Python, numba and LLVM, the CPU with its
features, and the full signature, whose types hold the number of lanes. Entries are
written under a temporary name and renamed, and carry a digest of their content; what
cannot be read or written is compiled again, silently.
"""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.compiler import CompileResult


def directory() -> Path:
    """Where entries lie: ``$XDG_CACHE_HOME/mbuild/kernels`` (by default below ``~/.cache``)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return base / "mbuild" / "kernels"


@cache
def _sources() -> bytes:
    """A digest of this package's sources and of the compiler's versions."""
    state = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (platform.python_version(), numba.__version__, llvmlite.__version__)
    state.update(repr(versions).encode())
    return state.digest()


class KernelCache:
    """What a numba dispatcher asks for compiled code; put in the place of its own cache."""

    cache_path = None

    def __init__(self, name: str) -> None:
        self.name = name

    def _path(self, sig: Any, codegen: Any) -> Path:
        key = hashlib.sha256(_sources())
        key.update(repr((self.name, str(sig), codegen.magic_tuple())).encode())
        return directory() / f"{self.name}-{key.hexdigest()[:32]}.bin"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code of a signature, or None."""
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        try:
            if path.stat().st_uid != os.getuid():
                return None
            data = path.read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(data[32:]))
        except Exception:
            # An entry that cannot be used, for whatever reason, costs a compilation.
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled code of a signature, if the directory can be written."""
        path = self._path(sig, data.codegen)
        content = pickle.dumps(data._reduce(), protocol=4)
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(name, path)
            except OSError:
                Path(name).unlink(missing_ok=True)

    def enable(self) -> None:
        """Nothing to do: the cache is always on."""

    def disable(self) -> None:
        """Nothing to do: the cache is always on."""

    def flush(self) -> None:
        """Nothing to do: entries are written at once."""
