"""The command line as its users meet it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import Run
from gguf_files import tiny_gguf, tiny_shards
from stores import copy_tiny_store

from mbuild.cli.build import build_command
from mbuild.cli.main import COMMANDS, WITH_VALUE

MODELFILE = "FROM ./model.gguf\nSYSTEM You are Mario.\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a Modelfile, the GGUF file that it names, and a store with ``tiny``."""
    (tmp_path / "Modelfile").write_text(MODELFILE)
    tiny_gguf(tmp_path / "model.gguf")
    copy_tiny_store(tmp_path / "store")
    return tmp_path


def test_progress_says_ollamas_words_in_ollamas_order(mbuild: Run, project: Path) -> None:
    """Layers in the manifest's order, then the manifest, then success; all on stderr."""
    done = mbuild("-t", "mario")
    assert (done.returncode, done.stdout) == (0, "")
    lines = [re.sub("[0-9a-f]{64}", "D", line) for line in done.stderr.splitlines()]
    assert lines[:-1] == [
        "parsing GGUF",
        "creating new layer sha256:D",
        "creating new layer sha256:D",
        "writing manifest",
        "success",
    ]
    assert re.fullmatch(
        r"built mario:latest in \d+\.\d s: 6 steps run, 0 cached, .* written", lines[-1]
    )
    again = mbuild("-t", "mario").stderr.splitlines()
    assert [line.partition(" sha256")[0] for line in again[:-1]] == [
        "using existing layer",
        "using existing layer",
        "writing manifest",
        "success",
    ]


def test_names_files_and_contexts(mbuild: Run, project: Path) -> None:
    """-f, several -t, the context's folder, standard input, and the folder's name as default."""
    deep = project / "models" / "luigi"
    deep.mkdir(parents=True)
    shutil.copy(project / "Modelfile", deep / "Modelfile")
    shutil.copy(project / "model.gguf", deep / "model.gguf")
    assert mbuild("-t", "a", "-t", "ns/b:v1").returncode == 0
    assert mbuild("build", "-f", deep / "Modelfile", "-t", "c").returncode == 0
    assert mbuild(deep).returncode == 0
    assert mbuild("-f", "-", "-t", "d", deep, input=MODELFILE).returncode == 0
    assert mbuild("build", "-f", "-", "-t", "e", input="FROM tiny\n").returncode == 0
    rows = json.loads(mbuild("list", "--json").stdout)
    assert {row["name"] for row in rows} == {
        "tiny:latest",
        "a:latest",
        "ns/b:v1",
        "c:latest",
        "luigi:latest",
        "d:latest",
        "e:latest",
    }
    ids = {row["id"] for row in rows if row["name"] not in ("tiny:latest", "e:latest")}
    assert len(ids) == 1


def test_store_is_taken_before_and_after_the_subcommand(mbuild: Run, project: Path) -> None:
    """--store names the store at either place, and OLLAMA_MODELS where it is not given."""
    other = project / "other"
    assert mbuild("--store", other, "-t", "x").returncode == 0
    assert mbuild("build", "--store", other, "-t", "y").returncode == 0
    for arguments in (["--store", other, "list"], ["list", "--store", other]):
        listed = mbuild(*arguments).stdout
        assert "x:latest" in listed
        assert "y:latest" in listed
        assert "tiny" not in listed
    assert "tiny:latest" in mbuild("list").stdout


def test_every_spelling_of_a_stored_model_is_the_same(mbuild: Run, project: Path) -> None:
    """Short, full and differently cased names of ``tiny`` give one manifest."""
    ids = set()
    for name in ("tiny", "TINY", "library/tiny:latest", "registry.ollama.ai/library/tiny"):
        done = mbuild("-f", "-", "-t", "copy", "--quiet", input=f"FROM {name}\nSYSTEM s\n")
        assert done.returncode == 0, done.stderr
        ids.add(done.stdout)
    assert len(ids) == 1


def test_an_unknown_model_names_near_ones(mbuild: Run, project: Path) -> None:
    """FROM a name that is not there says so with place, and suggests."""
    done = mbuild("-f", "-", "-t", "x", input="# c\nFROM tinny\n")
    assert done.returncode == 1
    assert "FROM tinny: no such model in the store" in done.stderr
    assert "standard input:2:1" in done.stderr or "Modelfile:2:1" in done.stderr
    assert "did you mean tiny:latest?" in done.stderr


def test_all_problems_are_reported_in_one_run(mbuild: Run, project: Path) -> None:
    """Several mistakes, of the language and of values, come out together with their places."""
    (project / "Modelfile").write_text(
        "FROM tiny\nPARAMETR top_k 4\nPARAMETER top_q 4\nPARAMETER top_k x\nMESSAGE robot hi\n"
    )
    done = mbuild("-t", "x")
    assert done.returncode == 1
    for line in (2, 3, 4, 5):
        assert f"Modelfile:{line}:" in done.stderr, done.stderr
    assert "PARAMETER" in done.stderr
    missing = mbuild("-f", "-", "-t", "x", input="FROM ./no.gguf\nADAPTER ./none.gguf\n")
    assert "FROM ./no.gguf" in missing.stderr
    assert "ADAPTER ./none.gguf" in missing.stderr


def test_exit_statuses(mbuild: Run, project: Path) -> None:
    """0 built, 1 failed, 2 wrong usage."""
    assert mbuild("-t", "x").returncode == 0
    assert mbuild("show", "nope").returncode == 1
    assert mbuild("-t", "a b").returncode == 2
    assert mbuild("--frobnicate").returncode == 2
    assert mbuild("show").returncode == 2
    assert mbuild("build", "--progress", "loud").returncode == 2
    assert mbuild("rm").returncode == 2
    (project / "bad name!").mkdir()
    shutil.copy(project / "Modelfile", project / "bad name!")
    assert mbuild(project / "bad name!").returncode == 2
    empty = project / "empty"
    empty.mkdir()
    assert "error: no Modelfile in" in mbuild(empty).stderr


def test_split_gguf_is_merged_into_one_layer(mbuild: Run, project: Path) -> None:
    """FROM the first shard takes all; a missing shard is named; another shard is refused."""
    shards = tiny_shards(project, "big", [2, 3])
    (project / "Modelfile").write_text(f"FROM ./{shards[0].name}\n")
    first = mbuild("-t", "merged", "--progress", "json")
    assert first.returncode == 0, first.stderr
    layers = json.loads(mbuild("show", "merged", "--json").stdout)["layers"]
    assert [layer["mediaType"].rpartition(".")[2] for layer in layers] == ["model"]
    again = mbuild("-t", "merged", "--progress", "json").stdout.splitlines()
    assert json.loads(again[-1])["ran"] == 0
    (project / "Modelfile").write_text(f"FROM ./{shards[1].name}\n")
    assert f"name {shards[0].name}" in mbuild("-t", "x").stderr
    shards[1].unlink()
    (project / "Modelfile").write_text(f"FROM ./{shards[0].name}\n")
    assert shards[1].name in mbuild("-t", "x").stderr


def test_directories_projectors_adapters_and_drafts(mbuild: Run, project: Path) -> None:
    """A directory's model with its projector, two adapters, a draft: each its own layer."""
    folder = project / "vision"
    folder.mkdir()
    tiny_gguf(folder / "model.gguf", seed=5)
    tiny_gguf(folder / "mmproj-model.gguf", kind="projector")
    for number in (1, 2):
        tiny_gguf(project / f"lora{number}.gguf", kind="adapter", seed=number)
    tiny_gguf(project / "draft.gguf", seed=9)
    text = "FROM ./vision\nADAPTER ./lora1.gguf\nADAPTER ./lora2.gguf\nDRAFT ./draft.gguf\n"
    done = mbuild("-f", "-", "-t", "all", input=text)
    assert done.returncode == 0, done.stderr
    layers = json.loads(mbuild("show", "all", "--json").stdout)["layers"]
    assert [(x["mediaType"].rpartition(".")[2], x.get("from")) for x in layers] == [
        ("model", None),
        ("projector", None),
        ("adapter", "lora1.gguf"),
        ("adapter", "lora2.gguf"),
        ("draft", None),
    ]
    for line, word in (("FROM ./lora1.gguf", "ADAPTER"), ("ADAPTER ./model.gguf", "FROM")):
        done = mbuild("-f", "-", "-t", "x", input=f"FROM tiny\n{line}\n")
        assert done.returncode == 1
        if line.startswith("FROM"):
            continue
        assert f"use {word} for it" in done.stderr
    done = mbuild("-f", "-", "-t", "x", input="FROM ./lora1.gguf\n")
    assert "it is a LoRA adapter" in done.stderr
    tiny_gguf(folder / "second.gguf")
    assert "vision holds 2 models" in mbuild("-f", "-", "-t", "x", input="FROM ./vision\n").stderr


def test_links_of_weights_work(mbuild: Run, project: Path) -> None:
    """A Hugging Face cache's links to its blobs/, and links to a drive with more room."""
    cache = project / "models--a--b"
    snapshot = cache / "snapshots" / "123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    tiny_gguf(cache / "blobs" / "abc")
    (snapshot / "model.gguf").symlink_to("../../blobs/abc")
    assert mbuild("-f", "-", "-t", "hf", input=f"FROM {snapshot}\n").returncode == 0
    out = project / "out"
    out.mkdir()
    (out / "model.gguf").symlink_to(project / "model.gguf")
    done = mbuild("-f", "-", "-t", "x", input="FROM ./out\n")
    assert done.returncode == 0, done.stderr


def test_foreign_files_are_refused_by_what_they_are(mbuild: Run, project: Path) -> None:
    """A git-lfs pointer, a web page, a pickle or a checkpoint is named, and nothing is stored."""
    for content, what in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"<!doctype html><html>", "HTML page"),
        (b"PK\x03\x04abcd", "zip archive"),
        (b"", "empty"),
        (b"GGUF", "truncated"),
    ):
        (project / "foreign.gguf").write_bytes(content)
        done = mbuild("-f", "-", "-t", "x", input="FROM ./foreign.gguf\n")
        assert done.returncode == 1
        assert what in done.stderr
        assert "Traceback" not in done.stderr


def test_link_shares_the_users_file(mbuild: Run, project: Path) -> None:
    """--link hard-links the GGUF; the second build still reads nothing."""
    assert mbuild("-t", "linked", "--link").returncode == 0
    assert (project / "model.gguf").stat().st_nlink == 2
    again = mbuild("-t", "linked", "--progress", "json").stdout.splitlines()
    assert json.loads(again[-1])["ran"] == 0


def test_inheritance_merges_parameters_and_adds_licenses_once(mbuild: Run, project: Path) -> None:
    """Parameters merge per key, texts replace, a license that the base has is not added again."""
    base = "FROM tiny\nPARAMETER top_k 4\nPARAMETER stop a\nSYSTEM one\nLICENSE MIT\nMESSAGE user x"
    child = "FROM base\nPARAMETER top_k 9\nSYSTEM two\nLICENSE MIT\nLICENSE BSD\n"
    assert mbuild("-f", "-", "-t", "base", input=base).returncode == 0
    assert mbuild("-f", "-", "-t", "child", input=child).returncode == 0
    shown = json.loads(mbuild("show", "child", "--json").stdout)
    assert shown["parameters"] == {"stop": ["a"], "top_k": 9}
    assert shown["system"] == "two"
    assert shown["license"] == ["MIT", "BSD"]
    assert shown["messages"] == [{"role": "user", "content": "x"}]
    assert shown["details"]["parent_model"] == "base:latest"
    for _ in range(2):
        again = "FROM child\nLICENSE BSD\n"
        assert mbuild("-f", "-", "-t", "child", input=again).returncode == 0
    assert json.loads(mbuild("show", "child", "--json").stdout)["license"] == ["MIT", "BSD"]


def test_show_cp_rm(mbuild: Run, project: Path) -> None:
    """The parts of show, and the life of names."""
    text = 'FROM tiny\nTEMPLATE "{{ .Prompt }}"\nSYSTEM hi\nLICENSE MIT\nPARAMETER stop "<x>"\n'
    assert mbuild("-f", "-", "-t", "m", input=text).returncode == 0
    assert mbuild("show", "m", "--template").stdout == "{{ .Prompt }}\n"
    assert mbuild("show", "m", "--system").stdout == "hi\n"
    assert mbuild("show", "m", "--license").stdout == "MIT\n"
    assert re.fullmatch(r'stop +"<x>"\n', mbuild("show", "m", "--parameters").stdout)
    overview = mbuild("show", "m").stdout
    for part in ("architecture", "llama", "F16", "74K", "context length", "MIT", "hi"):
        assert part in overview
    assert mbuild("show", "m", "--template", "--system").returncode == 2
    assert mbuild("cp", "m", "n:v2").returncode == 0
    assert mbuild("rm", "m").returncode == 0
    assert mbuild("show", "n:v2", "--system").stdout == "hi\n"
    unknown = mbuild("rm", "n:v2", "nope")
    assert unknown.returncode == 1
    assert mbuild("show", "n:v2").returncode == 0
    assert "did you mean" in mbuild("show", "n:v3").stderr


def test_check_reports_and_sets_the_status(mbuild: Run, project: Path) -> None:
    """check finds errors and warnings without a store; JSON carries the same."""
    (project / "a.gguf").touch()
    (project / "Modelfile").write_text(
        'FROM tiny\nSYSTEM one\nSYSTEM two\nTEMPLATE "{{ .Prompt }}"\n'
        "PARAMETER mirostat 1\nADAPTER ./a.gguf\nADAPTER ./a.gguf\n"
    )
    done = mbuild("check", "--format", "json")
    assert done.returncode == 0, done.stderr
    problems = json.loads(done.stdout)
    assert {p["severity"] for p in problems} == {"warning"}
    assert {(p["code"], p["line"]) for p in problems} == {
        ("hidden-system", 2),
        ("template-ignores-system", 4),
        ("deprecated-parameter", 5),
        ("adapter-without-effect", 7),
    }
    (project / "Modelfile").write_text('FROM tiny\nTEMPLATE "{{ .Prompt"\nPARAMETER nope 1\n')
    done = mbuild("check")
    assert done.returncode == 1
    assert "unclosed action" in done.stdout
    assert "unknown parameter 'nope'" in done.stdout
    assert "2 errors" in done.stdout


def test_fmt_prints_rewrites_and_checks(mbuild: Run, project: Path) -> None:
    """fmt is idempotent, keeps comments, and --check tells by its status."""
    (project / "Modelfile").write_text('# note\nfrom   tiny\nsystem "hi"\n')
    formatted = mbuild("fmt").stdout
    assert formatted == "# note\nFROM tiny\nSYSTEM hi\n"
    assert mbuild("fmt", "--check").returncode == 1
    assert mbuild("fmt", "-w").returncode == 0
    assert (project / "Modelfile").read_text() == formatted
    assert mbuild("fmt", "--check").returncode == 0
    assert mbuild("fmt", "nowhere").returncode == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(mbuild: Run, command: str) -> None:
    """--help of every command explains and shows an example."""
    done = mbuild(command, "--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert f"mbuild {command}" in done.stdout or command == "build"


def test_options_with_values_are_known_before_the_subcommand() -> None:
    """``mbuild -t list`` builds a model called list: the value is not taken for a subcommand."""
    options = [p for p in build_command.params if isinstance(p, click.Option) and not p.is_flag]
    assert {name for option in options for name in option.opts} <= WITH_VALUE


def test_help_lists_every_command(mbuild: Run) -> None:
    """The group's help comes from the table of commands."""
    done = mbuild("--help")
    assert all(re.search(rf"^  {name} ", done.stdout, re.MULTILINE) for name in COMMANDS)
    assert mbuild("--version").stdout.startswith("mbuild ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(mbuild: Run, project: Path, shell: str) -> None:
    """Each shell gets a script that names mbuild; names of models complete."""
    done = mbuild("completion", shell)
    assert done.returncode == 0
    assert "_MBUILD_COMPLETE" in done.stdout
    if shell == "bash":
        if shutil.which("bash") is None:
            pytest.skip("bash is not installed")
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    environment = {
        **os.environ,
        "OLLAMA_MODELS": str(project / "store"),
        "_MBUILD_COMPLETE": "bash_complete",
        "COMP_LINE": "mbuild show ti",
    }
    command = [sys.executable, "-m", "mbuild"]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "tiny:latest" in completed.stdout


def test_json_progress_is_one_event_a_line(mbuild: Run, project: Path) -> None:
    """Machines read events with names and fields, the model's id last."""
    lines = [
        json.loads(line) for line in mbuild("-t", "m", "--progress", "json").stdout.split("\n")[:-1]
    ]
    assert lines[0] == {"event": "BuildStarted", "name": "m:latest", "steps": 6}
    assert lines[-1]["event"] == "BuildFinished"
    rows = json.loads(mbuild("list", "--json").stdout)
    assert "sha256:" + next(r["id"] for r in rows if r["name"] == "m:latest") == lines[-1]["id"]


@pytest.mark.parametrize(("typed", "meant"), [("buidl", "build"), ("pruen", "prune")])
def test_a_mistyped_command_is_recognized(
    mbuild: Run, project: Path, typed: str, meant: str
) -> None:
    """A word that is no folder is no command; a near one is proposed, further words or not."""
    for further in ((), ("mario",), ("--help",), ("-t", "x")):
        done = mbuild(typed, *further)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: unknown command '{typed}'\n")
        assert f"did you mean mbuild {meant}?" in done.stderr
    assert "did you mean" not in mbuild("some/where").stderr
