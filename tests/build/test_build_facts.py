"""What a second build does again, through the command line: the cache's specification."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Run
from gguf_files import tiny_gguf

MODELFILE = """\
# a persona
FROM ./model.gguf
SYSTEM You are Mario.
PARAMETER temperature 0.5
LICENSE MIT
"""

Events = list[dict[str, object]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a Modelfile and the GGUF file that it names."""
    (tmp_path / "Modelfile").write_text(MODELFILE)
    tiny_gguf(tmp_path / "model.gguf")
    return tmp_path


def build(mbuild: Run, *arguments: str) -> Events:
    """Build ``mario`` and return the events."""
    done = mbuild("--progress", "json", "-t", "mario", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ran(events: Events) -> list[object]:
    """The labels of the steps that ran, sorted."""
    finished = (event for event in events if event["event"] == "StepFinished")
    return sorted(str(event["label"]) for event in finished if not event["cached"])


def written(events: Events) -> object:
    """Bytes of new blobs."""
    return events[-1]["written"]


def test_a_second_build_runs_nothing(mbuild: Run, project: Path) -> None:
    """Nothing changed, so every step is cached and the model keeps its id."""
    first, second = build(mbuild), build(mbuild)
    assert ran(first) == [
        "config",
        "detect template",
        "import model.gguf",
        "license",
        "manifest",
        "params",
        "system",
    ]
    assert ran(second) == []
    assert first[-1]["id"] == second[-1]["id"]


def test_editing_system_rebuilds_one_layer(mbuild: Run, project: Path) -> None:
    """A new SYSTEM is one new layer and a new manifest; the config does not depend on it."""
    build(mbuild)
    (project / "Modelfile").write_text(MODELFILE.replace("Mario", "Luigi"))
    events = build(mbuild)
    assert ran(events) == ["manifest", "system"]
    assert written(events) == len("You are Luigi.")


def test_editing_a_comment_rebuilds_nothing(mbuild: Run, project: Path) -> None:
    """Comments, blank lines and the order of unlike instructions build nothing."""
    first = build(mbuild)
    lines = MODELFILE.replace("# a persona", "# another\n\n").splitlines()
    (project / "Modelfile").write_text("\n".join([*lines[:3], *reversed(lines[3:])]))
    events = build(mbuild)
    assert ran(events) == []
    assert events[-1]["id"] == first[-1]["id"]


def test_touching_the_gguf_rehashes_it_and_runs_nothing(mbuild: Run, project: Path) -> None:
    """New times make the next build read the file first; the same content changes nothing."""
    first = build(mbuild)
    os.utime(project / "model.gguf", ns=(1, 1))
    touched, again = build(mbuild), build(mbuild)
    assert ran(touched) == []
    assert written(touched) == 0
    assert ran(again) == []
    assert touched[-1]["id"] == again[-1]["id"] == first[-1]["id"]


def test_changing_one_byte_of_the_gguf_rebuilds_what_depends_on_it(
    mbuild: Run, project: Path
) -> None:
    """One byte of a tensor: a new model layer, looked into again; texts are untouched."""
    first = build(mbuild)
    data = bytearray((project / "model.gguf").read_bytes())
    data[-1] ^= 1
    (project / "model.gguf").write_bytes(data)
    events = build(mbuild)
    assert ran(events) == ["config", "detect template", "import model.gguf", "manifest"]
    assert events[-1]["id"] != first[-1]["id"]


def test_a_change_that_keeps_size_and_mtime_is_found(mbuild: Run, project: Path) -> None:
    """The change time tells, which no program can set back."""
    model = project / "model.gguf"
    first, info = build(mbuild), model.stat()
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    with model.open("r+b") as file:
        file.write(data)
    os.utime(model, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert build(mbuild)[-1]["id"] != first[-1]["id"]


def test_moving_the_project_rebuilds_nothing(mbuild: Run, project: Path) -> None:
    """Paths are no part of any key: a copied file is hashed, and nothing runs."""
    first = build(mbuild)
    other = project / "elsewhere"
    other.mkdir()
    for name in ("Modelfile", "model.gguf"):
        shutil.copy(project / name, other / name)
    events = build(mbuild, str(other))
    assert ran(events) == []
    assert (written(events), events[-1]["id"]) == (0, first[-1]["id"])


def test_no_cache_runs_every_step_to_the_same_model(mbuild: Run, project: Path) -> None:
    """``--no-cache`` runs all steps, and they come to the same id."""
    first = build(mbuild)
    events = build(mbuild, "--no-cache")
    assert ran(events) == ran(first)
    assert events[-1]["id"] == first[-1]["id"]


def test_a_missing_blob_is_made_again(mbuild: Run, project: Path) -> None:
    """A blob that is gone comes back from the cache; where that lost it too, it is a miss."""
    build(mbuild)
    store = project / "store"
    for folders, steps in ((("blobs",), []), (("blobs", ".mbuild/kept"), ["system"])):
        for blob in [path for folder in folders for path in (store / folder).iterdir()]:
            if blob.read_bytes() == b"You are Mario.":
                blob.unlink()
        assert ran(build(mbuild)) == steps
    assert b"You are Mario." in {blob.read_bytes() for blob in (store / "blobs").iterdir()}


def test_a_truncated_blob_is_made_again(mbuild: Run, project: Path) -> None:
    """A blob of the wrong size is a miss, and the next build heals it."""
    first = build(mbuild)
    digest = next(e["digest"] for e in first if e["event"] == "LayerReady")
    blob = project / "store" / "blobs" / str(digest).replace(":", "-")
    whole = blob.read_bytes()
    blob.write_bytes(whole[:100])
    assert ran(build(mbuild)) == ["import model.gguf"]
    assert blob.read_bytes() == whole


def test_dry_run_tells_and_writes_nothing(mbuild: Run, project: Path) -> None:
    """``--dry-run`` names the steps and bytes, and does not even make a store."""
    done = mbuild("--dry-run", "-t", "mario")
    assert done.returncode == 0, done.stderr
    assert "run      import model.gguf" in done.stdout
    assert "mario:latest: 7 steps to run, 0 cached" in done.stdout
    assert not (project / "store").exists()
    build(mbuild)
    (project / "Modelfile").write_text(MODELFILE.replace("Mario", "Luigi"))
    before = sorted((p, p.stat().st_mtime_ns) for p in (project / "store").rglob("*"))
    done = mbuild("--dry-run", "-t", "mario")
    assert "cached   import model.gguf" in done.stdout
    assert "run      system  writes 14 B" in done.stdout
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (project / "store").rglob("*"))


def test_replacing_a_model_removes_what_only_it_used(mbuild: Run, project: Path) -> None:
    """The old SYSTEM's blob goes when nothing uses it, and stays when something does."""
    build(mbuild)
    assert mbuild("cp", "mario", "keeper").returncode == 0

    def blobs() -> set[bytes]:
        return {blob.read_bytes() for blob in (project / "store" / "blobs").iterdir()}

    (project / "Modelfile").write_text(MODELFILE.replace("Mario", "Luigi"))
    build(mbuild)
    assert {b"You are Mario.", b"You are Luigi."} <= blobs()
    assert mbuild("rm", "keeper").returncode == 0
    assert b"You are Mario." not in blobs()
    (project / "Modelfile").write_text(MODELFILE.replace("Mario", "Peach"))
    build(mbuild)
    assert b"You are Luigi." not in blobs()
    assert mbuild("rm", "mario").returncode == 0
    assert blobs() == set()


def test_the_same_modelfile_gives_the_same_bytes_anywhere(mbuild: Run, project: Path) -> None:
    """Folder, time zone, locale and hash seed leave no trace; of the umask only the rights."""
    ids = set()
    for number, (zone, locale, seed, umask) in enumerate(
        [("UTC", "C", "0", 0o022), ("Asia/Tokyo", "tr_TR.UTF-8", "1", 0o077)]
    ):
        folder = project / f"place {number}"
        folder.mkdir()
        for name in ("Modelfile", "model.gguf"):
            shutil.copy(project / name, folder / name)
        store = project / f"store-{number}"
        environment = {
            **os.environ,
            "TZ": zone,
            "LC_ALL": locale,
            "PYTHONHASHSEED": seed,
            "OLLAMA_MODELS": str(store),
        }
        done = mbuild("-t", "mario", "--quiet", folder, env=environment, umask=umask)
        assert done.returncode == 0, done.stderr
        ids.add(done.stdout)
        files = [p for part in ("blobs", "manifests") for p in (store / part).rglob("*")]
        assert {p.stat().st_mode & 0o777 for p in files if p.is_file()} == {0o666 & ~umask}
        assert {p.stat().st_mode & 0o777 for p in files if p.is_dir()} <= {0o777 & ~umask}
    assert len(ids) == 1


def test_a_changed_file_during_the_build_is_never_cached(mbuild: Run, project: Path) -> None:
    """A file hashed within its clock's tick of being written is read again, not trusted."""
    model = project / "model.gguf"
    data = model.read_bytes()
    seen = set()
    for flip in range(3):
        model.write_bytes(data[:-1] + bytes([data[-1] ^ flip]))
        seen.add(build(mbuild)[-1]["id"])
    assert len(seen) == 3
