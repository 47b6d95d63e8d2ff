"""What may lie in a store that others made: links to absent drives, old names, pipes, folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import Run
from filesystems import caller
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, StoreError
from mbuild.core.names import ModelName
from mbuild.store import Layer, Manifest, Store, place

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
MANIFEST = "store/manifests/registry.ollama.ai/library/a/latest"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Modelfile FROM a GGUF file."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\n")
    return tmp_path


@pytest.fixture
def built(project: Path, mbuild: Run) -> Path:
    """The folder of a project whose model ``a`` is in the store."""
    assert mbuild("-t", "a").returncode == 0
    return project


def blob_of(project: Path, media: str) -> Path:
    """The file of one of the model's blobs."""
    store = Store(project / "store")
    manifest = store.manifests.read(ModelName.parse("a")).manifest
    return store.blobs.path(next(b.digest for b in manifest.blobs() if b.kind == media))


# Drives that are not there.


@POSIX
@pytest.mark.parametrize("link", ["store", "store/blobs", "store/manifests", "usb"])
def test_links_to_absent_drives_are_named(built: Path, mbuild: Run, link: str) -> None:
    """No command takes a store whose drive is not there for an empty one."""
    place = built / link
    if place.exists():
        place.rename(built / "elsewhere")
    place.symlink_to("/nowhere/mounted")
    store = built / ("usb/models" if link == "usb" else "store")
    for command in ("list", "show a", "rm a", "cp a b", "du", "prune", "verify", "-t c"):
        done = mbuild("--store", store, *command.split())
        assert done.returncode == 1, command
        assert "is a link to /nowhere/mounted, which does not exist" in done.stderr, command
        assert "mount the disk" in done.stderr
    assert not Path("/nowhere").exists()


@POSIX
def test_a_blob_on_an_absent_drive_is_not_pruned(built: Path, mbuild: Run) -> None:
    """A link in a blob's place that a model needs stays, and verify says to mount the disk."""
    blob = blob_of(built, "system")
    blob.unlink()
    blob.symlink_to("/nowhere/blob")
    found = mbuild("verify", "--dry-run")
    assert found.returncode == 1
    assert "which does not exist" in found.stdout and "mount the disk" in found.stdout
    assert mbuild("prune").returncode == 0
    assert blob.is_symlink()
    shown = mbuild("show", "a")
    assert "is a link to /nowhere/blob, which does not exist" in shown.stderr


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nope", "/dev/null/x"])
def test_a_place_that_can_never_be_a_store_is_refused(
    project: Path, mbuild: Run, where: str
) -> None:
    """Build and serve say which place it is, and serve does not start on it."""
    if where.startswith("/") and sys.platform != "linux":
        pytest.skip("a path of Linux")
    (project / "file").write_text("x")
    for arguments in (("-t", "a"), ("serve", "--port", "0")):
        done = caller(project)("--store", where, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and where.split("/below")[0] in done.stderr
        assert "Traceback" not in done.stderr
    if where == "/proc/nope":
        assert "error: cannot create the store /proc/nope: No such file" in done.stderr


def test_an_empty_store_is_named_with_its_place(
    project: Path, mbuild: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks for models in the wrong store learns which one it was, and of the service's."""
    (project / "Modelfile").write_text("FROM llama\n")
    commands = ("list", "show a", "rm a", "-t b")
    for command in commands:
        assert f"the store {project / 'store'} " in mbuild(*command.split()).stderr
    service = project / "service"
    service.mkdir()
    monkeypatch.setattr(place, "SERVICE_STORE", service)
    for command in commands:
        assert f"--store {service}" in mbuild(*command.split()).stderr
        assert str(service) not in mbuild(*command.split(), "--store", "").stderr.replace(
            f"--store {service}", ""
        )


# What lies in a store.


def test_an_old_store_with_colons_is_understood(built: Path, mbuild: Run) -> None:
    """Blobs were called sha256:HEX once; every command knows them, and removes them."""
    if sys.platform == "win32":
        pytest.skip("a name that Windows does not have")
    blobs = built / "store/blobs"
    for path in list(blobs.iterdir()):
        path.rename(path.with_name(path.name.replace("-", ":")))
    (built / "Modelfile").write_text("FROM a\nSYSTEM other\n")
    for command in ("show a", "verify", "du", "-t b", "export b -o b.gguf", "cp b c", "prune"):
        done = mbuild(*command.split())
        assert (done.returncode, "missing" in done.stdout) == (0, False), done.stderr
    assert len([path for path in blobs.iterdir() if ":" in path.name]) == 3
    assert mbuild("rm", "a", "b", "c").returncode == 0
    assert mbuild("prune").returncode == 0
    assert list(blobs.iterdir()) == []


@POSIX
def test_verify_promises_only_what_prune_does(built: Path, mbuild: Run) -> None:
    """Of what has a blob's name and is none, prune removes all that verify says it removes."""
    blobs = built / "store/blobs"
    names = [blobs / f"sha256-{digit * 64}" for digit in "abcd"]
    names[0].mkdir()
    os.mkfifo(names[1])
    names[2].symlink_to("/nowhere")
    names[3].mkdir()
    (names[3] / "mine").write_text("x")
    found = mbuild("verify")
    assert found.returncode == 1
    assert found.stdout.count("mbuild prune removes it") == 3
    for what in ("a directory", "a named pipe", "a link that leads nowhere"):
        assert what in found.stdout
    assert f"look at what is in {names[3]}" in found.stdout
    done = mbuild("prune")
    assert done.returncode == 0
    assert [path for path in names if os.path.lexists(path)] == [names[3]]
    (names[3] / "mine").unlink()
    assert mbuild("prune").returncode == 0
    assert mbuild("verify").returncode == 0


@POSIX
def test_an_empty_folder_in_a_blobs_place_is_no_obstacle(project: Path, mbuild: Run) -> None:
    """The blob takes its place, as a download that was broken off left it there."""
    digest = Digest.of(b"hi")
    (project / "store/blobs" / digest.filename).mkdir(parents=True)
    assert mbuild("-t", "a").returncode == 0
    assert mbuild("verify").returncode == 0


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


@POSIX
@pytest.mark.parametrize(
    "what", ["manifest", "config", "model", "system", "history.jsonl", "cache.db", "lock"]
)
def test_no_command_waits_for_a_pipe_in_a_store(built: Path, mbuild: Run, what: str) -> None:
    """Wherever a file should be and a pipe is, every command ends, and most say what it is."""
    if what == "manifest":
        path = built / MANIFEST
    elif what in ("config", "model", "system"):
        path = blob_of(built, what)
    else:
        path = built / "store/.mbuild" / what
    make_pipe(path)
    call = caller(built)
    said = ""
    commands = ("list", "show a", "verify --dry-run", "du", "prune", "history", "explain -t a")
    for command in (*commands, "export a -o a.gguf", "cp a b", "-t a", "rm a"):
        done = call(*command.split())
        said += done.stdout + done.stderr
        assert done.returncode in (0, 1), command
        assert "Traceback" not in done.stderr
    if what in ("manifest", "config", "model"):
        assert "a named pipe, not a regular file" in said


@POSIX
def test_a_pipe_or_socket_as_a_manifest_is_named_and_can_be_removed(
    built: Path, mbuild: Run
) -> None:
    """list warns of it, prune does not go on beside it, rm and a build of that name end it."""
    pipe = built / MANIFEST.replace("/a/", "/pipe/")
    make_pipe(pipe)
    assert "a named pipe" in mbuild("list").stderr
    assert mbuild("prune").returncode == 1
    assert mbuild("rm", "pipe").returncode == 0
    assert not pipe.exists()
    make_pipe(pipe)
    assert mbuild("-t", "pipe").returncode == 0
    assert mbuild("show", "pipe").returncode == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "nothing but zeros or spaces"),
        (bytes(300), "nothing but zeros or spaces"),
        (b'{"schemaVersion":2,"lay', "it ends in the middle, after 23 bytes"),
        (b"<html>Not Found</html>", "it is not JSON"),
        (b"\x80\x81abc", "its bytes are not text"),
        (b"[]", "no layers"),
    ],
)
def test_a_manifest_that_is_none_is_called_what_it_is(
    built: Path, mbuild: Run, content: bytes, words: str
) -> None:
    """Full disks and power loss leave empty files and zeros; downloads leave pages."""
    (built / MANIFEST).write_bytes(content)
    for command in ("list", "show a", "verify"):
        done = mbuild(*command.split())
        assert words in done.stdout + done.stderr
        assert "Expecting value" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        ("application/vnd.docker.container.image.v1+json", "config"),
        ("application/vnd.oci.image.config.v1+json", "config"),
        ("application/vnd.ollama.image.model", "model"),
        ("application/vnd.ollama.image.params", "params"),
        ("text/plain", "plain"),
        ("v1", "v1"),
        ("", ""),
    ],
)
def test_a_layer_is_called_by_a_word(media_type: str, kind: str) -> None:
    """A version in the media type is no word for what the layer is."""
    assert Layer(media_type, Digest.of(b""), 0).kind == kind


def test_names_are_compared_as_the_file_system_does(tmp_path: Path) -> None:
    """Whether a store's file system folds case is asked of itself, not of the platform."""
    store = Store(tmp_path)
    store.prepare()
    folds = (tmp_path / "BLOBS").exists()
    assert Store(tmp_path).manifests.folds_case is folds
    if not folds:
        (tmp_path / "MANIFESTS").mkdir()  # what such a file system would show
        assert Store(tmp_path).manifests.folds_case


@POSIX
@pytest.mark.parametrize("name", [b'a b\n"c', b"\xff\xfe", "\u202e".encode(), b'"""', b"'q"])
def test_a_store_may_have_any_path(project: Path, name: bytes) -> None:
    """Spaces, line feeds, quotes, bytes that are no text: every command works, show's text too."""
    store = os.fsdecode(os.path.join(os.fsencode(project), name))
    call = caller(project, OLLAMA_MODELS=store)
    commands = ("list", "show a --json", "verify", "du", "prune", "history", "cp a b", "rm b")
    for command in ("-t a", *commands, "report -o r.html", "export a -o a.gguf"):
        done = call(*command.split())
        assert done.returncode == 0, (command, done.stderr)
    (project / "sub").mkdir()
    text = call("show", "a", "--modelfile").stdout
    (project / "sub/Modelfile").write_text(text, encoding="utf-8")
    assert call("-t", "again", "sub").returncode == 0


def test_reading_a_manifest_from_a_full_store_is_quick(built: Path) -> None:
    """Looking whether a blob is there under its usual name takes one call of the system."""
    store = Store(built / "store")
    calls: list[str] = []

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(str(built)):
            calls.append(event)

    sys.addaudithook(count)
    manifest = store.manifests.read(ModelName.parse("a")).manifest
    before = len(calls)
    assert all(store.blobs.has(layer.digest, layer.size) for layer in manifest.blobs())
    assert len(calls) == before


def test_a_store_that_cannot_be_looked_at_says_so(tmp_path: Path) -> None:
    """What lies in the place of a store's folders is named as what it is."""
    (tmp_path / "blobs").write_text("x")
    with pytest.raises(StoreError, match="blobs is a file, but a store is a folder"):
        place.check_place(tmp_path)
    assert isinstance(Manifest, type) and issubclass(DamagedError, StoreError)
