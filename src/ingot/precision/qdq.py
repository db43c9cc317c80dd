"""Writes a placement into a model: QuantizeLinear and DequantizeLinear nodes, 8-bit weights, int32 biases.

The result is a standard ONNX model, which other runtimes execute too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Editor
from ingot.precision.formats import Array, Format
from ingot.precision.layers import Layer, known_layer
from ingot.precision.placement import Placement
from ingot.precision.ranges import Threshold
from ingot.precision.weights import Quantized, bias_of, has_int_bias, mean_shift, quantize_bias, quantize_weight

_OPSETS = {"int8": 13, "fp8": 19}
"""First opset whose Q/DQ nodes have the format and scales per channel."""


def insert(
    model: ir.Model,
    placed: Placement,
    thresholds: Mapping[str, Threshold],
    form: Format,
    means: Mapping[str, Array] | None = None,
    flips: Mapping[str, Array] | None = None,
) -> ir.Model:
    """A copy of ``model`` with Q/DQ nodes where ``placed`` has them.

    ``thresholds``: by the name of a group's value. ``means``: of the input channels of layers, by the name of their
    input: with them biases make up for the mean error of rounded weights. ``flips``: by layer, the weights that are
    rounded to their other neighbour.
    """
    copy = model.clone()
    writer = _Writer(copy, form, {name: thresholds[placed.group(name)] for name in placed.values})
    nodes = {str(node.name): node for node in copy.graph}
    for name in (layer.name for layer in placed.layers):
        layer = known_layer(nodes[name])
        mean = None if means is None else means.get(str(layer.x.name))
        writer.weights(layer, mean, None if flips is None else flips.get(name))
    for (name, position), value in placed.edges.items():
        writer.activation(nodes[name], position, value)
    writer.finish()
    return copy


class _Writer:
    """Changes to one model. Values of one name share a Q/DQ pair, uses of one weight its numbers."""

    def __init__(self, model: ir.Model, form: Format, ranges: Mapping[str, Threshold]) -> None:
        self.model, self.form, self.ranges = model, form, ranges
        self.editor = Editor(model)
        self.editor.needs_opset(_OPSETS[form.name])
        model.ir_version = max(model.ir_version, 9)  # FP8 tensors exist from there on
        self._pairs: dict[str, ir.Value] = {}
        self._stored: dict[tuple[str, int, bytes], ir.Value] = {}
        self._zeros: dict[str, ir.Value] = {}

    def activation(self, node: ir.Node, position: int, name: str) -> None:
        """Lets input ``position`` of ``node`` read 8-bit numbers."""
        value = node.inputs[position]
        assert value is not None and value.name == name
        if name not in self._pairs:
            self._pairs[name] = self._pair(value)
        node.replace_input_with(position, self._pairs[name])

    def _pair(self, value: ir.Value) -> ir.Value:
        first = min((use.node for use in value.uses()), key=self._order().__getitem__)
        found = self.ranges[str(value.name)]
        scale = self.editor.constant(np.asarray(found.scale, np.float32), f"{value.name}/scale")
        zero = self._zero(found.form)
        shape = None if value.shape is None else list(value.shape)
        stored = self.editor.value(f"{value.name}/quantized", found.form.dtype, None)
        real = self.editor.value(f"{value.name}/dequantized", ir.DataType.FLOAT, None)
        for made in (stored, real):
            made.shape = None if shape is None else ir.Shape(shape)
        self.editor.ops("QuantizeLinear", [value, scale, zero], None, [stored], before=first)
        self.editor.ops("DequantizeLinear", [stored, scale, zero], None, [real], before=first)
        return real

    def _zero(self, form: Format) -> ir.Value:
        """The zero point, which also says how numbers are stored."""
        if form.name not in self._zeros:
            name = self.editor.name(f"ingot/zero_{form.name}")
            tensor = ir.tensor(form.stored(np.zeros((), np.float32)), name=name)
            kind = ir.TensorType(form.dtype)
            self._zeros[form.name] = ir.Value(name=name, type=kind, shape=ir.Shape([]), const_value=tensor)
            self.model.graph.register_initializer(self._zeros[form.name])
        return self._zeros[form.name]

    def _order(self) -> dict[ir.Node, int]:
        return {node: index for index, node in enumerate(self.model.graph)}

    def weights(self, layer: Layer, means: Array | None, flips: Array | None) -> None:
        """Replaces the weights and the bias of ``layer``."""
        scale = self.ranges[str(layer.x.name)].scale
        bias, weight = bias_of(layer), quantize_weight(layer, self.form, scale, flips)
        if means is not None and (bias is not None or layer.node.op_type != "MatMul"):
            shift = mean_shift(layer, weight.real.astype(np.float64) - layer.array, means)
            bias = ((0 if bias is None else bias) - shift).astype(np.float32)
            self._set_bias(layer, bias)
            layer = known_layer(layer.node)
            weight = quantize_weight(layer, self.form, scale, flips)
        layer.node.replace_input_with(1, self._dequantized(layer, weight))
        if bias is not None and has_int_bias(self.form, bias, weight):
            numbers, scales = quantize_bias(bias, scale, weight)
            hint = f"{layer.name}/bias"
            stored = self.editor.constant(numbers, f"{hint}/quantized")
            factor = self.editor.constant(scales, f"{hint}/scale")
            real = self.editor.value(f"{hint}/dequantized", ir.DataType.FLOAT, bias.shape)
            self.editor.ops("DequantizeLinear", [stored, factor], {"axis": 0}, [real], before=layer.node)
            layer.node.replace_input_with(2, real)

    def _set_bias(self, layer: Layer, bias: Array) -> None:
        value = self.editor.constant(bias, f"{layer.name}/corrected_bias")
        if len(layer.node.inputs) < 3:
            layer.node.resize_inputs(3)
        layer.node.replace_input_with(2, value)

    def _dequantized(self, layer: Layer, weight: Quantized) -> ir.Value:
        # Uses of one weight may round it in different ways.
        content = hashlib.sha256(weight.stored.tobytes() + weight.scale.tobytes()).digest()
        key = (str(layer.weight.name), weight.axis, content)
        found = self._stored.get(key)
        if found is not None:
            return found
        hint = str(layer.weight.name)
        stored = self.editor.constant(weight.stored, f"{hint}/quantized")
        scale = self.editor.constant(weight.scale, f"{hint}/scale")
        real = self.editor.value(f"{hint}/dequantized", ir.DataType.FLOAT, weight.stored.shape)
        axis = {"axis": weight.axis} if weight.scale.ndim else None
        self.editor.ops("DequantizeLinear", [stored, scale], axis, [real], before=layer.node)
        self._stored[key] = real
        return real

    def finish(self) -> None:
        """Removes weights that nobody reads any more."""
        for name, value in list(self.model.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.model.graph.initializers[name]
