"""Names of models in registries, and what they are called in the store."""

from __future__ import annotations

import pytest

from mbuild.core.digest import Digest
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.registry.reference import ModelReference, has_host, is_host

DIGEST = Digest("ab" * 32)

WRITTEN = [
    ("llama3.2", "registry.ollama.ai", "library/llama3.2", "latest"),
    ("org/model:v1", "registry.ollama.ai", "org/model", "v1"),
    ("ghcr.io/org/model", "ghcr.io", "org/model", "latest"),
    ("https://ghcr.io/org/team/model:v1", "ghcr.io", "org/team/model", "v1"),
    ("localhost:5000/model:v1", "localhost:5000", "model", "v1"),
    ("localhost/model", "localhost", "model", "latest"),
    ("[::1]:5000/a/b", "[::1]:5000", "a/b", "latest"),
    ("docker.io/ai", "docker.io", "library/ai", "latest"),
    ("hf.co/Org/Repo-GGUF:Q4_K_M", "hf.co", "Org/Repo-GGUF", "Q4_K_M"),
    (f"ghcr.io/org/model@{DIGEST}", "ghcr.io", "org/model", "latest"),
    (f"ghcr.io/org/model:v1@{DIGEST}", "ghcr.io", "org/model", "v1"),
]


@pytest.mark.parametrize(("text", "host", "path", "tag"), WRITTEN)
def test_a_name_is_read(text: str, host: str, path: str, tag: str) -> None:
    """Host, path, tag and digest of each spelling; written down it reads as itself.

    What it is asked over is no part of its name, so the scheme is not written down.
    """
    found = ModelReference.parse(text)
    assert found[:3] == (host, path, tag)
    assert found.digest == (DIGEST if "@" in text else None)
    assert found.target == (str(DIGEST) if "@" in text else tag)
    assert found.scheme == ("https" if "://" in text else "")
    assert ModelReference.parse(str(found)) == found._replace(scheme="")


WRONG = [
    "ghcr.io/Org/model",
    "ghcr.io/org/-model",
    "ghcr.io/org//model",
    "ghcr.io/../etc/passwd",
    "ghcr.io/org/model:a b",
    "ghcr.io/org/model:",
    "ghcr.io/org/model:-v1",
    "ghcr.io:0/org/model",
    "ghcr.io:65536/org/model",
    "[::1]:99999/org/model",
    "ghcr.io/org/model@sha256:12",
    "ghcr.io/org/model@",
    "user:secret@ghcr.io/org/model",
    "ghcr.io/org/model?x=1",
    "ghcr.io/org/mo\ndel",
    "ghcr.io/" + "a/" * 200 + "b",
    "ghcr.io/a/b:" + "t" * 129,
    "a.b..c/./d",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_name_is_refused_before_anybody_is_asked(text: str) -> None:
    """With what a name looks like."""
    with pytest.raises(InvalidNameError) as caught:
        ModelReference.parse(text)
    assert caught.value.hint


LOCAL = [
    ("llama3.2", "llama3.2:latest"),
    ("ollama.com/org/model:v1", "org/model:v1"),
    ("ghcr.io/org/model:v1", "ghcr.io/org/model:v1"),
    ("ghcr.io/org/team/model", "ghcr.io/org___team/model:latest"),
    ("localhost:5000/model", "localhost:5000/_/model:latest"),
    (f"ghcr.io/org/model@{DIGEST}", f"ghcr.io/org/model:{DIGEST.filename}"),
]


@pytest.mark.parametrize(("text", "name"), LOCAL)
def test_a_model_has_one_name_in_the_store(text: str, name: str) -> None:
    """From which its place in the registry is found again."""
    reference = ModelReference.parse(text)
    assert str(reference.local) == name
    back = ModelReference.of(reference.local)
    assert (back.endpoint, back.path, back.target) == (
        reference.endpoint,
        reference.path,
        reference.target,
    )


def test_no_two_places_have_one_name_in_the_store() -> None:
    """Not even where the store has fewer parts than the path."""
    texts = [
        "h.io/model",
        "h.io/library/model",
        "h.io/a/b/model",
        "h.io/a__b/model",
        "h.io/a/model",
    ]
    assert len({ModelReference.parse(text).local for text in texts}) == len(texts)


def test_a_path_that_the_store_cannot_hold_says_how_to_name_it() -> None:
    """A namespace with a dot is none of Ollama's."""
    with pytest.raises(InvalidNameError) as caught:
        _ = ModelReference.parse("ghcr.io/my.org/model").local
    assert "-t NAME" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("llama3.2", False),
        ("org/model", False),
        ("localhost/model", True),
        ("ghcr.io/model", True),
        ("machine:5000/model", True),
        ("host/namespace/model", False),
        ("./folder", False),
        ("models/llama.gguf", False),
    ],
)
def test_a_name_with_a_host_is_told_from_one_without(text: str, host: bool) -> None:
    """As Docker does."""
    assert has_host(text) is host


def test_hosts_with_several_names_are_asked_under_one() -> None:
    """Docker Hub and Ollama's registry."""
    for host in ("docker.io", "index.docker.io"):
        assert ModelReference.parse(f"{host}/a/b").endpoint == "registry-1.docker.io"
    assert ModelReference.parse("ollama.com/a/b").endpoint == "registry.ollama.ai"
    assert ModelReference.of(ModelName.parse("a/b")).endpoint == "registry.ollama.ai"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ghcr.io/a/b:", "no tag behind the ':'"),
        ("ghcr.io/a/b:" + "t" * 129, "a tag has at most 128"),
        ("ghcr.io/" + "a/" * 200 + "b", "more than 255 characters"),
        ("ghcr.io:65536/a/b", "a port is a number from 1 to 65535, not 65536"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(text: str, said: str) -> None:
    """That rule alone which the name breaks."""
    with pytest.raises(InvalidNameError, match="is not the name of a model in") as caught:
        ModelReference.parse(text)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("text", "good"),
    [("ghcr.io", True), ("build", True), ("build:65535", True), ("[::1]:5000", True)]
    + [(text, False) for text in ("", "foo bar", "a:65536", "a:b", "u@a", "a/b")],
)
def test_what_is_a_host(text: str, good: bool) -> None:
    """With a port or without; nothing else stands beside it."""
    assert is_host(text) is good


@pytest.mark.parametrize(
    "text",
    ["localhost", "localhost:5000", "127.0.0.1:5000", "10.0.0.7", "[::1]:5000", "ghcr.io", "HF.co"],
)
def test_a_host_alone_is_no_model(text: str) -> None:
    """It would be looked for in Ollama's registry."""
    with pytest.raises(InvalidNameError, match="it is a host alone: write "):
        ModelReference.parse(text)


@pytest.mark.parametrize("text", ["llama3.2", "qwen2.5:7b", "phi3.5:5000", "mario", "x:127.0.0.1"])
def test_a_model_may_look_like_a_host(text: str) -> None:
    """With dots in its name, and digits for a tag."""
    assert ModelReference.parse(text).endpoint == "registry.ollama.ai"
