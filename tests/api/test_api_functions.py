"""The functions of the Python API: the command line's models, one exception, nothing printed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from inspect import signature
from math import prod
from pathlib import Path

import pytest
from adapters import factors, write_peft
from example_models import write_chat
from gguf_files import tiny_gguf

import mbuild
from mbuild import api
from mbuild.api.asking import modelfile_of
from mbuild.api.failing import one_error
from mbuild.api.inspecting import inspect
from mbuild.api.keywords import several
from mbuild.api.making import build, convert, merge, quantize
from mbuild.api.verbs import verb
from mbuild.core.errors import CancelledError, UsageError
from mbuild.core.events import BuildEvent, StepFinished, StepProgress, Warned
from mbuild.core.failures import failed


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A new store's folder."""
    return tmp_path / "store"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A small GGUF file."""
    return tiny_gguf(tmp_path / "tiny.gguf")


def command_line(*arguments: str | Path) -> str:
    """The id that the command line prints."""
    done = subprocess.run(
        [sys.executable, "-m", "mbuild", *map(str, arguments), "--quiet"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_importing_mbuild_loads_nothing_of_it() -> None:
    """The names are there, and their modules are loaded when somebody asks for one."""
    code = (
        "import sys; before = set(sys.modules); import mbuild; dir(mbuild);"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['mbuild']"


@pytest.mark.parametrize(
    "before",
    ["pass", "import mbuild.build.engine", "import mbuild.convert.convert", "import mbuild.api"],
)
def test_names_of_packages_are_functions_whatever_was_imported(before: str) -> None:
    """``mbuild.build`` and ``mbuild.convert`` are packages that can be called."""
    code = (
        f"{before}\nimport mbuild\nfrom mbuild import build, convert\nimport inspect\n"
        "for each in (build, convert, mbuild.build, mbuild.quantize):\n"
        "    assert callable(each) and each.events\n"
        "assert 'modelfile' in inspect.signature(mbuild.build).parameters\n"
        "import mbuild.build.graph\nassert mbuild.build.graph.in_order\n"
        "try:\n    mbuild.build(text='FROM', name='x')\n"
        "except mbuild.Error:\n    print('good')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "good", done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    """Type checkers read the annotations of packages with this file (PEP 561)."""
    assert (Path(mbuild.__file__).parent / "py.typed").exists()


def test_what_is_no_name_of_the_api_is_missing() -> None:
    """Another attribute is an AttributeError, and ``dir`` lists those that are there."""
    assert not hasattr(mbuild, "buidl")
    assert set(mbuild.__all__) <= set(dir(mbuild))
    assert set(api.__all__) == set(mbuild.__all__) - {"__version__"}
    assert signature(quantize).return_annotation == "Built"


def test_a_build_has_the_id_of_the_command_line(
    tiny: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file, from a text, with options; the second time every step is cached."""
    file = tmp_path / "Modelfile"
    file.write_text("FROM ./tiny.gguf\nSYSTEM x\nPARAMETER temperature 1\n")
    built = mbuild.build(file, name="mario", store=store)
    again = mbuild.build(text=file.read_text(), folder=tmp_path, name="luigi", store=store)
    assert (built.name, again.name, again.ran) == ("mario:latest", "luigi:latest", 0)
    assert built.id == again.id
    other = tmp_path / "other"
    assert command_line("-f", file, "-t", "mario", "--store", other) == str(built.id)
    assert capsys.readouterr() == ("", "")


def test_a_build_without_a_name_takes_the_folders(tiny: Path, store: Path, tmp_path: Path) -> None:
    """As on the command line: but not where a model of that name came from elsewhere."""
    folder = tmp_path / "persona"
    folder.mkdir()
    (folder / "Modelfile").write_text("FROM ../tiny.gguf\n")
    assert mbuild.build(folder=folder, store=store).name == "persona:latest"
    mbuild.build(text="FROM ./tiny.gguf\nSYSTEM x\n", folder=tmp_path, name="persona", store=store)
    with pytest.raises(mbuild.Error, match="not built from this Modelfile"):
        mbuild.build(folder=folder, store=store)


def test_stages_and_arguments(tmp_path: Path, store: Path, tiny: Path) -> None:
    """``target`` and ``arguments`` are ``--target`` and ``--build-arg``."""
    text = (
        "# syntax=mbuild/1\nARG WHO=Ada\nFROM ./tiny.gguf AS base\nSYSTEM ${WHO}\n"
        "FROM base AS other\nSYSTEM other\n"
    )
    built = mbuild.build(
        text=text,
        folder=tmp_path,
        store=store,
        target=["base", "other"],
        arguments={"WHO": "Mario"},
        name="m:{target}",
    )
    assert [model.name for model in built.models] == ["m:base", "m:other"]
    assert mbuild.inspect("m:base", store=store).system == "Mario"
    with pytest.raises(mbuild.Error, match="has no effect"):
        build(text="FROM ./tiny.gguf", folder=tmp_path, store=store, name="m", target="base")


def test_a_conversion_goes_to_a_file_and_to_a_name(tmp_path: Path, store: Path) -> None:
    """Both have the bytes of the command line's layer; what exists is not replaced unasked."""
    chat = write_chat(tmp_path / "chat", LAYERS=1)
    file = tmp_path / "out" / "chat.gguf"
    built = convert(chat, output=file, store=store)
    assert (built.name, built.files) == ("", (file,))
    named = convert(chat, name="chat", store=store)
    assert named.ran <= 1  # the manifest at most
    layers = sorted((store / "blobs").glob("sha256-*"), key=lambda path: -path.stat().st_size)
    assert layers[0].read_bytes() == file.read_bytes()
    with pytest.raises(mbuild.Error, match="exists"):
        convert(chat, output=file, store=store)
    convert(chat, output=file, store=store, overwrite=True)
    with pytest.raises(mbuild.Error, match="neither a name nor a file"):
        convert(chat, store=store)
    with pytest.raises(mbuild.Error, match="not the name of a GGUF file"):
        convert(chat, output=tmp_path / "chat.bin", store=store)


def test_several_types_are_one_build(tmp_path: Path, store: Path) -> None:
    """``{quant}`` stands for the type; one file takes one type."""
    chat = write_chat(tmp_path / "chat", LAYERS=1)
    built = quantize(chat, ["q8_0", "q4_0"], name="c:{quant}", store=store)
    assert [model.name for model in built.models] == ["c:q8_0", "c:q4_0"]
    assert inspect("c:q4_0", store=store).file_type == "Q4_0"
    one = quantize(chat, "q4_0", name="d", store=store, tensor_type=["attn_v=q8_0"])
    types = {each.name: each.type for each in inspect("d", store=store).tensors}
    assert types["blk.0.attn_v.weight"] == "Q8_0"
    assert one.id != built.models[1].id
    with pytest.raises(mbuild.Error, match="cannot be put into one file"):
        quantize(chat, ["q8_0", "q4_0"], output=tmp_path / "x.gguf", store=store)


def test_a_merge_has_the_weights_of_merge(tmp_path: Path, store: Path) -> None:
    """As MERGE with the same weights; odd folder names and paths are no syntax."""
    chat = write_chat(tmp_path / "chat", LAYERS=1)
    width = next(t.shape[0] for t in inspect(chat).tensors if t.name == "blk.0.attn_q.weight")
    pairs = factors({"model.layers.0.self_attn.q_proj": (width, width)}, 4, 1)
    adapter = write_peft(tmp_path / 'a ${x} "b"', pairs, rank=4, alpha=8)
    built = merge(chat, {adapter: 0.5}, name="m", store=store)  # type: ignore[dict-item]
    plain = tmp_path / "lora"
    write_peft(plain, pairs, rank=4, alpha=8)
    text = "# syntax=mbuild/1\nFROM ./chat\nMERGE ./lora WEIGHT 0.5\n"
    other = build(text=text, folder=tmp_path, name="n", store=tmp_path / "other")
    assert built.id == other.id
    assert merge(chat, [plain], name="o", store=store).id != built.id
    with pytest.raises(mbuild.Error, match="no adapter to merge"):
        merge(chat, [], name="p", store=store)


def test_events_come_while_they_are_taken(tmp_path: Path, store: Path, tiny: Path) -> None:
    """Nothing runs before the first; the result is there after the last."""
    events = build.events(text="FROM ./tiny.gguf\n", folder=tmp_path, name="m", store=store)
    assert not store.exists()
    with pytest.raises(mbuild.Error, match="not ended"):
        events.result  # noqa: B018
    seen = list(events)
    assert any(isinstance(event, StepFinished) for event in seen)
    assert events.result.name == "m:latest"


def test_leaving_the_events_stops_the_build(tmp_path: Path, store: Path) -> None:
    """No model has the name, and the next build makes it."""
    chat = write_chat(tmp_path / "chat", LAYERS=1)
    with quantize.events(chat, "q4_K_M", name="m", store=store) as events:
        for event in events:
            if isinstance(event, StepProgress):
                break
    with pytest.raises(mbuild.Error, match="no such model"):
        inspect("m", store=store)
    assert quantize(chat, "q4_K_M", name="m", store=store).name == "m:latest"


def test_the_error_has_the_command_lines_words(tmp_path: Path, store: Path, tiny: Path) -> None:
    """Every problem of a Modelfile with its place; the hint; what it was made from."""
    with pytest.raises(mbuild.Error) as found:
        mbuild.build(text="FROM ./tniy.gguf\n", folder=tmp_path, name="m", store=store)
    error = found.value
    assert "hint: did you mean tiny.gguf?" in str(error)
    assert (error.hint, error.problems[0].line) == ("did you mean tiny.gguf?", 1)
    assert error.__cause__ is not None
    assert not error.stopped
    with pytest.raises(mbuild.Error) as found:
        mbuild.build(text="FROM x\nPARAMETER heat 1\nPARAMETR x 1\n", name="m", store=store)
    assert len(found.value.problems) >= 2
    with pytest.raises(mbuild.Error, match="no option 'quantise'"):
        mbuild.build(text="FROM x", name="m", store=store, quantise="q8_0")  # type: ignore[call-arg]
    with pytest.raises(mbuild.Error, match="unknown outtype"):
        mbuild.build(text="FROM x", name="m", store=store, outtype="q9")
    with pytest.raises(mbuild.Error, match="the Modelfile"):
        mbuild.build(tmp_path / "no", store=store, name="m")


def test_what_stops_and_what_the_system_says_is_the_one_exception_too() -> None:
    """A stopped build says so; an OSError keeps its file; Ctrl-C stays Ctrl-C."""
    with pytest.raises(mbuild.Error) as stopped, one_error():
        raise CancelledError("the build was stopped")
    assert stopped.value.stopped
    assert str(stopped.value) == "the build was stopped"
    with pytest.raises(mbuild.Error, match="/x: No such file") as system, one_error():
        raise FileNotFoundError(2, "No such file or directory", "/x")
    assert system.value.message == "/x: No such file or directory"
    with pytest.raises(KeyboardInterrupt), one_error():
        raise KeyboardInterrupt
    assert failed(UsageError("a", hint="b")).problems[0].hint == "b"


def test_a_verb_keeps_what_its_function_is_called() -> None:
    """Its name, its text and its arguments, for ``help``."""

    @verb
    def walk(steps: int) -> Generator[BuildEvent, None, int]:
        """Walk."""
        yield Warned("step")
        return steps

    assert (walk.__name__, walk.__doc__, walk(3)) == ("walk", "Walk.", 3)  # type: ignore[attr-defined]
    assert list(walk.events(1)) == [Warned("step")]


def test_a_modelfile_is_a_file_or_a_text(tmp_path: Path) -> None:
    """Not both; where its paths start; one text counts as several."""
    (tmp_path / "Modelfile").write_text("FROM x\n")
    assert modelfile_of(None, None, tmp_path)[0] == b"FROM x\n"
    assert modelfile_of(None, "FROM y", None)[2] == Path()
    assert modelfile_of(tmp_path / "Modelfile", None, None)[2] == tmp_path
    with pytest.raises(UsageError, match="two Modelfiles"):
        modelfile_of("Modelfile", "FROM y", None)
    assert several("a") == ("a",)
    assert several(["a", "b"]) == ("a", "b")


def test_inspecting_reads_what_from_can_name(tmp_path: Path, store: Path, tiny: Path) -> None:
    """A file, a checkpoint as it would be converted, a model of the store with its texts."""
    file = inspect(tiny)
    assert (file.architecture, file.name, file.id) == ("llama", "", None)
    chat = write_chat(tmp_path / "chat", LAYERS=1)
    whole = inspect(chat)
    assert whole.metadata["llama.block_count"] == 1
    assert whole.parameters == sum(prod(each.shape) for each in whole.tensors)
    text = "FROM ./chat\nSYSTEM s\nPARAMETER top_k 3\nLICENSE free\n"
    built = mbuild.build(text=text, folder=tmp_path, name="m", store=store)
    stored = inspect("m", store=store)
    assert (stored.id, stored.system, stored.licenses) == (built.id, "s", ("free",))
    assert stored.options["top_k"] == 3
    assert stored.tensors == whole.tensors
    with pytest.raises(mbuild.Error, match="no such file"):
        inspect(tmp_path / "none.gguf")
