"""What a build leaves on disk is the store that Ollama would have written."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from conftest import Run
from gguf_files import tiny_gguf

PREFIX = "application/vnd.ollama.image."
TEXT = """\
FROM ./model.gguf
ADAPTER ./lora.gguf
TEMPLATE "{{ .System }} {{ .Prompt }}"
SYSTEM s
PARAMETER stop "<x>"
LICENSE a
LICENSE b
MESSAGE user "é & <b>"
REQUIRES v0.14.0
"""


def test_names_media_types_modes_and_layout(mbuild: Run, tmp_path: Path) -> None:
    """Blobs by digest, the manifest below its four folders, Ollama's types in Ollama's order."""
    tiny_gguf(tmp_path / "model.gguf")
    tiny_gguf(tmp_path / "lora.gguf", kind="adapter")
    (tmp_path / "Modelfile").write_text(TEXT)
    assert mbuild("-t", "host.example:5000/ns/model:v1.2").returncode == 0
    store = tmp_path / "store"
    assert {p.name for p in store.iterdir()} == {"blobs", "manifests", ".mbuild"}
    path = store / "manifests" / "host.example:5000" / "ns" / "model" / "v1.2"
    manifest = json.loads(path.read_bytes())
    assert list(manifest) == ["schemaVersion", "mediaType", "config", "layers"]
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert [layer["mediaType"].removeprefix(PREFIX) for layer in manifest["layers"]] == [
        "model",
        "adapter",
        "template",
        "system",
        "license",
        "license",
        "params",
        "messages",
    ]
    assert path.stat().st_mode & 0o777 == 0o644
    named = {layer["digest"].replace(":", "-") for layer in manifest["layers"]}
    named.add(manifest["config"]["digest"].replace(":", "-"))
    blobs = {blob.name: blob for blob in (store / "blobs").iterdir()}
    assert blobs.keys() == named
    for name, blob in blobs.items():
        assert re.fullmatch("sha256-[0-9a-f]{64}", name)
        assert name == f"sha256-{hashlib.sha256(blob.read_bytes()).hexdigest()}"
        assert blob.stat().st_mode & 0o777 == 0o644
    sizes = {f"sha256:{n.removeprefix('sha256-')}": b.stat().st_size for n, b in blobs.items()}
    for layer in (manifest["config"], *manifest["layers"]):
        assert layer["size"] == sizes[layer["digest"]]
    contents = {blob.read_bytes() for blob in blobs.values()}
    assert b'{"stop":["\\u003cx\\u003e"]}\n' in contents
    assert '[{"role":"user","content":"é \\u0026 \\u003cb\\u003e"}]\n'.encode() in contents
    assert any(b'"requires":"0.14.0","architecture":"amd64","os":"linux"}\n' in c for c in contents)


def test_a_store_on_two_disks_is_written_in_one_piece(mbuild: Run, tmp_path: Path) -> None:
    """Where ``blobs`` is a link to another file system, files are made there, not moved there."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        import pytest

        pytest.skip("needs a second file system at /dev/shm")
    import tempfile

    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    with tempfile.TemporaryDirectory(dir=other) as blobs:
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "blobs").symlink_to(blobs)
        done = mbuild("-t", "m")
        assert done.returncode == 0, done.stderr
        names = {p.name for p in Path(blobs).iterdir()}
        # What the cache keeps has to be on the same disk; Ollama cannot remove a folder.
        assert all(name.startswith("sha256-") for name in names - {".mbuild-kept"})
