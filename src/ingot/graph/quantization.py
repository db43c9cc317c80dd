"""Quantized constants: what QuantizeLinear and DequantizeLinear compute, on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.graph import dtypes

Array = np.ndarray[Any, Any]
_MOST_E4M3 = 448.0


def along(parameter: Array, shape: tuple[int, ...], axis: int, block: int = 0) -> Array:
    """A scale or zero point as it meets an array of ``shape``: one for all, one for each index or block of ``axis``."""
    if parameter.size == 1:
        return parameter.reshape(())
    if block:
        spread = np.repeat(parameter, block, axis)
        return spread[tuple(slice(0, size) for size in shape)]
    return parameter.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def centred(weight: Array, zero: Array) -> Array | None:
    """Bytes less their zero points, which broadcast to them, as int8; None where they do not fit."""
    whole = weight.astype(np.int16) - zero.astype(np.int16)
    if whole.size and (whole.min() < -128 or whole.max() > 127):
        return None
    return whole.astype(np.int8)


def dequantized(x: Array, scale: Array, zero: Array | None, axis: int, block: int = 0) -> Array:
    """(x - zero) * scale, in the type of ``scale``."""
    factor = along(scale, x.shape, axis, block).astype(np.float32)
    if x.dtype.kind in "iu":
        whole = x.astype(np.int64) - (0 if zero is None else along(zero, x.shape, axis, block).astype(np.int64))
        return (whole.astype(np.float32) * factor).astype(scale.dtype)
    return (x.astype(np.float32) * factor).astype(scale.dtype)


def quantized(x: Array, scale: Array, zero: Array | None, axis: int, dtype: str) -> Array:
    """x / scale, rounded to nearest with halves to even, plus ``zero``, saturated to ``dtype``."""
    quotient = x.astype(np.float32) / along(scale, x.shape, axis).astype(np.float32)
    target = dtypes.numpy_dtype(dtype)
    if dtypes.is_float(dtype):
        return np.clip(quotient, -_MOST_E4M3, _MOST_E4M3).astype(target)
    limits = np.iinfo(target)
    shift = 0 if zero is None else along(zero, x.shape, axis).astype(np.int64)
    return np.clip(np.rint(quotient.astype(np.float64)) + shift, limits.min, limits.max).astype(target)
