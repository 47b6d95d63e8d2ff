"""OCI archives of other tools' packages: each form that a pull reads, and no other."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from gguf_files import gguf_bytes, tiny_model
from stores import check_promise

from mbuild.core.errors import FormatError, MbuildError
from mbuild.models.artifacts import import_tar
from mbuild.registry.dialects import docker, modelpack
from mbuild.registry.dialects.received import FILE_PATH
from mbuild.store import Store

OCI = "application/vnd.oci.image.manifest.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
NAME = "org.opencontainers.image.ref.name"


def tarred(files: Mapping[str, bytes]) -> bytes:
    """A tar archive."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def package(
    path: Path, files: Mapping[tuple[str, str], bytes], config: str = modelpack.CONFIG
) -> Path:
    """An OCI layout in a tar with one package; contents by media type and file's name."""
    found: dict[str, bytes] = {}

    def add(media_type: str, data: bytes) -> dict[str, Any]:
        digits = hashlib.sha256(data).hexdigest()
        found[f"blobs/sha256/{digits}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digits}", "size": len(data)}

    layers = [
        {**add(kind, data), "annotations": {FILE_PATH: name}}
        for (kind, name), data in files.items()
    ]
    manifest = {"schemaVersion": 2, "mediaType": OCI, "config": add(config, b"{}")}
    row = add(OCI, json.dumps({**manifest, "layers": layers}).encode())
    index = {"schemaVersion": 2, "manifests": [{**row, "annotations": {NAME: "came"}}]}
    found["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    found["index.json"] = json.dumps(index).encode()
    path.write_bytes(tarred(found))
    return path


@pytest.mark.parametrize(
    ("weight", "config", "pack"),
    [
        (WEIGHT, modelpack.CONFIG, False),
        (WEIGHT.replace("raw", "tar"), modelpack.CONFIG, True),
        ("application/vnd.docker.ai.gguf.v3", docker.CONFIG, False),
    ],
    ids=["modelpack", "packed", "docker"],
)
def test_a_package_is_what_from_makes(
    tmp_path: Path, mbuild: Run, weight: str, config: str, pack: bool
) -> None:
    """The model that FROM its files builds; what has no place is named, and nothing else stays."""
    model = gguf_bytes(tiny_model())
    (tmp_path / "m.gguf").write_bytes(model)
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\n")
    assert mbuild("-t", "built").returncode == 0
    files = {(weight, "m.gguf"): tarred({"m.gguf": model}) if pack else model}
    files[DOC if config == modelpack.CONFIG else "application/x", "README.md"] = b"about"
    archive = package(tmp_path / "m.tar", files, config)
    done = mbuild("import", archive)
    assert done.returncode == 0, done.stderr
    assert "left out, because a model has no place for it: README.md" in done.stderr
    lines = {line.split()[0]: line.split()[1] for line in mbuild("list").stdout.splitlines()}
    assert lines["came:latest"] == lines["built:latest"]
    other = Store(tmp_path / "other")
    import_tar(archive, other)
    assert check_promise(other.root) == 1


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({(WEIGHT, "m.safetensors"): b"x"}, "are not a GGUF file"),
        ({(WEIGHT, "m.gguf"): b"GGUX"}, "not a GGUF file"),
        ({(WEIGHT.replace("raw", "tar"), "m"): b"x" * 999}, "cannot be unpacked"),
    ],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, files: dict[tuple[str, str], bytes], said: str
) -> None:
    """As a pull refuses it; neither a model nor a blob is left."""
    store = Store(tmp_path / "store")
    store.prepare()
    with pytest.raises(FormatError, match=said):
        import_tar(package(tmp_path / "m.tar", files), store)
    store.collect_garbage()
    assert list(store.manifests.names()) == []
    assert not list((store.root / "blobs").iterdir())


def test_a_config_that_lies_is_refused(tmp_path: Path) -> None:
    """Its bytes are checked before they are believed."""
    path = package(tmp_path / "m.tar", {(WEIGHT, "m.gguf"): gguf_bytes(tiny_model())})
    path.write_bytes(path.read_bytes().replace(b"{}" + bytes(510), b"[]" + bytes(510)))
    with pytest.raises(MbuildError, match="does not match its digest"):
        import_tar(path, Store(tmp_path / "store"))
