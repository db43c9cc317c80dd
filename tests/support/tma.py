"""What the copy engine does, in NumPy: loads through tensor maps, with zeros outside of the tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import TensorMap


class Loader:
    """One encoded map over a flat array of elements."""

    def __init__(self, item: TensorMap, memory: np.ndarray, bindings: Bindings | None = None) -> None:
        self.item, self.memory = item, memory
        self.dims = [evaluate(d, bindings or {}) for d in item.dims]
        size = itemsize(item.dtype)
        strides = [evaluate(s, bindings or {}) for s in item.strides]
        assert all(s % 16 == 0 for s in strides) and item.box[0] * size >= 16, "what the driver would refuse"
        assert item.swizzle == 0 or item.box[0] * size <= item.swizzle
        self.strides = [1, *(s // size for s in strides)]

    def element(self, at: Sequence[int]) -> float:
        """The element at a position, or 0 outside."""
        if any(not 0 <= a < d for a, d in zip(at, self.dims, strict=True)):
            return 0.0
        return float(self.memory[sum(a * s for a, s in zip(at, self.strides, strict=True))])

    def tile(self, at: Sequence[int]) -> np.ndarray:
        """A box at a corner, outermost axis first."""
        box = self.item.box
        out = np.zeros(tuple(reversed(box)))
        for index in np.ndindex(*out.shape):
            out[index] = self.element([a + i for a, i in zip(at, reversed(index), strict=True)])
        return out

    def pixels(self, at: Sequence[int], offset: Sequence[int]) -> np.ndarray:
        """[pixels, channels] of an im2col map from (channel, w, h, n), every pixel shifted by ``offset`` (w, h)."""
        channels, count = self.item.box
        (first_w, first_h), (step_w, step_h) = self.item.lower, self.item.steps
        last_w, last_h = (d - 1 + u for d, u in zip(self.dims[1:3], self.item.upper, strict=True))
        c, w, h, n = at
        out = np.zeros((count, channels))
        for row in range(count):
            for i in range(channels):
                out[row, i] = self.element([c + i, w + offset[0], h + offset[1], n])
            w += step_w
            if w > last_w:
                w, h = first_w, h + step_h
                if h > last_h:
                    h, n = first_h, n + 1
        return out
