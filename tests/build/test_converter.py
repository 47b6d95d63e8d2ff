"""``--converter``: a checkout of llama.cpp converts, in a process that knows nothing else."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Run
from example_models import settle, write_chat
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.build.again import with_converter
from mbuild.build.converter import ConvertOptions, ForeignConverter, environment, find_converter
from mbuild.build.graph import StepContext
from mbuild.build.request import BuildRequest, Target
from mbuild.build.steps.external import foreign_model
from mbuild.convert.conversion import Conversion
from mbuild.core.errors import (
    CancelledError,
    FormatError,
    MissingFileError,
    SourceError,
    UnsupportedError,
    UsageError,
)
from mbuild.core.names import ModelName
from mbuild.store import Store
from mbuild.store.files import remove_stale

SCRIPT = """
import json, os, pathlib, shutil, sys, time
source, target = pathlib.Path(sys.argv[1]), sys.argv[sys.argv.index("--outfile") + 1]
here = pathlib.Path(__file__).parent
said = {"env": dict(os.environ), "args": sys.argv[1:], "cwd": os.getcwd(),
        "files": sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())}
(here / "said.json").write_text(json.dumps(said))
if (here / "wait").exists():
    time.sleep(60)
if (here / "fail").exists():
    sys.exit("ValueError: no such \x1b[31mtokenizer")
shutil.copy(here / "made.gguf", target)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like a checkout of llama.cpp, whose converter writes a tiny model."""
    folder = tmp_path / "llama.cpp"
    (folder / "conversion").mkdir(parents=True)
    (folder / "convert_hf_to_gguf.py").write_text(SCRIPT)
    (folder / "conversion" / "base.py").write_text("VERSION = 1\n")
    tiny_gguf(folder / "made.gguf")
    return folder


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, with a checkpoint of a class that nobody knows."""
    write_chat(tmp_path / "chat")
    config = json.loads((tmp_path / "chat" / "config.json").read_text())
    config["architectures"] = ["ZebraForCausalLM"]
    (tmp_path / "chat" / "config.json").write_text(json.dumps(config))
    (tmp_path / "chat" / "secret.log").write_text("no part of the checkpoint")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    settle()
    return in_process(tmp_path, monkeypatch)


def said(checkout: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((checkout / "said.json").read_text())
    return found


def test_an_unknown_family_is_converted_cached_and_asked_for_again(
    mbuild: Run, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; not again until the converter's code changes; and never without being named."""
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MBUILD_TEST_SECRET"):
        monkeypatch.setenv(name, "secret")
    flags = ("--converter", str(checkout), "--converter-python", sys.executable)
    done = mbuild("-t", "m", *flags)
    assert done.returncode == 0, done.stderr
    told = said(checkout)
    assert "secret" not in json.dumps(told["env"]) and "secret.log" not in json.dumps(told)
    assert str(Path.home()) != told["env"]["HOME"]  # type: ignore[index]
    assert "config.json" in told["files"] and "model.safetensors" in told["files"]  # type: ignore[operator]
    (checkout / "said.json").unlink()
    assert mbuild("-t", "m", *flags).returncode == 0
    assert not (checkout / "said.json").exists(), "it is cached"
    (checkout / "conversion" / "base.py").write_text("VERSION = 2\n")
    assert mbuild("-t", "m", *flags).returncode == 0
    assert (checkout / "said.json").exists(), "its code counts"
    assert not [*(tmp_path / "store" / ".mbuild" / "tmp").iterdir()]
    without = mbuild("-t", "m")
    assert without.returncode == 1 and "--converter PATH" in without.stderr
    rebuilt = mbuild("verify", "--rebuild", "m")
    assert rebuilt.returncode == 2 and "only the command line can name" in rebuilt.stderr
    assert mbuild("verify", "--rebuild", "m", *flags).returncode == 0


def test_a_lock_has_the_converters_digest_and_no_path(
    mbuild: Run, checkout: Path, tmp_path: Path
) -> None:
    """``--locked`` wants it named again, and its code unchanged."""
    flags = ("--converter", str(checkout), "--converter-python", sys.executable)
    assert mbuild("lock", *flags).returncode == 0
    text = (tmp_path / "Modelfile.lock").read_text()
    assert '"converter": "sha256:' in text and str(checkout) not in text
    assert mbuild("build", "--locked", "-t", "m", *flags).returncode == 0
    without = mbuild("build", "--locked", "-t", "m")
    assert without.returncode == 1 and "--converter is in the lock file" in without.stderr
    (checkout / "conversion" / "base.py").write_text("VERSION = 2\n")
    changed = mbuild("build", "--locked", "-t", "m", *flags)
    assert changed.returncode == 1 and "--converter changed" in changed.stderr


def test_what_fails_is_told_by_its_last_line(mbuild: Run, checkout: Path, tmp_path: Path) -> None:
    """Without what a terminal would act on; nothing is left behind."""
    (checkout / "fail").touch()
    flags = ("--converter", str(checkout), "--converter-python", sys.executable)
    done = mbuild("-t", "m", *flags)
    assert done.returncode == 1 and "ValueError: no such [31mtokenizer" in done.stderr
    assert not [*(tmp_path / "store" / ".mbuild" / "tmp").iterdir()]
    other = mbuild("-t", "m", "--converter", str(checkout), "--converter-python", "./no-python")
    assert other.returncode == 1 and "--converter-python ./no-python" in other.stderr
    assert mbuild("-t", "m", "--converter-python", "x").returncode != 0
    none = mbuild("-t", "m", "--converter", str(tmp_path))
    assert none.returncode != 0 and "there is no convert_hf_to_gguf.py" in none.stderr


def converter(checkout: Path, tmp_path: Path) -> ForeignConverter:
    return find_converter(str(checkout), sys.executable, tmp_path / "scratch")


def test_a_stopped_build_ends_the_converter(checkout: Path, tmp_path: Path) -> None:
    """At once, and its files are removed; until then nobody takes them for left over."""
    (checkout / "wait").touch()

    def stop(done: int, total: int) -> None:
        assert remove_stale(tmp_path / "scratch") == 0
        assert len([*(tmp_path / "scratch").iterdir()]) == 1
        raise CancelledError("stopped")

    context = StepContext.silent(Store(tmp_path / "store"))._replace(report=stop)
    started = time.monotonic()
    with pytest.raises(CancelledError), ExitStack() as stack:
        foreign_model(
            "x", converter(checkout, tmp_path), ConvertOptions("auto", None), {}, context, stack
        )
    assert time.monotonic() - started < 20
    assert not [*(tmp_path / "scratch").iterdir()]


def test_options_are_handed_on_if_llama_cpp_has_them(checkout: Path, tmp_path: Path) -> None:
    """Others are refused: the result would be another than was asked for."""
    context = StepContext.silent(Store(tmp_path / "store"))
    with ExitStack() as stack:
        options = ConvertOptions("bf16", None, Conversion(no_mtp=True, model_name="M"))
        made = foreign_model("x", converter(checkout, tmp_path), options, {}, context, stack)
        assert made.tensors
    arguments = said(checkout)["args"]
    assert arguments[-5:] == ["--outtype", "bf16", "--no-mtp", "--model-name", "M"]  # type: ignore[index]
    for options in (
        ConvertOptions("bf16", "llama-bpe"),
        ConvertOptions("bf16", None, Conversion(keep_quantized=True)),
    ):
        with pytest.raises(UnsupportedError, match="cannot be combined"), ExitStack() as stack:
            foreign_model("x", converter(checkout, tmp_path), options, {}, context, stack)


def test_a_request_has_the_digest_alone(checkout: Path, tmp_path: Path) -> None:
    """No path and no program comes out of a log, a lock or a request."""
    found = converter(checkout, tmp_path)
    request = BuildRequest((Target((ModelName.parse("m"),)),), converter=found)
    text = json.dumps(request.to_json())
    assert str(checkout) not in text and sys.executable not in text and found.digest in text
    again = BuildRequest.from_json(json.loads(text))
    assert again.converter == ForeignConverter(found.digest)
    with pytest.raises(UsageError, match="only the command line"):
        again.converter.check()
    with pytest.raises(FormatError):
        BuildRequest.from_json({**request.to_json(), "converter": {"path": "/bin/sh"}})


def test_another_checkout_does_not_rebuild_a_model(checkout: Path, tmp_path: Path) -> None:
    """Its code is compared before anything runs."""

    class Asked:
        def __init__(self, request: BuildRequest) -> None:
            self.request = request

    found = converter(checkout, tmp_path)
    plain = BuildRequest((Target((ModelName.parse("m"),)),))
    for request in (plain, plain._replace(converter=ForeignConverter("sha256:" + "0" * 64))):
        with pytest.raises(UsageError, match="was converted by"):
            with_converter(Asked(request), found)  # type: ignore[arg-type]


def test_the_commit_of_a_checkout_is_read_and_no_git_is_run(checkout: Path, tmp_path: Path) -> None:
    """For people; what counts is the code."""
    (checkout / ".git" / "refs" / "heads").mkdir(parents=True)
    (checkout / ".git" / "HEAD").write_text("ref: refs/heads/master\n")
    assert converter(checkout, tmp_path).commit == ""
    (checkout / ".git" / "refs" / "heads" / "master").write_text("a" * 40 + "\n")
    assert converter(checkout, tmp_path).commit == "a" * 40
    with pytest.raises(MissingFileError):
        find_converter(str(tmp_path), None, tmp_path)
    (checkout / "conversion" / "large.py").write_bytes(bytes(65 << 20))
    with pytest.raises(SourceError, match="more than"):
        converter(checkout, tmp_path)


def test_the_environment_has_what_a_program_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path to programs, a language, an empty home; the Hub stays offline."""
    monkeypatch.setenv("GITHUB_TOKEN", "x")
    found = environment(tmp_path)
    assert found["PATH"] == os.environ["PATH"] and found["HOME"] == str(tmp_path)
    assert found["HF_HUB_OFFLINE"] == "1" and "GITHUB_TOKEN" not in found


def test_the_encoders_are_asked_for_apart(checkout: Path, tmp_path: Path) -> None:
    """``--mmproj`` and the model's own name and metadata are handed on; both files are cached."""
    config = {"architectures": ["ZebraForConditionalGeneration"], "vision_config": {"depth": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    converter = find_converter(str(checkout), sys.executable, tmp_path / "scratch")
    naming = Conversion(model_name="Eyes", metadata='{"general.author": "Jane"}')
    options = ConvertOptions("auto", None, naming, converter)
    paths = {"config.json": tmp_path / "config.json"}
    with ExitStack() as stack:
        context = StepContext.silent(Store(tmp_path / "store"))
        foreign_model("zebra", converter, options, paths, context, stack, projector=True)
    arguments = said(checkout)["args"]
    assert isinstance(arguments, list)
    assert "--mmproj" in arguments and arguments[arguments.index("--model-name") + 1] == "Eyes"
    assert "--metadata" in arguments
