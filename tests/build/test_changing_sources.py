"""Sources that change while a build reads them: never a wrong model, nothing false remembered."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from example_models import generator, settle, write_imatrix
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.build.steps import opened as step_files
from mbuild.core.names import ModelName
from mbuild.store import Store
from mbuild.store.copying import OpenFile
from mbuild.store.media import ADAPTER, MODEL

Change = Callable[[Path], object]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two projects, ``x`` and its copy ``y``, each with a checkpoint, an adapter and an imatrix."""
    make = generator()
    make.write_chat(tmp_path / "x" / "chat")
    make.write_lora(tmp_path / "x" / "lora")
    write_imatrix(tmp_path / "x" / "imatrix.dat", 1.0)
    (tmp_path / "x" / "Modelfile").write_text("FROM ./chat\nADAPTER ./lora\n")
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    settle()
    return tmp_path


@pytest.fixture
def mbuild(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(project, monkeypatch)


def rename_another_over(path: Path) -> None:
    """As a download ends: another file takes the name in one step."""
    new = path.with_name("new")
    new.write_bytes(flipped(path))
    new.replace(path)


def edit_in_place(path: Path) -> None:
    """As ``rsync --inplace -t`` does: same size, same modification time."""
    info, data = path.stat(), flipped(path)
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def rename_and_back(path: Path) -> None:
    """Another file takes the name for a moment; what is read meanwhile must be the first."""
    kept = path.with_name("kept")
    os.link(path, kept)
    rename_another_over(path)
    kept.replace(path)


def flipped(path: Path) -> bytes:
    """Other bytes that are as good: another number, another weight."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".json":
        at = data.index(b'"rms_norm_eps": 1e-05') + len(b'"rms_norm_eps": 1e-0')
        data[at] = ord("6")
    elif path.suffix == ".safetensors":
        data[-2] ^= 1
    else:
        data[-4] ^= 1
    return bytes(data)


@pytest.fixture
def once_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Change, Path], None]]:
    """Have something done to a file right after a step has opened its sources."""
    waiting: list[tuple[Change, Path]] = []
    real = step_files.OpenFiles.__init__

    def opened(self: Any, sources: Any, stack: Any, **options: Any) -> None:
        real(self, sources, stack, **options)
        if waiting and any(s.path.resolve() == waiting[0][1] for s in sources.values()):
            change, path = waiting.pop()
            change(path)

    monkeypatch.setattr(step_files.OpenFiles, "__init__", opened)
    yield lambda change, path: waiting.append((change, path))
    assert not waiting, "the file was never opened"


def weights(store: Path, name: str) -> list[str]:
    """The digests of a model's weights and adapters."""
    manifest = Store(store).manifests.read(ModelName.parse(name)).manifest
    return [str(layer.digest) for kind in (MODEL, ADAPTER) for layer in manifest.of_kind(kind)]


QUANTIZE = ("-q", "q4_0", "--imatrix", "{}/imatrix.dat")
SOURCES = [
    ("chat/model.safetensors", ()),
    ("chat/config.json", ()),
    ("lora/adapter_model.safetensors", ()),
    ("chat/model.safetensors", QUANTIZE),
    ("chat/config.json", QUANTIZE),
    ("imatrix.dat", QUANTIZE),
]


@pytest.mark.parametrize("change", [rename_another_over, edit_in_place, rename_and_back])
@pytest.mark.parametrize(("source", "options"), SOURCES)
def test_no_build_takes_one_content_for_another(
    source: str,
    options: tuple[str, ...],
    change: Change,
    mbuild: Run,
    project: Path,
    once_open: Callable[[Change, Path], None],
) -> None:
    """The build is refused, or right; an untouched copy gets what a fresh store gives it."""

    def build(name: str, store: str = "store") -> Any:
        given = [option.format(name) for option in options]
        return mbuild("--store", store, "-f", f"{name}/Modelfile", "-t", name, *given)

    once_open(change, project / "x" / source)
    done = build("x")
    if done.returncode:
        assert f"{Path(source).name} changed while it was read" in done.stderr
        assert "build again" in done.stderr
    for name in ("x", "y"):
        assert build(name).returncode == 0
        assert build(name, "fresh").returncode == 0
        assert weights(project / "store", name) == weights(project / "fresh", name)


def test_a_link_that_mbuild_made_is_no_change(mbuild: Run, project: Path) -> None:
    """``--link`` moves the change time of the user's file; the next build still runs nothing."""
    assert mbuild("-f", "x/Modelfile", "-t", "x").returncode == 0
    assert mbuild("export", "x", "-o", "x.gguf").returncode == 0
    (project / "Modelfile").write_text("FROM ./x.gguf\n")
    settle()
    first, second = (
        mbuild("-t", "linked", "--link", "--progress", "plain").stderr for _ in range(2)
    )
    assert ": 0 steps run," not in first
    assert ": 0 steps run," in second
    assert (project / "x.gguf").stat().st_nlink == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open")
def test_a_file_that_is_mapped_for_writing_is_hashed_by_each_build(
    mbuild: Run, project: Path
) -> None:
    """Writes through a mapping can move no time; while there is one, no digest is relied on."""
    weights = tiny_gguf(project / "mapped.gguf")
    (project / "Modelfile").write_text("FROM ./mapped.gguf\n")
    settle()
    ids = []
    with weights.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    with mapping:
        for byte in (1, 2, 3):
            mapping[-40] = byte
            settle()
            info = os.stat(weights)
            done = mbuild("-t", "m", "--quiet")
            assert done.returncode == 0, done.stderr
            assert done.stdout not in ids
            ids.append(done.stdout)
            mapping[-40] = byte + 1  # in the same period: the times stay
            assert os.stat(weights).st_ctime_ns == info.st_ctime_ns
            assert Store(project / "store").database.file_digest(info) is None
    settle()
    assert mbuild("-t", "m", "--quiet").returncode == 0  # nobody writes: now it is remembered
    assert Store(project / "store").database.file_digest(os.stat(weights)) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open")
def test_asking_who_writes_disturbs_nobody(tmp_path: Path) -> None:
    """A writer that opens the file meanwhile goes on, and no signal ends this process."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    stop = threading.Event()

    failed: list[OSError] = []

    def write() -> None:
        while not stop.is_set():
            try:
                path.open("r+b").close()
            except OSError as error:
                failed.append(error)
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with OpenFile.open(path, "file") as file:
            # Whether a look falls between two of the writer's openings is up to the machine.
            assert {type(file.start_of_hashing()) for _ in range(3000)} == {int}
    finally:
        stop.set()
        writer.join()
    assert not failed
    with OpenFile.open(path, "file") as file:
        assert file.start_of_hashing() > 0
        with path.open("r+b"):
            assert file.start_of_hashing() == 0
