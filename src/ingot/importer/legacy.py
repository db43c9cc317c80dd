"""Old forms of ops that the version converter gets wrong, rewritten before it runs.

The converter leaves ops of other domains alone, so what is already in its new form waits in a domain of
its own until the rest is converted. So do ops that exporters put into ONNX's domain though ONNX has none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

_HELD = "ingot.held"
_Rewrite = Callable[[ir.Node], list[ir.Node] | None]
"""Nodes to put in the place of one, the last of which has its outputs; None to leave it."""


def obstacle(model: ir.Model, version: int) -> str:
    """What makes ``model`` impossible to convert from opset ``version``; empty where nothing does."""
    for node in model.graph.all_nodes():
        if node.domain == "" and node.op_type == "Scan" and version < 9:
            return f"{node.name} (Scan) has a batch, which later ones do not"
        if node.domain == "" and node.op_type == "Dropout" and version < 12 and _is_masking(node):
            return f"the mask of {node.name} (Dropout) is used"
    return ""


def hold(model: ir.Model, version: int) -> None:
    """Rewrites, in place, what the converter cannot convert from opset ``version``."""
    for node in list(model.graph.all_nodes()):
        if node.domain != "":
            continue
        if not onnx.defs.has(node.op_type, version, ""):
            node.domain = _HELD
            continue
        rewrite = _REWRITES.get(node.op_type)
        found = rewrite(node) if rewrite is not None and version < _UNTIL[node.op_type] else None
        if found is not None and node.graph is not None:
            ir.convenience.replace_nodes_and_values(
                node.graph, node, [node], found, node.outputs[:1], found[-1].outputs
            )
    model.opset_imports[_HELD] = 1


def release(model: ir.Model) -> None:
    """Puts what ``hold`` has hidden back into ONNX's domain, in place."""
    for node in model.graph.all_nodes():
        if node.domain == _HELD:
            node.domain = ""
            node.version = None
    model.opset_imports.pop(_HELD, None)


def _held(node: ir.Node, op_type: str, inputs: list[ir.Value | None], **attributes: ir.Attr) -> ir.Node:
    """A node in the form of the newest opset, named after the one it replaces."""
    return ir.Node(_HELD, op_type, inputs, list(attributes.values()), name=f"{node.name}/{op_type}")


def _resize(node: ir.Node) -> list[ir.Node]:
    """Before opset 11, positions were scaled from the corner and rounded: down, but up in ONNX Runtime to shrink."""
    scales = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = ir.convenience.get_const_tensor(scales) if scales is not None else None
    if "scales" in node.attributes:
        values = np.asarray(node.attributes["scales"].as_floats(), np.float32)
    elif tensor is not None:
        values = tensor.numpy().astype(np.float32)
    else:
        return [_resize_step(node, node.inputs[0], scales, "floor")]
    source = node.inputs[0]
    nodes: list[ir.Node] = []
    for rounding, chosen in (("ceil", values < 1), ("floor", values > 1)):
        if chosen.any() or (rounding == "floor" and not nodes):
            part = ir.tensor(np.where(chosen, values, np.float32(1)))
            constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", part)], name=f"{node.name}/{rounding}")
            nodes += [constant, _resize_step(node, source, constant.outputs[0], rounding)]
            source = nodes[-1].outputs[0]
    return nodes


def _resize_step(node: ir.Node, source: ir.Value | None, scales: ir.Value | None, rounding: str) -> ir.Node:
    return _held(
        node,
        "Resize",
        [source, None, scales],
        mode=ir.AttrString("mode", node.attributes["mode"].as_string() if "mode" in node.attributes else "nearest"),
        position=ir.AttrString("coordinate_transformation_mode", "asymmetric"),
        rounding=ir.AttrString("nearest_mode", rounding),
    )


def _hardmax(node: ir.Node) -> list[ir.Node]:
    """Before opset 13, everything from the axis on was one row."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    source = node.inputs[0]
    shape = _held(node, "Shape", [source])
    rows = _held(node, "Flatten", [source], axis=ir.AttrInt64("axis", axis))
    best = _held(node, "Hardmax", [rows.outputs[0]], axis=ir.AttrInt64("axis", -1))
    back = _held(node, "Reshape", [best.outputs[0], shape.outputs[0]])
    return [shape, rows, best, back]


def _batch_norm(node: ir.Node) -> list[ir.Node] | None:
    """Before opset 9, statistics could be per element: the op has no such form any more."""
    if "spatial" not in node.attributes or node.attributes["spatial"].as_int() != 0 or len(node.inputs) < 5:
        return None
    x, scale, bias, mean, variance = node.inputs[:5]
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    small = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(np.float32(epsilon)))])
    centred = _held(node, "Sub", [x, mean])
    padded = _held(node, "Add", [variance, small.outputs[0]])
    deviation = _held(node, "Sqrt", [padded.outputs[0]])
    unit = _held(node, "Div", [centred.outputs[0], deviation.outputs[0]])
    scaled = _held(node, "Mul", [unit.outputs[0], scale])
    shifted = ir.Node(_HELD, "Add", [scaled.outputs[0], bias], name=f"{node.name}/bias")
    return [small, centred, padded, deviation, unit, scaled, shifted]


def _group_norm(node: ir.Node) -> list[ir.Node] | None:
    """Before opset 21, there was one scale per group. Groups are then what instance normalisation has as channels."""
    if "num_groups" not in node.attributes or len(node.inputs) < 3:
        return None
    x, scale, bias = node.inputs[:3]
    rows = ir.tensor(np.array([0, node.attributes["num_groups"].as_int(), -1], np.int64))
    constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", rows)], name=f"{node.name}/rows")
    shape = _held(node, "Shape", [x])
    grouped = _held(node, "Reshape", [x, constant.outputs[0]])
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    inputs = [grouped.outputs[0], scale, bias]
    normal = _held(node, "InstanceNormalization", inputs, epsilon=ir.AttrFloat32("epsilon", epsilon))
    back = ir.Node(_HELD, "Reshape", [normal.outputs[0], shape.outputs[0]], name=f"{node.name}/back")
    return [constant, shape, grouped, normal, back]


def _dropout(node: ir.Node) -> list[ir.Node] | None:
    """Does nothing at inference."""
    return None if _is_masking(node) else [_held(node, "Identity", [node.inputs[0]])]


def _is_masking(node: ir.Node) -> bool:
    """Whether a Dropout's mask is used: in each of the old opsets it meant something else."""
    return len(node.outputs) > 1 and bool(node.outputs[1].uses() or node.outputs[1].is_graph_output())


def _prelu(node: ir.Node) -> list[ir.Node] | None:
    """Before opset 7, a row of slopes went along the channels; now it goes along the last dimension."""
    x, slope = node.inputs[:2]
    if x is None or slope is None or slope.shape is None or len(slope.shape) != 1 or slope.shape[0] == 1:
        return None
    if x.shape is None or len(x.shape) < 3:
        return None
    axes = ir.tensor(np.arange(1, len(x.shape) - 1, dtype=np.int64))
    constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", axes)], name=f"{node.name}/axes")
    column = _held(node, "Unsqueeze", [slope, constant.outputs[0]])
    return [constant, column, _held(node, "PRelu", [x, column.outputs[0]])]


_REWRITES: dict[str, _Rewrite] = {
    "Upsample": _resize,
    "Resize": _resize,
    "Hardmax": _hardmax,
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "Dropout": _dropout,
    "PRelu": _prelu,
}
_UNTIL = {
    "Upsample": 11,
    "Resize": 11,
    "Hardmax": 13,
    "BatchNormalization": 9,
    "GroupNormalization": 21,
    "Dropout": 12,
    "PRelu": 7,
}
"""The first opset in which the op has its present meaning."""
