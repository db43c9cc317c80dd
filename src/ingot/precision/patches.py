"""What each result of a layer is the product of weights with: rows of its input, or patches of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ingot.graph.edit import Array
from ingot.precision.layers import Layer


def has_patches(layer: Layer) -> bool:
    """Whether :func:`patches` knows ``layer``: transposed convolutions mix patches, automatic padding is old."""
    if layer.node.op_type == "ConvTranspose":
        return False
    return layer.node.op_type != "Conv" or layer.node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"


def as_matrices(layer: Layer, array: Array) -> Array:
    """The weights ``array`` of ``layer`` as [groups, results of a group, numbers that each is made of]."""
    if layer.node.op_type == "Conv":
        return array.reshape(layer.groups, array.shape[0] // layer.groups, -1)
    return (array if layer.axis == 0 else array.T)[None]


def as_weights(layer: Layer, matrices: Array) -> Array:
    """What :func:`as_matrices` made, in the layer's own shape."""
    if layer.node.op_type == "Conv":
        return matrices.reshape(layer.array.shape)
    return np.asarray(matrices[0] if layer.axis == 0 else matrices[0].T)


def patches(layer: Layer, x: Array, most: int, random: np.random.Generator) -> Array:
    """Up to ``most`` of what ``layer`` multiplies its weights with when it reads ``x``, drawn by chance.

    float32 [groups, patches, numbers], the last axis as in :func:`as_matrices`.
    """
    if layer.node.op_type != "Conv":
        rows = x.reshape(-1, x.shape[-1])
        return np.asarray(rows[_drawn(len(rows), most, random)], np.float32)[None]
    windows = _windows(layer, x)  # [N, C, positions ..., taps ...]
    rank = (windows.ndim - 2) // 2
    positions = (windows.shape[0], *windows.shape[2 : 2 + rank])
    n, *places = np.unravel_index(_drawn(int(np.prod(positions)), most, random), positions)
    index: tuple[Any, ...] = (n, slice(None), *places)
    found = windows[index]  # [drawn, C, taps ...]
    found = found.reshape(len(found), layer.groups, -1)
    return np.ascontiguousarray(found.transpose(1, 0, 2), np.float32)


def _drawn(count: int, most: int, random: np.random.Generator) -> Array:
    return np.sort(random.choice(count, most, replace=False)) if count > most else np.arange(count)


def _windows(layer: Layer, x: Array) -> Array:
    """A view of the padded ``x``: [N, C, positions ..., taps ...]."""
    attributes, taps = layer.node.attributes, layer.array.shape[2:]
    rank = len(taps)
    pads = tuple(attributes.get_ints("pads", (0,) * (2 * rank)))
    strides = tuple(attributes.get_ints("strides", (1,) * rank))
    dilations = tuple(attributes.get_ints("dilations", (1,) * rank))
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = tuple((size - 1) * step + 1 for size, step in zip(taps, dilations, strict=True))
    view = sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    steps: list[Any] = [slice(None, None, step) for step in (*strides, *dilations)]
    return np.asarray(view[(slice(None), slice(None), *steps)])
