"""What a build says of itself: valid by the published schemas, true, and no more than need be."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from example_models import generator, settle
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.build.build import build
from mbuild.build.history import History
from mbuild.build.provenance.machine import cpu_features, machine_class
from mbuild.build.provenance.sbom import SPDX
from mbuild.build.provenance.statement import BUILD_TYPE
from mbuild.core.errors import DamagedError, MbuildError
from mbuild.registry.client.access import Access
from mbuild.server.create import read_creation
from mbuild.server.shapes import CREATE, check
from mbuild.store import Store
from mbuild.store.attached import PROVENANCE, SBOM, documents

SECRET = "hunter2-is-the-password"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    monkeypatch.setenv("TOKEN", SECRET)
    return in_process(tmp_path, monkeypatch)


def statement(mbuild: Run, name: str) -> dict[str, Any]:
    """The statement about a model, as the command prints it."""
    done = mbuild("provenance", name, "--format", "json")
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def bill(mbuild: Run, name: str) -> dict[str, Any]:
    """The bill of materials of a model."""
    done = mbuild("provenance", name, "--sbom")
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def check_statement(value: dict[str, Any]) -> None:
    """Hold a statement against in-toto's own field list (its protobufs refuse unknown fields)."""
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Form

    form = ParseDict(value, Form())
    Statement.copy_from_pb(form).validate()
    found = ParseDict(value["predicate"], Provenance())
    assert found.build_definition.build_type == BUILD_TYPE
    assert found.run_details.builder.id
    assert found.run_details.metadata.started_on.seconds > 1_700_000_000
    for each in (*value["subject"], *found.build_definition.resolved_dependencies):
        digests = each["digest"] if isinstance(each, dict) else dict(each.digest)
        assert digests and all(re.fullmatch(r"[0-9a-f]{64}", hexed) for hexed in digests.values())


def check_bill(value: dict[str, Any]) -> None:
    """Hold a bill of materials against CycloneDX' schema of 1.6, strictly.

    That of 1.7 only adds fields, so the same bill under that version is good, too.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    newer = {**value, "$schema": value["$schema"].replace("1.6", "1.7"), "specVersion": "1.7"}
    for bill, version in ((value, SchemaVersion.V1_6), (newer, SchemaVersion.V1_7)):
        errors = JsonStrictValidator(version).validate_str(json.dumps(bill))
        assert errors is None, errors


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def write_imatrix(path: Path) -> None:
    """An importance matrix of one tensor, in the old format."""
    name = b"blk.0.attn_q.weight"
    row = struct.pack("<ii", 1, 256) + struct.pack("<256f", *range(1, 257))
    path.write_bytes(struct.pack("<ii", 1, len(name)) + name + row)


def import_gguf(folder: Path, mbuild: Run) -> list[str]:
    tiny_gguf(folder / "model.gguf", metadata={"general.license": "apache-2.0"})
    (folder / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\nLICENSE MIT\n")
    settle()
    assert mbuild("-t", "mario").returncode == 0
    return ["mario"]


def import_from_elsewhere(folder: Path, mbuild: Run) -> list[str]:
    (folder / "far away").mkdir()
    tiny_gguf(folder / "far away" / "private-name.gguf")
    (folder / "project").mkdir()
    text = f"FROM {folder}/far away/private-name.gguf\n"
    (folder / "project" / "Modelfile").write_text(text)
    settle()
    assert mbuild("-t", "mario", "-f", "project/Modelfile").returncode == 0
    return ["mario"]


def checkpoint_with_adapter(folder: Path, mbuild: Run) -> list[str]:
    generator().write_chat(folder / "chat")
    generator().write_lora(folder / "lora")
    (folder / "chat" / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: org/base\ndatasets:\n- org/data\n---\ntext\n"
    )
    (folder / "Modelfile").write_text("FROM ./chat\nADAPTER ./lora\n")
    write_imatrix(folder / "imatrix.dat")
    settle()
    options = ("-q", "q4_K_M", "-q", "q8_0", "--imatrix", str(folder / "imatrix.dat"))
    done = mbuild("-t", "mario", *options)
    assert done.returncode == 0, done.stderr
    return ["mario:q4_K_M", "mario:q8_0"]


def stage_with_arguments(folder: Path, mbuild: Run) -> list[str]:
    tiny_gguf(folder / "model.gguf")
    lines = ["# syntax=mbuild/1", "ARG TOKEN", "ARG WHO=Mario", "FROM ./model.gguf AS a"]
    lines += ["SYSTEM You are ${WHO}.", "FROM a AS b", "PARAMETER temperature 0.5"]
    (folder / "Modelfile").write_text("\n".join(lines) + "\n")
    settle()
    done = mbuild("-t", "mario", "--build-arg", "TOKEN")
    assert done.returncode == 0, done.stderr
    return ["mario"]


def from_a_stored_model(folder: Path, mbuild: Run) -> list[str]:
    import_gguf(folder, mbuild)
    done = mbuild("-f", "-", "-t", "luigi", input="FROM mario\nPARAMETER temperature 1\n")
    assert done.returncode == 0, done.stderr
    return ["luigi"]


def posted_to_the_server(folder: Path, mbuild: Run) -> list[str]:
    store = Store(folder / "store")
    tiny_gguf(folder / "model.gguf")
    with store.using():
        digest = store.blobs.put((folder / "model.gguf").read_bytes()).digest
    body = {"model": "mario", "files": {"model.gguf": str(digest)}, "system": "hi"}
    creation = read_creation(check(CREATE, body), store)
    list(build(creation.build(store, Access.of_operator(())), store))
    store.database.close()
    return ["mario"]


BUILDS = [
    import_gguf,
    import_from_elsewhere,
    checkpoint_with_adapter,
    stage_with_arguments,
    from_a_stored_model,
    posted_to_the_server,
]


@pytest.mark.oracle
@pytest.mark.parametrize("make", BUILDS, ids=[each.__name__ for each in BUILDS])
def test_what_every_kind_of_build_says_is_valid_and_private(
    make: Any, tmp_path: Path, mbuild: Run
) -> None:
    """Published schemas hold; no place outside of the Modelfile's folder, host, user or secret."""
    for name in make(tmp_path, mbuild):
        said, parts = statement(mbuild, name), bill(mbuild, name)
        check_statement(said)
        check_bill(parts)
        shown = mbuild("show", name, "--format", "json")
        identity = json.loads(shown.stdout)["id"].removeprefix("sha256:")
        assert said["subject"][0]["digest"] == {"sha256": identity}
        everything = [*texts(said), *texts(parts)]
        for private in (str(tmp_path), "private-name", socket.gethostname(), SECRET):
            assert not [text for text in everything if private in text], private
        assert getpass.getuser() not in everything


def test_a_statement_names_what_the_build_read(tmp_path: Path, mbuild: Run) -> None:
    """Sources with their digests, the Modelfile, the layers, and the keys of the log."""
    import hashlib

    import_gguf(tmp_path, mbuild)
    said = statement(mbuild, "mario")
    definition = said["predicate"]["buildDefinition"]
    named = {each.get("name"): each["digest"] for each in definition["resolvedDependencies"]}
    data = (tmp_path / "model.gguf").read_bytes()
    assert named["model.gguf"]["sha256"] == hashlib.sha256(data).hexdigest()
    text = (tmp_path / "Modelfile").read_bytes()
    assert named["Modelfile"] == {"sha256": hashlib.sha256(text).hexdigest()}
    record = next(History(Store(tmp_path / "store")).newest_first())
    keys = [step["key"] for step in definition["internalParameters"]["steps"]]
    assert keys == [step.key for step in record.steps]
    assert said["predicate"]["runDetails"]["metadata"]["invocationId"] == record.id
    kinds = [each["name"] for each in said["subject"]]
    assert kinds == ["mario:latest", "config", "model", "system", "license"]


def test_a_source_elsewhere_is_told_by_its_digest_alone(tmp_path: Path, mbuild: Run) -> None:
    """Nothing but role, size and digests of a file outside of the Modelfile's folder."""
    import_from_elsewhere(tmp_path, mbuild)
    found = statement(mbuild, "mario")["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [sorted(each) for each in found if each["annotations"]["role"] == "from"] == [
        ["annotations", "digest"]
    ]


def test_a_bill_has_licenses_bases_adapters_and_data(tmp_path: Path, mbuild: Run) -> None:
    """What the model card says comes through the weights' metadata into the bill."""
    checkpoint_with_adapter(tmp_path, mbuild)
    found = bill(mbuild, "mario:q8_0")
    model = found["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert [each["name"] for each in model["pedigree"]["ancestors"]] == ["Base"]
    rows = {each["bom-ref"]: each for each in found["components"]}
    assert rows[model["modelCard"]["modelParameters"]["datasets"][0]["ref"]]["type"] == "data"
    roles = [p["value"] for each in rows.values() for p in each.get("properties", ())]
    assert {"modelfile", "from", "adapter", "imatrix"} <= set(roles)
    assert found["dependencies"] == [{"ref": "model", "dependsOn": list(rows)}]
    assert found["metadata"]["tools"]["components"][0]["name"] == "mbuild"


def test_licenses_of_the_table_are_in_the_list_of_spdx() -> None:
    """The schema of CycloneDX, which has SPDX' list, knows every id of the table."""
    pytest.importorskip("cyclonedx")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    rows = [{"license": {"id": each}} for each in SPDX.values()]
    part = {"type": "library", "name": "x", "licenses": rows}
    value = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [part]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(value)) is None
    part["licenses"] = [{"license": {"id": "No-Such-License"}}]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(value)) is not None


def files(folder: Path) -> dict[str, int]:
    """Every file under the store's documents, with its change time."""
    found = (folder / "store/.mbuild/attached").rglob("*")
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_a_build_with_nothing_to_do_says_nothing_new(tmp_path: Path, mbuild: Run) -> None:
    """The documents stay as they are; where they are missing they are written again."""
    import_gguf(tmp_path, mbuild)
    before = files(tmp_path)
    assert len(before) == 2  # a folder, a statement
    assert "0 steps run" in mbuild("-t", "mario", "--progress", "plain").stderr
    assert files(tmp_path) == before
    for path in before:
        if path.endswith(".json"):
            os.unlink(path)
    assert "0 steps run" in mbuild("-t", "mario", "--progress", "plain").stderr
    assert len(files(tmp_path)) == 2
    assert {"cached"} == {
        step["status"]
        for step in statement(mbuild, "mario")["predicate"]["buildDefinition"][
            "internalParameters"
        ]["steps"]
    }


def test_equal_documents_are_equal_bytes_but_for_times_and_build(
    tmp_path: Path, mbuild: Run
) -> None:
    """Two builds of one thing in two stores differ in the times and the build's id alone."""
    import_gguf(tmp_path, mbuild)
    one = statement(mbuild, "mario")
    assert mbuild("-t", "mario", "--store", "other").returncode == 0
    two = json.loads(mbuild("provenance", "mario", "--format", "json", "--store", "other").stdout)
    for value in (one, two):
        value["predicate"]["runDetails"].pop("metadata")
    assert one == two


def test_statements_go_with_the_model_when_the_store_is_pruned(tmp_path: Path, mbuild: Run) -> None:
    """prune removes those about models that are not there any more, and no others."""
    import_gguf(tmp_path, mbuild)
    assert mbuild("-f", "-", "-t", "luigi", input="FROM mario\nSYSTEM other\n").returncode == 0
    assert len(files(tmp_path)) == 4
    assert mbuild("rm", "luigi").returncode == 0
    assert "document" in mbuild("prune", "--dry-run").stdout
    assert len(files(tmp_path)) == 4
    assert mbuild("prune").returncode == 0
    assert len(files(tmp_path)) == 2
    statement(mbuild, "mario")


def test_a_model_that_nobody_built_here_has_no_statement(tmp_path: Path, mbuild: Run) -> None:
    """The command says so, and what can be done."""
    import_gguf(tmp_path, mbuild)
    assert mbuild("export", "mario", "-o", "mario.tar").returncode == 0
    assert mbuild("import", "mario.tar", "--store", "other").returncode == 0
    done = mbuild("provenance", "mario", "--store", "other")
    assert done.returncode == 1
    assert "nothing is known about how" in done.stderr
    done = mbuild("provenance", "mario", "--store", "other", "--sbom")
    assert (done.returncode, "nothing is known" in done.stderr) == (1, True)


def test_a_store_that_takes_no_statement_costs_no_build(
    tmp_path: Path, mbuild: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is there all the same, and the build says what is missing."""
    (tmp_path / "store" / ".mbuild").mkdir(parents=True)
    (tmp_path / "store" / ".mbuild" / "attached").write_text("in the way")
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    done = mbuild("-t", "mario", "--progress", "plain")
    assert done.returncode == 0
    assert "no statement about the model was kept" in done.stderr
    assert mbuild("show", "mario").returncode == 0


def test_documents_are_checked_by_their_digests(tmp_path: Path, mbuild: Run) -> None:
    """A changed byte of a document is found by whoever reads it."""
    import_gguf(tmp_path, mbuild)
    store = Store(tmp_path / "store")
    identity = store.manifests.read(store.manifests.resolve(next(store.manifests.names()))).id
    assert {each.kind for each in documents(store, identity)} == {PROVENANCE}
    made = [mbuild("provenance", "mario", "--sbom").stdout for _ in range(2)]
    assert made[0] == made[1]
    assert {each.kind for each in documents(store, identity)} == {PROVENANCE, SBOM}
    for kind in (PROVENANCE, SBOM):
        path = next((tmp_path / "store/.mbuild/attached").rglob(f"{kind.name}-*"))
        good = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for place, byte in enumerate(good):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << place % 8]), place)
                with pytest.raises(DamagedError):
                    list(documents(store, identity, kind))
                os.pwrite(file.fileno(), bytes([byte]), place)
        for text in (good[:-1], good + b" ", b""):
            path.write_bytes(text)
            done = mbuild("provenance", "mario", *(["--sbom"] if kind is SBOM else []))
            assert (done.returncode, "was changed" in done.stderr) == (1, True)
        path.write_bytes(good)


def test_a_changed_byte_of_a_model_is_found(tmp_path: Path, mbuild: Run) -> None:
    """Each byte of its manifest gives another model, and some of each layer do not verify."""
    import_gguf(tmp_path, mbuild)
    store = Store(tmp_path / "store")
    name = store.manifests.resolve(next(store.manifests.names()))
    stored = store.manifests.read(name)
    manifest = next((tmp_path / "store/manifests").rglob("latest"))
    good = manifest.read_bytes()
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        manifest.write_bytes(changed)
        try:
            found = store.manifests.read(name).id
        except MbuildError:
            continue
        assert found != stored.id  # so that nothing that was said or signed is about it
    manifest.write_bytes(good)
    for layer in stored.manifest.blobs():
        path = store.blobs.path(layer.digest)
        data = path.read_bytes()
        for place in {0, len(data) // 3, len(data) - 1}:
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            path.unlink(missing_ok=True)  # what is damaged is moved away
            path.write_bytes(changed)
            done = mbuild("verify", "mario")
            assert (done.returncode, layer.digest.short in done.stdout + done.stderr) == (1, True)
        path.write_bytes(data)
    assert mbuild("verify", "mario").returncode == 0


def test_the_machine_is_told_by_its_kind_alone() -> None:
    """System, architecture and features of the processor."""
    found = machine_class()
    assert sorted(found) == ["arch", "cpu", "os"]
    assert found["cpu"] == cpu_features() == sorted(set(cpu_features()))
