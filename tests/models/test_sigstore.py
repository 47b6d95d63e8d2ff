"""What ``sign`` and ``push`` leave in a registry, verified by Sigstore's and in-toto's own code.

``test_cosign`` has cosign itself. Sigstore's verifier in JavaScript checks envelopes of
DSSE (``@sigstore/verify``); of bare bytes it takes no ed25519, so that signed claims are checked
with what it is built on (``@sigstore/core``). ``securesystemslib``, with which in-toto and TUF
read signatures, checks both.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from conftest import Run
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from gguf_files import tiny_gguf
from inprocess import in_process
from installed import from_npm, from_pypi
from registries import docker_registry

pytestmark = pytest.mark.clients

VERIFY = """
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");
const { bundleFromJSON } = require("@sigstore/bundle");
const { crypto } = require("@sigstore/core");
const asked = JSON.parse(require("fs").readFileSync(0));
const key = crypto.createPublicKey(asked.key);
const always = { publicKey: key, validFor: () => true };
const trusted = toTrustMaterial({
  tlogs: [], ctlogs: [], certificateAuthorities: [], timestampAuthorities: [],
}, () => always);
const none = { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 };
const verifier = new Verifier(trusted, none);
const material = {
  publicKey: { hint: asked.hint }, tlogEntries: [], timestampVerificationData: {},
};
const mediaType = "application/vnd.dev.sigstore.bundle+json;version=0.2";
const told = asked.signed.map(({ payload, signature, envelope }) => {
  if (payload) {
    const [data, signed] = [payload, signature].map((text) => Buffer.from(text, "base64"));
    return crypto.verify(data, key, signed) ? "good" : "signature verification failed";
  }
  const bundle = { mediaType, verificationMaterial: material, dsseEnvelope: envelope };
  try {
    verifier.verify(toSignedEntity(bundleFromJSON(bundle)));
    return "good";
  } catch (error) {
    return `${error.code}: ${error.message}`;
  }
});
console.log(JSON.stringify(told));
"""

PYTHON = """
import base64, json, sys
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SSlibKey

asked = json.load(sys.stdin)
public = load_pem_public_key(asked["key"].encode())
told = []
for each in asked["signed"]:
    try:
        if "envelope" in each:
            keyid = each["envelope"]["signatures"][0]["keyid"]
            key = SSlibKey.from_crypto(public, keyid=keyid)
            Envelope.from_dict(each["envelope"]).verify([key], 1)
        else:
            signature = Signature("key", base64.b64decode(each["signature"]).hex())
            key = SSlibKey.from_crypto(public, keyid="key")
            key.verify_signature(signature, base64.b64decode(each["payload"]))
        told.append("good")
    except (UnverifiedSignatureError, VerificationError) as error:
        told.append(str(error))
print(json.dumps(told))
"""

Verify = Callable[[str, list[dict[str, Any]]], list[str]]


def by_sigstore(key: str, signed: list[dict[str, Any]]) -> list[str]:
    """What Sigstore's verifier says of each: ``good``, or why not."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed, which @sigstore/verify comes from")
    packages = ["@sigstore/verify@3", "@sigstore/bundle@4", "@sigstore/core@3"]
    folder = _had(from_npm, "sigstore", packages)
    asked = json.dumps({"key": key, "hint": "mbuild", "signed": signed})
    return _told(["node", "-e", VERIFY], asked, folder)


def by_in_toto(key: str, signed: list[dict[str, Any]]) -> list[str]:
    """What securesystemslib says of each envelope."""
    programs = _had(from_pypi, "securesystemslib", ["securesystemslib[crypto]>=1.1"])
    asked = json.dumps({"key": key, "signed": signed})
    return _told([str(programs / "python"), "-c", PYTHON], asked, programs)


def _had(install: Callable[[str, Sequence[str]], Path], name: str, packages: list[str]) -> Path:
    try:
        return install(name, packages)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{' '.join(packages)} cannot be installed here: {error}")


def _told(command: list[str], asked: str, folder: Path) -> list[str]:
    done = subprocess.run(
        command, input=asked, capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told: list[str] = json.loads(done.stdout)
    return told


class Pushed(NamedTuple):
    """What lies under cosign's tags of a model: claims with signatures, envelopes."""

    key: str
    claims: list[dict[str, Any]]
    envelopes: list[dict[str, Any]]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    """A model that was built, signed and pushed, as its registry has it."""
    folder = tmp_path_factory.mktemp("signed")
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
            ("sign", "mario", "--key", "key", "--identity", name),
            ("push", "mario", f"{name}:v1"),
        ):
            done = run(*command)
            assert done.returncode == 0, done.stderr
        yield _under_tags(run, folder, f"http://{host}/v2/org/mario")


def _under_tags(run: Run, folder: Path, url: str) -> Pushed:
    model = json.loads(run("show", "mario", "--format", "json").stdout)["id"]
    tag = model.replace(":", "-") if ":" in model else f"sha256-{model}"

    def get(path: str) -> httpx.Response:
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        return httpx.get(f"{url}/{path}", headers=accept, trust_env=False, verify=False)

    claims = [
        {
            "payload": base64.b64encode(get(f"blobs/{layer['digest']}").content).decode(),
            "signature": layer["annotations"]["dev.cosignproject.cosign/signature"],
        }
        for layer in get(f"manifests/{tag}.sig").json()["layers"]
    ]
    envelopes = [
        {"envelope": get(f"blobs/{layer['digest']}").json()}
        for layer in get(f"manifests/{tag}.att").json()["layers"]
    ]
    return Pushed((folder / "key.pub").read_text(), claims, envelopes)


READERS: dict[str, Verify] = {"sigstore": by_sigstore, "securesystemslib": by_in_toto}
"""Who verifies."""


@pytest.mark.parametrize("reader", READERS)
def test_what_was_pushed_is_verified_by_others(reader: str, pushed: Pushed) -> None:
    """The signed id and the signed statement, with the public key alone."""
    signed = [*pushed.claims, *pushed.envelopes]
    assert len(signed) == 2
    assert READERS[reader](pushed.key, signed) == ["good", "good"]


@pytest.mark.parametrize("reader", READERS)
def test_others_refuse_what_was_changed(reader: str, pushed: Pushed) -> None:
    """A byte of a payload, of its type, of a signature; and the right ones with another key."""
    verify, changed = READERS[reader], []
    for each in (*pushed.claims, *pushed.envelopes):
        value = each.get("envelope", each)
        for field in ("payload", "payloadType", "signature"):
            if field in value:
                changed.append(_with(each, {field: _other(value[field])}))
        if "signatures" in value:
            (row,) = value["signatures"]
            changed.append(_with(each, {"signatures": [{**row, "sig": _other(row["sig"])}]}))
    told = verify(pushed.key, changed)
    assert len(told) == len(changed) == 5 and "good" not in told
    assert "good" not in verify(_stranger(), [*pushed.claims, *pushed.envelopes])


def _with(each: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    if "envelope" in each:
        return {"envelope": {**each["envelope"], **fields}}
    return {**each, **fields}


def _other(text: str) -> str:
    """The text with another letter in its middle, which is base64 if this is."""
    at = len(text) // 2
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def _stranger() -> str:
    """Somebody else's public key."""
    public = Ed25519PrivateKey.generate().public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
