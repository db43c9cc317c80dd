"""The 8-bit number formats that tensors are quantized to. Zero is always exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]

_ALL = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
_E4M3 = np.unique(_ALL[np.isfinite(_ALL)])
"""All numbers of E4M3, in their order."""


@dataclass(frozen=True)
class Format:
    """One format: a number x is stored as the grid point next to x / scale."""

    name: str
    smallest: float
    largest: float
    """Ends of the grid; a tensor's scale is its threshold over the largest."""
    dtype: ir.DataType
    stored_dtype: Any
    """NumPy's type."""
    zero: int = 0
    """What is stored for zero."""
    host: bool = False
    """Whether activations are for the CPU, whose kernels take unsigned numbers only."""

    @property
    def integer(self) -> bool:
        """Whether grid points are whole numbers; then weights have a scale for each output channel."""
        return self.name != "fp8"

    def scale(self, threshold: float) -> float:
        """Scale at which ``threshold`` is the largest number that is not clipped; 1 for a tensor of zeros."""
        return float(np.float32(threshold / self.largest)) or 1.0

    def grid(self, scaled: Array) -> Array:
        """Grid points next to ``scaled`` numbers, in float32; ties to even, clipped at the ends."""
        clipped = np.clip(scaled, self.smallest, self.largest)
        if self.integer:
            return np.asarray(np.rint(clipped), np.float32)
        return clipped.astype(self.stored_dtype).astype(np.float32)

    def other(self, scaled: Array, grid: Array) -> Array:
        """For numbers ``scaled`` and their grid points: the grid points on the other side.

        That is ``grid`` itself at the ends, and where a number is on the grid.
        """
        away = np.sign(scaled - grid)
        if self.integer:
            return np.asarray(np.clip(grid + away, self.smallest, self.largest), np.float32)
        places = np.searchsorted(_E4M3, grid) + away.astype(np.int64)
        return np.asarray(_E4M3[np.clip(places, 0, len(_E4M3) - 1)])

    def stored(self, scaled: Array) -> Array:
        """As :meth:`grid`, in the type that a model keeps."""
        return (self.grid(scaled) + self.zero).astype(self.stored_dtype)

    def for_activation(self, lowest: float) -> Format:
        """The form for an activation whose numbers start at ``lowest``: without a sign where none is negative."""
        if not self.integer:
            return self
        return UINT8 if lowest >= 0 else SHIFTED if self.host else INT8


INT8 = Format("int8", -127.0, 127.0, ir.DataType.INT8, np.int8)
UINT8 = Format("uint8", 0.0, 255.0, ir.DataType.UINT8, np.uint8)
"""What follows a ReLU: twice the resolution of INT8, and still zero is stored as zero."""
SHIFTED = Format("uint8 around 128", -128.0, 127.0, ir.DataType.UINT8, np.uint8, zero=128)
"""The steps of INT8, stored without a sign."""
INT8_HOST = Format("int8", -127.0, 127.0, ir.DataType.INT8, np.int8, host=True)
"""INT8 weights for the CPU."""
FP8 = Format("fp8", -448.0, 448.0, ir.DataType.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn)
"""E4M3 without infinities: 3 bits of mantissa, so the relative error hardly depends on the scale."""
FORMATS = {"int8": INT8, "fp8": FP8}
"""What weights are stored in, by the name of the precision."""
