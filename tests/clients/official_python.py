"""Scenarios P1 to P16 with the official Python client; run with its Python, not mbuild's.

    python official_python.py URL FOLDER STORE REGISTRY

FOLDER holds the example models; REGISTRY is one that the server may ask, over http. Every check is
an assertion.
"""

import asyncio
import hashlib
import pathlib
import sys
import urllib.error
import urllib.request

import ollama

URL, FOLDER, STORE = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
REGISTRY = sys.argv[4]
GGUF = FOLDER / "tiny.gguf"
CLIENT = ollama.Client(URL)


def manifest(name):
    return (STORE / "manifests/registry.ollama.ai/library" / name / "latest").read_bytes()


def digests(folder):
    return {path.name: CLIENT.create_blob(path) for path in sorted(folder.iterdir())}


def refused(function, status, text):
    try:
        function()
    except ollama.ResponseError as error:
        assert error.status_code in (status if isinstance(status, tuple) else (status,)), error
        assert text in error.error, error
    else:
        raise AssertionError(f"not refused: {text}")


def p1_blobs():
    digest = CLIENT.create_blob(GGUF)
    assert digest == "sha256:" + hashlib.sha256(GGUF.read_bytes()).hexdigest()
    assert CLIENT.create_blob(GGUF) == digest
    request = urllib.request.Request(f"{URL}/api/blobs/{digest}", method="HEAD")
    assert urllib.request.urlopen(request).status == 200
    assert [p.name for p in (STORE / "blobs").iterdir()] == [digest.replace(":", "-")]


def p2_create():
    answer = CLIENT.create(
        model="p",
        files={"tiny.gguf": CLIENT.create_blob(GGUF)},
        system="s",
        license=["A", "B"],
        parameters={"temperature": 0.5, "stop": ["x", "y"]},
        messages=[
            {"role": "user", "content": "Hi"},
            ollama.Message(role="assistant", content="Ho"),
        ],
    )
    assert answer.status == "success"


def p3_stream():
    lines = list(CLIENT.create("p2", from_="p", system="t", stream=True))
    assert lines[-1].status == "success"
    texts = [line.status for line in lines]
    assert any(text.startswith("creating new layer") for text in texts)
    assert any(text.startswith("using existing layer") for text in texts)


def p4_missing():
    refused(lambda: CLIENT.create("p3", from_="nope"), 404, "model 'nope' not found")
    refused(lambda: list(CLIENT.create("p3", from_="nope", stream=True)), 404, "not found")
    assert not (STORE / "manifests/registry.ollama.ai/library/p3").exists()


def p5_wrong():
    refused(lambda: CLIENT.create("p"), 400, "neither 'from' or 'files' was specified")
    refused(lambda: CLIENT.create("!!", from_="p"), 400, "invalid model name")


def p6_quantize():
    CLIENT.create("p16", files=digests(FOLDER / "tiny-chat"))
    CLIENT.create("q", from_="p16", quantize="q4_K_M")
    assert CLIENT.show("q").details.quantization_level == "Q4_K_M"
    text = "quantization is only supported for F16, BF16 and F32 models"
    refused(lambda: CLIENT.create("qq", from_="q", quantize="q8_0"), 400, text)


def p7_adapter():
    files = digests(FOLDER / "tiny-lora")
    CLIENT.create("a", from_="p16", adapters=files)
    assert "ADAPTER" in CLIENT.show("a").modelfile
    only = {"adapter_model.safetensors": files["adapter_model.safetensors"]}
    refused(lambda: CLIENT.create("a2", from_="p16", adapters=only), 400, "adapter_config.json")


def p8_safetensors():
    CLIENT.create("tiny-chat", files=digests(FOLDER / "tiny-chat"))
    assert b"application/vnd.ollama.image.model" in manifest("tiny-chat")


def p9_list():
    for model in CLIENT.list().models:
        assert model.model.endswith(":latest"), model.model
        data = manifest(model.model.removesuffix(":latest"))
        assert model.digest == hashlib.sha256(data).hexdigest()
        assert model.size > 0


def p10_show():
    shown = CLIENT.show("p")
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.template and 'stop                           "x"' in shown.parameters
    assert shown.license == "A\nB" and "completion" in shown.capabilities
    assert shown.modified_at.year > 2000
    refused(lambda: CLIENT.show("nope"), 404, "model 'nope:latest' not found")


def p11_copy_and_delete():
    digest = CLIENT.create_blob(FOLDER / "other.gguf")
    CLIENT.create("o", files={"other.gguf": digest})
    assert CLIENT.copy("o", "c").status == "success"
    assert {"o:latest", "c:latest"} <= {model.model for model in CLIENT.list().models}
    assert CLIENT.delete("o").status == "success"
    assert CLIENT.show("c").modelinfo
    blob = STORE / "blobs" / digest.replace(":", "-")
    assert blob.exists()
    CLIENT.delete("c")
    assert not blob.exists()
    refused(lambda: CLIENT.delete("c"), 404, "not found")
    refused(lambda: CLIENT.copy("c", "d"), 404, "not found")


def p12_no_inference():
    assert CLIENT.ps().models == []
    talk = [{"role": "user", "content": "Hi"}]
    refused(lambda: CLIENT.chat("p", messages=talk), 501, "--upstream")
    refused(lambda: CLIENT.generate("p", "Hi"), 501, "--upstream")
    refused(lambda: CLIENT.embed("p", "Hi"), 501, "--upstream")


def p13_corrupt():
    path = FOLDER / "corrupt.gguf"
    path.write_bytes(GGUF.read_bytes()[:5000])
    files = {"corrupt.gguf": CLIENT.create_blob(path)}
    refused(lambda: list(CLIENT.create("bad", files=files, stream=True)), (-1, 400), "")
    refused(lambda: CLIENT.create("bad", files=files), 400, "corrupt.gguf")
    refused(lambda: CLIENT.show("bad"), 404, "not found")


async def p14_many_at_once():
    client = ollama.AsyncClient(URL)

    async def one(number):
        for _ in range(3):
            for action in (
                lambda: client.create(f"n{number % 5}", from_="p", system=f"s{number % 7}"),
                lambda: client.delete(f"n{number % 5}"),
            ):
                try:
                    await action()
                except ollama.ResponseError as error:
                    assert error.status_code == 404, error

    await asyncio.gather(*(one(number) for number in range(50)))
    models = (await client.list()).models
    assert {"p:latest", "p2:latest"} <= {model.model for model in models}
    last = None
    async for line in await client.create("later", from_="p", stream=True):
        last = line.status
    assert last == "success"
    assert await client.create_blob(GGUF) == CLIENT.create_blob(GGUF)
    assert (await client.show("later")).modelinfo
    assert (await client.copy("later", "latest-copy")).status == "success"
    assert (await client.ps()).models == []


def p15_wrong_digest():
    digest = "sha256:" + "0" * 64
    request = urllib.request.Request(f"{URL}/api/blobs/{digest}", b"x", method="POST")
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        assert error.code == 400
    assert not (STORE / "blobs" / digest.replace(":", "-")).exists()


async def p16_pull_and_push():
    name = f"{REGISTRY}/lib/p:v1"
    assert CLIENT.copy("p", name).status == "success"
    lines = list(CLIENT.push(name, insecure=True, stream=True))
    assert [lines[0].status, lines[-1].status] == ["retrieving manifest", "success"]
    moved = [line for line in lines if line.digest]
    assert moved and all(line.completed <= line.total for line in moved if line.completed)
    assert CLIENT.push(name).status == "success"
    before = CLIENT.show(name)
    assert CLIENT.delete(name).status == "success"
    lines = list(CLIENT.pull(name, insecure=True, stream=True))
    assert [lines[0].status, lines[-1].status] == ["pulling manifest", "success"]
    assert CLIENT.pull(name).status == "success"
    assert CLIENT.show(name).modelinfo == before.modelinfo
    absent = f"{REGISTRY}/lib/none:v1"
    refused(lambda: CLIENT.pull(absent), 500, "pull model manifest: file does not exist")
    refused(lambda: list(CLIENT.pull(absent, stream=True)), -1, "file does not exist")
    refused(lambda: CLIENT.push(absent), 404, "not found")
    refused(lambda: list(CLIENT.push(absent, stream=True)), -1, "not found")
    refused(lambda: CLIENT.pull("127.0.0.1:9/a/b", insecure=True), 403, "--registry")
    refused(lambda: CLIENT.pull("a//b"), 400, "invalid model name")
    client = ollama.AsyncClient(URL)
    async for line in await client.pull(name, stream=True):
        assert line.status == "pulling manifest"
        break  # it goes away in the middle


for scenario in (
    p1_blobs,
    p2_create,
    p3_stream,
    p4_missing,
    p5_wrong,
    p6_quantize,
    p7_adapter,
    p8_safetensors,
    p9_list,
    p10_show,
    p11_copy_and_delete,
    p12_no_inference,
    p13_corrupt,
    p14_many_at_once,
    p15_wrong_digest,
    p16_pull_and_push,
):
    result = scenario()
    if result is not None:
        asyncio.run(result)
    print(scenario.__name__, "ok")
