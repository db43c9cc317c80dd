"""A model with a switch for each layer: how much does quantizing this one alone change the outputs?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Editor
from ingot.precision.draft import Draft
from ingot.precision.layers import known_layer
from ingot.precision.metrics import Evaluator
from ingot.precision.placement import Placement
from ingot.precision.ranges import Threshold
from ingot.precision.weights import bias_of, mean_shift, quantize_weight
from ingot.progress import Progress, silent

_INPUT = "ingot/switch"
_BATCHES = 2
"""Batches that each layer is tried on."""


def sensitivities(
    draft: Draft, placed: Placement, evaluator: Evaluator, progress: Progress = silent
) -> dict[str, float]:
    """By layer or residual add: squared error of the outputs, over their own square, with it alone in 8 bits.

    One session of ONNX Runtime serves them all: which one is quantized is an input.
    """
    units = list(dict.fromkeys(name for name, _ in placed.edges if (name, 0) not in placed.moves))
    units = [name for name in units if name in {layer.name for layer in placed.layers} or _adds(placed, name)]
    switched = _switched(draft, placed, units)
    runs = evaluator.runs(switched, inner=True)
    found = {}
    for index, name in enumerate(units):
        progress("sensitivity", index, len(units))
        states = {f"{_INPUT}/{i}": np.asarray(i == index) for i in range(len(units))}
        found[name] = evaluator.error_of(runs, states, _BATCHES)
    progress("sensitivity", len(units), len(units))
    return found


def _adds(placed: Placement, name: str) -> bool:
    return any(node == name for node, _ in placed.adds)


def _switched(draft: Draft, placed: Placement, units: Sequence[str]) -> ir.Model:
    thresholds, means, flips = draft.shared(placed), draft.means or {}, draft.flips or {}
    copy = draft.model.clone()
    editor = Editor(copy)
    editor.needs_opset(19)
    copy.ir_version = max(copy.ir_version, 9)
    nodes = {str(node.name): node for node in copy.graph}
    for index, name in enumerate(units):
        switch = ir.Value(
            name=f"{_INPUT}/{index}", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([])
        )  # fmt: skip
        copy.graph.inputs.append(switch)
        node = nodes[name]
        for position in (p for n, p in placed.edges if n == name):
            value = node.inputs[position]
            assert value is not None
            found = thresholds[placed.group(str(value.name))]
            if name in {layer.name for layer in placed.layers}:
                layer = known_layer(node)
                weight = quantize_weight(layer, draft.form, found.scale, flips.get(name)).real
                bias, mean = bias_of(layer), means.get(str(value.name))
                if bias is not None and mean is not None:
                    shift = mean_shift(layer, weight.astype(np.float64) - layer.array, mean)
                    corrected = editor.constant(np.asarray(bias - shift, np.float32), f"{name}/bias")
                    _switch(editor, node, 2, switch, corrected)
                _switch(editor, node, 1, switch, editor.constant(weight, f"{name}/weights"))
            _switch(editor, node, position, switch, _rounded(editor, node, value, found))
    return copy


def _rounded(editor: Editor, node: ir.Node, value: ir.Value, found: Threshold) -> ir.Value:
    """``value`` quantized and back."""
    factor = editor.constant(np.asarray(found.scale, np.float32), f"{value.name}/scale")
    zero = found.form.stored(np.zeros((), np.float32))
    name, kind = editor.name(f"{value.name}/zero"), ir.TensorType(found.form.dtype)
    point = ir.Value(name=name, type=kind, shape=ir.Shape([]), const_value=ir.tensor(zero, name=name))
    editor.graph.register_initializer(point)
    stored = editor.op("QuantizeLinear", [value, factor, point], before=node, like=value)
    stored.type = ir.TensorType(found.form.dtype)
    return editor.op("DequantizeLinear", [stored, factor, point], before=node, like=value)


def _switch(editor: Editor, node: ir.Node, position: int, switch: ir.Value, other: ir.Value) -> None:
    value = node.inputs[position]
    assert value is not None
    node.replace_input_with(position, editor.op("Where", [switch, other, value], before=node, like=value))
