"""Small self-made vocabularies, and what llama.cpp's converter wrote for each.

``data/vocab/cases.json`` holds, case by case, the files of a checkpoint
without weights and every ``tokenizer.*`` entry that ``set_vocab`` of
``convert_hf_to_gguf.py`` (1 October 2026, transformers 5.23; of ``xlm_roberta_json`` 4.57.6, which
llama.cpp pins) made of them.
The pre-tokenizers of made-up vocabularies have no name: it is ``test-pre``.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "vocab" / "cases.json").read_text(encoding="utf-8")
)
BY_NAME = {case["name"]: case for case in CASES}
PRE = "test-pre"


def write_files(folder: Path, contents: dict[str, Any]) -> dict[str, Path]:
    """Write files (text, bytes or a JSON value) and return them by name."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return {name: folder / name for name in contents}


def case_files(case: dict[str, Any]) -> dict[str, Any]:
    """The contents of a case's files, to be changed and written."""
    binary = {name: base64.b64decode(text) for name, text in case["base64"].items()}
    return json.loads(json.dumps(case["json"])) | case["text"] | binary


def plain(value: Any) -> Any:
    """A metadata value as JSON has it."""
    if isinstance(value, str | bool | int | float):
        return value
    return [item.item() if hasattr(item, "item") else item for item in value]
