"""Nodes that ONNX Runtime takes and computes otherwise than ONNX says (seen in release 1.32)."""

from __future__ import annotations

import math

import onnx
from onnx import helper, numpy_helper

_EXACT = 1e-6
_MOST = 1 << 14
"""Elements of an image that ONNX's evaluator, which is slow there, resizes in some seconds."""


def distrust(node: onnx.NodeProto, model: onnx.ModelProto) -> str:
    """Why ONNX Runtime's result for a node of ``model`` is not to be used; empty where it is right."""
    if node.domain not in ("", "ai.onnx"):
        return ""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = [position < len(node.input) and bool(node.input[position]) for position in range(7)]
    match node.op_type:
        case "DFT" | "STFT":
            return "ONNX Runtime's rounding errors are larger than those of a transform in float64"
        case "MaxUnpool" if given[2]:
            return "ONNX Runtime takes the indices as of the given output shape"
        case "Resize" if attributes.get("coordinate_transformation_mode") == b"align_corners" and given[2]:
            if _rounds_sizes(node, model):
                return "ONNX Runtime aligns the corners of the rounded sizes, not of the scaled ones"
        case "Attention" if attributes.get("is_causal") and len(node.output) > 3 and node.output[3]:
            return "ONNX Runtime puts infinities into the scores it gives out"
        case "Attention" if given[6]:
            return "ONNX Runtime wants a mask as wide as the padded keys"
        case "ConvInteger" if any(attributes.get("pads", ())):
            return "ONNX Runtime refuses padding when it runs"
        case "ReduceMax" | "ReduceMin" if 0 in _shape(node.input[0], model):
            return "ONNX Runtime refuses empty tensors of booleans when it runs"
    return ""


def _shape(name: str, model: onnx.ModelProto) -> tuple[int, ...]:
    """Declared sizes; -1 where one is not known, empty for a scalar or a value without shape."""
    for value in (*model.graph.input, *model.graph.value_info):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
    return ()


def _rounds_sizes(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether the scales of a Resize may make sizes that are no whole numbers, of an image that is small."""
    shape = _shape(node.input[0], model)
    if not shape or -1 in shape or math.prod(shape) > _MOST:
        return False
    scales = next((numpy_helper.to_array(t) for t in model.graph.initializer if t.name == node.input[2]), None)
    if scales is None or scales.size != len(shape):
        return True
    sizes = [float(scale) * size for scale, size in zip(scales.tolist(), shape, strict=True)]
    return any(abs(size - round(size)) > _EXACT * max(size, 1.0) for size in sizes)
