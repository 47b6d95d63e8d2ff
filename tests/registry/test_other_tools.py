"""skopeo, oras and RamaLama read what mbuild pushed: each form, from Debian's docker-registry."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from installed import from_pypi
from programs import need
from registries import docker_registry
from stores import check_promise, copy_tiny_store

from mbuild.core.names import ModelName
from mbuild.models.artifacts import import_tar
from mbuild.registry.client.access import Access
from mbuild.registry.client.registry import ACCEPT
from mbuild.registry.dialects.table import DIALECTS
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.push import Wanted, push
from mbuild.store import Store

SCRIPT = Path(__file__).parents[1] / "clients" / "registry_tools.py"
PACKAGES = ["oras==0.2.43", "ramalama==0.25.0"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that has ``a/tiny:v1`` in all forms."""
    folder = tmp_path_factory.mktemp("registry")
    with docker_registry(folder) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("DOCKER_CONFIG", raising=False)
        store = Store(copy_tiny_store(folder / "store"))
        wanted = [Wanted(dialect) for dialect in DIALECTS]
        reference = ModelReference.parse(f"{found}/a/tiny:v1")
        list(push(ModelName.parse("tiny"), reference, store, Access(), wanted))
        yield found


def manifest(host: str, path: str, tag: str) -> bytes:
    url = f"http://{host}/v2/{path}/manifests/{tag}"
    return httpx.get(url, headers={"Accept": ACCEPT}, trust_env=False, verify=False).content


def skopeo(*arguments: str) -> subprocess.CompletedProcess[str]:
    need("skopeo")
    command = ["skopeo", "--insecure-policy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("suffix", ["-modelpack", "-docker"])
def test_skopeo_copies_each_form(host: str, suffix: str) -> None:
    """Into another repository, with the manifest's bytes."""
    done = skopeo(
        *("copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"),
        f"docker://{host}/a/tiny:v1{suffix}",
        f"docker://{host}/copy/tiny:v1{suffix}",
    )
    assert done.returncode == 0, done.stderr
    copied = manifest(host, "copy/tiny", f"v1{suffix}")
    assert copied == manifest(host, "a/tiny", f"v1{suffix}")
    assert len(json.loads(copied)["layers"]) == 3


@pytest.mark.parametrize("suffix", ["-modelpack", "-docker"])
def test_an_archive_of_skopeo_is_imported(host: str, suffix: str, tmp_path: Path) -> None:
    """From each form it writes: the model that was pushed, under the name in the archive."""
    file = tmp_path / "tiny.tar"
    source, target = f"docker://{host}/a/tiny:v1{suffix}", f"oci-archive:{file}:came:v1"
    done = skopeo("copy", "--preserve-digests", "--src-tls-verify=false", source, target)
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "store")
    (model,) = import_tar(file, store)
    assert str(model.name) == "came:v1" and model.left_out == ()
    pushed = hashlib.sha256(manifest(host, "a/tiny", "v1")).hexdigest()
    assert model.id.hex == pushed and check_promise(store.root) == 1


def test_skopeo_reads_ollamas(host: str) -> None:
    """It copies no layers of types that it does not know under Docker's manifest type."""
    done = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/a/tiny:v1")
    assert done.stdout.encode() == manifest(host, "a/tiny", "v1"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["-modelpack", "-docker"])
def test_oras_and_ramalama_read_it(host: str, suffix: str, tmp_path: Path) -> None:
    """oras lays every file under its name; RamaLama's parser takes ModelPack's manifest."""
    python = from_pypi("registries", PACKAGES) / "python"
    done = subprocess.run(
        [python, SCRIPT, host, f"a/tiny:v1{suffix}", tmp_path / "files"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "no_proxy": "*", "PYTHONPATH": "", "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    layers = json.loads(manifest(host, "a/tiny", f"v1{suffix}"))["layers"]
    names = {layer["annotations"]["org.cncf.model.filepath"]: layer["digest"] for layer in layers}
    assert found["oras"] == names
    assert found.get("ramalama", names) == names
    assert ("ramalama" in found) == (suffix == "-modelpack")
    data = (tmp_path / "files" / "model.gguf").read_bytes()
    assert names["model.gguf"] == "sha256:" + hashlib.sha256(data).hexdigest()
