"""Weights and biases in 8 bits, and what a tensor's errors do to the results of the layers that read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingot.graph.edit import constant_of, operand
from ingot.precision.formats import Array, Format
from ingot.precision.layers import Layer
from ingot.precision.ranges import Weighting

_BIAS_LIMIT = float(2**30)
"""Largest quantized bias: room is left in 32 bits for the sum of the products."""


@dataclass(frozen=True)
class Quantized:
    """A weight: what is stored, and its scales."""

    stored: Array
    scale: Array
    """float32: one per output channel, or a scalar."""
    axis: int

    @property
    def real(self) -> Array:
        """The numbers that it stands for, float32."""
        return np.asarray(self.stored.astype(np.float32) * spread(self.scale, self.stored.ndim, self.axis))


def spread(scale: Array, rank: int, axis: int) -> Array:
    """A scale per channel in the shape that multiplies a weight; a scalar as it is."""
    if scale.ndim == 0:
        return scale
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)


def quantize_weight(layer: Layer, form: Format, input_scale: float, flips: Array | None = None) -> Quantized:
    """The weights of ``layer``: symmetric, by the largest magnitude of each output channel (or of all).

    A channel's scale grows where its bias would not fit 32 bits at ``input_scale`` times the scale. ``flips``: weights
    that are rounded to their other neighbour, not to the nearest.
    """
    array = layer.array
    scale = _weight_scale(layer, form, input_scale)
    scaled = array / spread(scale, array.ndim, layer.axis)
    grid = form.grid(scaled)
    if flips is not None:
        grid = np.where(flips, form.other(scaled, grid), grid)
    return Quantized(form.stored(grid), scale, layer.axis)


def _weight_scale(layer: Layer, form: Format, input_scale: float) -> Array:
    array = layer.array
    if not form.integer:
        return np.asarray(np.float32(form.scale(float(np.abs(array).max(initial=0.0)))))
    others = tuple(i for i in range(array.ndim) if i != layer.axis)
    scales = (np.abs(array).max(axis=others, initial=0.0) / form.largest).astype(np.float32)
    scales[scales == 0] = 1.0
    bias = bias_of(layer)
    if bias is not None and bias.shape == scales.shape:
        scales = np.maximum(scales, (np.abs(bias) / (input_scale * _BIAS_LIMIT)).astype(np.float32))
    return np.asarray(scales)


def bias_of(layer: Layer) -> Array | None:
    """The constant bias of a convolution or Gemm: float32, one number per output channel."""
    bias = constant_of(operand(layer.node, 2))
    return bias if bias is not None and bias.ndim == 1 and bias.dtype == "float32" else None


def quantize_bias(bias: Array, input_scale: float, weight: Quantized) -> tuple[Array, Array]:
    """int32 numbers and their scales, which are those of the products: no conversion is left to be done."""
    scale = (np.float32(input_scale) * weight.scale).astype(np.float32)
    return np.rint(bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int32), scale


def has_int_bias(form: Format, bias: Array | None, weight: Quantized) -> bool:
    """Whether a bias is stored as int32: FP8 products are real numbers, and so are their biases."""
    return form.integer and bias is not None and weight.scale.shape == bias.shape


def weighting(layer: Layer) -> Weighting:
    """What independent errors and a constant error of each input do to all results of ``layer``."""
    array = layer.array.astype(np.float64)
    rows = np.moveaxis(array, layer.axis, 0).reshape(array.shape[layer.axis], -1)
    return Weighting(float(np.sum(rows * rows)), float(np.sum(rows.sum(axis=1) ** 2)))


def mean_shift(layer: Layer, difference: Array, means: Array) -> Array:
    """How far the mean of each result moves when the weights change by ``difference``: one number per channel.

    ``means``: of each input channel. Borders, where a convolution reads zeros, count as if they were like the rest.
    """
    if layer.node.op_type in ("Gemm", "MatMul"):
        matrix = difference if layer.axis == 1 else difference.T
        return np.asarray(means @ matrix)
    taps = difference.reshape(*difference.shape[:2], -1).sum(axis=2)
    groups = layer.groups
    if layer.node.op_type == "Conv":  # [outputs, inputs of the group]
        per_group = taps.reshape(groups, -1, taps.shape[1])
        return np.asarray(np.einsum("goi,gi->go", per_group, means.reshape(groups, -1))).reshape(-1)
    per_group = taps.reshape(groups, -1, taps.shape[1])  # [inputs, outputs of the group]
    return np.asarray(np.einsum("gio,gi->go", per_group, means.reshape(groups, -1))).reshape(-1)
