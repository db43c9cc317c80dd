"""Quantized outputs compared by the numbers that they were rounded from.

Beside a half, which byte a number becomes hangs on its last bit. Sums of dequantized tensors whose scales have a simple
ratio, such as 3 to 2, lie on halves by the quarter, and then a kernel that multiplies by the reciprocal of a scale, or
adds in another order, is a step off in a tenth of all elements without being any less right than the reference. So a
result is right if it is a whole number of steps next to the reference's number before rounding; which of two equally
near ones is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.graph.coarse import ROOM
from ingot.graph.region import Region
from ingot.graph.scalar_quantize import LIMITS

Array = np.ndarray[Any, Any]
MOST_SLACK = ROOM
"""Of a step: how far from the middle between two both may be right, whatever the tolerance. A kernel that rounds
otherwise than to the nearest is wrong in four of five elements."""
_WHOLE = 0.01
"""Of a step: how far a dequantized result may be from a whole number of steps."""


@dataclass(frozen=True)
class Steps:
    """An output that is a whole number of steps, or (``real``) such a number dequantized again."""

    source: str
    """The value that is quantized."""
    scale: float
    zero: int
    limits: tuple[int, int]
    real: bool

    def ideal(self, value: Array) -> NDArray[np.float64]:
        """``value``, what is quantized, as a number of steps that is not rounded yet."""
        return np.clip(value.astype(np.float64) / self.scale + self.zero, *self.limits)

    def off(self, result: Array, ideal: Array, slack: float) -> NDArray[np.bool_]:
        """Where ``result`` is not next to ``ideal``; ``slack`` is the relative error that is allowed."""
        steps = self._steps(result)
        size = np.abs(ideal - self.zero)
        spread = float(np.sqrt(np.mean(size**2))) if size.size else 0.0
        bound = 0.5 + np.minimum(slack * (size + spread), MOST_SLACK)
        near = (np.abs(steps - ideal) <= bound) & (np.abs(steps - np.rint(steps)) <= _WHOLE)
        return np.asarray(np.logical_not(near))

    def apart(self, result: Array, other: Array) -> NDArray[np.bool_]:
        """Where two results are more than one step apart."""
        return np.asarray(np.logical_not(np.abs(self._steps(result) - self._steps(other)) <= 1 + 2 * _WHOLE))

    def _steps(self, result: Array) -> NDArray[np.float64]:
        wide = result.astype(np.float64)
        return wide / self.scale + self.zero if self.real else wide


def steps_of(region: Region, output: str) -> Steps | None:
    """How ``output`` is quantized; None where it is not, or where its scale is no number known at build time."""
    maker, real = region.producer.get(output), False
    if maker is not None and maker.op == "DequantizeLinear":
        parameters, maker, real = maker.inputs[1:], region.producer.get(maker.inputs[0]), True
        if maker is None or maker.inputs[1:] != parameters:
            return None
    if maker is None or maker.op != "QuantizeLinear":
        return None
    limits = LIMITS.get(region.spec_of[maker.outputs[0]].dtype)
    scale = region.literal(maker.inputs[1])
    zero = region.literal(maker.inputs[2]) if len(maker.inputs) > 2 and maker.inputs[2] else 0
    if limits is None or not isinstance(scale, int | float) or not isinstance(zero, int | float):
        return None
    usable = float(scale) > 0 and math.isfinite(scale) and maker.inputs[0] not in region.literal_of
    return Steps(maker.inputs[0], float(scale), int(zero), limits, real) if usable else None
