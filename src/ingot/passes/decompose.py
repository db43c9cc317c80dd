"""Ops without a device kernel in terms of ops that have one, so that they need no host island."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Attribute, Editor, ints_of, operand, shape_of
from ingot.passes import fourier, indexing, sampling
from ingot.passes.linear_attention import linear_attention
from ingot.passes.rules import Rule, apply_rules
from ingot.passes.training import optimiser
from ingot.passes.writer import Writer

_OPSET = 21


def decompose(model: ir.Model) -> list[str]:
    """Applies the table; gives how many of each op, and why others stay."""
    Editor(model).needs_opset(_OPSET)  # a model of other domains alone may name none
    return apply_rules(model, lambda node: _RULES.get(node.domain, {}).get(node.op_type), "in terms of other ops")


def _top_one(editor: Editor, node: ir.Node) -> Answer:
    """TopK of one: the largest or smallest, and where it is."""
    k, shape = ints_of(operand(node, 1)), shape_of(node.inputs[0])
    if k != (1,) or shape is None:
        return No("more than the first is wanted: it keeps its own kernel", node=node.name or "")
    axis = node.attributes.get_int("axis", -1) % len(shape)
    side = "Max" if node.attributes.get_int("largest", 1) else "Min"
    w, x = Writer(editor, node), node.inputs[0]
    w.done(w(f"Reduce{side}", x, w.ints(axis), keepdims=1), w(f"Arg{side}", x, axis=axis, keepdims=1))
    return YES


def _response_normalisation(editor: Editor, node: ir.Node) -> Answer:
    """LRN: x / (bias + alpha * mean of squares over neighbouring channels) ^ beta."""
    x, y, name = node.inputs[0], node.outputs[0], node.name or ""
    shape, size = shape_of(x), node.attributes.get_int("size", 1)
    if x is None or shape is None or len(shape) < 3 or not isinstance(shape[1], int) or x.dtype is None:
        return No("its channels are not known", node=name)
    dtype = np.dtype(x.dtype.numpy())

    def number(attribute: str, default: float) -> ir.Value:
        return editor.constant(np.asarray(node.attributes.get_float(attribute, default), dtype), f"{name}/{attribute}")

    square = editor.op("Mul", [x, x], before=node, like=y)
    flat = editor.value(f"{x.name}/planes", x.dtype, None)
    planes = editor.constant(np.asarray([0, 1, shape[1], -1], np.int64), f"{name}/planes")
    editor.ops("Reshape", [square, planes], None, [flat], before=node)
    before, after = (size - 1) // 2, size // 2
    pool: dict[str, Attribute] = {"kernel_shape": [size, 1], "pads": [before, 0, after, 0], "count_include_pad": 1}
    mean = editor.op("AveragePool", [flat], pool, before=node, like=flat)
    whole = editor.op("Shape", [x], before=node, like=planes)
    whole.type, whole.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(shape)])
    back = editor.op("Reshape", [mean, whole], before=node, like=y)
    scaled = editor.op("Mul", [back, number("alpha", 1e-4)], before=node, like=y)
    shifted = editor.op("Add", [scaled, number("bias", 1.0)], before=node, like=y)
    power = editor.op("Pow", [shifted, number("beta", 0.75)], before=node, like=y)
    editor.substitute(node, editor.op("Div", [x, power], before=node, like=y))
    return YES


_RULES: dict[str, dict[str, Rule]] = {
    "": {
        "Col2Im": indexing.columns_to_image,
        "Compress": indexing.compress,
        "CumProd": indexing.running_product,
        "CumSum": indexing.running_sum,
        "DFT": fourier.dft,
        "Dropout": indexing.dropout_mask,
        "DeformConv": sampling.deform_conv,
        "Det": indexing.determinant,
        "GridSample": sampling.grid_sample,
        "Hardmax": indexing.hardmax,
        "LinearAttention": linear_attention,
        "LRN": _response_normalisation,
        "MaxUnpool": indexing.max_unpool,
        "OptionalGetElement": indexing.optional_content,
        "ReverseSequence": indexing.reverse_sequence,
        "RoiAlign": sampling.roi_align,
        "STFT": fourier.stft,
        "TensorScatter": indexing.tensor_scatter,
        "TopK": _top_one,
    },
    "ai.onnx.ml": {"ArrayFeatureExtractor": indexing.array_feature, "Binarizer": indexing.binarizer},
    "ai.onnx.preview.training": dict.fromkeys(("Adagrad", "Adam", "Momentum"), optimiser),
}
"""By domain and op."""
