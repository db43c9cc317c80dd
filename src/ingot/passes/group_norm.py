"""Group normalisation as exporters write it, with instance normalisation of reshaped channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import (
    Array,
    Attribute,
    Editor,
    constant_of,
    is_op,
    maker,
    operand,
    same_shape,
    shape_of,
    sole_reader,
)


def fuse_group_norms(model: ir.Model) -> list[str]:
    """InstanceNormalization of groups of channels, reshaped before and behind, becomes GroupNormalization."""
    editor = Editor(model)
    count = 0
    for node in list(model.graph):
        if node.graph is model.graph and is_op(node, "InstanceNormalization"):
            count += _group_norm(editor, node)
    return [f"{count} GroupNormalization recognised"] if count else []


def _group_norm(editor: Editor, node: ir.Node) -> bool:
    before, after = maker(node.inputs[0], "Reshape"), sole_reader(node.outputs[0])
    x = None if before is None else operand(before, 0)
    shape, grouped = shape_of(x), shape_of(node.inputs[0])
    if x is None or after is None or shape is None or grouped is None or not is_op(after, "Reshape"):
        return False
    if len(shape) < 2 or len(grouped) != 3:
        return False
    scale, bias = constant_of(operand(node, 1)), constant_of(operand(node, 2))
    plain = scale is not None and bias is not None and np.all(scale == 1) and np.all(bias == 0)
    channels, groups = shape[1], grouped[1]
    if not plain or not isinstance(channels, int) or not isinstance(groups, int) or channels % groups:
        return False
    if grouped[0] != shape[0] or not same_shape(x, after.outputs[0]):
        return False
    last, parameters = after, []
    for op_type, fill in (("Mul", 1.0), ("Add", 0.0)):
        reader = sole_reader(last.outputs[0])
        array = None
        if reader is not None and is_op(reader, op_type):
            other = next((v for v in reader.inputs if v is not last.outputs[0]), None)
            array = _per_channel(constant_of(other), channels, len(shape))
        if array is not None and reader is not None:
            last = reader
        dtype = np.dtype((x.dtype or ir.DataType.FLOAT).numpy())
        parameters.append(np.full(channels, fill, dtype) if array is None else array.astype(dtype))
    constants = [
        editor.constant(p, f"{node.name}/{hint}") for p, hint in zip(parameters, ("scale", "shift"), strict=True)
    ]
    attributes: dict[str, Attribute] = {
        "num_groups": groups, "epsilon": node.attributes.get_float("epsilon", 1e-5),
    }  # fmt: skip
    editor.needs_opset(21)
    y = editor.op("GroupNormalization", [x, *constants], attributes, before=node, like=last.outputs[0])
    editor.substitute(last, y)
    return True


def _per_channel(array: Array | None, channels: int, rank: int) -> Array | None:
    """A constant that varies along axis 1 alone, as a vector."""
    if array is None or array.ndim > rank or array.size not in (1, channels):
        return None
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if full.shape[1] not in (1, channels) or full.size != full.shape[1]:
        return None
    return np.broadcast_to(full.reshape(-1), (channels,))
