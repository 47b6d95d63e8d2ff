"""The endpoints of ``mbuild serve``, one behaviour a test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf_files import gguf_bytes, tensor, tiny_model, tiny_shards
from hostile_shards import HOSTILE
from live_server import Server, files_below, lines_of, serving_here
from stores import copy_tiny_store

from mbuild.gguf.split import split
from mbuild.gguf.types import GGMLType
from mbuild.server import pushes
from mbuild.server.openapi import describe
from mbuild.server.routes import ROUTES
from mbuild.store.media import LICENSE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose store holds ``tiny``; the tests make models of other names."""
    root = copy_tiny_store(tmp_path_factory.mktemp("api") / "store")
    with serving_here(root) as server:
        yield server


GGUF = gguf_bytes(tiny_model())


def test_every_route_answers(server: Server) -> None:
    """Each row of the table is reached by its methods, and other methods get 405."""
    for row in ROUTES:
        path = row.path.replace("{digest}", "sha256:" + "0" * 64).replace("{model:path}", "tiny")
        for method in row.methods:
            answer = server.http.request(method, path, content=b"{}")
            refuses = row.handler.__module__ == pushes.__name__  # 405, without --writable
            assert refuses or answer.status_code not in (405, 500), (method, path)
        assert server.http.request("TRACE", path).status_code == 405


def test_create_from_files_names_the_uploaded_bytes(server: Server) -> None:
    """A GGUF file becomes the model's layer with the same digest; the first time it is new."""
    digest = server.upload(GGUF)
    first = lines_of(server.create(model="from-files", files={"m.gguf": digest}))
    again = lines_of(server.create(model="from-files", files={"m.gguf": digest}))
    assert [line["status"] for line in first] == [
        "parsing GGUF",
        "verifying conversion",
        f"creating new layer {digest}",
        "writing manifest",
        "success",
    ]
    assert again[2]["status"] == f"using existing layer {digest}"


def test_a_client_may_send_any_content_type(server: Server) -> None:
    """curl sends JSON as a form's type; Go's client sends a blob as JSON."""
    body = json.dumps({"model": "form", "from": "tiny", "stream": False})
    types = ("application/x-www-form-urlencoded", "text/plain", "")
    for kind in types:
        answer = server.http.post("/api/create", content=body, headers={"Content-Type": kind})
        assert answer.json() == {"status": "success"}
    digest = "sha256:" + hashlib.sha256(b"blob").hexdigest()
    headers = {"Content-Type": "application/json"}
    assert server.http.post(f"/api/blobs/{digest}", content=b"blob", headers=headers).is_success


def test_errors_have_one_status_streaming_or_not(server: Server) -> None:
    """What is known before the build begins is answered with the same status both ways."""
    missing = {"a.gguf": "sha256:" + "1" * 64}
    wrong = (
        ({"from": "nope"}, 404),
        ({"files": missing}, 400),
        ({"from": "tiny", "template": "{{ .Foo"}, 400),
        ({"from": "tiny", "quantize": "nope"}, 400),
    )
    for fields, status in wrong:
        for stream in (True, False):
            answer = server.create(model="wrong", stream=stream, **fields)
            assert (answer.status_code, list(answer.json())) == (status, ["error"]), fields
    assert server.http.post("/api/show", json={"model": "wrong"}).status_code == 404


def test_an_error_after_the_first_line_is_a_line(server: Server) -> None:
    """A file that turns out not to be a GGUF ends the stream, and is 400 without one."""
    digest = server.upload(b"not a GGUF")
    fields = {"model": "late", "files": {"a.gguf": digest}}
    streamed = server.create(**fields)
    assert streamed.status_code == 200
    assert [list(line) for line in lines_of(streamed)] == [["status"], ["error"]]
    assert server.create(**fields, stream=False).status_code == 400
    assert not list((server.root / "manifests").rglob("late"))


def test_shards_of_one_request_are_merged(server: Server, tmp_path: Path) -> None:
    """All shards of a split file make one layer; a missing one is an error."""
    paths = tiny_shards(tmp_path, "m", [2, 3])
    files = {f"sub/{path.name}": server.upload(path.read_bytes()) for path in paths}
    assert server.create(model="sharded", files=files, stream=False).is_success
    del files[f"sub/{paths[1].name}"]
    answer = server.create(model="part", files=files, stream=False)
    assert answer.status_code == 400 and "missing" in answer.json()["error"]


@pytest.mark.parametrize("options", [{}, {"keep_split": True}, {"quantize": "q8_0"}])
@pytest.mark.parametrize(("make", "says", "remedy"), HOSTILE)
def test_hostile_sets_are_refused_by_name(
    server: Server,
    tmp_path: Path,
    make: Callable[[Path], None],
    says: str,
    remedy: str,
    options: dict[str, Any],
) -> None:
    """As on the command line: the file is named; there is no such model then."""
    make(tmp_path)
    paths = sorted(tmp_path.glob("x-*.gguf"))
    files = {path.name: server.upload(path.read_bytes()) for path in paths}
    for stream in (True, False):
        answer = server.create(model="hostile", files=files, stream=stream, **options)
        assert says in answer.text.replace("\\", "") and remedy in answer.text
    assert answer.status_code == 400
    assert not (server.root / "manifests/registry.ollama.ai/library/hostile").exists()


def weights_of(server: Server, name: str) -> list[str]:
    """The digests of a model's layers of weights, in order."""
    path = server.root / "manifests/registry.ollama.ai/library" / name / "latest"
    layers = json.loads(path.read_text())["layers"]
    return [each["digest"] for each in layers if each["mediaType"].endswith(".model")]


def test_shards_of_one_request_are_kept(server: Server, tmp_path: Path) -> None:
    """With ``keep_split``, or under names that tell nothing, each is a layer, in order."""
    paths = tiny_shards(tmp_path, "m", [2, 0, 3])
    files = {path.name: server.upload(path.read_bytes()) for path in reversed(paths)}
    answer = server.create(model="kept", files=files, keep_split=True, stream=False)
    assert answer.is_success, answer.text
    assert weights_of(server, "kept") == [files[path.name] for path in paths]
    shown = server.http.post("/api/show", json={"model": "kept"}).json()
    assert [row["name"] for row in shown["tensors"]] == [t.name for t in tiny_model().tensors]
    assert "split.count" not in shown["model_info"]
    assert server.create(model="whole", files={"m.gguf": server.upload(GGUF)}).is_success
    whole = server.http.post("/api/show", json={"model": "whole"}).json()
    assert shown["model_info"] == whole["model_info"]
    body = {"name": "again", "modelfile": shown["modelfile"], "stream": False}
    assert server.http.post("/api/create", json=body).is_success
    assert weights_of(server, "again") == weights_of(server, "kept")
    files = {f"part{digest[7:12]}.gguf": digest for digest in files.values()}
    assert server.create(model="named", files=files, stream=False).is_success
    assert weights_of(server, "named") == weights_of(server, "kept")


def test_weights_are_split_on_request(server: Server) -> None:
    """``split`` takes a size as text or bytes, ``split_layers`` a number; one of them at a time."""
    files = {"m.gguf": server.upload(GGUF)}
    made = {}
    for key, value in (("split", "1KB"), ("split", 1000), ("split_layers", 1)):
        answer = server.create(model="cut", files=files, stream=False, **{key: value})
        assert answer.is_success, answer.text
        made[value] = weights_of(server, "cut")
    assert made["1KB"] == made[1000]
    assert len(made["1KB"]) == len(made[1]) == 3
    config = server.http.post("/api/show", json={"model": "cut"}).json()
    assert "REQUIRES 0.35.0" in config["modelfile"]
    answer = server.create(model="no", files=files, split="1KB", split_layers=1, stream=False)
    assert (answer.status_code, "cannot be combined" in answer.json()["error"]) == (400, True)
    for key, value in (
        ("split", "much"),
        ("split_layers", 0),
        ("split_layers", "2"),
        ("split", []),
    ):
        answer = server.create(model="no", files=files, stream=False, **{key: value})
        assert answer.status_code == 400, (key, value)
    lines = lines_of(server.create(model="loud", files=files, split_layers=2))
    assert "Ollama before 0.35.0" in lines[-1]["warnings"][0]


def test_capabilities_of_a_request(server: Server) -> None:
    """What Ollama has had as a field since 0.34 stands in the config, as ``info`` puts it there."""
    files = {"m.gguf": server.upload(GGUF)}
    answer = server.create(model="able", files=files, capabilities=["tools", "vision"])
    assert answer.is_success
    shown = server.http.post("/api/show", json={"model": "able"}).json()
    assert {"tools", "vision"} <= {*shown["capabilities"]}
    assert server.create(model="able", files=files, capabilities="tools").status_code == 400


def test_a_template_in_the_weights_counts(server: Server) -> None:
    """Agents look there before they send tools: lists and ``show`` say what ``run`` would use."""
    inner = "{% for tool in tools %}{{ tool }}{% endfor %}{{ messages }}<think></think>"
    weights = gguf_bytes(tiny_model(metadata={"tokenizer.chat_template": inner}))
    files = {"m.gguf": server.upload(weights)}
    assert server.create(model="own", files=files).is_success
    assert server.create(model="plain", files=files, template="{{ .Prompt }}").is_success
    go = "{{ range .Tools }}{{ . }}{{ end }}{{ .Prompt }}{{ .Suffix }}"
    assert server.create(model="go", files=files, template=go).is_success
    rows = server.http.get("/api/tags").json()["models"]
    listed = {row["name"].partition(":")[0]: row["capabilities"] for row in rows}
    native = ["tools", "thinking", "completion"]
    able = {"own": native, "plain": native, "go": ["completion", "tools", "insert"]}
    for name, words in able.items():
        shown = server.http.post("/api/show", json={"model": name}).json()
        assert shown["capabilities"] == listed[name] == words


def test_as_many_files_as_ollama_takes(server: Server) -> None:
    """1,024 files can be the shards of one model; one more is refused."""
    tensors = [tensor(f"blk.{n}.x", (32,), GGMLType.F32) for n in range(1023)]
    shards = split(tiny_model(tensors=tensors), [0] + [1] * 1023)
    names = [f"m-{number:05d}-of-01024.gguf" for number in range(1, 1025)]
    pairs = zip(names, shards, strict=True)
    files = {name: server.upload(gguf_bytes(shard)) for name, shard in pairs}
    answer = server.create(model="many", files=files, keep_split=True, stream=False)
    assert answer.is_success, answer.text
    assert weights_of(server, "many") == [files[name] for name in names]
    answer = server.create(model="more", files={**files, "x.gguf": files[names[0]]}, stream=False)
    assert (answer.status_code, "1025 files; the limit is 1024" in answer.text) == (400, True)


def test_adapter_and_projector(server: Server) -> None:
    """``adapters`` gives an adapter layer; a projector beside the weights a projector layer."""
    model = server.upload(GGUF)
    projector = server.upload(gguf_bytes(tiny_model("projector")))
    adapter = server.upload(gguf_bytes(tiny_model("adapter")))
    files = {"m.gguf": model, "mmproj.gguf": projector}
    answer = server.create(model="sees", files=files, adapters={"a.gguf": adapter}, stream=False)
    assert answer.is_success, answer.text
    shown = server.http.post("/api/show", json={"model": "sees"}).json()
    assert shown["projector_info"] and "vision" in shown["capabilities"]
    assert f"ADAPTER @{adapter}" in shown["modelfile"]


def test_the_text_of_a_modelfile(server: Server) -> None:
    """Clients from before Ollama 0.5.5 send the text; its FROM is a model or a digest."""
    digest = server.upload(GGUF)
    for source in ("tiny", f"@{digest}", digest):
        body = {"name": "old", "modelfile": f"FROM {source}\nSYSTEM Hi", "stream": False}
        assert server.http.post("/api/create", json=body).is_success, source
    assert server.http.post("/api/show", json={"name": "old"}).json()["system"] == "Hi"


def test_fields_beside_the_text_of_a_modelfile(server: Server) -> None:
    """They add to the text; beside ``from`` or ``files`` it is not read, as in Ollama."""
    text = "FROM tiny\nSYSTEM old\nMESSAGE user one\nPARAMETER seed 1"
    call = {"role": "assistant", "content": "two", "thinking": "hm"}
    fields = {"system": "new", "messages": [call], "parameters": {"top_k": 2}, "license": "MIT"}
    assert server.create(model="both", modelfile=text, stream=False, **fields).is_success
    shown = server.http.post("/api/show", json={"model": "both"}).json()
    assert (shown["system"], shown["license"]) == ("new", "MIT")
    assert [message["content"] for message in shown["messages"]] == ["one", "two"]
    assert "seed" in shown["parameters"] and "top_k" in shown["parameters"]
    fields = {"model": "both", "from": "tiny", "modelfile": "FROM nope", "stream": False}
    assert server.create(**fields).json() == {"status": "success"}
    for broken in ("SYSTEM no source", 'FROM tiny\nSYSTEM """open', "FROM tiny\nPARAMETER x 1"):
        assert server.create(model="both", modelfile=broken, stream=False).status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"adapters": {}},
        {"draft_files": {}},
        {"remote_host": "http://localhost"},
        {"info": {"context_length": -1}},
        {"info": {"context_length": 1.5}},
        {"info": {"capabilities": "tools"}},
    ],
)
def test_what_cannot_be_meant_is_refused(server: Server, fields: dict[str, object]) -> None:
    """Rather than that a model is built that is not what was asked for."""
    answer = server.create(**{"model": "meant", "from": "tiny", "stream": False, **fields})
    assert answer.status_code == 400 and answer.json()["error"]


def test_files_of_two_kinds_are_refused(server: Server) -> None:
    """Nobody knows which of them is the model."""
    digest = server.upload(GGUF)
    files = {"m.gguf": digest, "model.safetensors": digest, "config.json": digest}
    answer = server.create(model="kinds", files=files, stream=False)
    assert answer.status_code == 400 and "two kinds" in answer.json()["error"]


def test_info_gives_ollamas_config(server: Server) -> None:
    """Byte for byte what Ollama 0.32.15 stored for this request; its capabilities come first."""
    info = {"model_family": "zzz", "context_length": 77, "base_name": "bb", "parameter_size": "1T"}
    info |= {"quantization_level": "Q0", "embedding_length": 5, "capabilities": ["vision", "tools"]}
    fields = {"model": "info", "from": "tiny", "stream": False, "info": info}
    assert server.create(**fields).is_success
    (name,) = _names("info")
    config = server.store.manifests.read(name).manifest.config
    assert server.store.blobs.read(config.digest, 4096) == (
        b'{"model_format":"gguf","model_family":"zzz","model_families":["zzz","llama"],'
        b'"model_type":"1T","file_type":"Q0","capabilities":["vision","tools"],'
        b'"context_length":77,"embedding_length":5,"base_name":"bb","architecture":"amd64",'
        b'"os":"linux"}\n'
    )
    shown = server.http.post("/api/show", json={"model": "info"}).json()
    assert shown["capabilities"] == ["vision", "tools", "completion"]


@pytest.mark.parametrize("word", ["FROM", "ADAPTER", "DRAFT"])
@pytest.mark.parametrize("path", ["/etc/passwd", "./m.gguf", "~/m.gguf", "../../x"])
def test_no_path_in_a_modelfile_is_opened(server: Server, word: str, path: str) -> None:
    """A path gets the same answer whether the file exists or not."""
    text = f"FROM tiny\n{word} {path}" if word != "FROM" else f"FROM {path}"
    answer = server.create(model="path", modelfile=text, stream=False)
    assert answer.status_code == 400
    assert "no file is opened because a request names it" in answer.json()["error"]


def test_show_round_trips_through_create(server: Server) -> None:
    """The modelfile that show gives builds the same layers again, without any path in it."""
    fields = {
        "from": "tiny",
        "system": 'He said "hi"',
        "template": "{{ .System }}{{ .Prompt }}",
        "license": ["MIT", "BSD"],
        "parameters": {"temperature": 0.25, "stop": ["a", '"']},
        "messages": [{"role": "user", "content": "x"}],
    }
    assert server.create(model="one", stream=False, **fields).is_success
    text = server.http.post("/api/show", json={"model": "one"}).json()["modelfile"]
    assert str(server.root) not in text
    assert server.create(model="two", modelfile=text, stream=False).is_success
    first, second = (server.store.manifests.read(name).manifest for name in _names("one", "two"))
    assert [(x.media_type, x.digest) for x in first.layers] == [
        (x.media_type, x.digest) for x in second.layers
    ]


SAID = 'SYSTEM "one two"'


@pytest.mark.parametrize(
    ("template", "asked", "kept"),
    [
        (f"a\n{SAID}\n{{{{ .Prompt }}}}", "other", SAID),
        ("SYSTEM first\n{{ .Prompt }}", None, "SYSTEM first\n{{ .Prompt }}"),
        (SAID, "", SAID),
        (SAID, 'SYSTEM "one two"', SAID),
    ],
)
def test_show_with_another_system_keeps_every_line_of_the_template(
    server: Server, template: str, asked: str | None, kept: str
) -> None:
    """A template may hold the very line that SYSTEM is: only the instruction is another."""
    fields = {"from": "tiny", "system": "one two", "template": template}
    assert server.create(model="said", stream=False, **fields).is_success
    body = {"model": "said"} if asked is None else {"model": "said", "system": asked}
    shown = server.http.post("/api/show", json=body).json()
    system = asked or "one two"
    assert shown["system"] == system and kept in shown["modelfile"]
    assert server.create(model="again", modelfile=shown["modelfile"], stream=False).is_success
    again = server.http.post("/api/show", json={"model": "again"}).json()
    assert (again["template"], again["system"]) == (template, system)


def _names(*texts: str) -> list[object]:
    from mbuild.core.names import ModelName

    return [ModelName.parse(text) for text in texts]


def test_names_in_any_case_are_one_model(server: Server) -> None:
    """Creating, copying and deleting find a model in any spelling."""
    assert server.create(model="Case", **{"from": "TINY"}, stream=False).is_success
    assert server.create(model="cASE", **{"from": "tiny"}, stream=False).is_success
    listed = [m["name"] for m in server.http.get("/api/tags").json()["models"]]
    assert [name for name in listed if name.lower() == "case:latest"] == ["Case:latest"]
    assert server.http.request("DELETE", "/api/delete", json={"model": "CASE"}).is_success


def test_tags_have_what_clients_need(server: Server) -> None:
    """Names with tags, integer sizes, 64 digits of digest, times with a zone, capabilities."""
    server.create(model="listed", **{"from": "tiny"}, stream=False)
    model = next(
        m for m in server.http.get("/api/tags").json()["models"] if m["name"] == "listed:latest"
    )
    stored = server.store.manifests.read(_names("listed")[0])
    assert model["model"] == "listed:latest"
    assert (model["size"], model["digest"]) == (stored.size, stored.id.hex)
    assert model["modified_at"].endswith("Z") and model["capabilities"] == ["completion"]
    assert model["details"]["parent_model"] == "tiny:latest"


def test_tags_follow_the_store(server: Server) -> None:
    """What another program changes in the store is in the next list."""
    server.create(model="seen", **{"from": "tiny"}, stream=False)

    def digest() -> str:
        models = server.http.get("/api/tags").json()["models"]
        return next(m["digest"] for m in models if m["name"] == "seen:latest")

    before = digest()
    path = server.root / "manifests/registry.ollama.ai/library/seen/latest"
    path.write_bytes(path.read_bytes() + b" ")  # as Ollama writes: in place
    assert digest() != before
    path.write_bytes(b"torn")
    assert "seen:latest" not in server.http.get("/api/tags").text
    path.unlink()


def test_a_license_carried_by_the_base_is_not_added_again(server: Server) -> None:
    """Re-creating a model from itself with its license leaves it as it is."""
    for _ in range(3):
        source = "again" if list((server.root / "manifests").rglob("again")) else "tiny"
        server.create(model="again", **{"from": source}, license="MIT", stream=False)
    manifest = server.store.manifests.read(_names("again")[0]).manifest
    assert len(manifest.of_kind(LICENSE)) == 1


def test_deprecated_parameters_are_told(server: Server) -> None:
    """A parameter without effect is accepted and not stored; the last line warns of it."""
    fields = {"from": "tiny", "parameters": {"mirostat": 1}}
    last = lines_of(server.create(model="warned", **fields))[-1]
    assert last["status"] == "success" and "mirostat" in last["warnings"][0]
    assert server.create(model="warned", **fields, stream=False).json() == last


def test_info_sets_keys_of_the_config(server: Server) -> None:
    """``info`` is shown as given; wrong types are an error."""
    info = {"model_family": "zzz", "parameter_size": "1T", "context_length": 77}
    assert server.create(model="info", **{"from": "tiny"}, info=info, stream=False).is_success
    details = server.http.post("/api/show", json={"model": "info"}).json()["details"]
    assert (details["family"], details["parameter_size"]) == ("zzz", "1T")
    bad = server.create(model="info", **{"from": "tiny"}, info={"context_length": "x"})
    assert bad.status_code == 400


def test_messages_with_images_and_tool_calls(server: Server) -> None:
    """What MESSAGE cannot say is kept, in the bytes that Ollama 0.32.15 wrote for it."""
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U", "images": ["aGVsbG8="]},
        {"role": "tool", "content": "T", "tool_name": "f"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "nobody", "content": "x"},
    ]
    lines = lines_of(server.create(model="talk", **{"from": "tiny"}, messages=messages))
    recorded = "ee74b3bf02cfdd770c2e28f126e4802f12b9587516b0c31b52bb829e5b00dfb0"
    assert f"creating new layer sha256:{recorded}" in [line["status"] for line in lines]


def test_unloading_is_answered_and_running_is_not(server: Server) -> None:
    """``ollama rm`` unloads first; what would run a model is 501 with a way to go."""
    for keep in (0, "0s", "0"):
        body = {"model": "tiny", "prompt": "", "keep_alive": keep}
        answer = server.http.post("/api/generate", json=body).json()
        assert (answer["done"], answer["done_reason"]) == (True, "unload")
    missing = server.http.post("/api/generate", json={"model": "nope", "keep_alive": 0})
    assert missing.status_code == 404
    for path, body in (
        ("/api/generate", {"model": "tiny", "prompt": "Hi"}),
        ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}),
        ("/api/embed", {"model": "tiny", "input": "Hi"}),
        ("/v1/chat/completions", {"model": "tiny", "messages": []}),
    ):
        answer = server.http.post(path, json=body)
        assert answer.status_code == 501 and "--upstream" in answer.text


def test_pull_and_push_name_the_registry(server: Server) -> None:
    """One that is not allowed ends with a clean error, and bad names are refused first."""
    for path in ("/api/pull", "/api/push"):
        answer = server.http.post(path, json={"name": "127.0.0.1:9/a/tiny", "insecure": True})
        assert answer.status_code == 403 and "127.0.0.1:9" in answer.json()["error"]
        assert server.http.post(path, json={"name": "http://x/../../etc"}).status_code == 400


def test_the_documents_need_nothing_from_elsewhere(server: Server) -> None:
    """/openapi.json has every endpoint, and the page at /docs loads nothing."""
    document = server.http.get("/openapi.json").json()
    assert document == json.loads(json.dumps(describe(ROUTES)))
    page = server.http.get("/docs").text
    assert "<script" not in page and "http://" not in page and "https://" not in page
    for row in ROUTES:
        assert row.path.replace(":path", "") in document["paths"]
        assert row.path.replace(":path", "") in page


def test_every_file_of_the_store_is_known(server: Server) -> None:
    """Whatever was asked, nothing but blobs, manifests and mbuild's own folder is there."""
    answer = server.create(model="known", files={"m.gguf": server.upload(GGUF)})
    assert lines_of(answer)[-1] == {"status": "success"}
    outside = {
        path for path in files_below(server.root) if path.split("/")[0] not in
        ("blobs", "manifests", ".mbuild")
    }  # fmt: skip
    assert not outside
    assert not list((server.root / ".mbuild" / "tmp").iterdir())
