"""What a kernel knows of a Value: element type, logical shape, and where its elements lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ingot.graph import dtypes
from ingot.graph.dims import Dim, Shape, divisible, mul

Order = tuple[int, ...]
"""A Layout: logical dimensions from outermost to innermost in memory. (0, 2, 3, 1) is NHWC."""


def row_major(rank: int) -> Order:
    """The order of an ordinary C array."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """NHWC and its siblings for other ranks: the channel (dimension 1) innermost."""
    return (0, *range(2, rank), 1) if rank > 2 else row_major(rank)


def strides_of(shape: Shape, order: Order) -> Shape:
    """Strides, in elements, of a dense tensor of ``shape`` stored in ``order``."""
    strides: dict[int, Dim] = {}
    step: Dim = 1
    for axis in reversed(order):
        strides[axis] = step
        step = mul(step, shape[axis])
    return tuple(strides[axis] for axis in range(len(shape)))


@dataclass(frozen=True)
class TensorSpec:
    """Type, logical shape (always ONNX's: convolutions are N, C, H, W) and strides in elements."""

    dtype: str
    shape: Shape
    strides: Shape
    align: int = 256
    """Bytes that the address of the first element is certainly a multiple of."""
    constant: bool = False
    """A weight: known at build time, in the immutable weight arena at run time."""

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def elements(self) -> Dim:
        """Number of elements."""
        return mul(*self.shape)

    def dense(self, order: Order | None = None) -> bool:
        """Whether the elements fill memory without gaps in ``order`` (row-major if None).

        Dimensions of size 1 may have any stride.
        """
        want = strides_of(self.shape, order or row_major(self.rank))
        return all(size == 1 or have == need for size, have, need in zip(self.shape, self.strides, want, strict=True))

    def part_align(self, offset: Dim) -> int:
        """Bytes that the address of a part, which begins ``offset`` elements in, is certainly a multiple of."""
        size = dtypes.itemsize(self.dtype)
        if isinstance(offset, int):
            return math.gcd(self.align, offset * size)
        known = (unit for unit in (16, 8, 4, 2) if divisible(mul(offset, size), unit))
        return math.gcd(self.align, next(known, size))

    def ordered(self, order: Order) -> TensorSpec:
        """The same tensor, dense in ``order``."""
        return replace(self, strides=strides_of(self.shape, order))


def spec(dtype: str, shape: Shape, order: Order | None = None, *, constant: bool = False) -> TensorSpec:
    """A dense TensorSpec in ``order`` (row-major if None)."""
    return TensorSpec(dtype, shape, strides_of(shape, order or row_major(len(shape))), constant=constant)
