"""``mbuild explain``: it names exactly what changed, and says what the next build does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from example_models import change_tensors, edit_json, generator, settle, write_imatrix
from gguf_files import tiny_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inprocess import in_process

from mbuild.build.explain import DescribedStep, changes, explain, match
from mbuild.build.reasons import MISSING, Change
from mbuild.build.steps.layers import PutLayer
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.events import Cause
from mbuild.store import Store

MODELFILE = """\
FROM ./chat
ADAPTER ./lora
SYSTEM You are Mario.
TEMPLATE {{ .System }} {{ .Prompt }}
LICENSE MIT
MESSAGE user Hello
PARAMETER temperature 0.5
PARAMETER stop Peach
RENDERER one
"""

Edit = Callable[[Path], object]
Changed = dict[str, set[str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, an adapter for it, a GGUF file and an importance matrix."""
    folder = tmp_path_factory.mktemp("models")
    make = generator()
    make.write_chat(folder / "chat")
    make.write_lora(folder / "lora")
    tiny_gguf(folder / "model.gguf")
    write_imatrix(folder / "imatrix.dat", 1.0)
    (folder / "rules.txt").write_text("attn_v=q8_0\n")
    (folder / "chat" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (folder / "Modelfile").write_text(MODELFILE)
    return folder


@pytest.fixture
def project(models: Path, tmp_path: Path) -> Path:
    """A copy of the models in the current folder, and their Modelfile."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    settle()
    return tmp_path


@pytest.fixture
def mbuild(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(project, monkeypatch)


def explained(mbuild: Run, *arguments: str) -> list[dict[str, Any]]:
    """What ``mbuild explain`` says of the steps of ``m``."""
    done = mbuild("explain", "--format", "json", "-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["steps"]  # type: ignore[no-any-return]


def build(mbuild: Run, *arguments: str) -> tuple[set[str], Changed]:
    """Build ``m``: the labels of the steps that ran, and the reasons given by label."""
    done = mbuild("--progress", "json", "-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ran = {e["label"] for e in events if e["event"] == "StepFinished" and not e["cached"]}
    why = {
        step["label"]: set(step["texts"])
        for event in events
        if event["event"] == "Explained"
        for step in event["steps"]
    }
    return ran, why


def named(steps: list[dict[str, Any]]) -> Changed:
    """Of the steps that will run, the inputs that are said to have changed, or the note."""
    return {
        step["kind"]: {change["input"] for change in step["changes"]} or {step["note"]}
        for step in steps
        if step["state"] == "run"
    }


def rewrite(old: str, new: str) -> Edit:
    """Edit the Modelfile."""

    def edit(folder: Path) -> None:
        path = folder / "Modelfile"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


def rename_checkpoint(folder: Path) -> None:
    (folder / "chat").rename(folder / "talk")
    rewrite("./chat", "./talk")(folder)


def edit_file(name: str, **values: Any) -> Edit:
    return lambda folder: edit_json(folder / name, **values)


def flip(name: str, tensor: str) -> Edit:
    def edit(folder: Path) -> None:
        assert change_tensors(folder / name, tensor)

    return edit


Q = ("-q", "q4_K_M")
NEW = "new step"
FROM_WORDS = {"now quantized (-q)": "step", "a GGUF file instead of a checkpoint": "step"}
"""How people are told of the input ``step``, which has no name in their words."""

CHANGES: dict[str, tuple[Edit, tuple[str, ...], tuple[str, ...], Changed]] = {
    # what is done, options before, options after, step: inputs that changed
    "system": (rewrite("Mario", "Luigi"), (), (), {"system": {"text"}}),
    "template": (rewrite("{{ .Prompt }}", "{{.Prompt}}"), (), (), {"template": {"text"}}),
    "license": (rewrite("MIT", "BSD"), (), (), {"license": {"text"}}),
    "second_license": (
        rewrite("LICENSE MIT", "LICENSE MIT\nLICENSE BSD"),
        (),
        (),
        {"license": {NEW}},
    ),
    "message": (rewrite("Hello", "Hi"), (), (), {"messages": {"text"}}),
    "parameter": (rewrite("0.5", "0.7"), (), (), {"params": {"parameter temperature"}}),
    "new_parameter": (
        rewrite("PARAMETER stop Peach", "PARAMETER stop Peach\nPARAMETER seed 1"),
        (),
        (),
        {"params": {"parameter seed"}},
    ),
    "lost_parameter": (
        rewrite("PARAMETER temperature 0.5\n", ""),
        (),
        (),
        {"params": {"parameter temperature"}},
    ),
    "stop": (rewrite("Peach", "Bowser"), (), (), {"params": {"parameter stop"}}),
    "renderer": (rewrite("RENDERER one", "RENDERER two"), (), (), {"config": {"renderer"}}),
    "parser": (rewrite("RENDERER one", "RENDERER one\nPARSER p"), (), (), {"config": {"parser"}}),
    "config": (
        edit_file("chat/config.json", rope_theta=500000.0, rms_norm_eps=0.5),
        (),
        (),
        {"convert": {"config.json: rope_theta", "config.json: rms_norm_eps"}},
    ),
    "new_config_key": (
        edit_file("chat/config.json", sliding_window=64),
        (),
        (),
        {"convert": {"config.json: sliding_window"}},
    ),
    "tokenizer_config": (
        edit_file("chat/tokenizer_config.json", chat_template="{{ messages }}"),
        (),
        (),
        {"convert": {"tokenizer_config.json: chat_template"}},
    ),
    "new_file": (
        lambda folder: (folder / "chat/generation_config.json").write_text("{}"),
        (),
        (),
        {"convert": {"generation_config.json"}},
    ),
    "weights": (
        flip("chat/model.safetensors", "layers.0.mlp"),
        (),
        (),
        {"convert": {"model.safetensors"}},
    ),
    "model_card": (
        lambda folder: (folder / "chat/README.md").write_text("---\nlicense: bsd\n---\n"),
        (),
        (),
        {"convert": {"README.md"}},
    ),
    "folder": (rename_checkpoint, (), (), {"convert": {"folder's name"}}),
    "outtype": (lambda folder: None, (), ("--outtype", "f32"), {"convert": {"--outtype"}}),
    "from_gguf": (
        rewrite("FROM ./chat\nADAPTER ./lora\n", "FROM ./model.gguf\n"),
        (),
        (),
        {"import": {"step"}},
    ),
    "adapter_alpha": (
        edit_file("lora/adapter_config.json", lora_alpha=99),
        (),
        (),
        {"convert-adapter": {"adapter_config.json: lora_alpha"}},
    ),
    "quantized": (lambda folder: None, (), Q, {"header": {"new step"}, "quantize": {"step"}}),
    "type": (lambda folder: None, Q, ("-q", "q5_K_M"), {"quantize": {"type"}}),
    "imatrix": (
        lambda folder: write_imatrix(folder / "imatrix.dat", 2.0),
        (*Q, "--imatrix", "imatrix.dat"),
        (*Q, "--imatrix", "imatrix.dat"),
        {"quantize": {"imatrix.dat"}},
    ),
    "no_imatrix": (
        lambda folder: None,
        (*Q, "--imatrix", "imatrix.dat"),
        Q,
        {"quantize": {"--imatrix"}},
    ),
    "tensor_type": (
        lambda folder: None,
        Q,
        (*Q, "--tensor-type", "ffn_up=q6_K"),
        {"quantize": {"--tensor-type"}},
    ),
    "tensor_type_file": (
        lambda folder: (folder / "rules.txt").write_text("attn_v=q6_K\n"),
        (*Q, "--tensor-type-file", "rules.txt"),
        (*Q, "--tensor-type-file", "rules.txt"),
        {"quantize": {"--tensor-type"}},
    ),
    "pure": (lambda folder: None, Q, (*Q, "--pure"), {"quantize": {"--pure"}}),
    "output_type": (
        lambda folder: None,
        Q,
        (*Q, "--output-tensor-type", "q8_0"),
        {"quantize": {"--output-tensor-type"}},
    ),
    "weights_of_quantized": (
        flip("chat/model.safetensors", "layers.1.mlp"),
        Q,
        Q,
        {"header": {"model.safetensors"}, "quantize": {"model.safetensors"}},
    ),
    "two_at_once": (
        lambda folder: (rewrite("Mario", "Toad")(folder), rewrite("0.5", "0.9")(folder)),
        (),
        (),
        {"system": {"text"}, "params": {"parameter temperature"}},
    ),
    "comment": (rewrite("FROM ./chat", "# note\nFROM ./chat"), (), (), {}),
    "touch": (lambda folder: (folder / "chat/model.safetensors").touch(), (), (), {}),
    "text_of_the_card": (
        lambda folder: (folder / "chat/README.md").write_text("---\nlicense: mit\n---\n# New\n"),
        (),
        (),
        {},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_named_and_no_other(mbuild: Run, project: Path, name: str) -> None:
    """For each kind of change: the steps that will run, and exactly the inputs that changed."""
    edit, before, after, expected = CHANGES[name]
    build(mbuild, *before)
    edit(project)
    settle()
    steps = explained(mbuild, *after)
    assert named(steps) == expected
    ran, why = build(mbuild, *after)
    assert agree(steps, ran)
    for step in steps:
        if step["state"] == "run":
            # What the build says afterwards is what explain said before.
            words = {FROM_WORDS.get(t, t.partition(" ")[0]) for t in why[step["step"]]}
            assert words == {name.partition(" ")[0] for name in expected[step["kind"]]}


def agree(steps: list[dict[str, Any]], ran: set[str]) -> bool:
    """Whether the steps that ran are those that were said to run, or may have been."""
    states = {step["step"]: step["state"] for step in steps}
    return all(
        (state == "run" and label in ran)
        or (state == "cached" and label not in ran)
        or state == "depends"
        for label, state in states.items()
    )


def test_a_base_model_that_changed_is_named(mbuild: Run, project: Path) -> None:
    """FROM a model of the store: its layers by digest, and its config."""
    mbuild("-f", "Modelfile", "-t", "base")
    (project / "Modelfile").write_text("FROM base\nPARAMETER seed 1\n")
    build(mbuild)
    (project / "Base").write_text(MODELFILE.replace("Mario", "Wario").replace("0.5", "0.6"))
    assert mbuild("-f", "Base", "-t", "base").returncode == 0
    assert named(explained(mbuild)) == {"params": {"base params"}}
    ran, why = build(mbuild)
    assert ran == {"params", "manifest"}
    assert {text.rpartition(" -> ")[0].rpartition(" ")[0] for text in why["manifest"]} == {
        "layer of the base model: system",
        "params",
    }


def test_a_lost_layer_and_a_lost_cache_are_told_from_a_change(mbuild: Run, project: Path) -> None:
    """Nothing changed, and still a step runs: it is said what is missing."""
    build(mbuild)
    (system,) = [
        p for p in (project / "store/blobs").iterdir() if p.read_bytes() == b"You are Mario."
    ]
    system.unlink()
    (project / "store/.mbuild/kept" / system.name).unlink()
    (note,) = named(explained(mbuild))["system"]
    assert note == f"its cached layer {system.name[7:19]} was removed"
    assert build(mbuild)[1] == {"system": {note}}
    (project / "store/.mbuild/cache.db").unlink()
    assert named(explained(mbuild))["system"] == {"the last build kept nothing to compare with"}


def test_without_cache_is_a_reason(mbuild: Run, project: Path) -> None:
    """``--no-cache`` runs every step, and all who look say so."""
    build(mbuild)
    planned = mbuild("plan", "--no-cache", "-t", "m", "--format", "json")
    assert {step["state"] for step in json.loads(planned.stdout)["steps"]} == {"run"}
    assert named(explained(mbuild, "--no-cache"))["system"] == {"--no-cache"}
    assert set.union(*build(mbuild, "--no-cache")[1].values()) == {"--no-cache"}


def test_another_version_of_a_step_is_a_reason(
    mbuild: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose code gives other bytes runs again, and says why."""
    build(mbuild)
    monkeypatch.setattr(PutLayer, "version", 7)
    assert named(explained(mbuild))["system"] == {"mbuild's version of the step system"}


def test_a_first_build_has_nothing_to_be_compared_with(mbuild: Run, project: Path) -> None:
    """Programs are told; people, who did not ask why, are not."""
    steps = explained(mbuild)
    assert set.union(*named(steps).values()) == {"not built before"}
    assert "not built before" not in mbuild("explain", "-t", "m").stdout
    assert build(mbuild)[1] == {}
    assert "not built before" not in mbuild("history", "m").stdout


def test_explaining_writes_no_model_and_makes_no_store(mbuild: Run, project: Path) -> None:
    """Without a store there is none afterwards; with one, only digests are remembered."""
    explained(mbuild)
    assert not (project / "store").exists()
    build(mbuild)
    before = sorted(p for p in (project / "store").rglob("*"))
    rewrite("Mario", "Luigi")(project)
    explained(mbuild)
    assert sorted(p for p in (project / "store").rglob("*")) == before


def test_explained_as_text(mbuild: Run, project: Path) -> None:
    """One line a step; further reasons stand under the first."""
    build(mbuild)
    edit_json(project / "lora/adapter_config.json", lora_alpha=99)
    rewrite("Mario", "Luigi")(project)
    rewrite("0.5", "0.25")(project)
    rewrite("Peach", "Bowser")(project)
    lines = mbuild("explain", "-t", "m").stdout.splitlines()
    assert lines[0].startswith("m:latest: compared with build ")
    assert "run      convert adapter lora: adapter_config.json: lora_alpha 16 -> 99" in lines
    assert 'run      system: text "You are Mario." -> "You are Luigi."' in lines
    at = lines.index("run      params: parameter stop Peach -> Bowser")
    assert lines[at + 1] == "                 parameter temperature 0.5 -> 0.25"


EDITS: dict[str, Callable[[Path, int], object]] = {
    "system": lambda folder, n: set_line(folder, "SYSTEM", f"You are number {n}."),
    "temperature": lambda folder, n: set_line(folder, "PARAMETER temperature", f"0.{n}"),
    "license": lambda folder, n: set_line(folder, "LICENSE", f"License {n}"),
    "renderer": lambda folder, n: set_line(folder, "RENDERER", f"r{n}"),
    "config": lambda folder, n: edit_json(folder / "chat/config.json", rope_theta=1000.0 * n),
    "alpha": lambda folder, n: edit_json(folder / "lora/adapter_config.json", lora_alpha=n + 1),
    "weights": lambda folder, n: change_tensors(
        folder / "chat/model.safetensors", f"layers.{n % 2}"
    ),
    "touch": lambda folder, n: (folder / "chat/config.json").touch(),
    "comment": lambda folder, n: set_line(folder, "#", f"note {n}"),
    "lose": lambda folder, n: sorted((folder / "store/blobs").iterdir())[n % 3].unlink(),
}


def set_line(folder: Path, instruction: str, value: str) -> None:
    """Replace an instruction's line, or add it."""
    path = folder / "Modelfile"
    lines = [x for x in path.read_text().splitlines() if not x.startswith(f"{instruction} ")]
    path.write_text("\n".join([*lines, f"{instruction} {value}"]) + "\n")


edits = st.lists(st.tuples(st.sampled_from(sorted(EDITS)), st.integers(0, 3)), max_size=3)
options = st.sampled_from([(), ("-q", "q8_0"), ("--outtype", "f16")])


@given(rounds=st.lists(st.tuples(edits, options), min_size=2, max_size=5))
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_explain_says_what_the_next_build_does(
    mbuild: Run, project: Path, models: Path, rounds: list[tuple[list[tuple[str, int]], Any]]
) -> None:
    """Over random edits: what is said to run runs, what is said to be cached does not."""
    for name in ("store", "chat", "lora"):
        shutil.rmtree(project / name, ignore_errors=True)
    shutil.copytree(models, project, dirs_exist_ok=True)
    settle()
    build(mbuild)
    for changed, arguments in rounds:
        for name, number in changed:
            EDITS[name](project, number)
        settle()
        steps = explained(mbuild, *arguments)
        ran, _ = build(mbuild, *arguments)
        assert agree(steps, ran), (changed, arguments, steps, ran)
        again = explained(mbuild, *arguments)
        assert {step["state"] for step in again} == {"cached"}, again


def test_steps_are_matched_by_what_they_are() -> None:
    """The same key first, then the same place, then the order; weights are one kind."""

    def step(kind: str, key: str, subject: str = "", target: str = "") -> DescribedStep:
        return DescribedStep(kind, "", subject, target, key, {})

    old, new = ([step("license", key) for key in keys] for keys in ("abc", "cxa"))
    assert [found.key for found in match(new, old) if found] == ["c", "b", "a"]
    old = [step("quantize", key, "m", type_) for key, type_ in (("1", "Q4_0"), ("2", "Q8_0"))]
    new = [step("quantize", key, "m", type_) for key, type_ in (("3", "Q8_0"), ("4", "Q4_0"))]
    assert [found.key for found in match(new, old) if found] == ["2", "1"]
    imported, converted = step("import", "1", "i"), step("convert", "2", "c")
    assert match([converted], [imported]) == [imported]
    assert match([step("license", "c")], [imported]) == [None]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change("type", "Q4_K_M", "Q5_K_M"), "type Q4_K_M -> Q5_K_M"),
        (Change("f", "sha256:" + "a" * 64, "sha256:" + "b" * 64), f"f {'a' * 12} -> {'b' * 12}"),
        (Change("x", MISSING, 1), "x 1 is new"),
        (Change("--keep-split", MISSING, True), "--keep-split is new"),
        (Change("--keep-split", True, MISSING), "--keep-split is no longer given"),
        (Change("--pure", False, True), "--pure is new"),
        (Change("--split", "40GB", "20GB"), "--split 40GB -> 20GB"),
        (Change("--split-layers", 1, 2), "--split-layers 1 -> 2"),
        (Change("x", "a b", MISSING), 'x "a b" is no longer an input'),
        (Change("x", None, True), "x none -> true"),
        (Change("x", ["a", "b"], ["a"]), "x a b -> a"),
        (
            Change("text", "x" * 60 + " old", "x" * 60 + " new"),
            'text "...xxxxxxxxx old" -> "...xxxxxxxxx new"',
        ),
        (Change("text", "a\x1b[31m\n", "\x07"), 'text "a\\u001b[31m\\n" -> "\\u0007"'),
    ],
)
def test_changes_in_words(change: Change, text: str) -> None:
    """Digests and long texts are cut to what tells them apart; nothing reaches a terminal raw."""
    assert str(change) == text


def test_chosen_types_are_named_in_short() -> None:
    """By the flags that repeat them: all else about a choice follows from those."""

    def description(flags: str, bits: float) -> dict[str, Any]:
        types = [["blk.0.attn_q", "Q8_0"], ["blk.1.attn_q", "Q8_0"]]
        facts = {"quantization": {"tensor_types": types}, "flags": flags, "loss": 0.5, "bits": bits}
        source = {"kind": "choose", "result": {"layers": [], "facts": facts}}
        return {"kind": "quantize", "version": 1, "fields": {}, "inputs": [source]}

    old, new = description("-q q4_0 --pure", 4.5), description("-q q5_0 --pure", 5.5)
    (change,) = changes(old, new, lambda digest: None)
    assert str(change) == 'chosen types flags "-q q4_0 --pure" -> "-q q5_0 --pure"'
    first = changes({**new, "inputs": []}, new, lambda digest: None)
    assert [each.name for each in first] == ["chosen types flags", "chosen types loss"]


def test_equal_descriptions_have_no_change() -> None:
    """Nothing is said of what is the same."""
    value = {"kind": "x", "version": 1, "fields": {"a": {"b": [1]}}, "inputs": []}
    assert changes(value, value, lambda digest: None) == ()


def test_other_digests_of_unchanged_files_are_no_change() -> None:
    """Steps of an earlier mbuild knew files by SHA-256, and README.md among them.

    Where the store knows both digests of a content, or both texts, nothing is said to differ.
    """

    def convert(fields: dict[str, Any]) -> dict[str, Any]:
        return {"kind": "convert", "version": 1, "fields": fields, "inputs": []}

    data = {"config.json": b"{}", "model.safetensors": b"weights", "text.json": b"[1]"}
    blake3 = {name: Digest.of(text, BLAKE3) for name, text in data.items()}
    card = str(Digest.of(b"---"))
    old = convert(
        {
            "files": {
                "config.json": str(Digest.of(b"{}")),
                "model.safetensors": str(blake3["model.safetensors"]),
                "text.json": str(Digest.of(b"[1]")),
                "README.md": card,
            },
            "imatrix": ["i.dat", str(Digest.of(b"i"))],
        }
    )
    new = convert(
        {
            "files": {name: str(digest) for name, digest in blake3.items()},
            "card": card,
            "imatrix": ["i.dat", str(Digest.of(b"i", BLAKE3))],
        }
    )
    aliases = {
        Digest.of(b"{}"): blake3["config.json"],
        Digest.of(b"i"): Digest.of(b"i", BLAKE3),
    }
    texts = {Digest.of(b"[1]"): "[1]", blake3["text.json"]: "[1]"}
    assert changes(old, new, texts.get, aliases.get) == ()
    new["fields"]["card"] = str(Digest.of(b"--- license: mit"))
    assert [change.name for change in changes(old, new, texts.get, aliases.get)] == ["README.md"]
    assert len(changes(old, new, texts.get)) == 3


def test_a_step_that_only_knows_its_files_by_other_digests_says_so(tiny_store: Store) -> None:
    """That is why it runs once after an update, and not that a file changed."""
    sha256, blake3 = Digest.of(b"file"), Digest.of(b"file", BLAKE3)
    tiny_store.database.remember_alias(sha256, blake3)

    def imported(digest: Digest) -> DescribedStep:
        fields = {"source": str(digest), "role": "model", "name": None}
        description = {"kind": "import", "version": 1, "fields": fields, "inputs": []}
        return DescribedStep("import", "", "f.gguf", "", str(digest), description)

    (why,) = explain([imported(blake3)], [imported(sha256)], tiny_store)
    assert why.texts() == ("mbuild knows its inputs by other digests now",)
    (why,) = explain([imported(blake3)], [imported(Digest.of(b"other"))], tiny_store)
    assert why.texts()[0].startswith("file ")


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ({"fields": {"mbuild": "1"}}, {"fields": {"mbuild": "2"}}, Cause.VERSION),
        ({"version": 1}, {"version": 2}, Cause.VERSION),
        (
            {"fields": {"origin": {"converter": 1}}},
            {"fields": {"origin": {"converter": 2}}},
            Cause.VERSION,
        ),
        ({"kind": "import"}, {"kind": "convert"}, Cause.STEP),
        ({"fields": {"text": "a"}}, {"fields": {"text": "b"}}, Cause.INPUT),
        (
            {"fields": {"files": {"mbuild's version.json": "1"}}},
            {"fields": {"files": {"mbuild's version.json": "2"}}},
            Cause.INPUT,
        ),
    ],
)
def test_changes_have_a_cause(old: dict[str, Any], new: dict[str, Any], cause: Cause) -> None:
    """A version of mbuild is told from an input by where it stands, not by what it is called."""
    value = {"kind": "x", "version": 1, "fields": {}, "inputs": []}
    (change,) = changes({**value, **old}, {**value, **new}, lambda digest: None)
    assert change.cause is cause


def test_causes_are_told_to_programs(mbuild: Run, project: Path) -> None:
    """``explain``, the event at the end of a build and the log give a code with each reason."""
    (project / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM You are Mario.\n")
    first = explained(mbuild)
    assert {step.get("cause") for step in first} == {"first-build", "depends"}
    build(mbuild)
    (project / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM You are Luigi.\n")
    (system,) = (step for step in explained(mbuild) if step["kind"] == "system")
    assert [change["cause"] for change in system["changes"]] == ["input"]
    assert system["cause"] == ""
    done = mbuild("--progress", "json", "-t", "m")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (told,) = (event["steps"] for event in events if event["event"] == "Explained")
    assert {(step["label"], *step["causes"]) for step in told} == {
        ("system", "input"),
        ("manifest", "input"),
    }
    mbuild("-t", "m", "--no-cache")
    log = project / "store" / ".mbuild" / "history.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])["steps"]
    assert {tuple(step["causes"]) for step in last} == {("no-cache",)}


def test_a_log_of_an_earlier_version_is_compared_with(mbuild: Run, project: Path) -> None:
    """Steps of a log without roles, subjects and targets are matched by kind, in their order."""
    (project / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM a\nLICENSE x\nLICENSE y\n")
    build(mbuild)
    log = project / "store" / ".mbuild" / "history.jsonl"
    record = json.loads(log.read_text())
    for step in record["steps"]:
        for name in ("role", "subject", "target", "causes"):
            step.pop(name, None)
    log.write_text(json.dumps(record) + "\n")
    (project / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM b\nLICENSE x\nLICENSE z\n")
    assert named(explained(mbuild)) == {"system": {"text"}, "license": {"text"}}


def test_changes_of_weights_are_told_as_a_modelfile_says_them() -> None:
    """Only those that are not the same before and after."""
    digest = "sha256:" + "a" * 64
    kept = [{"merge": {"a.gguf": digest}, "weight": 0.5, "version": 1}]
    old = [kept, [{"key": "general.name", "text": "My model"}]]
    new = [kept, [{"drop": [3, 4]}, {"key": "a.b", "text": None}], [{"take": "^o", "origin": {}}]]
    assert str(Change("change of the weights", old, new)) == (
        'change of the weights SET general.name "My model" -> DROP LAYER 3 4; UNSET a.b; TAKE ^o'
    )
    assert str(Change("change of the weights", MISSING, [kept])) == (
        "change of the weights MERGE aaaaaaaaaaaa WEIGHT 0.5 is new"
    )
