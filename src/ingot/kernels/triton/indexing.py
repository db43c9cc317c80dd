"""From tile indices to memory offsets: any strides, any broadcast, with as few divisions as the strides allow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import IngotError
from ingot.graph.dims import Dim, Shape, evaluate, mul, symbols
from ingot.graph.tensor import TensorSpec
from ingot.kernels.triton.builder import KernelBuilder

_PRIMES = (7, 13, 29, 31, 53, 67, 97, 101)
_INT32 = 2**31 - 1


@lru_cache(maxsize=65536)
def same(a: Dim, b: Dim) -> bool:
    """Whether two dimension expressions agree (at several points that no accidental identity survives)."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    names = sorted(symbols(a) | symbols(b))
    for start in range(len(_PRIMES)):
        points = itertools.cycle(_PRIMES[start:] + _PRIMES[:start])
        bindings = {name: value * (1 + i) for i, (name, value) in enumerate(zip(names, points, strict=False))}
        try:
            if evaluate(a, bindings) != evaluate(b, bindings):
                return False
        except IngotError:
            return False
    return True


def fits_int32(spec: TensorSpec) -> bool:
    """Whether every element offset of ``spec`` certainly fits a signed 32-bit integer."""
    if not all(isinstance(d, int) for d in (*spec.shape, *spec.strides)):
        return False
    return sum((int(d) - 1) * abs(int(s)) for d, s in zip(spec.shape, spec.strides, strict=True)) <= _INT32


@dataclass(frozen=True)
class Axis:
    """One logical axis of the output as part of a tile index: coordinate = index * scale + offset."""

    axis: int
    size: Dim
    """Number of index values."""
    scale: int = 1
    offset: str = ""
    """Code of a scalar added to the coordinate; empty for none."""


@dataclass(frozen=True)
class Space:
    """How a tile's rows, columns and batch number map to the logical output.

    ``rows`` and ``batch`` list axes from the slowest to the fastest; ``row``, ``col`` and ``z``
    are the code of the row vector, the column vector (its coordinate) and the batch scalar.
    """

    shape: Shape
    rows: tuple[Axis, ...]
    col: int | None
    """None: one column, and no such axis in the output."""
    batch: tuple[Axis, ...] = ()
    row_code: str = "row"
    col_code: str = "col"
    batch_code: str = "z"


@dataclass(frozen=True)
class Offsets:
    """Code of the three parts of an element offset; an empty string is zero."""

    row: str
    col: str
    scalar: str

    def tile(self) -> str:
        """The offset as a two-dimensional expression."""
        parts = [f"({self.row})[:, None]"] if self.row else []
        parts += [f"({self.col})[None, :]"] if self.col else []
        parts += [f"({self.scalar})"] if self.scalar else []
        return " + ".join(parts)


def broadcast_strides(spec: TensorSpec, shape: Shape) -> tuple[Dim, ...]:
    """Strides of ``spec`` aligned to ``shape`` from the right, zero where it is broadcast."""
    missing = len(shape) - spec.rank
    assert missing >= 0, "a tensor of higher rank than the output"
    strides: list[Dim] = [0] * missing
    for size, stride, out in zip(spec.shape, spec.strides, shape[missing:], strict=True):
        strides.append(0 if size == 1 or (out == 1) else stride)
    return tuple(strides)


def times(code: str, factor: str) -> str:
    """``code * factor`` with the trivial factors left out; empty for zero."""
    return "" if factor == "0" else code if factor == "1" else f"{code} * {factor}"


def merged(dims: Sequence[tuple[Dim, Dim]]) -> list[tuple[Dim, Dim]]:
    """``dims`` = [(size, stride)], slowest first, with neighbours as one that one stride describes."""
    found: list[tuple[Dim, Dim]] = []
    for size, stride in dims:
        if size == 1:
            continue
        if found and same(found[-1][1], mul(size, stride)):
            found[-1] = (mul(found[-1][0], size), stride)
        else:
            found.append((size, stride))
    return found


def flat_offset(k: KernelBuilder, index: str, dims: Sequence[tuple[Dim, Dim]], *, wide: bool) -> str:
    """Code of the memory offset of a flattened index over ``dims`` = [(size, stride)], slowest first.

    Neighbouring dimensions that one stride describes are merged, so a dense tensor costs one multiplication.
    """
    terms: list[str] = []
    inner: Dim = 1
    for position, (size, stride) in reversed(list(enumerate(merged(dims)))):
        code = index if inner == 1 else f"{index} // {k.dim(inner)}"
        if position > 0:
            code = f"({code}) % {k.dim(size)}"
        inner = mul(inner, size)
        code = f"({code}).to(tl.int64)" if wide else f"({code})"
        term = times(code, k.dim(stride))
        if term:
            terms.append(term)
    return " + ".join(reversed(terms))


def offsets(k: KernelBuilder, spec: TensorSpec, space: Space) -> Offsets:
    """Offsets of a tensor broadcastable to the output, for the tile that ``space`` describes."""
    strides = broadcast_strides(spec, space.shape)
    wide = not fits_int32(spec)

    def part(index: str, axes: tuple[Axis, ...]) -> tuple[str, list[str]]:
        dims = [(a.size, mul(strides[a.axis], a.scale)) for a in axes]
        shifts = [times(a.offset, k.dim(strides[a.axis])) for a in axes if a.offset]
        return flat_offset(k, index, dims, wide=wide), [s for s in shifts if s]

    row, row_shift = part(space.row_code, space.rows)
    scalar, batch_shift = part(space.batch_code, space.batch)
    stride = "0" if space.col is None else k.dim(strides[space.col])
    col = times(f"{space.col_code}.to(tl.int64)" if wide and stride not in "01" else space.col_code, stride)
    return Offsets(row, col, " + ".join(p for p in (scalar, *row_shift, *batch_shift) if p))
