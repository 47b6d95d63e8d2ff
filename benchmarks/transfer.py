"""Pulls and pushes of one large model, on this machine, with Debian's docker-registry.

    python benchmarks/transfer.py [--size 1000] [--repeats 3] [--work FOLDER]

A pull is compared with the slower of ``curl -o`` of the same blob and ``openssl dgst -sha256`` of
it, a push with ``curl -T`` of it; all programs run in turn, and the registry on the same cores.
What counts on a busy machine are the processor's seconds of the client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import (
    MBUILD,
    Program,
    Runs,
    arguments,
    in_turn,
    machine,
    mib,
    seconds,
    table,
    work_folder,
)
from registries import docker_registry

from mbuild.core.names import ModelName
from mbuild.store import Layer, Manifest, Store
from mbuild.store.manifest import CONFIG_TYPE
from mbuild.store.media import MODEL

NAME = "large"


def model(store: Store, size: int) -> Layer:
    """A model of ``size`` MB of random weights; its layer of weights."""
    with store.blobs.writer() as writer:
        for _ in range(size):
            writer.write(os.urandom(1_000_000))
        weights = writer.commit()
    config = store.blobs.put(b'{"model_format":"gguf"}\n')
    layer = Layer(MODEL, weights.digest, weights.size)
    manifest = Manifest(Layer(CONFIG_TYPE, config.digest, config.size), (layer,))
    store.replace(ModelName.parse(NAME), manifest.encode())
    return layer


@contextmanager
def upload(host: str, blob: Path, digest: str) -> Iterator[Program]:
    """``curl -T`` of the blob into a repository that does not have it."""
    url = f"http://{host}/v2/curl/large/blobs/uploads/"
    place = blob.with_name("location")

    def begin() -> None:
        command = ["curl", "-sS", "-o", os.devnull, "-w", "%header{location}", "-X", "POST", url]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        place.write_text(f'url = "{found}&digest={digest}"\n')

    send = ["curl", "-sS", "-f", "-K", str(place), "-T", str(blob)]
    yield Program("curl -T", [send], begin)
    place.unlink(missing_ok=True)


def main() -> None:
    """The table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--size", type=int, default=1000, help="of the model, MB  [default: 1000]")
    options = parser.parse_args()
    print(f"{machine()}\n")
    with work_folder(options.work) as work:
        store, other, data = Store(work / "store"), work / "other", work / "registry"
        layer = model(store, options.size)
        blob = store.blobs.path(layer.digest)
        digest, copy = str(layer.digest), work / "copy"
        with docker_registry(data) as host, upload(host, copy, digest) as curl:
            shutil.copyfile(blob, copy)
            target, kept = f"{host}/mbuild/large:v1", data / "data" / "docker"
            push = [*MBUILD, "--store", str(store.root), "push", NAME, target]
            subprocess.run(push, check=True)

            def forget() -> None:
                shutil.rmtree(kept, ignore_errors=True)

            pull = [*MBUILD, "--store", str(other), "pull", target]
            get = ["curl", "-sS", "-f", "-o", str(work / "got")]
            get.append(f"http://{host}/v2/mbuild/large/blobs/{digest}")

            def begin() -> None:
                forget()
                curl.before()

            pulls = in_turn(
                [
                    Program("curl -o", [get]),
                    Program("openssl dgst -sha256", [["openssl", "dgst", "-sha256", str(copy)]]),
                    Program(
                        "mbuild pull", [pull], lambda: shutil.rmtree(other, ignore_errors=True)
                    ),
                ],
                options.repeats,
            )
            pushes = in_turn(
                [
                    Program("curl -T", curl.commands, begin),
                    Program("mbuild push", [push], forget),
                ],
                options.repeats,
            )
        report(pulls, pushes)


def report(pulls: dict[str, Runs], pushes: dict[str, Runs]) -> None:
    """Wall times, the client's processor seconds, memory, and the ratios.

    A pull has to do what curl and openssl do together, so their CPU is what this machine needs.
    """
    rows = [
        [name, seconds(runs.wall), runs.spread, seconds(runs.cpu), mib(runs.peak)]
        for name, runs in {**pulls, **pushes}.items()
    ]
    print(table(["program", "wall", "fastest to slowest", "CPU", "peak memory"], rows))
    slower = max(pulls["curl -o"].wall, pulls["openssl dgst -sha256"].wall)
    ratio = pulls["mbuild pull"].wall / slower
    print(f"pull: {ratio:.2f} times the slower of curl and openssl")
    both = pulls["curl -o"].cpu + pulls["openssl dgst -sha256"].cpu
    print(
        f"pull, CPU: {pulls['mbuild pull'].cpu / both:.2f} times that of curl and openssl together"
    )
    print(f"push: {pushes['mbuild push'].wall / pushes['curl -T'].wall:.2f} times curl -T")


if __name__ == "__main__":
    main()
