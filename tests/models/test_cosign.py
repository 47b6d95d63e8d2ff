"""cosign itself, from Debian 13, over what ``sign`` and ``push`` leave in a registry."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from gguf_files import tiny_gguf
from inprocess import in_process
from installed import from_debian
from registries import docker_registry

pytestmark = pytest.mark.clients

_INSIDE = "--allow-http-registry=true"
_OFFLINE = "--insecure-ignore-tlog=true"


class Signed(NamedTuple):
    """A signed model in a registry, and cosign in the folder that has the keys."""

    program: Path
    folder: Path
    repository: str
    model: str

    def cosign(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """cosign over the model, named by its id, without its public log."""
        target = f"{self.repository}@{self.model}"
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        offline = [_OFFLINE] if command.startswith("verify") else []
        words = [self.program, *command.split(), *options, *offline, _INSIDE, target]
        return subprocess.run(
            words, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60
        )


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    """A model built, signed with one key and pushed to Debian's docker-registry; a second key."""
    program = from_debian("cosign", "trixie", ["cosign"]) / "usr" / "bin" / "cosign"
    folder = tmp_path_factory.mktemp("cosign")
    with docker_registry(folder / "registry") as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("DOCKER_CONFIG", raising=False)
        run = in_process(folder, patch)
        tiny_gguf(folder / "model.gguf")
        (folder / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\n")
        name = f"{host}/org/mario"
        for command in (
            ("-t", "mario"),
            ("sign", "--new-key", "key"),
            ("sign", "--new-key", "other"),
            ("sign", "mario", "--key", "key", "--identity", name),
            ("push", "mario", f"{name}:v1"),
        ):
            done = run(*command)
            assert done.returncode == 0, done.stderr
        shown = json.loads(run("show", "mario", "--format", "json").stdout)["id"]
        yield Signed(program, folder, name, f"sha256:{shown.removeprefix('sha256:')}")


def test_cosign_verifies_the_signed_id(signed: Signed) -> None:
    """Claims and signature, and it says which model of which repository they are about."""
    done = signed.cosign("verify", "--key", "key.pub")
    assert done.returncode == 0, done.stderr
    assert "The cosign claims were validated" in done.stderr
    assert "The signatures were verified against the specified public key" in done.stderr
    (claim,) = json.loads(done.stdout)
    assert claim["critical"]["image"] == {"docker-manifest-digest": signed.model}
    assert claim["critical"]["identity"] == {"docker-reference": signed.repository}


def test_cosign_verifies_the_signed_statement(signed: Signed) -> None:
    """As an attestation of SLSA's predicate, about this model; not as one of another kind."""
    done = signed.cosign("verify-attestation", "--key", "key.pub", "--type", "slsaprovenance1")
    assert done.returncode == 0, done.stderr
    statement = json.loads(base64.b64decode(json.loads(done.stdout)["payload"]))
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert f"sha256:{statement['subject'][0]['digest']['sha256']}" == signed.model
    done = signed.cosign("verify-attestation", "--key", "key.pub", "--type", "spdxjson")
    assert done.returncode != 0
    assert "none of the attestations matched the predicate type" in done.stderr


@pytest.mark.parametrize("command", ["verify", "verify-attestation --type slsaprovenance1"])
def test_cosign_refuses_another_key(command: str, signed: Signed) -> None:
    """The same objects, and the key of somebody who signed nothing."""
    done = signed.cosign(command, "--key", "other.pub")
    assert done.returncode != 0
    assert "signature" in done.stderr


def test_cosign_finds_the_layout(signed: Signed) -> None:
    """It looks for the same tag, and its tree has signature and attestation."""
    tag = signed.model.replace(":", "-")
    done = signed.cosign("triangulate")
    assert done.stdout.strip() == f"{signed.repository}:{tag}.sig", done.stderr
    tree = signed.cosign("tree").stdout
    assert f"{tag}.sig" in tree
    assert f"{tag}.att" in tree
