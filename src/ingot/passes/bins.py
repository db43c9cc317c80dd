"""Means over bins: a softmax, and the sum of what it gives, weighed by a number for each bin (the boxes of YOLOv8).

Written as a 1 x 1 convolution into one channel, it would be a product of one column. As a product with the weights and
a sum it is part of the softmax's kernel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Attribute, Editor, is_op, maker, operand, shape_of, sole_reader


def mean_of_bins(editor: Editor, node: ir.Node) -> bool:
    """Convolution of a softmax over the channels, 1 x 1 and into one channel: a product and a sum, for its kernel."""
    x, weight = operand(node, 0), operand(node, 1)
    bins, shape = _softmax_behind(x), shape_of(weight)
    if bins is None or not is_op(node, "Conv") or x is None or not shape:
        return False
    rank = len(shape)
    plain = (
        node.attributes.get_int("group", 1) == 1
        and all(step == 1 for step in node.attributes.get_ints("strides", ()))
        and not any(node.attributes.get_ints("pads", ()))
        and node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )
    alone = sole_reader(x) is node and bins.attributes.get_int("axis", -1) % rank == 1
    if not plain or not alone or shape[0] != 1 or any(size != 1 for size in shape[2:]):
        return False
    weighed = editor.op("Mul", [x, weight], before=node, like=x)
    axes = editor.constant(np.asarray([1], np.int64), f"{node.name}/axes")
    attributes: dict[str, Attribute] = {"keepdims": 1}
    result = editor.op("ReduceSum", [weighed, axes], attributes, before=node, like=node.outputs[0])
    bias = operand(node, 2)
    if bias is not None:
        result = editor.op("Add", [result, bias], before=node, like=node.outputs[0])
    editor.substitute(node, result)
    return True


def _softmax_behind(value: ir.Value | None) -> ir.Node | None:
    """The Softmax that makes ``value``, quantized and dequantized again at most."""
    made = maker(value, "DequantizeLinear")
    made = maker(operand(made, 0), "QuantizeLinear") if made is not None else None
    return maker(operand(made, 0) if made is not None else value, "Softmax")
