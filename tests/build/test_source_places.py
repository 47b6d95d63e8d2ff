"""Which files of a folder count, and which are refused, by their names and places."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import tiny_gguf

from mbuild.build.sources import places
from mbuild.build.sources.values import CheckpointSource, FileStamp, GGUFSource, SourceFile
from mbuild.core.errors import MissingFileError, SourceError


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("config.json", True),
        ("anything.safetensors", True),
        ("README.md", True),
        ("training_args.json", False),
        ("pytorch_model.bin", True),
        ("1_Pooling/config.json", True),
        ("additional_chat_templates/rag.jinja", True),
        ("additional_chat_templates/rag.txt", False),
        ("other/config.json", False),
        ("deep/1_Pooling/config.json", False),
        ("checkpoint-500/model.safetensors", False),
    ],
)
def test_a_conversion_reads_few_files(name: str, counts: bool) -> None:
    """A log, another step of a training and the like change nothing."""
    assert places.is_part_of_checkpoint(name) is counts


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (".", True),
        ("..", True),
        ("./chat", True),
        ("~/chat", True),
        ("/models/chat", True),
        ("..\\chat", True),
        ("chat.gguf", True),
        ("model.safetensors", True),
        ("pytorch_model.bin", True),
        ("llama3", False),
        ("me/llama3:8b", False),
        (".chat", False),
        ("gguf", False),
    ],
)
def test_what_can_only_be_a_path(value: str, path: bool) -> None:
    """The rest may be a model's name."""
    assert places.is_path(value) is path


def test_an_empty_value_names_nothing() -> None:
    """It would be the Modelfile's own folder."""
    for value in ("", "  "):
        with pytest.raises(SourceError, match="ADAPTER names nothing"):
            places.check_named("ADAPTER", value)
    places.check_named("FROM", ".")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b"---\nlicense: mit\n---\nWords.\n", b"---\nlicense: mit"),
        (b"---\nlicense: mit\n", b"---\nlicense: mit\n"),
        (b"# Title\n---\nlicense: mit\n---\n", b""),
        (b"", b""),
    ],
)
def test_of_a_card_the_front_matter_counts(tmp_path: Path, text: bytes, read: bytes) -> None:
    """The text below it is for people; without an end all of it counts."""
    path = tmp_path / "README.md"
    path.write_bytes(text)
    assert places.front_matter(path, "README.md") == read


def test_a_card_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """By the name that the user knows."""
    with pytest.raises(SourceError, match=r"chat/README\.md: "):
        places.front_matter(tmp_path / "README.md", "chat/README.md")


def link(folder: Path, name: str, target: Path) -> None:
    """A link in the folder to a file that exists."""
    folder.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("x")
    (folder / name).symlink_to(target)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("tokenizer.json", "chat/other.json"),
        ("tokenizer.json", "elsewhere/tokenizer.json"),
        ("tokenizer.json", "hub/models--me--chat/blobs/0123abcd"),
        ("model.safetensors", "elsewhere/anything"),
        ("MODEL.GGUF", "elsewhere/anything"),
    ],
)
def test_a_link_may_lead_to_what_is_a_part_of_the_model(
    tmp_path: Path, name: str, target: str
) -> None:
    """Inside, to a file of its name, into a cache of the Hub; weights may lie anywhere."""
    link(tmp_path / "chat", name, tmp_path / target)
    places.check_inside(tmp_path / "chat", name, "./chat")


@pytest.mark.parametrize("target", ["home/.ssh/id_rsa", "blobs/0123abcd", "chat2/secret.json"])
def test_a_link_must_not_publish_another_file(tmp_path: Path, target: str) -> None:
    """A text becomes part of the model as it is."""
    link(tmp_path / "chat", "tokenizer.json", tmp_path / target)
    with pytest.raises(SourceError, match=r"\./chat/tokenizer.json is a link to a file of another"):
        places.check_inside(tmp_path / "chat", "tokenizer.json", "./chat")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "unknown.json"])
def test_one_file_of_a_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    """The hint names its folder."""
    (tmp_path / name).write_text("{}")
    with pytest.raises(SourceError, match="it is one file of a checkpoint") as caught:
        places.refuse_part("FROM", f"chat/{name}", tmp_path / name)
    assert caught.value.hint == "name the folder: FROM chat"
    with pytest.raises(SourceError) as caught:
        places.refuse_part("FROM", name, tmp_path / name)
    assert caught.value.hint == "name the folder: FROM ."


def test_a_gguf_file_is_none_whatever_it_is_called(tmp_path: Path) -> None:
    """Its first bytes tell; nor is a file of any other name."""
    places.refuse_part("FROM", "m", tiny_gguf(tmp_path / "model.safetensors"))
    (tmp_path / "notes.txt").write_text("x")
    places.refuse_part("FROM", "m", tmp_path / "notes.txt")


def test_an_adapter_is_a_folder_without_a_model(tmp_path: Path) -> None:
    """With a config of its own it is a model that brings one along."""
    file = SourceFile("f", tmp_path / "f", FileStamp(0, 0, 0, 0, 0), None)
    adapter = {"adapter_config.json": file, "adapter_model.safetensors": file}
    assert places.is_adapter(CheckpointSource("a", adapter))
    assert not places.is_adapter(CheckpointSource("a", {**adapter, "config.json": file}))
    assert not places.is_adapter(GGUFSource((file,)))
    assert places.is_model(CheckpointSource("a", {"config.json": file}))
    assert not places.is_model(CheckpointSource("a", {**adapter, "config.json": file}))
    assert not places.is_model(GGUFSource((file,)))


def test_messages_stay_short(tmp_path: Path) -> None:
    """Of a value and of missing shards only so many characters and names are shown."""
    assert places.short("x" * 500) == "x" * 500
    assert places.short("x" * 501) == "x" * 500 + "..."
    error = places.shards_missing("m", [f"s{n}" for n in range(9)], 10, "copy them")
    assert isinstance(error, MissingFileError)
    assert error.message == "m: 9 of 10 shards are missing: s0, s1, s2"
    assert places.not_the_first("s2", 10, "name s1").message == "s2 is not the first of 10 shards"


def test_a_link_to_nowhere_says_where(tmp_path: Path) -> None:
    """Not that there is no such file: one can see it in the folder."""
    (tmp_path / "m").symlink_to(tmp_path / "drive")
    for name, told in (
        ("m", f"a link to {tmp_path}/drive, which does not exist"),
        ("n", "no such"),
    ):
        with pytest.raises(OSError) as caught:
            (tmp_path / name).stat()
        assert places.unusable(tmp_path / name, caught.value).startswith(told)
