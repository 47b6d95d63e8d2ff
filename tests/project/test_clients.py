"""Other people's clients, as their registries have them, against ``mbuild serve``.

They are installed once (:mod:`installed`) and stay there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asked import asked
from gguf_files import tiny_gguf
from installed import from_npm, from_pypi
from live_server import LiveServer, Server, example_models, serving, serving_here, upload_folder
from registries import docker_registry

from mbuild.build.build import build
from mbuild.build.prepare import read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.names import ModelName

SCRIPTS = Path(__file__).parents[1] / "clients"
PYPI = (
    "ollama", "langchain-ollama", "llama-index-llms-ollama", "litellm", "llm-ollama", "anthropic",
)  # fmt: skip
NPM = ("ollama", "ollama-mcp")

pytestmark = pytest.mark.clients


@pytest.fixture(scope="session")
def client_python() -> Path:
    """The Python that has the clients of PyPI."""
    return from_pypi("py", PYPI) / "python"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A folder whose ``node_modules`` has the clients of npm."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    return from_npm("node", NPM)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example models, and one more GGUF that no other model shares."""
    folder = example_models(tmp_path_factory.mktemp("models"))
    tiny_gguf(folder / "other.gguf", seed=5)
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def with_p(tmp_path: Path, models: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that has the model ``p``, and may ask the registry if the test has one."""
    here = "registry" in request.fixturenames
    registries = [f"http://{request.getfixturevalue('registry')}"] if here else []
    with serving_here(tmp_path / "store", registries=registries) as server:
        digest = server.upload((models / "tiny.gguf").read_bytes())
        server.create(model="p", files={"p.gguf": digest}, stream=False).raise_for_status()
        yield server


def run(*command: str | Path, **options: Any) -> str:
    """Run a client's script; what it said must not hold a traceback."""
    environment = {**os.environ, "no_proxy": "*", "PYTHONPATH": ""}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_official_python_client(client_python: Path, models: Path, tmp_path: Path) -> None:
    """P1 to P16; its create gives the manifest that the command line gives."""
    with (
        docker_registry(tmp_path / "registry") as host,
        serving(
            tmp_path / "store", "--port", "0", "--no-run", "--registry", f"http://{host}"
        ) as server,
    ):
        script = SCRIPTS / "official_python.py"
        said = run(client_python, script, server.url, models, server.root, host)
        assert said.count(" ok") == 16
        text = (
            f"FROM {models}/tiny.gguf\nSYSTEM s\nLICENSE A\nLICENSE B\n"
            "PARAMETER temperature 0.5\nPARAMETER stop x\nPARAMETER stop y\n"
            "MESSAGE user Hi\nMESSAGE assistant Ho\n"
        )
        assert _by_text(server, text) == _manifest(server, "p")
        converted = _manifest(server, "tiny-chat")
        assert _by_text(server, f"FROM {models}/tiny-chat\n") == converted


def _by_text(server: LiveServer, text: str) -> bytes | None:
    store, name = server.store, ModelName.parse("by-text")
    recipe, _ = read_recipe(text.encode(), "Modelfile", store)
    list(build(asked(recipe, LocalContext(Path("/"), store), name), store))
    return store.manifests.read_bytes(name)


def _manifest(server: LiveServer, name: str) -> bytes | None:
    return server.store.manifests.read_bytes(ModelName.parse(name))


def test_other_python_clients(client_python: Path, with_p: Server) -> None:
    """langchain-ollama, llama-index, LiteLLM and llm-ollama find and describe the model."""
    said = run(client_python, SCRIPTS / "other_python.py", with_p.url)
    assert said.count(" ok") == 4


def test_official_javascript_client(node_modules: Path, registry: str, with_p: Server) -> None:
    """J1 to J9."""
    script = node_modules / "official_javascript.mjs"
    shutil.copyfile(SCRIPTS / "official_javascript.mjs", script)
    junk = with_p.upload(b"this is not a model")
    assert run("node", script, with_p.url, junk, registry).count(" ok") == 9


def test_ollama_mcp(node_modules: Path, with_p: Server) -> None:
    """An MCP client over standard input lists, creates, shows, copies and deletes."""
    package = json.loads((node_modules / "node_modules/ollama-mcp/package.json").read_text())
    binary = package["bin"]
    program = binary if isinstance(binary, str) else next(iter(binary.values()))
    process = subprocess.Popen(
        ["node", str(node_modules / "node_modules/ollama-mcp" / program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OLLAMA_HOST": with_p.url},
    )
    assert process.stdin is not None and process.stdout is not None
    number = 0

    def call(method: str, **parameters: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
        process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        answer: dict[str, Any] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        return answer["result"]

    def tool(name: str, **arguments: Any) -> str:
        result = call("tools/call", name=name, arguments=arguments)
        return ("ERROR " if result.get("isError") else "") + result["content"][0]["text"]

    try:
        hello = {"protocolVersion": "2024-11-05", "capabilities": {}}
        call("initialize", **hello, clientInfo={"name": "test", "version": "1"})
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        process.stdin.write(json.dumps(note) + "\n")
        names = {item["name"] for item in call("tools/list")["tools"]}
        assert {"ollama_list", "ollama_create", "ollama_show", "ollama_delete"} <= names
        assert "p:latest" in tool("ollama_list", format="json")
        created = tool("ollama_create", model="m", **{"from": "p"}, system="You are M.")
        assert not created.startswith("ERROR"), created
        assert "You are M." in tool("ollama_show", model="m")
        assert not tool("ollama_copy", source="m", destination="m2").startswith("ERROR")
        assert not tool("ollama_delete", model="m2").startswith("ERROR")
        assert "m2" not in tool("ollama_list", format="json")
        assert "not found" in tool("ollama_show", model="m2")
        assert "--registry" in tool("ollama_pull", model="127.0.0.1:9/a/b")
        assert "models" in tool("ollama_ps", format="json")
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(20)


def test_open_webui_upload(with_p: Server, models: Path) -> None:
    """Its requests: the blob as octets, create with the file's name, both names everywhere."""
    data = (models / "other.gguf").read_bytes()
    digest = with_p.upload(data)
    headers = {"Content-Type": "application/octet-stream", "X-OpenWebUI-User-Id": "1"}
    again = with_p.http.post(f"/api/blobs/{digest}", content=data, headers=headers)
    assert again.status_code == 200
    body = {"model": "other", "files": {"other.gguf": digest}, "stream": False, "path": "x"}
    assert with_p.http.post("/api/create", json=body).json() == {"status": "success"}
    both = {"name": "other", "model": "other"}
    assert with_p.http.post("/api/show", json=both).is_success
    assert with_p.http.request("DELETE", "/api/delete", json=both).is_success


END = b"0\r\n\r\n"

GO_REQUESTS = (
    ("HEAD", "/", "", 200),
    ("POST", "/api/create", '{"model":"g","stream":null,"from":"p","name":""}', 200),
    ("POST", "/api/show", '{"model":"","system":"","template":"","verbose":false,'
                          '"options":null,"name":"g"}', 200),
    ("GET", "/api/tags", "", 200),
    ("POST", "/api/copy", '{"source":"g","destination":"g2"}', 200),
    ("POST", "/api/show", '{"model":"","system":"","template":"","verbose":false,'
                          '"options":null,"name":"g2"}', 200),
    ("POST", "/api/generate", '{"model":"g2","prompt":"","suffix":"","system":"","template":"",'
                              '"keep_alive":"0s","options":null}', 200),
    ("DELETE", "/api/delete", '{"model":"","name":"g2"}', 200),
    ("POST", "/api/create", '{"model":"g8","quantize":"q8_0","from":"p","name":""}', 200),
    ("POST", "/api/push", '{"model":"","insecure":true,"username":"","password":"",'
                          '"stream":null,"name":"localhost:1/library/g"}', 403),
)  # fmt: skip
"""What Ollama's own command line sends (G1, G3 to G8), in the order of a session."""


def test_go_command_line(with_p: Server, models: Path) -> None:
    """Its recorded requests over raw sockets; blobs come in chunks with JSON's content type."""
    data = (models / "other.gguf").read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    fields = "Host: 127.0.0.1\r\nUser-Agent: ollama/0.32.15 (amd64 linux) Go/go1.24\r\n"
    chunks = (data[i : i + 65536] for i in range(0, len(data), 65536))
    blob = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = f"POST /api/blobs/{digest} HTTP/1.1\r\n{fields}Content-Type: application/json\r\n"
    uploaded = with_p.raw((head + "Transfer-Encoding: chunked\r\n\r\n").encode() + blob + END)
    assert uploaded.startswith(b"HTTP/1.1 201 ")
    for method, path, body, status in GO_REQUESTS:
        head = f"{method} {path} HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n"
        accept = "Accept: application/x-ndjson\r\nContent-Type: application/json\r\n\r\n"
        answer = with_p.raw((head + accept + body).encode(), timeout=60)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (path, answer)
        if path == "/api/create":
            assert b'{"status":"success"}' in answer, answer
    models_listed = with_p.http.get("/api/tags").json()["models"]
    assert all(len(model["digest"]) == 64 for model in models_listed)


def test_continue_reads_the_parameters(with_p: Server) -> None:
    """Each line of ``parameters`` is what Continue's regular expression takes."""
    parameters = {"num_ctx": 4096, "stop": ["a b", '"'], "temperature": 0.5}
    with_p.create(model="c", **{"from": "p"}, parameters=parameters, stream=False)
    text = with_p.http.post("/api/show", json={"name": "c"}).json()["parameters"]
    rows = [re.fullmatch(r'(\S+)\s+((?:".*")|\S+)', line) for line in text.splitlines()]
    assert all(rows) and len(rows) == 4
    assert int(next(r[2] for r in rows if r and r[1] == "num_ctx")) == 4096
    assert [json.loads(r[2]) for r in rows if r and r[1] == "stop"] == ["a b", '"']


def test_safetensors_folder_with_subfolders(with_p: Server, models: Path) -> None:
    """A folder's name before every file, as browsers send them, does not matter."""
    plain = upload_folder(with_p, models / "tiny-chat")
    inside = {f"tiny-chat/{name}": digest for name, digest in plain.items()}
    for name, files in (("plain", plain), ("inside", inside)):
        with_p.create(model=name, files=files, stream=False).raise_for_status()
    names = (ModelName.parse("plain"), ModelName.parse("inside"))
    sizes = {with_p.store.manifests.read(name).size for name in names}
    assert len(sizes) == 1 or max(sizes) - min(sizes) < 1000  # the folder's name is in the header
