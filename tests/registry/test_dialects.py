"""One model in three forms of manifest, over the same blobs; whatever comes in is one model."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Run
from gguf_files import gguf_bytes, tiny_gguf, tiny_model
from inprocess import in_process
from registries import digest_of, docker_registry
from stand_in import Handler, StandIn, stand_in
from stores import check_promise

from mbuild.core.digest import Digest
from mbuild.core.errors import RegistryError
from mbuild.core.names import ModelName
from mbuild.core.transfers import LeftOut, ManifestPut, TransferEvent, Transferred
from mbuild.registry.client.access import Access
from mbuild.registry.client.referrers import Referrer, index
from mbuild.registry.client.registry import OCI_INDEX, OCI_MANIFEST
from mbuild.registry.dialects import (
    adopting,
    docker,
    modelpack,
    reading,
    roles,
    unpacking,
    values,
    writing,
)
from mbuild.registry.dialects.files import MANIFEST_FILE, PlainModel
from mbuild.registry.dialects.received import FILE_PATH
from mbuild.registry.dialects.table import BY_NAME, DIALECTS, write
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.pull import pull
from mbuild.registry.transfer.push import Wanted, push
from mbuild.store import Store
from mbuild.store.attached import PROVENANCE
from mbuild.store.manifest import MANIFEST_TYPE, Layer
from mbuild.store.media import MODEL, PROJECTOR

ALL = tuple(Wanted(dialect) for dialect in DIALECTS)
RICH = ModelName.parse("rich")
CAME = ModelName.parse("came")

CHAT = """\
{%- for turn in messages -%}
    <|im_start|>{{ turn.role }}
{{ turn.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
    <|im_start|>assistant
{% endif -%}
"""

MODELFILE = """\
FROM ./m.gguf
FROM ./eye.gguf
ADAPTER ./adapter.gguf
TEMPLATE \"\"\"{{ .System }} {{ .Prompt }}\"\"\"
SYSTEM Ärger <&>
LICENSE one
LICENSE two
PARAMETER num_ctx 512
PARAMETER stop "<x>"
MESSAGE user hi
MESSAGE assistant ho
"""

CONFIG_SCHEMA = {
    "type": "object",
    "required": ["descriptor", "config", "modelfs"],
    "additionalProperties": False,
    "properties": {
        "descriptor": {
            "type": "object",
            "properties": {"family": {"type": "string"}, "name": {"type": "string"}},
            "additionalProperties": False,
        },
        "config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                key: {"type": "string"}
                for key in ("architecture", "format", "paramSize", "precision", "quantization")
            },
        },
        "modelfs": {
            "type": "object",
            "required": ["type", "diffIds"],
            "additionalProperties": False,
            "properties": {
                "type": {"enum": ["layers"]},
                "diffIds": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            },
        },
    },
}
"""What ModelPack's schema of the config allows, of the keys that are used here."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without logins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An open registry for all tests of this module; each has repositories of its own."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, on the store ``store``."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def rich(tmp_path: Path, run: Run) -> Store:
    """A store with a model that has everything: shards, a projector, an adapter, every text."""
    tiny_gguf(tmp_path / "m.gguf")
    tiny_gguf(tmp_path / "eye.gguf", kind="projector")
    tiny_gguf(tmp_path / "adapter.gguf", kind="adapter")
    (tmp_path / "Modelfile").write_text(MODELFILE)
    done = run("-t", "rich", "--split-layers", "1", "--quiet")
    assert done.returncode == 0, done.stderr
    return Store(tmp_path / "store")


def events(store: Store, to: str, wanted: tuple[Wanted, ...] = ALL) -> list[TransferEvent]:
    return list(push(RICH, ModelReference.parse(to), store, Access(), wanted))


def pulled(store: Store, text: str) -> Transferred:
    reference = ModelReference.parse(text)
    *_, last = pull(reference, CAME, store, Access())
    assert isinstance(last, Transferred)
    return last


def forms(store: Store, name: ModelName = RICH) -> dict[str, bytes]:
    data = store.manifests.read_bytes(name)
    assert data is not None
    model = PlainModel(store.blobs, data, str(name))
    return {dialect.name: write(dialect, model).data for dialect in DIALECTS}


# --- out and back -------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", list(BY_NAME))
def test_a_model_comes_back_as_it_was(host: str, rich: Store, tmp_path: Path, dialect: str) -> None:
    """From each form alone: the same id, hence shards, texts, parameters, messages, all."""
    to = f"{host}/back/{dialect}:v1"
    *_, last = events(rich, to, (Wanted(BY_NAME[dialect]),))
    assert isinstance(last, Transferred) and last.name == to + BY_NAME[dialect].suffix
    other = Store(tmp_path / "other")
    assert pulled(other, last.name).id == rich.manifests.read(RICH).id
    assert other.manifests.read_bytes(ModelName.parse("came")) == rich.manifests.read_bytes(RICH)
    assert check_promise(other.root) == 1
    assert pulled(other, last.name).moved == 0


def test_three_forms_share_every_blob(host: str, rich: Store) -> None:
    """Beside the model's own bytes only configs and Ollama's manifest travel; then nothing."""
    to, size = f"{host}/share/m:v1", rich.manifests.read(RICH).size
    first = events(rich, to)
    puts = [event for event in first if isinstance(event, ManifestPut)]
    assert [put.name for put in puts] == [to, f"{to}-modelpack", f"{to}-docker"]
    assert isinstance(first[-1], Transferred)
    assert size < first[-1].moved < size + 8000
    again = events(rich, to)
    assert isinstance(again[-1], Transferred) and again[-1].moved == 0
    assert [event for event in again if isinstance(event, ManifestPut)] == puts


def test_manifests_depend_on_nothing_but_the_model(rich: Store, tmp_path: Path, run: Run) -> None:
    """Not on its name, its store, or when it was built."""
    before = forms(rich)
    other = Store(tmp_path / "elsewhere")
    assert (
        run(
            "-t", "some/other:n", "--split-layers", "1", "--quiet", "--store", other.root
        ).returncode
        == 0
    )
    assert forms(other, ModelName.parse("some/other:n")) == before


def test_what_each_form_says(rich: Store) -> None:
    """Types, files' names, the config, and Ollama's manifest as subject."""
    found = {name: json.loads(data) for name, data in forms(rich).items()}
    pack, run_by_docker = found["modelpack"], found["docker"]
    paths = [layer["annotations"][FILE_PATH] for layer in pack["layers"]]
    assert paths == [
        *(f"model-0000{n}-of-00003.gguf" for n in (1, 2, 3)),
        *("mmproj-model.gguf", "model-adapter.gguf", "system", "template", "params"),
        *("messages", "LICENSE", "LICENSE-2", "ollama/config.json", MANIFEST_FILE),
    ]
    assert [layer["annotations"][FILE_PATH] for layer in run_by_docker["layers"]] == paths
    assert [layer["digest"] for layer in run_by_docker["layers"]] == [
        layer["digest"] for layer in pack["layers"]
    ]
    kinds = [layer["mediaType"].removeprefix("application/vnd.") for layer in pack["layers"]]
    assert kinds == [
        *["cncf.model.weight.v1.raw"] * 5,
        *["cncf.model.weight.config.v1.raw"] * 4,
        *["cncf.model.doc.v1.raw"] * 4,
    ]
    kinds = [
        layer["mediaType"].removeprefix("application/vnd.docker.ai.")
        for layer in run_by_docker["layers"]
    ]
    assert kinds == [
        *(*["gguf.v3"] * 3, "mmproj", *["model.file"] * 5),
        *("license", "license", "model.file", "model.file"),
    ]
    data = rich.manifests.read_bytes(RICH)
    assert data is not None
    subject = {"mediaType": MANIFEST_TYPE, "digest": digest_of(data), "size": len(data)}
    assert pack["subject"] == run_by_docker["subject"] == subject
    assert pack["artifactType"] == modelpack.ARTIFACT_TYPE
    assert pack["config"]["mediaType"] == modelpack.CONFIG
    assert run_by_docker["config"]["mediaType"] == docker.CONFIG


def test_the_configs(rich: Store) -> None:
    """ModelPack's fits its schema; Docker's names the size of the context."""
    data = rich.manifests.read_bytes(RICH)
    assert data is not None
    model = PlainModel(rich.blobs, data, "rich")
    made = modelpack.config(model, ["sha256:1"])
    jsonschema.validate(made, CONFIG_SCHEMA)
    about = {"architecture": "llama", "format": "gguf", "quantization": "F16"}
    assert made["config"].items() >= about.items()
    other = docker.config(model, ["sha256:1"])
    assert other["config"].items() >= {**about, "context_size": 512}.items()
    assert docker.context(other) == 512 and modelpack.context(made) == 0
    assert other["rootfs"] == {"type": "rootfs", "diff_ids": ["sha256:1"]}


def test_blobs_that_two_layers_name_are_named_once(tiny_store: Store) -> None:
    """Of two projectors Docker's runner is shown the first: it takes no second."""
    name = ModelName.parse("tiny")
    stored = tiny_store.manifests.read(name).manifest
    eyes = [tiny_store.blobs.put(gguf_bytes(tiny_model("projector", seed=n))) for n in (1, 2)]
    first = stored.layers[0]
    more = [first._replace(media_type=PROJECTOR, digest=b.digest, size=b.size) for b in eyes]
    data = stored._replace(layers=(*stored.layers, *more, first)).encode()
    found = json.loads(write(BY_NAME["docker"], PlainModel(tiny_store.blobs, data, "x")).data)
    digests = [layer["digest"] for layer in found["layers"]]
    assert len(set(digests)) == len(digests)
    types = {layer["annotations"][FILE_PATH]: layer["mediaType"] for layer in found["layers"]}
    assert types["mmproj-model.gguf"].endswith("mmproj")
    assert types["mmproj-model-2.gguf"].endswith("model.file")


def test_the_command_line_names_the_tags(host: str, rich: Store, run: Run) -> None:
    """``--dialect`` as often as one likes, with a tag of one's own; wrong ones are refused."""
    to = f"{host}/cli/m:v1"
    done = run("push", "rich", to, "--dialect", "docker=dmr", "--dialect", "ollama")
    assert done.returncode == 0, done.stderr
    *puts, documents = done.stdout.splitlines()
    assert [line.split()[1] for line in puts] == [to, f"{host}/cli/m:dmr"]
    assert documents.startswith("pushed 2 statements and signatures")
    both = json.loads(
        run(
            "push",
            "rich",
            to,
            "--dialect",
            "modelpack",
            "--dialect",
            "docker=dmr",
            "--format",
            "json",
        ).stdout
    )
    assert [put["dialect"] for put in both["manifests"]] == ["modelpack", "docker"]
    assert both["moved"] < 3000
    for wrong, said in (
        (["--dialect", "kitops"], "there is no dialect 'kitops'"),
        (["--dialect", "docker=-x"], "'-x' cannot be a tag"),
        (["--dialect", "docker=a", "--dialect", "modelpack=a"], "two dialects would have the tag"),
    ):
        done = run("push", "rich", to, *wrong)
        assert done.returncode == 2 and said in done.stderr


# --- what refers to it --------------------------------------------------------------------


def fallback(registry: StandIn, name: str, identity: Digest) -> list[dict[str, Any]]:
    data = registry.manifests[f"{name}:{identity.filename}"]
    assert registry.types[f"{name}:{identity.filename}"] == OCI_INDEX
    found = json.loads(data)
    assert found["mediaType"] == OCI_INDEX
    rows: list[dict[str, Any]] = found["manifests"]
    return rows


def test_referrers_under_a_tag(rich: Store) -> None:
    """Where the registry knows none: entries of others stay, and none is there twice."""
    identity = rich.manifests.read(RICH).id
    other = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{'1' * 64}", "size": 5}
    with stand_in() as (registry, host):
        registry.put(f"a/m:{identity.filename}", index([other]), OCI_INDEX)
        for _ in range(2):
            events(rich, f"{host}/a/m:v1")
        rows = fallback(registry, "a/m", identity)
        assert rows[0] == other
        for row, tag in zip(rows[1:3], ("v1-modelpack", "v1-docker"), strict=True):
            data = registry.manifests[f"a/m:{tag}"]
            assert (row["digest"], row["size"]) == (digest_of(data), len(data))
        assert [row["artifactType"] for row in rows[1:]] == [
            modelpack.ARTIFACT_TYPE,
            docker.CONFIG,
            PROVENANCE.media_type,
        ]


def test_referrers_that_another_push_overwrote(rich: Store) -> None:
    """Are written again: two who change the index at once lose nothing of ours."""
    identity = rich.manifests.read(RICH).id
    with stand_in() as (registry, host):
        lost: list[int] = []

        def race(handler: Handler) -> bool:
            name = f"a/m:{identity.filename}"
            if handler.command == "GET" and name in registry.manifests and not lost:
                lost.append(1)
                registry.put(name, index([]), OCI_INDEX)
            return False

        registry.before = race
        events(rich, f"{host}/a/m:v1")
        assert lost and len(fallback(registry, "a/m", identity)) == 3


def test_referrers_that_the_registry_keeps(rich: Store) -> None:
    """It says so when it takes the manifest, or by its API: then no tag is made."""
    identity = rich.manifests.read(RICH).id
    with stand_in() as (registry, host):

        def knows(handler: Handler) -> bool:
            if "/referrers/" in handler.path:
                handler.answer(200, index([]), content_type=OCI_INDEX)
                return True
            return False

        registry.before = knows
        events(rich, f"{host}/a/m:v1")
        assert not any(identity.filename in name for name in registry.manifests)
    with stand_in() as (registry, host):
        registry.subjects = True
        events(rich, f"{host}/a/m:v1")
        assert not registry.asked("GET", str(identity))
        assert not any(identity.filename in name for name in registry.manifests)


def test_a_tag_that_holds_something_else_is_not_touched(rich: Store) -> None:
    """What stands where the list of referrers should be stays, and that is said."""
    identity = rich.manifests.read(RICH).id
    with stand_in() as (registry, host):
        registry.put(f"a/m:{identity.filename}", b'{"schemaVersion":2}', OCI_MANIFEST)
        with pytest.raises(RegistryError, match="is not an index"):
            events(rich, f"{host}/a/m:v1")
        assert registry.manifests[f"a/m:{identity.filename}"] == b'{"schemaVersion":2}'
        assert "a/m:v1-modelpack" in registry.manifests
    row = Referrer(Digest("1" * 64), 5, "t").to_json()
    assert list(row) == ["mediaType", "digest", "size", "artifactType"]


def test_debian_registry_has_the_list_under_the_tag(host: str, rich: Store) -> None:
    """docker-registry 2.8 knows no referrers: the index is there, and it is one."""
    import httpx

    identity = rich.manifests.read(RICH).id
    events(rich, f"{host}/refer/m:v1")
    url = f"http://{host}/v2/refer/m/manifests/{identity.filename}"
    found = httpx.get(url, headers={"Accept": OCI_INDEX}, trust_env=False, verify=False).json()
    assert len(found["manifests"]) == 3


# --- from other tools ---------------------------------------------------------------------


def foreign(
    registry: StandIn,
    files: Mapping[tuple[str, str], bytes],
    config_type: str = modelpack.CONFIG,
    config: Mapping[str, Any] | None = None,
) -> None:
    """A manifest of another tool under ``a/m:v1``: contents by media type and file's name."""
    layers = [
        {
            "mediaType": media_type,
            **registry.add(data),
            **({"annotations": {FILE_PATH: path}} if path else {}),
        }
        for (media_type, path), data in files.items()
    ]
    about = {"mediaType": config_type, **registry.add(json.dumps(config or {}).encode())}
    value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": about, "layers": layers}
    registry.put("a/m:v1", json.dumps(value).encode(), OCI_MANIFEST)


WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
SETTINGS = "application/vnd.cncf.model.weight.config.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
D = "application/vnd.docker.ai."

TAR = WEIGHT.replace("raw", "tar")


def packed(files: Mapping[str, bytes | None], mode: str = "w:") -> bytes:
    """A tar archive of files; None is a link out of it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            member.size = len(data or b"")
            archive.addfile(member, io.BytesIO(data or b""))
    return target.getvalue()


WITH_CHAT = {"tokenizer.chat_template": CHAT}


def test_a_modelpack_of_another_tool_is_what_from_makes(tmp_path: Path, run: Run) -> None:
    """Byte for byte the model that FROM its files builds: config, template, stops, license."""
    model = gguf_bytes(tiny_model(metadata=WITH_CHAT))
    eye = gguf_bytes(tiny_model("projector"))
    (tmp_path / "m.gguf").write_bytes(model)
    (tmp_path / "eye.gguf").write_bytes(eye)
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\nFROM ./eye.gguf\nLICENSE MIT\n")
    assert run("-t", "built", "--quiet").returncode == 0
    files = {
        (DOC, "README.md"): b"about",
        (DOC, "LICENSE.txt"): b"MIT",
        (WEIGHT, "sub/eye.gguf"): eye,
        (WEIGHT, "sub/m.gguf"): model,
        ("application/vnd.cncf.model.code.v1.tar", "code"): b"x",
    }
    store = Store(tmp_path / "store")
    with stand_in() as (registry, host):
        foreign(registry, files, config={"config": {"format": "gguf"}})
        reference = ModelReference.parse(f"{host}/a/m:v1")
        found = list(pull(reference, ModelName.parse("came"), store, Access()))
    assert LeftOut(found[-1].direction, ("README.md", "code")) in found
    built = store.manifests.read(ModelName.parse("built"))
    assert len(built.manifest.layers) == 5  # model, projector, template, license, params
    assert store.manifests.read(ModelName.parse("came")).id == built.id
    assert check_promise(store.root) == 2


@pytest.mark.parametrize("packing", ["", "+gzip"])
def test_a_modelpack_of_modctl(tmp_path: Path, run: Run, packing: str) -> None:
    """Which packs files into archives: the model is what FROM its files makes, and they are gone.

    Links, folders and names with dots in them write nothing anywhere. A second pull moves nothing.
    """
    model, eye = gguf_bytes(tiny_model(metadata=WITH_CHAT)), gguf_bytes(tiny_model("projector"))
    (tmp_path / "m.gguf").write_bytes(model)
    (tmp_path / "eye.gguf").write_bytes(eye)
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\nFROM ./eye.gguf\nLICENSE MIT\n")
    assert run("-t", "built", "--quiet").returncode == 0
    mode = "w:gz" if packing else "w:"
    weights = {"../../m.gguf": model, "x.gguf": None, "dir/eye.gguf": eye, "tokenizer.json": b"{}"}
    files = {
        (TAR + packing, "weights"): packed(weights, mode),
        (DOC.replace("raw", f"tar{packing}"), "LICENSE"): packed({"LICENSE": b"MIT"}, mode),
    }
    store, other = Store(tmp_path / "store"), Store(tmp_path / "other")
    with stand_in() as (registry, host):
        foreign(registry, files)
        events = list(pull(ModelReference.parse(f"{host}/a/m:v1"), CAME, other, Access()))
        came = events[-1]
        assert isinstance(came, Transferred)
        assert LeftOut(came.direction, ("x.gguf", "tokenizer.json")) in events
        registry.sent.clear()
        again = pulled(other, f"{host}/a/m:v1")
        assert (again.id, again.moved) == (came.id, 0)
        weights = {digest_of(data) for data in files.values()}
        assert weights.isdisjoint(registry.sent)  # the archives are not needed again
        other.blobs.path(other.manifests.read(CAME).manifest.layers[0].digest).unlink()
        assert pulled(other, f"{host}/a/m:v1").moved > 0  # but when their files are gone
    assert came.id == store.manifests.read(ModelName.parse("built")).id
    assert check_promise(other.root) == 1
    named = {x.digest for x in other.manifests.read(ModelName.parse("came")).manifest.blobs()}
    assert {Digest.parse(path.name) for path in (other.root / "blobs").iterdir()} == named
    assert not (tmp_path.parent / "m.gguf").exists()


def test_an_archive_has_bounds(tiny_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files, and of a text's size; each file is named, also one that has no place."""
    files = {"system": b"s" * 99, "a/README.md": b"?", "link": None, "template": b"t"}
    blob = tiny_store.blobs.put(packed(files))
    layer = Layer(roles.PACKED, blob.digest, blob.size)
    found = [(path, x and x.kind) for path, x in unpacking.unpacked(layer, tiny_store, "x")]
    others = [("a/README.md", None), ("link", None)]
    assert found == [("system", "system"), *others, ("template", "template")]
    monkeypatch.setattr(unpacking, "_SMALL", 98)
    with pytest.raises(RegistryError, match="a text of 99 bytes"):
        list(unpacking.unpacked(layer, tiny_store, "x"))
    monkeypatch.setattr(unpacking, "_SMALL", 99)
    monkeypatch.setattr(unpacking, "_MOST_FILES", 1)
    with pytest.raises(RegistryError, match="more than 1 files"):
        list(unpacking.unpacked(layer, tiny_store, "x"))


def test_docker_typed_layers_in_any_order(tmp_path: Path, run: Run) -> None:
    """Shards come into their order, the context becomes num_ctx, Jinja's template Ollama's."""
    tiny_gguf(tmp_path / "m.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\nPARAMETER num_ctx 99\n")
    assert run("-t", "built", "--split-layers", "1", "--quiet").returncode == 0
    store = Store(tmp_path / "store")
    built = store.manifests.read(ModelName.parse("built"))
    parts = [x.digest for x in built.manifest.layers if x.media_type == MODEL]
    assert len(parts) == 3
    shards = {(D + "gguf.v3", str(n)): store.blobs.read(parts[n], 1 << 20) for n in (2, 0, 1)}
    with stand_in() as (registry, host):
        foreign(registry, shards, docker.CONFIG, {"config": {"context_size": 99}})
        assert pulled(store, f"{host}/a/m:v1").id == built.id
        files = {**shards, (D + "chat.template.jinja", ""): CHAT.encode()}
        foreign(registry, files, docker.CONFIG, {"config": {"context_size": True}})
        came = pulled(store, f"{host}/a/m:v1")
    layers = store.manifests.read(ModelName.parse("came")).manifest.layers
    assert [layer.kind for layer in layers] == ["model"] * 3 + ["template", "params"]
    assert b"<|im_start|>" in store.blobs.read(layers[3].digest, 1 << 16)
    assert (
        came.size
        == sum(layer.size for layer in layers)
        + store.manifests.read(ModelName.parse("came")).manifest.config.size
    )


def test_files_with_the_names_of_the_hub(tmp_path: Path) -> None:
    """``template``, ``system``, ``params``, ``messages`` are what they are called."""
    files = {
        (WEIGHT, "m.gguf"): gguf_bytes(tiny_model(metadata=WITH_CHAT)),
        (SETTINGS, "template"): b"{{ .Prompt }}!",
        (SETTINGS, "params"): b'{"temperature": 0.5}',
        (SETTINGS, "chat_template.jinja"): b"{{ x }}",
        (SETTINGS, "tokenizer.json"): b"{}",
        (DOC, "system"): b"Be kind.",
    }
    store = Store(tmp_path / "store")
    with stand_in() as (registry, host):
        foreign(registry, files)
        pulled(store, f"{host}/a/m:v1")
    layers = store.manifests.read(ModelName.parse("came")).manifest.layers
    texts = {x.kind: store.blobs.read(x.digest, 1 << 16) for x in layers[1:]}
    assert texts == {
        "template": b"{{ .Prompt }}!",
        "system": b"Be kind.",
        "params": b'{"temperature":0.5}\n',
    }
    assert check_promise(store.root) == 1


REFUSED: list[tuple[str, dict[tuple[str, str], bytes], str, str]] = [
    ("zstd", {(f"{TAR}+zstd", "m.gguf"): b"x"}, modelpack.CONFIG, "are not a GGUF file"),
    ("no tar", {(TAR, "m.gguf"): b"x" * 999}, modelpack.CONFIG, "cannot be unpacked"),
    ("no gzip", {(f"{TAR}+gzip", "m"): b"\x1f\x8bx"}, modelpack.CONFIG, "cannot be unpacked"),
    (
        "a tar that is cut",
        {(TAR, "m.gguf"): packed({"m.gguf": gguf_bytes(tiny_model())})[:1500]},
        modelpack.CONFIG,
        "cannot be unpacked|in the middle",
    ),
    (
        "a tar without weights",
        {(TAR, "m"): packed({"README.md": b"x", "m.gguf": None})},
        modelpack.CONFIG,
        "holds no models",
    ),
    ("safetensors", {(WEIGHT, "m.safetensors"): b"x"}, modelpack.CONFIG, "are not a GGUF file"),
    ("docker", {(D + "safetensors", ""): b"x"}, docker.CONFIG, "are not a GGUF file"),
    ("diffusers", {(D + "dduf", "a.dduf"): b"x"}, docker.CONFIG, "are not a GGUF file"),
    ("no weights", {(DOC, "README.md"): b"x"}, modelpack.CONFIG, "no weights in GGUF"),
    ("no GGUF", {(WEIGHT, "m.gguf"): b"GGUX"}, modelpack.CONFIG, "not a GGUF file"),
    (
        "two models",
        {(WEIGHT, f"{n}.gguf"): gguf_bytes(tiny_model(seed=n)) for n in (1, 2)},
        modelpack.CONFIG,
        "holds 2 models",
    ),
    (
        "only a projector",
        {(WEIGHT, "m.gguf"): gguf_bytes(tiny_model("projector"))},
        modelpack.CONFIG,
        "holds no models",
    ),
    (
        "damaged parameters",
        {(WEIGHT, "m.gguf"): gguf_bytes(tiny_model()), (SETTINGS, "params"): b"[1]"},
        modelpack.CONFIG,
        "not a JSON object",
    ),
    (
        "a manifest that names what is not there",
        {
            (WEIGHT, "m.gguf"): gguf_bytes(tiny_model()),
            (DOC, MANIFEST_FILE): json.dumps(
                {
                    "config": {"mediaType": "c", "digest": f"sha256:{'0' * 64}", "size": 1},
                    "layers": [],
                }
            ).encode(),
        },
        modelpack.CONFIG,
        "names a blob that is not there",
    ),
    (
        "a manifest that is none",
        {(WEIGHT, "m.gguf"): gguf_bytes(tiny_model()), (DOC, MANIFEST_FILE): b"{}"},
        docker.CONFIG,
        "is not a manifest",
    ),
]


@pytest.mark.parametrize(
    ("files", "config", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_is_no_model_of_ours_is_refused(
    tmp_path: Path, files: dict[tuple[str, str], bytes], config: str, said: str
) -> None:
    """With the reason; neither a model nor a blob is left of it."""
    store = Store(tmp_path / "store")
    with stand_in() as (registry, host):
        foreign(registry, files, config)
        with pytest.raises(RegistryError, match=said):
            pulled(store, f"{host}/a/m:v1")
    assert list(store.manifests.names()) == []
    assert not list((store.root / "blobs").iterdir())


def test_small_blobs_are_checked(tmp_path: Path) -> None:
    """A config with other bytes than its digest says, or too many, is not believed."""
    store = Store(tmp_path / "store")
    files = {(WEIGHT, "m.gguf"): gguf_bytes(tiny_model())}
    with stand_in() as (registry, host):
        foreign(registry, files)
        registry.blobs[digest_of(b"{}")] = b"[]"
        with pytest.raises(RegistryError, match="wrong bytes"):
            pulled(store, f"{host}/a/m:v1")
        registry.blobs[digest_of(b"{}")] = b"{}" + bytes(9)
        with pytest.raises(RegistryError, match="more than 2 bytes"):
            pulled(store, f"{host}/a/m:v1")


def test_a_build_starts_from_any_form(rich: Store, tmp_path: Path, run: Run) -> None:
    """FROM a tag of another form; a lock has the model's id, and finds it under the tag again."""
    docker_only = (Wanted(BY_NAME["docker"]),)
    with stand_in() as (_, host):
        to = f"{host}/from/m:v1"
        events(rich, to, docker_only)
        (tmp_path / "Modelfile").write_text(f"FROM {to}-docker\nPARAMETER seed 1\n")
        assert run("lock", "-t", "mine", "--store", tmp_path / "first").returncode == 0
        (locked,) = json.loads((tmp_path / "Modelfile.lock").read_text())["sources"]["from"]
        assert locked["manifest"] == str(rich.manifests.read(RICH).id)
        done = run("--locked", "-t", "mine", "--store", tmp_path / "second")
        assert done.returncode == 0, done.stderr
        data = rich.manifests.read_bytes(RICH)
        assert data is not None
        rich.replace(RICH, data.rstrip(b"\n"))
        events(rich, to, docker_only)
        done = run("--locked", "-t", "mine", "--store", tmp_path / "third")
        assert done.returncode == 1
        assert "a different model from the one that is locked" in done.stderr
        assert not list((tmp_path / "third" / "blobs").iterdir())


@pytest.mark.parametrize("tag", ["v1-modelpack", "latest", ""])
@pytest.mark.parametrize("plain", [True, False], ids=["beside Ollama's form", "alone"])
def test_a_lock_holds_in_every_store(
    rich: Store, tmp_path: Path, run: Run, tag: str, *, plain: bool
) -> None:
    """Whether the lock was made before the model came or after, and whether it is there now."""
    form = Wanted(BY_NAME["modelpack"], tag or "latest")
    with stand_in() as (_, host):
        to = f"{host}/from/m"
        events(rich, f"{to}:v1", (Wanted(BY_NAME["ollama"]), form) if plain else (form,))
        name = f"{to}:{tag}" if tag else to
        (tmp_path / "Modelfile").write_text(f"FROM {name}\nPARAMETER seed 1\n")
        texts = set()
        for _ in range(2):
            assert run("lock", "--store", tmp_path / "first").returncode == 0
            texts.add((tmp_path / "Modelfile.lock").read_text())
        assert len(texts) == 1
        for store in ("first", "second", "second"):
            done = run("--locked", "-t", "mine", "--store", tmp_path / store)
            assert done.returncode == 0, done.stderr


def test_a_build_says_what_it_leaves_out(tmp_path: Path, run: Run) -> None:
    """Of a package of another tool, as a pull does: once, when it comes."""
    names = ["README.md", *(f"notes-{n}.md" for n in range(5))]
    files = {(DOC, name): name.encode() for name in names}
    with stand_in() as (registry, host):
        foreign(registry, {**files, (WEIGHT, "m.gguf"): gguf_bytes(tiny_model())})
        (tmp_path / "Modelfile").write_text(f"FROM {host}/a/m:v1\nSYSTEM Hi\n")
        done = run("-t", "mine")
        assert done.returncode == 0, done.stderr
        assert "a/m:v1: left out, because a model has no place for it: README.md" in done.stderr
        assert "notes-3.md, ..." in done.stderr
        assert "left out" not in run("-t", "mine").stderr


# --- the parts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "media_type", "path", "found"),
    [
        (modelpack.role, WEIGHT, "", MODEL),
        (modelpack.role, "application/vnd.cncf.model.weight.v1.gguf", "x", MODEL),
        (modelpack.role, SETTINGS, "a/chat_template.jinja", roles.CHAT),
        (modelpack.role, "application/octet-stream", "m.gguf", roles.LEFT_OUT),
        (modelpack.role, DOC.replace("raw", "tar+gzip"), "LICENSE", roles.PACKED),
        (modelpack.role, DOC.replace("raw", "tar+zstd"), "LICENSE", roles.LEFT_OUT),
        (docker.role, D + "model.file", "a/m.GGUF", MODEL),
        (docker.role, MODEL, "", MODEL),
        (modelpack.role, WEIGHT, "model.mmproj", MODEL),
        (docker.role, "application/vnd.ollama.image.nothing", "", roles.LEFT_OUT),
        (docker.role, D + "dir.tar", "adapters", roles.LEFT_OUT),
    ],
)
def test_what_a_layer_is(
    role: Callable[[str, str], str], media_type: str, path: str, found: str
) -> None:
    """By its media type, and where that says little by its file's name."""
    assert role(media_type, path) == found


def test_files_by_their_names() -> None:
    """Licenses under each of their usual names; what only looks like one is none."""
    for name in ("LICENSE", "licence.md", "LICENSE-APACHE", "COPYING", "sub/LICENSE.txt"):
        assert roles.role_of_file(name).endswith("license"), name
    for name in ("README", "licensed", "templates", "system.txt", ""):
        assert roles.role_of_file(name) == roles.LEFT_OUT, name
    assert roles.role_of_file("a/M.GGUF") == roles.role_of_file("m.mmproj") == MODEL
    assert roles.is_other_weights("m.Safetensors") and not roles.is_other_weights("m.gguf")


def test_the_modules_of_the_table() -> None:
    """Every dialect but Ollama's own has a form, and each has a suffix and a name of its own."""
    assert [dialect.form is None for dialect in DIALECTS] == [True, False, False]
    assert len({dialect.suffix for dialect in DIALECTS}) == len(DIALECTS)
    assert writing.as_json({"b": "ä", "a": 1}) == '{"b":"ä","a":1}'.encode()
    assert adopting.adopt and reading.read and values.Reading((), lambda store: b"").left_out == ()
