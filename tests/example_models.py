"""The models of examples/make_models.py, in sizes that a test chooses, and edits of them."""

from __future__ import annotations

import importlib.util
import json
import struct
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

EXAMPLES = Path(__file__).parent.parent / "examples"


def generator(**sizes: int) -> ModuleType:
    """The generator as a module of its own; ``sizes`` replace its constants (``LAYERS=4``)."""
    spec = importlib.util.spec_from_file_location("make_models", EXAMPLES / "make_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in sizes.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    return module


def write_chat(folder: Path, **sizes: int) -> Path:
    """The checkpoint ``tiny-chat`` in ``folder``."""
    generator(**sizes).write_chat(folder)
    settle()
    return folder


def settle() -> None:
    """Let the files' times become old: a digest taken within 20 ms of a change is not relied on."""
    time.sleep(0.03)


def change_tensors(shard: Path, *parts: str) -> list[str]:
    """Flip a bit in each tensor whose name contains one of ``parts``; their names.

    The lowest bit of a BF16 mantissa: every value stays finite.
    """
    data = bytearray(shard.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    changed = [name for name in header if any(part in name for part in parts)]
    for name in changed:
        data[8 + length + header[name]["data_offsets"][0]] ^= 1
    shard.write_bytes(data)
    return changed


def set_value(shard: Path, name: str, value: float) -> None:
    """Put a number in the place of a BF16 tensor's first."""
    data = bytearray(shard.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start = 8 + length + json.loads(data[8 : 8 + length])[name]["data_offsets"][0]
    data[start : start + 2] = struct.pack("<f", value)[2:]
    shard.write_bytes(data)


def edit_json(path: Path, **changes: Any) -> None:
    """Replace values of a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def write_imatrix(path: Path, value: float) -> None:
    """An importance matrix of the old format, for one tensor of the checkpoint."""
    name = b"blk.0.attn_q.weight"
    values = np.full(256, value, "<f4").tobytes()
    head = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 1, 256)
    path.write_bytes(head + values)
