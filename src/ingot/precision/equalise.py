"""Evens out the channels of an activation before it is quantized, at the cost of the weights that read it.

A channel that is divided by s, and whose weights are multiplied by s, gives the same results. Where the activation
comes from a LayerNormalization, s goes into its scale and bias (SmoothQuant: Xiao et al., 2023, equation 4); where
it comes from a convolution, into that one's weights, past any op that commutes with positive factors (cross-layer
equalisation: Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019).
Depthwise convolutions have a weight of their own for each channel, so their input may always be scaled: by a Mul that
the kernel which makes it computes on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Array, Editor, constant_of, is_op, operand, readers, sole_reader
from ingot.precision.histogram import Channels
from ingot.precision.layers import Layer, known_layer, layers_of

_STRENGTH = 0.5
"""How much of a channel's range moves into the weights (alpha of SmoothQuant)."""
_MOST = 64.0
"""Largest factor: beyond it weights would be spread too far."""
_HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "Identity")
"""Ops that commute with a positive factor per channel."""


@dataclass(frozen=True)
class Pair:
    """An activation whose channels can be scaled: what makes it, and all layers that read it."""

    value: str
    axis: int
    maker: ir.Node | None
    """None where nothing takes the factors in: a Mul is needed."""
    readers: tuple[Layer, ...]


def pairs_of(model: ir.Model, *, scaled: bool = False) -> list[Pair]:
    """What can be equalised in ``model``; with ``scaled`` also where that takes a Mul before depthwise layers."""
    layers, _ = layers_of(model.graph)
    by_node = {layer.node: layer for layer in layers}
    found = []
    for value in dict.fromkeys(layer.x for layer in layers):
        reading = [by_node.get(node) for node in readers(value)]
        if value.is_graph_output() or not all(reading):
            continue
        users = tuple(layer for layer in reading if layer is not None)
        maker = _maker(value, by_node)
        axis = users[0].channel_axis
        depthwise = all(u.op == "depthwise Conv" for u in users)
        if maker is None and not (scaled and depthwise and value.producer() is not None):
            continue
        if any(u.channel_axis != axis or u.node.inputs[0] is not value for u in users):
            continue
        if all(u.node.op_type != "ConvTranspose" or u.groups == 1 for u in users):
            found.append(Pair(str(value.name), axis, maker, users))
    return found


def _maker(value: ir.Value, layers: Mapping[ir.Node, Layer]) -> ir.Node | None:
    """The node that can take the factors in."""
    node = value.producer()
    if is_op(node, "LayerNormalization"):
        assert node is not None
        shared = [v for v in node.inputs[1:] if v is not None and sole_reader(v) is None]
        last = constant_of(operand(node, 1))
        return node if last is not None and last.ndim == 1 and not shared else None
    while node is not None and is_op(node, *_HOMOGENEOUS):
        source = node.inputs[0]
        if source is None or sole_reader(source) is None:
            return None
        node = source.producer()
    if node is None or node not in layers or node.op_type not in ("Conv", "Gemm"):
        return None
    bias = operand(node, 2)
    plain = bias is None or constant_of(bias) is not None
    return node if plain and sole_reader(layers[node].weight) is not None else None


def equalise(model: ir.Model, channels: Mapping[str, Channels], *, scaled: bool = False) -> tuple[ir.Model, list[str]]:
    """A copy of ``model`` with even channels, and the names of the values it evened out.

    ``channels``: the largest magnitudes of the channels of each value of :func:`pairs_of`.
    """
    copy = model.clone()
    editor, done = Editor(copy), []
    for pair in pairs_of(copy, scaled=scaled):
        if pair.value in channels:
            factors = _factors(pair, channels[pair.value].largest)
            if factors is not None:
                if pair.maker is None:
                    _scale(editor, pair, factors)
                else:
                    _divide(editor, pair.maker, factors)
                for layer in pair.readers:
                    _multiply(editor, layer, factors)
                done.append(pair.value)
    return copy, done


def _factors(pair: Pair, largest: Array) -> Array | None:
    """What each channel is divided by; None where there is nothing to gain."""
    weights = np.max([_reach(layer, len(largest)) for layer in pair.readers], axis=0)
    alive = (largest > 0) & (weights > 0)
    if not alive.any():
        return None
    factors = np.ones(len(largest))
    factors[alive] = largest[alive] ** _STRENGTH / weights[alive] ** (1 - _STRENGTH)
    # A common factor changes nothing: the middle channel stays as it is.
    factors[alive] /= np.exp(np.median(np.log(factors[alive])))
    factors = np.clip(factors, 1 / _MOST, _MOST)
    # Powers of two change no weight by rounding.
    return np.asarray(2.0 ** np.rint(np.log2(factors)))


def _reach(layer: Layer, channels: int) -> Array:
    """Largest weight that reads each input channel."""
    array = np.abs(layer.array)
    if layer.node.op_type in ("Gemm", "MatMul"):
        return np.asarray(array.max(axis=layer.axis))
    if layer.node.op_type == "ConvTranspose":
        return np.asarray(array.reshape(channels, -1).max(axis=1))
    per_group = array.reshape(layer.groups, -1, array.shape[1], int(np.prod(array.shape[2:])))
    return np.asarray(per_group.max(axis=(1, 3)).reshape(-1))


def _multiply(editor: Editor, layer: Layer, factors: Array) -> None:
    """The weights that read each channel, times its factor."""
    array = layer.array.astype(np.float64)
    if layer.node.op_type in ("Gemm", "MatMul"):
        scaled = array * (factors[:, None] if layer.axis == 1 else factors[None, :])
    elif layer.node.op_type == "ConvTranspose":
        scaled = array * factors.reshape(-1, *[1] * (array.ndim - 1))
    else:
        groups = layer.groups
        split = array.reshape(groups, -1, *array.shape[1:])
        scaled = split * factors.reshape(groups, 1, -1, *[1] * (array.ndim - 2))
        scaled = scaled.reshape(array.shape)
    value = editor.constant(scaled.astype(np.float32), f"{layer.weight.name}/equalised")
    layer.node.replace_input_with(1, value)


def _scale(editor: Editor, pair: Pair, factors: Array) -> None:
    """A Mul between the activation and its readers."""
    value = pair.readers[0].x
    inverse = (1 / factors).reshape(-1, *[1] * (pair.readers[0].array.ndim - 2)).astype(np.float32)
    before = min((layer.node for layer in pair.readers), key=list(editor.graph).index)
    made = editor.op("Mul", [value, editor.constant(inverse, f"{value.name}/factors")], before=before, like=value)
    for layer in pair.readers:
        layer.node.replace_input_with(0, made)


def _divide(editor: Editor, node: ir.Node, factors: Array) -> None:
    """What makes each channel, over its factor."""
    axis = 0 if is_op(node, "LayerNormalization") else known_layer(node).axis
    for position in (1, 2):
        array = constant_of(operand(node, position))
        if array is None:
            continue
        shape = [1] * array.ndim
        shape[axis if position == 1 else -1] = -1
        value = editor.constant(
            (array / factors.reshape(shape)).astype(np.float32), f"{node.name}/{position}/equalised"
        )
        node.replace_input_with(position, value)
