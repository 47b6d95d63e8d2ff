"""Exports of models in several files: as they are stored, merged, and cut."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from conftest import Run
from gguf_files import gguf_bytes, tiny_gguf, tiny_model
from inprocess import in_process

from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.weights import open_weights, paths_of
from mbuild.models.artifacts import archive, sharing
from mbuild.models.artifacts.places import places_of
from mbuild.store import Store, StoredManifest


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, and two models: one in three files, one in one."""
    run = in_process(tmp_path, monkeypatch)
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf\nPARAMETER top_k 7\nSYSTEM Hi\n")
    for name, *options in (("cut", "--split-layers", "1"), ("one",)):
        assert run("-t", name, *options).returncode == 0
    return run


def export(mbuild: Run, *arguments: str) -> None:
    """Export; it succeeds."""
    done = mbuild("export", *arguments)
    assert done.returncode == 0, done.stderr


def test_as_stored(mbuild: Run, tmp_path: Path) -> None:
    """A file each, named as llama.cpp wants it; the settings are in the first one's metadata."""
    export(mbuild, "cut", "-o", "out/a.gguf")
    names = [f"a-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    paths = [tmp_path / "out" / name for name in names]
    assert sorted((tmp_path / "out").iterdir()) == paths
    export(mbuild, "cut", "--raw", "-o", "raw/a-00001-of-00003.gguf")
    for path in paths[1:]:
        assert path.read_bytes() == (tmp_path / "raw" / path.name).read_bytes()
    with open_weights(paths, names) as weights:
        assert weights.get("general.sampling.top_k") == 7
        assert [t.name for t in weights.tensors] == [t.name for t in tiny_model().tensors]
    assert paths_of(paths[1]) == tuple(paths)
    export(mbuild, "cut", "--link", "-o", "linked/a.gguf")
    stored = places_of(Store(tmp_path / "store"), _stored(tmp_path, "cut"), tmp_path, "x")
    for layer, path in zip(
        next(stored).layers, sorted((tmp_path / "linked").iterdir()), strict=True
    ):
        blob = tmp_path / "store/blobs" / layer.digest.filename
        assert blob.samefile(path)


def _stored(folder: Path, name: str) -> StoredManifest:
    return Store(folder / "store").manifests.read(ModelName.parse(name))


def test_merged(mbuild: Run, tmp_path: Path) -> None:
    """One file: with --raw that of the whole model, else with its settings too."""
    export(mbuild, "cut", "--merge", "--raw", "-o", "raw.gguf")
    assert (tmp_path / "raw.gguf").read_bytes() == gguf_bytes(tiny_model())
    export(mbuild, "cut", "--merge", "-o", "a.gguf")
    export(mbuild, "one", "-o", "b.gguf")
    with open_gguf(tmp_path / "a.gguf") as a, open_gguf(tmp_path / "b.gguf") as b:
        assert a.get("general.sampling.top_k") == b.get("general.sampling.top_k") == 7
        assert a.kvs.keys() == b.kvs.keys() - {"mbuild.padding"}
    export(mbuild, "one", "--merge", "--raw", "-o", "same.gguf")
    assert (tmp_path / "same.gguf").read_bytes() == (tmp_path / "raw.gguf").read_bytes()


def test_cut_on_the_way(mbuild: Run, tmp_path: Path) -> None:
    """A model in one file, or in others, has the shards that a build would have given it."""
    export(mbuild, "cut", "--raw", "-o", "a/x.gguf")
    export(mbuild, "one", "--raw", "--split-layers", "1", "-o", "b/x.gguf")
    export(mbuild, "cut", "--raw", "--split", "1GB", "-o", "c/x.gguf")
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab")
    assert a == b and len(a) == 3
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_folder_has_a_modelfile_that_gives_the_model_again(mbuild: Run, tmp_path: Path) -> None:
    """Its FROM is a wildcard for all shards, as Ollama wants it; or the name of the one file."""
    export(mbuild, "cut", "--raw", "-o", "shards/")
    assert "FROM ./cut-*-of-00003.gguf\n" in (tmp_path / "shards/Modelfile").read_text()
    assert mbuild("-f", "shards/Modelfile", "-t", "again", "--keep-split").returncode == 0
    assert _stored(tmp_path, "again").manifest.layers == _stored(tmp_path, "cut").manifest.layers
    export(mbuild, "cut", "--raw", "--merge", "-o", "whole/")
    whole = (tmp_path / "whole/Modelfile").read_text()
    assert "FROM ./cut.gguf\n" in whole and "REQUIRES" not in whole
    assert mbuild("-f", "whole/Modelfile", "-t", "merged").returncode == 0
    assert _stored(tmp_path, "merged").manifest == _stored(tmp_path, "one").manifest


def test_a_requirement_of_the_users_own_stays(mbuild: Run, tmp_path: Path) -> None:
    """Only the version that several layers need goes with them."""
    text = (tmp_path / "Modelfile").read_text() + "REQUIRES 0.99.0\n"
    assert mbuild("-f", "-", "-t", "new", "--split-layers", "1", input=text).returncode == 0
    export(mbuild, "new", "--merge", "-o", "new.gguf")
    export(mbuild, "new", "--merge", "-o", "new/")
    with open_gguf(tmp_path / "new.gguf") as file:
        assert file.get("ollama.requires") == "0.99.0"
    assert "REQUIRES 0.99.0\n" in (tmp_path / "new/Modelfile").read_text()


def test_a_tar_brings_all_layers_back(mbuild: Run, tmp_path: Path) -> None:
    """It has the model as it is stored."""
    export(mbuild, "cut", "-o", "cut.tar")
    before = _stored(tmp_path, "cut").id
    assert mbuild("rm", "cut", "--purge").returncode == 0
    assert mbuild("import", "cut.tar").returncode == 0
    assert _stored(tmp_path, "cut").id == before
    assert mbuild("verify", "cut").returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--merge", "--split", "1GB", "-o", "x.gguf"), "--merge and --split cannot be combined"),
        (("--split", "1GB", "--split-layers", "1", "-o", "x"), "cannot be combined"),
        (("--merge", "--link", "-o", "x.gguf"), "--merge writes new files, which --link does not"),
        (("--merge", "-o", "x.tar"), "--merge has no effect on a tar archive"),
        (("--split-layers", "2", "-o", "x.tar"), "--split-layers has no effect on a tar archive"),
    ],
)
def test_options_that_exclude_each_other(mbuild: Run, options: tuple[str, ...], says: str) -> None:
    """Nothing is written."""
    done = mbuild("export", "cut", *options)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_file_that_exists_or_a_damaged_shard_leaves_nothing(mbuild: Run, tmp_path: Path) -> None:
    """No part of the export is there: neither before the existing file nor before the bad blob."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a-00003-of-00003.gguf").write_text("mine")
    done = mbuild("export", "cut", "-o", "out/a.gguf")
    assert done.returncode == 1 and "a-00003-of-00003.gguf exists" in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 1
    layer = _stored(tmp_path, "cut").manifest.layers[2]
    blob = tmp_path / "store/blobs" / layer.digest.filename
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    for options in (("--merge",), ("--split", "1GB")):
        done = mbuild("export", "cut", *options, "-o", "bad/a.gguf")
        assert done.returncode == 1 and "does not match its digest" in done.stderr
        assert not list((tmp_path / "bad").iterdir())


@pytest.mark.parametrize(
    "arguments",
    [("-o", "m.tar"), ("-o", "a.gguf"), ("-o", "b.gguf", "--link"), ("--merge",)],
    ids=str,
)
def test_several_blobs_are_hashed_at_once(
    arguments: tuple[str, ...], mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the three shards two are begun before one is done, on two cores and on no more."""
    monkeypatch.setenv("MBUILD_THREADS", "2")
    met, at_once = Barrier(2), []
    hash_file = sharing.hash_file

    def meet(*given: Any) -> Digest:
        at_once.append(1)
        if len(at_once) <= 2:
            met.wait(20)
        found = hash_file(*given)
        at_once.append(-1)
        return found

    monkeypatch.setattr(sharing, "hash_file", meet)
    out = () if "-o" in arguments else ("-o", "whole.gguf")
    export(mbuild, "cut", *arguments, *out)
    assert max(accumulate(at_once)) == 2
    assert at_once.count(1) >= 3


def test_an_archive_is_the_same_however_many_copy(
    mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each blob has its place, whoever fills it and when."""
    assert archive.THREADS == "mbuild-export"
    for threads in ("1", "2", "7"):
        monkeypatch.setenv("MBUILD_THREADS", threads)
        export(mbuild, "cut", "-o", f"{threads}.tar")
    made = {(tmp_path / f"{threads}.tar").read_bytes() for threads in ("1", "2", "7")}
    assert len(made) == 1
