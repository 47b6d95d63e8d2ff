"""Files of ``torch.save``: a zip with a pickle and its storages, or the older stream of pickles.

The pickle says which tensors there are and where in a storage they lie
(:mod:`mbuild.convert.read.pickles`); the data is then read like that of a safetensors file.
Formats: https://github.com/pytorch/pytorch/blob/v2.9.0/torch/serialization.py (``_load``,
``_legacy_load``), https://pkware.cachefly.net/webdocs/APPNOTE/APPNOTE-6.3.9.TXT (zip).
"""

from __future__ import annotations

import math
import os
import struct
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.pickles import (
    MAX_PICKLE,
    PickledTensor,
    contiguous_strides,
    read_pickle,
)
from mbuild.convert.read.safetensors import (
    BITS,
    Shard,
    StoredTensor,
    check_name,
    file_identity,
    opened_file,
)
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.system import unreadable
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np

    from mbuild.gguf.files import Seen

_MAGIC = 0x1950A86A20F9469CFC6C  # of a stream
_ZIP, _ZIP_END, _ZIP64_END = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"
_MAX_DIRECTORY, _MAX_MEMBERS = 64 << 20, 1_000_000
_NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Where a training keeps the weights in a larger dictionary."""
_DAMAGED = "the file is damaged or incomplete: download it again"


class StridedTensor(StoredTensor):
    """A tensor that does not lie in the order of its indices: ``strides`` are in elements.

    ``nbytes`` counts its own elements; they lie within ``span`` bytes from ``offset`` on.
    """

    strides: tuple[int, ...] = ()
    span: int = 0

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """As of a stored tensor; the whole span is read for any part of it."""
        import numpy as np

        around = replace(self, nbytes=self.span)
        raw = StoredTensor.read(around)
        size = BITS[self.dtype] // 8
        view = np.lib.stride_tricks.as_strided(
            raw.view(f"V{size}"), self.shape, [stride * size for stride in self.strides]
        )
        whole: np.ndarray[Any, np.dtype[np.uint8]] = np.ascontiguousarray(view).reshape(-1)
        return whole.view(np.uint8)[start:stop]


def read_torch_file(path: Path, name: str, seen: Seen | None = None) -> tuple[StoredTensor, ...]:
    """The tensors of one file, in the order in which it has them.

    Raises :class:`UnsupportedError` for a pickle that holds anything but tensors,
    :class:`FormatError` for what the format forbids, :class:`SourceError` when the file cannot be
    read. Nothing of the pickle is run.
    """
    with opened_file(path, name) as fd:
        try:
            identity = file_identity(fd)
            places, value = _contents(fd, identity[2], name)
        except OSError as error:
            raise unreadable(name, error) from error
    shard = Shard(name, path, identity, seen)
    return tuple(_stored(shard, key, tensor, places) for key, tensor in _weights(value, name))


def _contents(fd: int, size: int, name: str) -> tuple[Mapping[str, tuple[int, int]], Any]:
    """Where the storages lie (offset and bytes), and the value of the pickle."""
    head = os.pread(fd, 512, 0)
    if head.startswith(_ZIP):
        return _zipped(fd, size, name)
    if head.startswith(b"version https://git-lfs"):
        raise FormatError(
            f"{name} is a git-lfs pointer, not the file itself",
            hint="fetch the real files with: git lfs pull",
        )
    if head[257:262] == b"ustar":
        raise UnsupportedError(
            f"{name} is in the tar format of PyTorch before 0.1.10, which is not supported",
            hint="load and save it again with a newer PyTorch",
        )
    return _streamed(fd, size, name)


# Zip files.


def _zipped(fd: int, size: int, name: str) -> tuple[Mapping[str, tuple[int, int]], Any]:
    members = dict(_members(fd, size, name))
    pickle = next((member for member in members if member.endswith("/data.pkl")), None)
    if pickle is None:
        raise FormatError(f"{name} is a zip file without data.pkl: it is not PyTorch's",
                          hint=_DAMAGED)  # fmt: skip
    prefix = pickle.removesuffix("data.pkl")
    order = members.get(f"{prefix}byteorder")
    if order is not None and os.pread(fd, min(order[1], 16), order[0]) != b"little":
        raise UnsupportedError(f"{name} was saved on a machine with the other byte order",
                               hint="save it as safetensors there")  # fmt: skip
    at, count = members[pickle]
    if count > MAX_PICKLE:
        raise FormatError(f"{name}: its pickle has {count} bytes; the limit is {MAX_PICKLE}")
    value, _ = read_pickle(os.pread(fd, count, at), name)
    start = f"{prefix}data/"
    return {k.removeprefix(start): v for k, v in members.items() if k.startswith(start)}, value


def _members(fd: int, size: int, name: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The files in a zip that are stored as they are: names, offsets and sizes."""
    count, length, at = _directory(fd, size, name)
    if count > _MAX_MEMBERS or length > _MAX_DIRECTORY or at + length > size:
        raise FormatError(f"{name}: the zip file's directory has no possible size", hint=_DAMAGED)
    directory, place, known = os.pread(fd, length, at), 0, set[str]()
    for _ in range(count):
        entry = directory[place : place + 46]
        if len(entry) < 46 or not entry.startswith(b"PK\x01\x02"):
            raise FormatError(f"{name}: the zip file's directory is damaged", hint=_DAMAGED)
        flags, method = struct.unpack_from("<HH", entry, 8)
        packed, whole = struct.unpack_from("<II", entry, 20)
        label, extra, comment = struct.unpack_from("<HHH", entry, 28)
        (local,) = struct.unpack_from("<I", entry, 42)
        raw = directory[place + 46 : place + 46 + label]
        more = directory[place + 46 + label : place + 46 + label + extra]
        place += 46 + label + extra + comment
        member = raw.decode("utf-8", "replace")
        whole, packed, local = _wide(more, whole, packed, local)
        if method or flags & 1 or packed != whole:
            raise UnsupportedError(
                f"{name}: {member[:80]!r} in it is compressed or encrypted, as PyTorch never does",
                hint="save it again with torch.save",
            )
        if member in known:
            raise FormatError(f"{name} has {member[:80]!r} twice", hint=_DAMAGED)
        known.add(member)
        yield member, (_data(fd, local, whole, at, name), whole)


def _data(fd: int, local: int, count: int, end: int, name: str) -> int:
    """Where a member's data begins, which has to end before the directory."""
    head = os.pread(fd, 30, local)
    if len(head) < 30 or not head.startswith(_ZIP):
        raise FormatError(f"{name}: the zip file's directory is damaged", hint=_DAMAGED)
    label, extra = struct.unpack_from("<HH", head, 26)
    start: int = local + 30 + label + extra
    if start + count > end:
        raise FormatError(f"{name}: a file in it reaches beyond its end", hint=_DAMAGED)
    return start


def _directory(fd: int, size: int, name: str) -> tuple[int, int, int]:
    """The number of members, the directory's bytes and where it begins."""
    tail_at = max(size - (1 << 16) - 22, 0)
    tail = os.pread(fd, size - tail_at, tail_at)
    at = tail.rfind(_ZIP_END)
    if at < 0 or len(tail) - at < 22:
        raise FormatError(f"{name}: the zip file has no end", hint=_DAMAGED)
    count, length, start = struct.unpack_from("<HII", tail, at + 10)
    if 0xFFFF not in (count,) and 0xFFFFFFFF not in (length, start):
        return count, length, start
    locator = tail[at - 20 : at] if at >= 20 else b""
    if not locator.startswith(b"PK\x06\x07"):
        return count, length, start
    end = os.pread(fd, 56, struct.unpack_from("<Q", locator, 8)[0] & ((1 << 62) - 1))
    if len(end) < 56 or not end.startswith(_ZIP64_END):
        raise FormatError(f"{name}: the zip file's end is damaged", hint=_DAMAGED)
    count, length, start = struct.unpack_from("<QQQ", end, 32)
    return count, length, start


def _wide(extra: bytes, *sizes: int) -> tuple[int, int, int]:
    """Sizes and the offset, from the extra field where they have more than 32 bits."""
    found, at = [*sizes], 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            wide = [n for n, value in enumerate(found) if value == 0xFFFFFFFF]
            for number, place in enumerate(wide):
                if len(field) >= 8 * number + 8:
                    found[place] = struct.unpack_from("<Q", field, 8 * number)[0]
        at += 4 + length
    return found[0], found[1], found[2]


# Streams of pickles, as before PyTorch 1.6.


def _streamed(fd: int, size: int, name: str) -> tuple[Mapping[str, tuple[int, int]], Any]:
    data = os.pread(fd, min(size, MAX_PICKLE), 0)
    if not data.startswith(b"\x80"):
        raise FormatError(f"{name} is not a file of PyTorch", hint=_DAMAGED)
    magic, at = read_pickle(data, name)
    if magic != _MAGIC:
        raise FormatError(f"{name} is a pickle, but not a file of PyTorch", hint=_DAMAGED)
    for _ in range(2):  # the protocol's version and the machine that wrote it
        _, at = read_pickle(data, name, at)
    value, at = read_pickle(data, name, at)
    keys, at = read_pickle(data, name, at)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise FormatError(f"{name}: the storages have no keys", hint=_DAMAGED)
    sizes = {tensor.storage.key: tensor.storage for _, tensor in _weights(value, name)}
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        head = os.pread(fd, 8, at)
        count = int.from_bytes(head, "little")
        storage = sizes.get(key)
        if len(head) < 8 or storage is None or storage.count != count or key in places:
            raise FormatError(f"{name}: the storage {key[:80]!r} is another than the pickle says",
                              hint=_DAMAGED)  # fmt: skip
        length = count * BITS[storage.dtype] // 8
        if at + 8 + length > size:
            raise FormatError(f"{name} ends before its storages do", hint=_DAMAGED)
        places[key] = (at + 8, length)
        at += 8 + length
    return places, value


# Tensors.


def _weights(value: Any, name: str) -> Iterator[tuple[str, PickledTensor]]:
    """The tensors of a state dict, or of the one in a training's dictionary."""
    inner = value
    for _ in range(2):
        if isinstance(inner, dict) and not _has_tensors(inner):
            inner = next((inner[key] for key in _NESTED if isinstance(inner.get(key), dict)), inner)
    if not isinstance(inner, dict) or not _has_tensors(inner):
        raise FormatError(
            f"{name} holds no tensors by name",
            hint="it is not a model's weights; save those with save_pretrained(FOLDER)",
        )
    for key, tensor in inner.items():
        if isinstance(tensor, PickledTensor):
            if not isinstance(key, str):
                raise FormatError(f"{name}: a tensor's name is {str(key)[:40]}")
            check_name(key, name)
            yield key, tensor


def _has_tensors(value: dict[Any, Any]) -> bool:
    return any(isinstance(item, PickledTensor) for item in value.values())


def _stored(
    shard: Shard, key: str, tensor: PickledTensor, places: Mapping[str, tuple[int, int]]
) -> StoredTensor:
    """A tensor's bytes in the file; raises :class:`FormatError` for one beyond its storage."""
    where, storage, size = f"{shard.name}: tensor {key!r}", tensor.storage, BITS[tensor.dtype] // 8
    start, length = places.get(storage.key, (0, -1))
    if length != storage.count * BITS[storage.dtype] // 8:
        raise FormatError(f"{where}: its storage is missing or has another size", hint=_DAMAGED)
    count = math.prod(tensor.shape)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = sum((dim - 1) * stride for dim, stride in steps) if count else -1
    if (tensor.offset + last + 1) * size > length or count * size > length:
        raise FormatError(
            f"{where} of shape {list(tensor.shape)} reaches beyond its storage of {length} bytes",
            hint=_DAMAGED,
        )
    at = start + tensor.offset * size
    plain = StoredTensor(key, tensor.dtype, tensor.shape, shard, at, count * size)
    wanted = contiguous_strides(tensor.shape)
    if all(d == 1 or s == w for d, s, w in zip(tensor.shape, tensor.strides, wanted, strict=True)):
        return plain
    span = (last + 1) * size
    return StridedTensor(
        key, tensor.dtype, tensor.shape, shard, at, count * size, tensor.strides, span
    )
