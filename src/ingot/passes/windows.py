"""Windows over the border: the padding of a convolution, and sums of its weights over what lies inside the image."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.graph.region import BodyOp
from ingot.graph.tensor import TensorSpec

Array = np.ndarray[Any, Any]
_MOST = 4 << 20
"""Elements up to which sums that differ from pixel to pixel become a constant."""


def border_sums(op: BodyOp, x: TensorSpec, y: TensorSpec, weight: Array) -> Array | None:
    """Sum of the int8 ``weight`` over channels and taps for each output channel: int64 [K], or [K, *pixels].

    None where they differ between pixels and the sizes are not known, or the constant would be too large.
    """
    taps = weight.astype(np.int64).sum(axis=1)
    pads = window_pads(op, x, y, weight.shape[2:])
    if pads is not None and not any(pads):
        whole: Array = taps.sum(axis=tuple(range(1, taps.ndim)))
        return whole
    sizes = (*x.shape[2:], *y.shape[2:])
    if pads is None or not all(isinstance(size, int) for size in sizes):
        return None
    rank = weight.ndim - 2
    if weight.shape[0] * np.prod([int(d) for d in y.shape[2:]]) > _MOST:
        return None
    strides, dilations = op.ints("strides", (1,) * rank), op.ints("dilations", (1,) * rank)
    sums: Array = taps
    for axis in range(rank):
        size, out = int(x.shape[2 + axis]), int(y.shape[2 + axis])
        starts = np.arange(out)[:, None] * strides[axis] - pads[axis]
        at = starts + np.arange(weight.shape[2 + axis])[None, :] * dilations[axis]
        inside = ((at >= 0) & (at < size)).astype(np.int64)
        # The axis of taps leaves in front, that of pixels comes in behind.
        sums = np.tensordot(sums, inside, axes=([1], [1]))
    return sums


def window_pads(op: BodyOp, x: TensorSpec, y: TensorSpec, kernel: tuple[int, ...]) -> tuple[int, ...] | None:
    """Padding before each axis, then after; None where it depends on unknown sizes."""
    rank = len(kernel)
    mode = op.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return op.ints("pads", (0,) * (2 * rank))
    if mode == "VALID":
        return (0,) * (2 * rank)
    before, after = [], []
    for axis in range(rank):
        size, out = x.shape[2 + axis], y.shape[2 + axis]
        if not isinstance(size, int) or not isinstance(out, int):
            return None
        stride, dilation = op.ints("strides", (1,) * rank)[axis], op.ints("dilations", (1,) * rank)[axis]
        total = max((out - 1) * stride + (kernel[axis] - 1) * dilation + 1 - size, 0)
        first = (total + 1) // 2 if mode == "SAME_LOWER" else total // 2
        before.append(first)
        after.append(total - first)
    return (*before, *after)
