"""What a build with nothing to do loads: its modules are most of its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gguf_files import tiny_gguf

CODE = """
import json, sys, click
before = set(sys.modules)
from mbuild.cli.main import run
status = run(["-t", "m", "--progress", "quiet"])
loaded = sorted(set(sys.modules) - before)
declared = [
    f"{name}.{kind.__name__}"
    for name in loaded if name.startswith("mbuild.")
    for kind in vars(sys.modules[name]).values()
    if isinstance(kind, type) and kind.__module__ == name
    and (hasattr(kind, "__dataclass_fields__")
         or str(getattr(kind.__new__, "__module__", "")).startswith("namedtuple_"))
]
print(json.dumps([status, loaded, declared]))
"""

OWN = """
build build.asked build.build build.converter build.engine build.fetching build.graph
build.history build.inheriting build.plan build.prepare build.recording build.request
build.results build.sources build.sources.files build.sources.folders build.sources.local
build.sources.places build.sources.resolve build.sources.values build.splitting build.steps
build.steps.config build.steps.gguf build.steps.layers build.steps.manifest build.steps.template
cli cli.asking cli.build cli.common cli.converting cli.main cli.progress cli.quantizing
cli.signals cli.splitting cli.wording convert convert.conversion core core.digest core.environment
core.errors core.events core.gojson core.names core.units core.values language language.recipe
language.span quant quant.choose quant.choose.options store store.blobs store.copying
store.database store.files store.locks store.manifest store.manifests store.media store.place
store.records store.store store.uploads
"""
"""Every module of mbuild that such a build loads: one more takes it about 0.2 ms."""

PYTHONS = {
    "_json",
    "_sqlite3",
    "fcntl",
    "fnmatch",
    "json",
    "ntpath",
    "pathlib",
    "signal",
    "sqlite3",
}
"""The modules of Python that it loads beside click's; with what these load in turn."""

TABLES = [
    "mbuild.build.splitting.Halves",
    "mbuild.build.splitting.Splitting",
    "mbuild.convert.conversion.Conversion",
    "mbuild.quant.choose.options.Option",
    "mbuild.quant.choose.options.OptionKind",
    "mbuild.quant.choose.options.Quantization",
]
"""The values that Python's own way declares: their annotations are read as a table."""


def _loaded(code: str) -> set[str]:
    show = (
        f"import sys, click; before = set(sys.modules); {code}; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_build_with_nothing_to_do_loads_only_what_it_needs(tmp_path: Path) -> None:
    """These modules of mbuild, few of Python, and no class that compiles source text."""
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf\nSYSTEM x\nPARAMETER temperature 1\n")
    environment = {**os.environ, "OLLAMA_MODELS": str(tmp_path / "store"), "LANG": "en_US.UTF-8"}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    status, loaded, declared = json.loads(done.stdout.splitlines()[-1])
    own = {name.partition(".")[2] for name in loaded if name.startswith("mbuild.")}
    assert (status, own - set(OWN.split()), set(OWN.split()) - own) == (0, set(), set())
    usual = _loaded("import " + ", ".join(sorted(PYTHONS - {"fcntl"})))
    others = {name for name in loaded if name.partition(".")[0] != "mbuild"}
    assert others - usual - PYTHONS <= {"_sha2", "_sha256"}
    assert sorted(declared) == TABLES
