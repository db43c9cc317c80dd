"""Logical NumPy arrays to and from flat memory laid out as a TensorSpec says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ingot.graph.dims import Bindings, evaluate_shape
from ingot.graph.dtypes import numpy_dtype
from ingot.graph.tensor import TensorSpec


def bound(spec: TensorSpec, bindings: Bindings) -> TensorSpec:
    """``spec`` with every dimension and stride an integer."""
    return replace(spec, shape=evaluate_shape(spec.shape, bindings), strides=evaluate_shape(spec.strides, bindings))


def extent(spec: TensorSpec) -> int:
    """Elements from the first to the last, inclusive, of a bound spec."""
    if 0 in spec.shape:
        return 0
    return 1 + sum((int(d) - 1) * int(s) for d, s in zip(spec.shape, spec.strides, strict=True))


def window(buffer: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The logical array that a bound spec sees in a flat buffer (a view)."""
    shape = tuple(int(d) for d in spec.shape)
    strides = tuple(int(s) * buffer.itemsize for s in spec.strides)
    return np.lib.stride_tricks.as_strided(buffer, shape, strides)


def poisoned(spec: TensorSpec) -> np.ndarray:
    """A flat buffer for a bound spec filled with 0xFF bytes (NaN for floating-point types)."""
    dtype = numpy_dtype(spec.dtype)
    return np.full(max(extent(spec), 1) * dtype.itemsize, 0xFF, np.uint8).view(dtype)


def scatter(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """A flat buffer that holds ``array`` as a bound spec lays it out; gaps are poisoned."""
    assert tuple(array.shape) == tuple(spec.shape), (array.shape, spec.shape)
    buffer = poisoned(spec)
    if array.size:
        window(buffer, spec)[...] = array.astype(buffer.dtype)
    return buffer
