"""Signatures: made, checked, and read back by others: openssl, cryptography, skopeo."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Run
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from gguf_files import tiny_gguf
from inprocess import in_process
from live_server import Server, serving_here
from programs import need
from registries import docker_registry

from mbuild.cli.provenance import signed_lines
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError, RegistryError
from mbuild.core.keys import SigningKey, is_exposed, make_key, private_key, public_key
from mbuild.models.provenance.signing import claim, envelope, opened, pre_authentication
from mbuild.models.provenance.statements import newest
from mbuild.registry.documents import documents_in, rows_of, tag_of
from mbuild.registry.transfer import attached
from mbuild.store import Store
from mbuild.store.attached import ENVELOPE, PROVENANCE, SBOM, SIGNATURE, documents

OCI = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, with ``mario`` built and a key made."""
    run = in_process(tmp_path, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\n")
    assert run("-t", "mario").returncode == 0
    assert run("sign", "--new-key", "key").returncode == 0
    return run


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Debian's docker-registry, which lists no referrers."""
    with docker_registry(tmp_path / "registry") as host:
        yield host


def identity(mbuild: Run, name: str = "mario", *options: str) -> str:
    """A model's id, in hex."""
    done = mbuild("show", name, "--format", "json", *options)
    found: str = json.loads(done.stdout)["id"]
    return found.removeprefix("sha256:")


def test_a_new_key_is_for_its_owner_alone(mbuild: Run, tmp_path: Path) -> None:
    """openssl reads it; nobody else may; nothing is replaced, and nothing of it is printed."""
    path = tmp_path / "key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "key.pub").stat().st_mode) & 0o022 == 0
    need("openssl")
    command = ["openssl", "pkey", "-in", str(path), "-pubout"]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    assert shown == (tmp_path / "key.pub").read_bytes()
    before = path.read_bytes()
    for again in ("key", "key.pub"):
        done = mbuild("sign", "--new-key", again)
        assert (done.returncode, "exists" in done.stderr) == (2, True)
    assert path.read_bytes() == before
    key = private_key(path)
    assert isinstance(key, SigningKey)
    secret = before.split(b"\n")[1].decode()
    done = mbuild("sign", "mario", "--key", "key")
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr + repr(key)


def test_keys_of_openssl_sign(mbuild: Run, tmp_path: Path) -> None:
    """A key that openssl made; a readable one with a warning; others are refused by name."""
    need("openssl")
    make = ["openssl", "genpkey", "-algorithm"]
    subprocess.run([*make, "ed25519", "-out", tmp_path / "own"], check=True)
    (tmp_path / "own").chmod(0o644)
    assert is_exposed(tmp_path / "own")
    done = mbuild("sign", "mario", "--key", "own")
    assert (done.returncode, "chmod 600 own" in done.stderr) == (0, True)
    done = mbuild("verify", "mario", "--signed", "--key", "own")
    assert done.returncode == 0, done.stderr
    subprocess.run([*make, "X25519", "-out", tmp_path / "other"], check=True)
    locked = [*make, "ed25519", "-aes256", "-pass", "pass:x", "-out", tmp_path / "locked"]
    subprocess.run(locked, check=True)
    (tmp_path / "text").write_text("-----BEGIN PRIVATE KEY-----\nno\n-----END PRIVATE KEY-----\n")
    for name, words in (
        ("other", "is not an ed25519 key"),
        ("locked", "has a passphrase"),
        ("text", "is not a private key"),
        ("absent", "cannot be read"),
        ("key.pub", "is not a private key"),
    ):
        done = mbuild("sign", "mario", "--key", name)
        assert (done.returncode, words in done.stderr) == (2, True), (name, done.stderr)


def test_what_was_signed_is_found_and_nothing_else(mbuild: Run, tmp_path: Path) -> None:
    """The key's own signature counts, for this model; another key's and none do not."""
    done = mbuild("verify", "mario", "--signed", "--key", "key.pub")
    assert (done.returncode, "none at all" in done.stdout) == (1, True)
    signed = json.loads(mbuild("sign", "mario", "--key", "key", "--format", "json").stdout)
    assert signed["model"] == f"sha256:{identity(mbuild)}"
    done = mbuild("verify", "mario", "--signed", "--key", "key.pub")
    assert (done.returncode, "signed by the key" in done.stdout) == (0, True)
    assert signed["statement"] in done.stdout
    assert mbuild("sign", "--new-key", "second").returncode == 0
    done = mbuild("verify", "mario", "--signed", "--key", "second.pub")
    assert (done.returncode, "signatures of others" in done.stdout) == (1, True)
    assert signed["key"][:12] in mbuild("provenance", "mario").stdout
    assert mbuild("-t", "luigi", "-f", "-", input="FROM mario\nSYSTEM x\n").returncode == 0
    mine, other = (tmp_path / "store/.mbuild/attached" / identity(mbuild, n) for n in _BOTH)
    for path in mine.glob("[se]*-*.json"):
        (other / path.name).write_bytes(path.read_bytes())
    done = mbuild("verify", "luigi", "--signed", "--key", "key.pub")
    assert done.returncode == 1, "a signature of another model"


_BOTH = ("mario", "luigi")


def test_options_that_belong_together(mbuild: Run) -> None:
    """Half of them is wrong usage, with the whole in the hint."""
    for arguments in (
        ("verify", "mario", "--signed"),
        ("verify", "mario", "--key", "key.pub"),
        ("verify", "--signed", "--key", "key.pub"),
        ("verify", "mario", "--source", "."),
        ("sign", "mario"),
        ("sign", "--key", "key"),
    ):
        done = mbuild(*arguments)
        assert (done.returncode, "hint: mbuild" in done.stderr) == (2, True), arguments


def test_a_changed_byte_anywhere_ends_the_signature(tmp_path: Path) -> None:
    """Each byte of an envelope and of a signed id, one by one: none is taken for good."""
    key = make_key(tmp_path / "key")
    data = envelope(b'{"subject": []}', "application/vnd.in-toto+json", key)
    assert opened(data, key.public) == b'{"subject": []}'
    missed = []
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        found = opened(bytes(changed), key.public)
        if found is not None:
            missed.append(place)
    # What the key is called is a hint: DSSE signs the payload and its type.
    hint = data.index(key.public.id.encode())
    free = {*range(hint, hint + 64), *range(data.index(b'"keyid"') + 1, data.index(b'"keyid"') + 6)}
    assert set(missed) <= free
    payload = claim(Digest.of(b"x"), "org/mario")
    signature = key.sign(payload)
    for place in range(len(payload)):
        changed = bytearray(payload)
        changed[place] ^= 1
        assert not key.public.verifies(signature, bytes(changed))
    assert not key.public.verifies(b"", payload)


def test_the_signed_bytes_are_those_of_the_specification() -> None:
    """The example in DSSE's protocol.md."""
    wanted = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication(b"hello world", "http://example.com/HelloWorld") == wanted


# --- in a registry, as others read it -----------------------------------------------------


def fetched(host: str, path: str, target: str) -> tuple[bytes, dict[str, Any]]:
    """A manifest of a registry: its bytes, and the JSON in it."""
    url = f"http://{host}/v2/{path}/manifests/{target}"
    accept = f"{OCI}, application/vnd.oci.image.index.v1+json"
    answer = httpx.get(url, headers={"Accept": accept}, trust_env=False, verify=False)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return answer.content, value


def blob(host: str, path: str, digest: str) -> bytes:
    data = httpx.get(
        f"http://{host}/v2/{path}/blobs/{digest}", trust_env=False, verify=False
    ).content
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    return data


def independent_check(host: str, path: str, model: str, key: bytes) -> dict[str, Any]:
    """Read cosign's layout with nothing of mbuild's: the payloads that the key signed.

    Raises InvalidSignature for what it did not sign.
    """
    public: Any = load_pem_public_key(key)
    _, signatures = fetched(host, path, f"sha256-{model}.sig")
    for layer in signatures["layers"]:
        assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
        payload = blob(host, path, layer["digest"])
        signature = layer["annotations"]["dev.cosignproject.cosign/signature"]
        public.verify(base64.b64decode(signature), payload)
    _, attestations = fetched(host, path, f"sha256-{model}.att")
    for layer in attestations["layers"]:
        assert layer["mediaType"] == "application/vnd.dsse.envelope.v1+json"
        assert layer["annotations"]["predicateType"] == "https://slsa.dev/provenance/v1"
        value = json.loads(blob(host, path, layer["digest"]))
        body, kind = base64.b64decode(value["payload"]), value["payloadType"].encode()
        said = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(body)).encode(), body])
        public.verify(base64.b64decode(value["signatures"][0]["sig"]), said)
    return {"claim": json.loads(payload), "statement": json.loads(body)}


def test_cosigns_layout_is_read_back_by_an_independent_reader(
    mbuild: Run, tmp_path: Path, registry: str
) -> None:
    """Tags made of the id, payloads, annotations, envelopes; another key's check fails."""
    assert mbuild("sign", "mario", "--key", "key", "--identity", f"{registry}/org/mario")
    done = mbuild("push", "mario", f"{registry}/org/mario:v1")
    assert "pushed 4 statements and signatures" in done.stdout, done.stderr
    model = identity(mbuild)
    found = independent_check(registry, "org/mario", model, (tmp_path / "key.pub").read_bytes())
    assert found["claim"]["critical"]["image"] == {"docker-manifest-digest": f"sha256:{model}"}
    assert found["claim"]["critical"]["type"] == "cosign container image signature"
    assert found["claim"]["critical"]["identity"] == {"docker-reference": f"{registry}/org/mario"}
    assert found["statement"]["subject"][0]["digest"] == {"sha256": model}
    other = make_key(tmp_path / "other").public.pem
    with pytest.raises(InvalidSignature):
        independent_check(registry, "org/mario", model, other)


def test_referrers_are_listed_under_the_tag_of_the_specification(
    mbuild: Run, registry: str
) -> None:
    """Where a registry lists none: every document, each with the model for its subject."""
    assert mbuild("sign", "mario", "--key", "key").returncode == 0
    for _ in range(2):  # the second time there is nothing new
        assert mbuild("push", "mario", f"{registry}/org/mario:v1").returncode == 0
    model = identity(mbuild)
    _, listed = fetched(registry, "org/mario", f"sha256-{model}")
    kinds = sorted(row["artifactType"] for row in listed["manifests"])
    assert kinds == [
        "application/vnd.cyclonedx+json",
        "application/vnd.dev.cosign.artifact.att.v1+json",
        "application/vnd.dev.cosign.artifact.sig.v1+json",
        "application/vnd.in-toto+json",
    ]
    for row in listed["manifests"]:
        data, value = fetched(registry, "org/mario", row["digest"])
        assert len(data) == row["size"]
        assert value["subject"]["digest"] == f"sha256:{model}"
        assert value["artifactType"] == row["artifactType"]
        for layer in (*value["layers"], value["config"]):
            assert len(blob(registry, "org/mario", layer["digest"])) == layer["size"]


def test_signatures_of_others_stay(mbuild: Run, tmp_path: Path, registry: str) -> None:
    """A second signer's push adds to what is there, also from another store."""
    model = identity(mbuild)
    for name in ("key", "second"):
        if name != "key":
            assert mbuild("sign", "--new-key", name).returncode == 0
            assert mbuild("pull", f"{registry}/org/mario:v1", "--store", "other").returncode == 0
        there = ("--store", "other") if name != "key" else ()
        local = f"{registry}/org/mario:v1" if there else "mario"
        assert mbuild("sign", local, "--key", name, *there).returncode == 0
        assert mbuild("push", local, f"{registry}/org/mario:v1", *there).returncode == 0
    _, signatures = fetched(registry, "org/mario", f"sha256-{model}.sig")
    assert len(signatures["layers"]) == 2
    assert mbuild("pull", f"{registry}/org/mario:v1", "--store", "third").returncode == 0
    for name in ("key.pub", "second.pub"):
        local = f"{registry}/org/mario:v1"
        options = ("--signed", "--key", name, "--store", "third")
        assert mbuild("verify", local, *options).returncode == 0


def test_what_is_pulled_can_be_checked_without_the_registry(
    mbuild: Run, tmp_path: Path, registry: str
) -> None:
    """Statement, bill and signatures come with the model, byte for byte."""
    assert mbuild("sign", "mario", "--key", "key").returncode == 0
    assert mbuild("push", "mario", f"{registry}/org/mario:v1").returncode == 0
    done = mbuild("pull", f"{registry}/org/mario:v1", "--store", "other", "--format", "json")
    assert json.loads(done.stdout)["documents"] == 4
    one, two = ({f.name: f.read_bytes() for f in _kept(tmp_path, s)} for s in ("store", "other"))
    assert one == two
    assert len(one) == 4
    name = f"{registry}/org/mario:v1"
    options = ("--store", "other")
    assert mbuild("verify", name, "--signed", "--key", "key.pub", *options).returncode == 0
    assert mbuild("provenance", name, *options).returncode == 0
    assert mbuild("provenance", name, "--sbom", *options).returncode == 0


def _kept(folder: Path, store: str) -> list[Path]:
    return list((folder / store / ".mbuild" / "attached").rglob("*.json"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """``mbuild serve --writable``."""
    with serving_here(tmp_path / "there", writable=True) as found:
        yield found


def test_a_later_signature_reaches_mbuild_serve(
    mbuild: Run, tmp_path: Path, server: Server
) -> None:
    """Though the statements that were made there are not sent again, and are in no blob there."""
    target = f"127.0.0.1:{server.port}/org/mario:v1"
    built = mbuild("build", "-t", "org/mario:v1", "--store", "there")
    assert built.returncode == 0, built.stderr
    assert mbuild("pull", target, "-t", "mine", "--store", "other").returncode == 0
    signed = mbuild("sign", "mine", "--key", "key", "--store", "other")
    assert signed.returncode == 0, signed.stderr
    done = mbuild("push", "mine", target, "--store", "other")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    options = ("--signed", "--key", "key.pub", "--store", "there")
    verified = mbuild("verify", "org/mario:v1", *options)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_mbuild_serve_takes_and_lists_them(mbuild: Run, tmp_path: Path, server: Server) -> None:
    """Pushed to it, listed as referrers, under cosign's tags, and pulled again."""
    host = f"127.0.0.1:{server.port}"
    assert mbuild("sign", "mario", "--key", "key").returncode == 0
    done = mbuild("push", "mario", f"{host}/org/mario:v1")
    assert "pushed 4 statements and signatures" in done.stdout, done.stderr
    model = identity(mbuild)
    independent_check(host, "org/mario", model, (tmp_path / "key.pub").read_bytes())
    listed = server.http.get(f"/v2/org/mario/referrers/sha256:{model}").json()["manifests"]
    kinds = {row["artifactType"] for row in listed}
    assert {"application/vnd.in-toto+json", "application/vnd.cyclonedx+json"} <= kinds
    for row in listed:
        assert fetched(host, "org/mario", row["digest"])[0]
    assert mbuild("pull", f"{host}/org/mario:v1", "--store", "other").returncode == 0
    assert {f.name for f in _kept(tmp_path, "other")} == {f.name for f in _kept(tmp_path, "store")}


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"subject": {"digest": "sha256:' + b"0" * 64 + b'"}}',
        b'{"subject": {"digest": "no"}}',
        b"[" * 100000,
    ],
)
def test_mbuild_serve_takes_no_document_about_nothing(
    server: Server, mbuild: Run, body: bytes
) -> None:
    """What is about no model of the repository, or about nothing, is refused."""
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    answer = server.http.put(f"/v2/org/mario/manifests/{digest}", content=body)
    assert answer.status_code == 400
    assert not list((server.root / ".mbuild").glob("attached/*"))


def test_documents_that_a_registry_makes_up_are_not_kept(mbuild: Run, tmp_path: Path) -> None:
    """Of another model, too large, no JSON, of another kind: passed over."""
    store = Store(tmp_path / "store")
    stored = store.manifests.read(store.manifests.resolve(next(store.manifests.names())))
    statement = newest(store, stored).document

    def manifest(data: bytes, media_type: str, size: int | None = None, **more: Any) -> bytes:
        row = {
            "mediaType": media_type,
            "digest": str(Digest.of(data)),
            "size": len(data) if size is None else size,
            **more,
        }
        return json.dumps({"layers": [row]}).encode()

    good = manifest(statement.data, PROVENANCE.media_type)
    assert [d.data for d in documents_in(good, stored.id, lambda *_: statement.data)]
    cases = [
        (manifest(statement.data, PROVENANCE.media_type), Digest.of(b"other"), statement.data),
        (manifest(b"no", PROVENANCE.media_type), stored.id, b"no"),
        (manifest(b"{}", SBOM.media_type), stored.id, b"{}"),
        (manifest(b"{}", ENVELOPE.media_type), stored.id, b"{}"),
        (manifest(b"{}", SIGNATURE.media_type), stored.id, b"{}"),
        (manifest(b"{}", SIGNATURE.media_type, annotations=7), stored.id, b"{}"),
        (manifest(b"x", PROVENANCE.media_type, size=1 << 40), stored.id, b"x"),
        (manifest(statement.data, "text/plain"), stored.id, statement.data),
    ]
    for data, model, content in cases:
        assert list(documents_in(data, model, lambda layer, limit, c=content: c)) == []
    for junk in (b"", b"null", b'{"layers": 7}', b'{"layers": [7, {}, {"digest": 1}]}'):
        assert list(documents_in(junk, stored.id, lambda *_: b"")) == []
    assert rows_of(b"[" * 100000) == []
    assert tag_of(SIGNATURE, stored.id).endswith(".sig")
    assert tag_of(PROVENANCE, stored.id) == ""


def test_skopeo_and_openssl_read_a_signature(mbuild: Run, tmp_path: Path, registry: str) -> None:
    """The tag of signatures is an image that skopeo copies; openssl finds the signature good."""
    need("skopeo", "openssl")
    assert mbuild("sign", "mario", "--key", "key").returncode == 0
    assert mbuild("push", "mario", f"{registry}/org/mario:v1").returncode == 0
    source = f"docker://{registry}/org/mario:sha256-{identity(mbuild)}.sig"
    command = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", source]
    done = subprocess.run(
        [*command, f"dir:{tmp_path / 'copy'}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "no_proxy": "*"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (layer,) = json.loads((tmp_path / "copy" / "manifest.json").read_text())["layers"]
    payload = tmp_path / "copy" / layer["digest"].removeprefix("sha256:")
    signature = layer["annotations"]["dev.cosignproject.cosign/signature"]
    (tmp_path / "signature").write_bytes(base64.b64decode(signature))
    make_key(tmp_path / "other")
    for name, wanted in (("key.pub", 0), ("other.pub", 1)):
        done = subprocess.run(
            [
                *("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / name),
                *("-rawin", "-in", payload, "-sigfile", tmp_path / "signature"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == wanted, done.stdout + done.stderr


def test_a_damaged_signature_file_is_told(mbuild: Run, tmp_path: Path) -> None:
    """A flipped bit in any document about the model ends the check with an error."""
    assert mbuild("sign", "mario", "--key", "key").returncode == 0
    for path in _kept(tmp_path, "store"):
        data = path.read_bytes()
        path.write_bytes(data[:50] + bytes([data[50] ^ 4]) + data[51:])
        done = mbuild("verify", "mario", "--signed", "--key", "key.pub")
        if not path.name.startswith("sbom"):
            assert (done.returncode, "was changed" in done.stderr) == (1, True), path.name
        path.write_bytes(data)
    assert mbuild("verify", "mario", "--signed", "--key", "key.pub").returncode == 0
    store = Store(tmp_path / "store")
    stored = store.manifests.read(store.manifests.resolve(next(store.manifests.names())))
    assert len(list(documents(store, stored.id))) == 3


def test_public_keys_are_read_from_either_half(tmp_path: Path) -> None:
    """The private file will do for checking, too; a text will not."""
    made = make_key(tmp_path / "key")
    assert public_key(tmp_path / "key").id == public_key(tmp_path / "key.pub").id == made.public.id
    (tmp_path / "text").write_text("no key")
    with pytest.raises(MbuildError, match="is not a public key"):
        public_key(tmp_path / "text")


# --- when a registry does not want them -----------------------------------------------------


def test_a_registry_that_refuses_them_costs_a_warning(
    mbuild: Run, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is pushed, and pulled; what is missing is said, and the status is 0."""

    def refuse(*arguments: object) -> None:
        raise RegistryError("artifacts are not for us")

    with monkeypatch.context() as patch:
        patch.setattr(attached, "_give_names", refuse)
        done = mbuild("push", "mario", f"{registry}/org/mario:v1")
        assert (done.returncode, "warning: not all statements" in done.stderr) == (0, True)
        assert "artifacts are not for us" in done.stderr
    assert mbuild("push", "mario", f"{registry}/org/mario:v1").returncode == 0
    with monkeypatch.context() as patch:
        patch.setattr(attached, "_referrers", refuse)
        done = mbuild("pull", f"{registry}/org/mario:v1", "--store", "other")
        assert (done.returncode, "artifacts are not for us" in done.stderr) == (0, True)
    assert mbuild("show", f"{registry}/org/mario:v1", "--store", "other").returncode == 0


@pytest.mark.parametrize("body", [b"", b"[]", b'{"manifests": 7}', b'{"manifests": [7, {}]}'])
def test_a_list_of_referrers_that_is_none(
    mbuild: Run, registry: str, body: bytes, tmp_path: Path
) -> None:
    """Under the tag of the specification lies anything: the model comes, no traceback does."""
    assert mbuild("push", "mario", f"{registry}/org/mario:v1").returncode == 0
    model = identity(mbuild)
    value = json.loads(body or b"{}")
    if isinstance(value, dict):
        value = {"schemaVersion": 2, "mediaType": attached_index(), **value}
    url = f"http://{registry}/v2/org/mario/manifests/sha256-{model}"
    data = json.dumps(value).encode()
    httpx.put(
        url, content=data, headers={"Content-Type": attached_index()}, trust_env=False, verify=False
    )
    done = mbuild("pull", f"{registry}/org/mario:v1", "--store", "other")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def attached_index() -> str:
    return "application/vnd.oci.image.index.v1+json"


def test_what_verify_says_of_a_key(mbuild: Run, tmp_path: Path) -> None:
    """The lines for people: which key, which id, which statement; and which it did not sign."""
    assert mbuild("sign", "mario", "--key", "key").returncode == 0
    assert mbuild("-t", "mario", "--no-cache").returncode == 0  # a second statement
    store = Store(tmp_path / "store")
    stored = store.manifests.read(store.manifests.resolve(next(store.manifests.names())))
    lines, good = signed_lines(store, stored, tmp_path / "key.pub")
    assert good
    assert [line.split("  ")[1] for line in lines[1:]] == [
        "its statement too",
        "not signed: the statement",
    ]
