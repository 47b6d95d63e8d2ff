"""Weights that stay as they are stored: NVFP4, MXFP4, and integers as Q4_0 and Q8_0.

What a rule of a family does to a matrix, it does to rows: they are moved, cut and stacked. So a
weight whose bits are kept goes through the same rules as any other. Its elements are runs of 16
or 32 values in a row with their scale, in ggml's bytes, and its last axis counts those. What
would tear a run apart or compute with values is refused (:class:`CannotKeep`), and the weight is
dequantized instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.joining import stack
from mbuild.convert.read.lazy import Lazy, in_turn
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple, replace
from mbuild.gguf.types import BLOCKS, GGMLType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


class CannotKeep(FormatError):
    """A rule would move or change single values of a weight whose bits are to be kept."""


class RunFormat(NamedTuple):
    """How runs of values lie in a file.

    Attributes:
        type: GGUF's type.
        values: values of one run.
        nbytes: bytes of one run here; of NVFP4, four of which make one block, the scale and codes.
    """

    type: GGMLType
    values: int
    nbytes: int


NVFP4 = RunFormat(GGMLType.NVFP4, 16, 9)
MXFP4 = RunFormat(GGMLType.MXFP4, 32, 17)
Q4_0 = RunFormat(GGMLType.Q4_0, 32, 18)
Q8_0 = RunFormat(GGMLType.Q8_0, 32, 34)

TRIVIAL = 1e-6
"""A factor that is 1 within this is not written (``_scale_is_trivial`` of llama.cpp)."""


class Factors(NamedTuple):
    """What ``.scale`` and ``.input_scale`` beside an NVFP4 weight say: one number, or one for each
    expert of a stack."""

    scale: tuple[float, ...] = (1.0,)
    input_scale: tuple[float, ...] = (1.0,)

    def tensors(self) -> list[tuple[str, tuple[float, ...]]]:
        """The tensors to write beside the weight, by the endings of their names."""
        named = (("scale", self.scale), ("input_scale", self.input_scale))
        return [(name, values) for name, values in named if not _trivial(values)]

    @classmethod
    def joined(cls, parts: Sequence[Factors]) -> Factors:
        """Those of a stack."""
        return cls(
            tuple(value for part in parts for value in part.scale),
            tuple(value for part in parts for value in part.input_scale),
        )


UNSCALED = Factors()


def _trivial(values: tuple[float, ...]) -> bool:
    if len(values) == 1:
        return abs(values[0] - 1) < TRIVIAL
    return all(abs(value - 1) <= TRIVIAL + 1e-5 for value in values)  # as numpy.allclose


class KeptWeight(Lazy):
    """A weight in runs: ``shape`` counts runs on its last axis, values elsewhere.

    ``values`` is the same dequantized, for whom the runs are no use; None once something was
    moved. ``factors`` belong to the whole matrix.
    """

    format: RunFormat = NVFP4
    values: Lazy | None = None
    factors: Factors = Factors()

    @property
    def unit(self) -> int:
        """Values that an element of the last axis stands for."""
        return self.format.values

    @property
    def layout(self) -> RunFormat:
        """What an element is."""
        return self.format

    def move(self, shape: Sequence[int], change: Callable[[Array], Array]) -> Lazy:
        """Moved rows; raises :class:`CannotKeep` where a row would not stay one."""
        _check_rows_stay(self, tuple(shape), change)
        return self._moved(shape, change)

    def reshape(self, *shape: int) -> Lazy:
        """The same runs under another shape; raises :class:`CannotKeep` if it does not fit."""
        if math.prod(shape) != self.size or min(shape, default=0) < 0:
            raise CannotKeep(f"{self.origin} is cut within a run")
        same = self._moved(shape, lambda runs: runs.reshape(shape))
        return replace(same, part=self.part, grain=self.grain)

    def _moved(self, shape: Sequence[int], change: Callable[[Array], Array]) -> KeptWeight:
        return replace(
            self,
            shape=tuple(shape),
            load=lambda: change(self.load()),
            parts=(),
            part=None,
            grain=1,
            encoded=None,
            values=None,
        )

    def transpose(self, *axes: int) -> Lazy:
        """The axes in another order, the last one last."""
        if axes[-1] not in (len(axes) - 1, -1):
            raise CannotKeep(f"{self.origin} is transposed")
        return Lazy.transpose(self, *axes)

    def compute(self, change: Callable[[Array], Array]) -> Lazy:
        """Never: there are no values."""
        raise CannotKeep(f"{self.origin} is computed with")

    def plain(self) -> Lazy:
        """The values; raises :class:`CannotKeep` where the runs were moved already."""
        if self.values is None:
            raise CannotKeep(f"{self.origin} is stacked with weights of other types")
        return self.values

    def stacked(self, parts: Sequence[Lazy], load: Callable[[], Array]) -> Lazy:
        """Parts like this one under a new first axis."""
        own = [part for part in parts if isinstance(part, KeptWeight)]
        plain = [part.values for part in own if part.values is not None]
        every = KeptWeight(
            self.dtype,
            (len(parts), *self.shape),
            load,
            self.origin,
            tuple(parts),
            format=self.format,
            values=stack(plain) if len(plain) == len(parts) else None,
            factors=Factors.joined([part.factors for part in own]),
        )
        return in_turn(every, parts)

    def finished(self, runs: Array) -> Array:
        """The runs as ggml's blocks: flat bytes."""
        import numpy as np

        flat = np.ascontiguousarray(runs).reshape(-1).view(np.uint8)
        if self.format is not NVFP4:
            return flat
        four = flat.reshape(-1, 4, NVFP4.nbytes)
        out = np.empty((four.shape[0], 4 * NVFP4.nbytes), np.uint8)
        out[:, :4] = four[:, :, 0]
        out[:, 4:] = four[:, :, 1:].reshape(-1, 32)
        return out.reshape(-1)


def _check_rows_stay(
    kept: KeptWeight, shape: tuple[int, ...], change: Callable[[Array], Array]
) -> None:
    """Try a change on numbers of rows and of columns: each row must come out whole."""
    import numpy as np

    columns = kept.shape[-1]
    rows = kept.size // max(columns, 1)
    number = np.arange(rows, dtype=np.int32).reshape(*kept.shape[:-1], 1)
    probes = (
        np.broadcast_to(number, kept.shape).copy(),
        np.broadcast_to(np.arange(columns, dtype=np.int32), kept.shape).copy(),
    )
    try:
        row, column = (change(probe) for probe in probes)
    except ValueError:
        raise CannotKeep(f"{kept.origin} is cut within a run") from None
    good = (
        row.shape == column.shape == shape
        and shape[-1] == columns
        and bool((row == row[..., :1]).all())
        and bool((column == np.arange(columns, dtype=np.int32)).all())
    )
    if not good:
        raise CannotKeep(f"{kept.origin} is moved along its rows")


def kept(
    form: RunFormat,
    origin: str,
    shape: tuple[int, ...],
    runs: Callable[[int, int], Array],
    values: Lazy,
    factors: Factors = UNSCALED,
    encoded: Callable[[int, int, GGMLType], Array | None] | None = None,
) -> KeptWeight:
    """A weight whose runs ``runs(start, stop)`` gives as bytes (stop - start, form.nbytes).

    ``shape`` counts values; its last axis is a multiple of a run's. ``encoded`` is as that of
    :class:`Lazy`, from one run to another.
    """
    import numpy as np

    inner = (*shape[:-1], shape[-1] // form.values)
    element = np.dtype(f"V{form.nbytes}")
    count = int(np.prod(inner, dtype=np.int64))

    def part(start: int, stop: int) -> Array:
        return np.ascontiguousarray(runs(start, stop)).view(element).reshape(-1)

    return KeptWeight(
        DType.F4,
        inner,
        lambda: part(0, count).reshape(inner),
        origin,
        part=part,
        encoded=encoded,
        format=form,
        values=values,
        factors=factors,
    )


def halves_of_runs(pairs: Array) -> Array:
    """Codes of four bits, from bytes with values 2j and 2j + 1 to bytes with j and j + n/2.

    ``pairs`` is (runs, n/2), uint8, n is 16 or 32; so is the result. A half of a run is one
    number here, of 4 or 8 bytes.
    """
    import numpy as np

    count, half = pairs.shape
    word = np.dtype(f"<u{half // 2}")
    low, four = word.type(int.from_bytes(b"\x0f" * word.itemsize)), word.type(4)
    both = np.ascontiguousarray(pairs).view(word)
    first, second = np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])
    even = (first & low) | (second & low) << four
    odd = (first >> four & low) | (second & ~low)
    out: Array = odd.view(np.uint8).astype("<u2")
    out <<= np.uint16(8)
    out |= even.view(np.uint8)
    made: Array = out.view(np.uint8).reshape(count, half)
    return made


def can_stay(name: str, item: Lazy) -> bool:
    """Whether llama.cpp can load a weight in its bits under GGUF's name ``name``."""
    if not isinstance(item, KeptWeight):
        return True
    width = item.shape[-1] * item.unit
    whole = len(item.shape) >= 2 and width % BLOCKS[item.format.type].weights == 0
    place = _LAYER.sub("", name)
    return whole and (place in _WITH_FACTORS or not item.factors.tensors())


def kept_types(items: Iterable[object]) -> frozenset[GGMLType]:
    """The types of the weights that stay in their bits."""
    return frozenset(item.format.type for item in items if isinstance(item, KeptWeight))


_LAYER = regex(r"^(?:enc\.|dec\.)?blk\.\d+\.")
_WITH_FACTORS = frozenset(
    f"{name}.weight"
    for name in (
        *("attn_q", "attn_k", "attn_v", "attn_output", "attn_qkv", "attn_gate"),
        *("ffn_gate", "ffn_down", "ffn_up", "ffn_gate_shexp", "ffn_down_shexp", "ffn_up_shexp"),
        *("ffn_gate_exps", "ffn_down_exps", "ffn_up_exps", "ssm_in", "ssm_out", "ssm_alpha"),
        *("ssm_beta", "nextn.eh_proj", "nextn.shared_head_head", "output"),
    )
)
"""Weights beside which llama.cpp looks for ``.scale`` and ``.input_scale`` (llama-model.cpp)."""
