"""Exports for other programs: a preset of llama.cpp's router, and LM Studio's model.yaml."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import Run
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.cli.presets import write_presets
from mbuild.core.errors import UsageError
from mbuild.models.artifacts.presets import OPTIONS, options, with_section
from mbuild.store import Store

KNOWN = frozenset(
    """
model mmproj lora model-draft temp top-k top-p min-p typical repeat-last-n repeat-penalty
presence-penalty frequency-penalty seed ctx-size n-predict keep batch-size n-gpu-layers main-gpu
threads
""".split()  # noqa: SIM905
)
"""Options of ``llama-server --help``, October 2026, without their dashes."""

NUMBER = {"type": "number"}
TICKED = {
    "type": "object",
    "properties": {"checked": {"type": "boolean"}, "value": NUMBER},
    "required": ["checked", "value"],
}
MODEL_YAML = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "pattern": "^[^/]+/[^/]+$"},
        "base": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"key": {"type": "string"}, "sources": {"type": "array"}},
                "required": ["key", "sources"],
                "additionalProperties": False,
            },
        },
        "metadataOverrides": {
            "type": "object",
            "properties": {
                "domain": {"enum": ["llm", "embedding"]},
                "architectures": {"type": "array", "items": {"type": "string"}},
                "compatibilityTypes": {"type": "array", "items": {"enum": ["gguf", "safetensors"]}},
                "paramsStrings": {"type": "array", "items": {"type": "string"}},
                "minMemoryUsageBytes": NUMBER,
                "contextLengths": {"type": "array", "items": NUMBER},
                "vision": {"type": "boolean"},
            },
            "additionalProperties": False,
        },
        "config": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "fields": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"key": {"type": "string"}, "value": {}},
                            "required": ["key", "value"],
                            "additionalProperties": False,
                        },
                    }
                },
                "required": ["fields"],
            },
        },
    },
    "required": ["model", "base"],
    "additionalProperties": False,
}
"""The fields of lmstudio-js' ``virtualModelDefinitionSchema``, as far as an export has them."""

FIELDS: dict[str, Any] = {
    "llm.prediction.temperature": NUMBER,
    "llm.prediction.topKSampling": NUMBER,
    "llm.prediction.topPSampling": TICKED,
    "llm.prediction.minPSampling": TICKED,
    "llm.prediction.repeatPenalty": TICKED,
    "llm.prediction.maxPredictedTokens": TICKED,
    "llm.prediction.stopStrings": {"type": "array", "items": {"type": "string"}},
    "llm.prediction.systemPrompt": {"type": "string"},
    "llm.load.contextLength": NUMBER,
}
"""LM Studio's fields and their values."""

PARAMETERS = """\
PARAMETER temperature 0.5
PARAMETER top_p 0.9
PARAMETER top_k 40
PARAMETER min_p 0.05
PARAMETER repeat_penalty 1.1
PARAMETER repeat_last_n -1
PARAMETER num_ctx 4096
PARAMETER num_predict -2
PARAMETER seed -1
PARAMETER stop "User:"
PARAMETER stop "A; B"
"""


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, with ``mario`` built."""
    run = in_process(tmp_path, monkeypatch)
    tiny_gguf(tmp_path / "model.gguf")
    tiny_gguf(tmp_path / "lora.gguf", kind="adapter")
    text = f"FROM ./model.gguf\nADAPTER ./lora.gguf\nSYSTEM You are Mario.\n{PARAMETERS}"
    (tmp_path / "Modelfile").write_text(text)
    done = run("-t", "mario")
    assert done.returncode == 0, done.stderr
    return run


def read_as_llama_cpp(text: str) -> dict[str, dict[str, str]]:
    """A preset as ``common/preset.cpp`` reads it: a line is a section, a key, or a comment."""
    found: dict[str, dict[str, str]] = {}
    section = "default"
    for line in text.splitlines():
        line = re.split(r"[ \t]*[;#]", line, maxsplit=1)[0].rstrip(" \t")
        if not line:
            continue
        if header := re.fullmatch(r"\[[ \t]*([^\]]+?)[ \t]*\]", line):
            section = header[1]
            found[section] = {}
        else:
            pair = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*(.*)", line)
            assert pair is not None, line
            found.setdefault(section, {})[pair[1]] = pair[2]
    return found


def test_a_preset_over_the_stores_own_files(mbuild: Run, tmp_path: Path) -> None:
    """The router's grammar and Python's reader agree; every key is an option of llama-server."""
    done = mbuild("export", "mario", "--preset", "models.ini")
    assert (done.returncode, done.stdout) == (0, "models.ini  [mario]\n")
    text = (tmp_path / "models.ini").read_text()
    found = read_as_llama_cpp(text)
    assert found["default"] == {"version": "1"}
    section = found["mario"]
    assert set(section) <= KNOWN
    for key in ("model", "lora"):
        path = Path(section.pop(key))
        assert path.is_absolute()
        assert path.read_bytes()[:4] == b"GGUF"
    assert section == {
        "temp": "0.5",
        "top-p": "0.9",
        "top-k": "40",
        "min-p": "0.05",
        "repeat-penalty": "1.1",
        "ctx-size": "4096",
        "seed": "-1",
    }
    assert "; SYSTEM, PARAMETER stop: llama-server has no option for it" in text
    other = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    other.read_string(text.replace("version = 1", ""))
    assert dict(other["mario"])["temp"] == "0.5"


def test_several_models_in_one_preset(mbuild: Run, tmp_path: Path) -> None:
    """Each has its section; what a person wrote stays; a section is replaced only with --force."""
    own = (
        "version = 1\n\n[*]\nctx-size = 8192 ; for all\n\n[mario]\nmodel = /x.gguf\n\n[z]\nc = 1\n"
    )
    (tmp_path / "models.ini").write_text(own)
    assert mbuild("cp", "mario", "mario:v2").returncode == 0
    assert mbuild("export", "mario:v2", "--preset", "models.ini").returncode == 0
    done = mbuild("export", "mario", "--preset", "models.ini")
    assert (done.returncode, "replace it with --force" in done.stderr) == (2, True)
    text = (tmp_path / "models.ini").read_text()
    assert text.startswith(own.rstrip())
    assert mbuild("export", "mario", "--preset", "models.ini", "--force").returncode == 0
    found = read_as_llama_cpp((tmp_path / "models.ini").read_text())
    assert list(found) == ["default", "*", "mario", "z", "mario:v2"]
    assert (found["*"], found["z"]) == ({"ctx-size": "8192"}, {"c": "1"})
    assert found["mario"] == found["mario:v2"]
    before = (tmp_path / "models.ini").read_bytes()
    assert mbuild("export", "mario", "--preset", "models.ini").returncode == 0
    assert (tmp_path / "models.ini").read_bytes() == before


def test_a_preset_over_exported_files(mbuild: Run, tmp_path: Path) -> None:
    """It names them by their absolute paths; shards by the first, which the others follow."""
    done = mbuild("export", "mario", "-o", "out/", "--split-layers", "1", "--preset", "models.ini")
    assert done.returncode == 0, done.stderr
    section = read_as_llama_cpp((tmp_path / "models.ini").read_text())["mario"]
    assert section["model"] == str(tmp_path / "out" / "mario-00001-of-00003.gguf")
    assert section["lora"] == str(tmp_path / "out" / "mario-adapter.gguf")
    done = mbuild("export", "mario", "-o", "m.tar", "--preset", "other.ini")
    assert (done.returncode, "not in an archive" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["a;b", "a#b"])
def test_a_path_that_a_preset_cannot_have_is_refused(
    mbuild: Run, tmp_path: Path, name: str
) -> None:
    """The router would take the rest of the line for a comment."""
    done = mbuild("export", "mario", "-o", f"{name}/", "--preset", "models.ini")
    assert (done.returncode, "cannot be written into a preset" in done.stderr) == (2, True)
    assert not (tmp_path / "models.ini").exists()


def test_weights_in_several_layers_are_exported_first(mbuild: Run, tmp_path: Path) -> None:
    """llama.cpp finds shards by their names, which the store's files do not have."""
    assert mbuild("export", "mario", "-o", "parts/", "--split-layers", "1").returncode == 0
    text = "FROM ./parts/mario-*-of-00003.gguf\n"
    done = mbuild("-f", "-", "--keep-split", "-t", "parts", input=text)
    assert done.returncode == 0, done.stderr
    done = mbuild("export", "parts", "--preset", "models.ini")
    assert (done.returncode, "export them: -o DIR" in done.stderr) == (2, True)


def test_negative_numbers_that_mean_something_of_ollamas_are_left_out() -> None:
    """-1 for all of the context, -2 until it is full: llama-server has other words for them."""
    assert dict(options({"num_predict": -1})) == {"n-predict": "-1"}
    for name in ("num_predict", "repeat_last_n", "num_gpu", "num_keep"):
        assert dict(options({name: -2})) == {}
    assert dict(options({"temperature": 1.0, "seed": True, "top_k": "x"})) == {"temp": "1"}
    assert set(OPTIONS.values()) <= KNOWN


def test_a_section_in_an_empty_file() -> None:
    """The file begins with the version that the router reserves."""
    assert with_section("", "a", "[a]\nc = 1\n", replace=False) == "version = 1\n\n[a]\nc = 1\n"
    with pytest.raises(UsageError, match="has a section"):
        with_section("[a]\nc = 2\n", "a", "[a]\nc = 1\n", replace=False)


def test_model_yaml_fits_lm_studios_schema(mbuild: Run, tmp_path: Path) -> None:
    """Its fields have the names and the kinds of values of lmstudio-js."""
    assert mbuild("export", "mario", "--model-yaml", "model.yaml").returncode == 0
    value = yaml.safe_load((tmp_path / "model.yaml").read_text())
    jsonschema.validate(value, MODEL_YAML)
    fields = {
        each["key"]: each["value"] for part in value["config"].values() for each in part["fields"]
    }
    for key, item in fields.items():
        jsonschema.validate(item, FIELDS[key])
    assert fields["llm.prediction.stopStrings"] == ["User:", "A; B"]
    assert fields["llm.prediction.systemPrompt"] == "You are Mario."
    assert fields["llm.load.contextLength"] == 4096
    assert value["base"] == [{"key": "library/mario", "sources": []}]
    assert value["model"] != value["base"][0]["key"]
    done = mbuild("export", "mario", "--model-yaml", "model.yaml")
    assert (done.returncode, "exists" in done.stderr) == (2, True)


def test_nothing_is_written_where_nothing_is_asked(mbuild: Run, tmp_path: Path) -> None:
    """Neither a preset nor a description: the folder stays as it is."""
    store = Store(tmp_path / "store")
    stored = store.manifests.read(store.manifests.resolve(next(store.manifests.names())))
    before = sorted(tmp_path.iterdir())
    write_presets(store, stored, (), None, None, replace=True)
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_without_a_place(mbuild: Run) -> None:
    """Nothing to write, or an option that writes nothing."""
    for arguments in ((), ("--preset", "x.ini", "--raw"), ("--preset", "x.ini", "--merge")):
        done = mbuild("export", "mario", *arguments)
        assert (done.returncode, "needs a place" in done.stderr) == (2, True)
