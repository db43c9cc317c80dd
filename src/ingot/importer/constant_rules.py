"""Elements of small integer tensors through inference: what exporters compute paddings and sizes with.

The shape-inference library follows such arithmetic in one dimension only; a padding that PyTorch turns around as a
matrix is lost to it, and with it the sizes of everything behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext

Array = np.ndarray[Any, Any]
_MOST = 64
"""Elements up to which a tensor can be about shapes."""


def after_constants(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Gives the output of a node on known integers its elements, where nothing else has."""
    output = node.outputs[0]
    if output.const_value is not None or node.domain != "":
        return
    inputs = [_elements(value) for value in node.inputs]
    if not inputs or any(array is None for array in inputs):
        return
    try:
        made = RULES[node.op_type](node, [array for array in inputs if array is not None])
    except (ValueError, IndexError, KeyError, TypeError):
        return  # a node that does not fit its inputs: checked elsewhere
    if made is not None and made.size <= _MOST and made.dtype.kind == "i":
        output.const_value = ir.tensor(made, name=output.name)
        output.shape = ir.Shape(made.shape)


def _elements(value: ir.Value | None) -> Array | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None or tensor.size > _MOST or not tensor.dtype.is_integer():
        return None
    return np.asarray(tensor.numpy())


def _constant_of_shape(node: ir.Node, inputs: Sequence[Array]) -> Array | None:
    fill = node.attributes["value"].as_tensor().numpy()
    shape = tuple(int(size) for size in inputs[0])
    return np.full(shape, fill.reshape(-1)[0], fill.dtype) if np.prod(shape) <= _MOST else None


def _concat(node: ir.Node, inputs: Sequence[Array]) -> Array:
    return np.concatenate(inputs, axis=node.attributes["axis"].as_int())


def _reshape(node: ir.Node, inputs: Sequence[Array]) -> Array | None:
    shape = [int(size) for size in inputs[1]]
    return None if 0 in shape else inputs[0].reshape(shape)


def _transpose(node: ir.Node, inputs: Sequence[Array]) -> Array:
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    return np.ascontiguousarray(inputs[0].transpose(perm))


def _slice(node: ir.Node, inputs: Sequence[Array]) -> Array | None:
    data, starts, ends = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 else np.arange(len(starts))
    steps = inputs[4] if len(inputs) > 4 else np.ones(len(starts), np.int64)
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = data.shape[axis]
        # ONNX counts an end before the first element as just before it; to Python it is that of the whole.
        before = int(step) < 0 and int(end) < -size
        index[axis] = slice(int(start), None if before else int(end), int(step))
    return np.ascontiguousarray(data[tuple(index)])


def _cast(node: ir.Node, inputs: Sequence[Array]) -> Array | None:
    target = ir.DataType(node.attributes["to"].as_int())
    return inputs[0].astype(target.numpy()) if target in (ir.DataType.INT32, ir.DataType.INT64) else None


RULES: dict[str, Callable[[ir.Node, Sequence[Array]], Array | None]] = {
    "ConstantOfShape": _constant_of_shape,
    "Concat": _concat,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Slice": _slice,
    "Cast": _cast,
}
SINCE = {"ConstantOfShape": 9, "Concat": 4, "Reshape": 5, "Transpose": 1, "Slice": 10, "Cast": 6}
"""The opset from which each has the form that the rules read."""
