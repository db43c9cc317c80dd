"""Tensors as they lie in memory at known shapes: flat arrays with a strided logical view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate_shape
from ingot.graph.tensor import TensorSpec, spec

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Stored:
    """A TensorSpec at known shapes. ``shape`` and ``strides`` count elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    align: int
    constant: bool

    @staticmethod
    def of(tensor: TensorSpec, bindings: Bindings) -> Stored:
        """``tensor`` with its symbolic dimensions bound."""
        shape, strides = evaluate_shape(tensor.shape, bindings), evaluate_shape(tensor.strides, bindings)
        return Stored(tensor.dtype, shape, strides, tensor.align, tensor.constant)

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """NumPy's element type."""
        return dtypes.numpy_dtype(self.dtype)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @cached_property
    def extent(self) -> int:
        """Elements from the first to the last in memory, gaps included; 0 for an empty tensor."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last element."""
        return self.extent * self.numpy.itemsize

    @property
    def gaps(self) -> bool:
        """Whether memory between the elements belongs to other tensors."""
        return self.extent > self.elements

    def window(self, flat: Array) -> Array:
        """The logical tensor, a view of the flat memory."""
        steps = tuple(step * flat.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps)

    def owned(self) -> NDArray[np.bool_]:
        """Which elements of the flat memory belong to the tensor."""
        mask = np.zeros(self.extent, np.bool_)
        self.window(mask)[...] = True
        return mask

    def rows(self) -> tuple[int, int] | None:
        """(step, extent) in elements of one index of the leading dimension, if it is the outermost in memory."""
        if not self.shape or 0 in self.shape:
            return None
        inner = 1 + sum((size - 1) * step for size, step in zip(self.shape[1:], self.strides[1:], strict=True))
        return (self.strides[0], inner) if inner <= self.strides[0] else None


def concrete(tensor: TensorSpec, bindings: Bindings, leading: int | None = None) -> TensorSpec:
    """``tensor`` at known shapes, dense, with its first dimension replaced by ``leading`` if given."""
    shape = evaluate_shape(tensor.shape, bindings)
    if leading is not None:
        shape = (leading, *shape[1:])
    return spec(tensor.dtype, shape, constant=tensor.constant)
