"""What a GGUF header must say beyond being well-formed: names, architecture, placement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.gguf.cursor import DAMAGED
from mbuild.gguf.files import FileBytes
from mbuild.gguf.foreign import QUANTIZE_WITH_IT
from mbuild.gguf.model import MetadataEntry, RawKV
from mbuild.gguf.types import ALIGNMENT, ValueType

ARCHITECTURE = regex(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
MAX_ARCHITECTURE = 64
MAX_BLOCKS = 65_535
MIN_ALIGNMENT = 8
MAX_ALIGNMENT = 1 << 20

INTEGERS = frozenset(
    {
        ValueType.UINT8,
        ValueType.INT8,
        ValueType.UINT16,
        ValueType.INT16,
        ValueType.UINT32,
        ValueType.INT32,
        ValueType.UINT64,
        ValueType.INT64,
    }
)

_TOKEN_TABLES: tuple[tuple[str, tuple[ValueType, ...]], ...] = (
    # llama.cpp's converter writes the scores of a tekken vocabulary, all zero, as integers.
    ("tokenizer.ggml.scores", (ValueType.FLOAT32, ValueType.INT32)),
    ("tokenizer.ggml.token_type", (ValueType.INT32, ValueType.UINT32)),
)
"""Arrays that llama.cpp indexes by token, and the element types that it reads them as."""


class Placed(Protocol):
    """What placement needs of a tensor's entry."""

    @property
    def name(self) -> str:
        """The tensor's name."""

    @property
    def offset(self) -> int:
        """The offset that the file gives, relative to its data."""

    @property
    def nbytes(self) -> int:
        """The bytes that the tensor takes."""

    @property
    def at(self) -> int:
        """Where the entry stands in the file."""


def check_metadata(file: FileBytes, kvs: Mapping[str, RawKV]) -> None:
    """Check the keys that everything else relies on; raises :class:`FormatError`."""
    architecture = _architecture(file, kvs)
    if architecture is not None:
        _check_block_count(file, kvs, architecture)
    _check_token_tables(file, kvs)


def valid_alignment(value: object) -> bool:
    """Whether a number can be ``general.alignment``: a power of two from 8 to 1 MiB."""
    return (
        isinstance(value, int)
        and MIN_ALIGNMENT <= value <= MAX_ALIGNMENT
        and value & (value - 1) == 0
    )


def check_alignment(file: FileBytes, kvs: Mapping[str, RawKV]) -> int:
    """The alignment of tensor data in bytes; raises :class:`FormatError` for a bad one."""
    entry = kvs.get("general.alignment")
    if entry is None:
        return ALIGNMENT
    if entry.type is not ValueType.UINT32:
        raise file.error(
            f"general.alignment has the type {entry.type.name}, not UINT32", entry.start
        )
    value = int(entry.value)
    if not valid_alignment(value):
        raise file.error(
            f"general.alignment is {value}, not a power of two "
            f"from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}",
            entry.start,
        )
    return value


def check_key(key: str) -> str:
    """What is wrong with a metadata key, "" for nothing.

    llama.cpp looks keys up as C strings, which end with a NUL: with one inside, two keys are
    one to it and two to others, and each program reads another model.
    """
    if "\0" in key:
        return "has a NUL, where llama.cpp would end it"
    return "" if key.isprintable() else "has characters that cannot be printed"


_READ = frozenset({"general", "tokenizer", "adapter", "split"})
"""What keys begin with that programs act on, besides the architecture's name."""


def with_nul(entries: Iterable[MetadataEntry]) -> Iterator[MetadataEntry]:
    """The texts that have a NUL, at which llama.cpp takes them to end while others read on.

    Of keys that no program acts on it is no matter, nor in items of arrays: there are real
    vocabularies with a token that is one NUL.
    """
    texts = [entry for entry in entries if entry.type is ValueType.STRING]
    named = next((entry for entry in texts if entry.key == "general.architecture"), None)
    begins = _READ | ({str(named.value)} if named else set())
    for entry in texts:
        if entry.key.partition(".")[0] in begins and "\0" in entry.value:
            yield entry


def check_texts(file: FileBytes, kvs: Mapping[str, RawKV]) -> None:
    """Raise :class:`FormatError` for a text with a NUL; see :func:`with_nul`."""
    for entry in with_nul(kvs.values()):
        raise file.error(
            f"the text of {entry.key} has a NUL, where llama.cpp would end it",
            kvs[entry.key].start,
            hint="programs would run different models; set the key again with "
            "gguf-set-metadata of the gguf package, or convert the checkpoint again",
        )


def _architecture(file: FileBytes, kvs: Mapping[str, RawKV]) -> str | None:
    """The architecture; only a shard after the first of a split model may lack one."""
    entry = kvs.get("general.architecture")
    if entry is None:
        if _is_later_shard(kvs):
            return None
        if any(key.startswith("imatrix.") for key in kvs):
            raise FormatError(
                f"{file.name}: an importance matrix of llama-imatrix, not a model",
                hint=QUANTIZE_WITH_IT,
            )
        raise FormatError(
            f"{file.name}: no general.architecture in the metadata",
            hint="not a model that llama.cpp or Ollama could load; convert it again",
        )
    if entry.type is not ValueType.STRING:
        raise file.error(
            f"general.architecture has the type {entry.type.name}, not STRING", entry.start
        )
    if entry.stop - entry.start - 8 > MAX_ARCHITECTURE:
        raise file.error("general.architecture is too long", entry.start)
    value = str(entry.value)
    if not ARCHITECTURE.fullmatch(value):
        raise file.error(
            f"general.architecture is {value!r}, not a name of lower-case letters, "
            "digits, '_' and '-'",
            entry.start,
        )
    return value


def _is_later_shard(kvs: Mapping[str, RawKV]) -> bool:
    # gguf-split writes the model's metadata into the first shard only.
    number, count = (kvs.get(key) for key in ("split.no", "split.count"))
    if number is None or count is None or not {number.type, count.type} <= INTEGERS:
        return False
    return bool(0 < number.value < count.value)


def _check_block_count(file: FileBytes, kvs: Mapping[str, RawKV], architecture: str) -> None:
    entry = kvs.get(f"{architecture}.block_count")
    if entry is None:
        return
    if entry.type not in INTEGERS:
        raise file.error(f"{entry.key} has the type {entry.type.name}, not a number", entry.start)
    if not 1 <= entry.value <= MAX_BLOCKS:
        raise file.error(f"{entry.key} is {entry.value}, not 1 to {MAX_BLOCKS}", entry.start)


def _check_token_tables(file: FileBytes, kvs: Mapping[str, RawKV]) -> None:
    tokens = kvs.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    if tokens.element is not ValueType.STRING:
        raise file.error(f"{tokens.key} is not an array of strings", tokens.start)
    for key, elements in _TOKEN_TABLES:
        entry = kvs.get(key)
        if entry is None:
            continue
        if entry.element not in elements:
            raise file.error(f"{key} is not an array of {elements[0].name}", entry.start)
        if entry.count != tokens.count:
            raise file.error(
                f"{key} has {entry.count} items for {tokens.count} tokens", entry.start
            )


def check_tensor_name(file: FileBytes, raw: bytes, at: int) -> str:
    """A tensor's name from its bytes; ``at`` is where the entry stands."""
    problem = ""
    name = raw.decode(errors="replace")
    if not raw:
        problem = "is empty"
    elif "�" in name or not name.isprintable():
        problem = "has bytes that are not printable UTF-8"
    elif name.startswith(("/", "\\")) or (".." in name and ".." in re.split(r"[/\\]", name)):
        problem = "looks like a path"
    if problem:
        raise file.error(f"tensor name {name!r} {problem}", at)
    return name


def place_tensors(
    file: FileBytes, infos: Sequence[Placed], data_start: int, alignment: int
) -> list[int]:
    """The offset of each tensor from the start of the file.

    Raises :class:`FormatError` for a name that occurs twice, an offset off the
    alignment, a tensor that ends past the file's end, and tensors that overlap.
    """
    seen: set[str] = set()
    for info in infos:
        if info.name in seen:
            raise file.error(f"tensor {info.name!r} occurs twice", info.at)
        seen.add(info.name)
        if info.offset % alignment:
            raise file.error(
                f"tensor {info.name!r}: offset {info.offset} is not a multiple of {alignment}",
                info.at,
            )
        end = data_start + info.offset + info.nbytes
        if end > file.size:
            raise file.error(
                f"tensor {info.name!r} ends {end - file.size} bytes past the end of the file",
                info.at,
                hint=DAMAGED,
            )
    _check_overlap(file, infos)
    return [data_start + info.offset for info in infos]


class Located(Protocol):
    """What the order of a file's data needs of a tensor."""

    @property
    def name(self) -> str:
        """The tensor's name."""

    @property
    def offset(self) -> int:
        """Where its data begin, from the start of the file."""

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""


def check_order(name: str, tensors: Sequence[Located], data_start: int, alignment: int) -> None:
    """Raise :class:`FormatError` unless each tensor follows the one before, as ggml demands.

    The data of the first begin where data can begin, those of each other one where the one
    before it in the header ends, rounded up to the alignment (``gguf_init_from_file``).
    """
    expected = data_start
    for tensor in tensors:
        if tensor.offset != expected:
            raise FormatError(
                f"{name}: tensor {tensor.name!r} begins {tensor.offset - data_start} bytes into "
                f"the data, not {expected - data_start}, where the one before it ends",
                hint="llama.cpp does not load a file with gaps or in another order; "
                "gguf-new-metadata of the gguf package writes it again without them,"
                " and so does mbuild -q",
            )
        expected += -(-tensor.nbytes // alignment) * alignment


def _check_overlap(file: FileBytes, infos: Sequence[Placed]) -> None:
    ordered = sorted(infos, key=lambda info: info.offset)
    for before, after in pairwise(ordered):
        if before.offset + before.nbytes > after.offset:
            raise file.error(f"tensors {before.name!r} and {after.name!r} overlap", after.at)
