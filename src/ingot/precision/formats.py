"""The 8-bit number formats that tensors are quantized to, all symmetric: zero is exact and in the middle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Format:
    """One format: a number x is stored as the grid point next to x / scale."""

    name: str
    largest: float
    """Largest grid point; a tensor's scale is its threshold over this."""
    dtype: ir.DataType
    per_channel: bool
    """Whether weights have a scale for each output channel."""

    def scale(self, threshold: float) -> float:
        """Scale at which ``threshold`` is the largest number that is not clipped; 1 for a tensor of zeros."""
        return float(np.float32(threshold / self.largest)) or 1.0

    def grid(self, scaled: Array) -> Array:
        """Grid points next to ``scaled`` numbers, in float32; ties to even, clipped at the ends."""
        clipped = np.clip(scaled, -self.largest, self.largest)
        if self is INT8:
            return np.asarray(np.rint(clipped), np.float32)
        return clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)

    def stored(self, scaled: Array) -> Array:
        """As :meth:`grid`, in the type that a model keeps."""
        points = self.grid(scaled)
        return points.astype(np.int8 if self is INT8 else ml_dtypes.float8_e4m3fn)


INT8 = Format("int8", 127.0, ir.DataType.INT8, per_channel=True)
FP8 = Format("fp8", 448.0, ir.DataType.FLOAT8E4M3FN, per_channel=False)
"""E4M3 without infinities: 3 bits of mantissa, so the relative error hardly depends on the scale."""
FORMATS = {"int8": INT8, "fp8": FP8}
