"""Ops on quantized tensors in terms of QuantizeLinear, DequantizeLinear and ordinary ops.

``QLinearConv`` is a dequantized convolution, quantized again; lowering finds the integers back. Integer products with
zero points become products without them and what makes up for them. Scales that differ along an axis of an activation,
and zero points that are computed, become arithmetic.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Attribute, Editor, constant_of, kept, operand, shape_of
from ingot.passes.quantized_arithmetic import dequantize, dynamic_product, dynamic_quantize, quantize
from ingot.passes.quantized_integers import elements, integer_product, scaled_product
from ingot.passes.rules import Rule, apply_rules

_FLOAT = ir.DataType.FLOAT
_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


def spell_out_quantized(model: ir.Model) -> list[str]:
    """Applies the tables; gives how many of each op, and why others stay."""
    return apply_rules(model, lambda node: _RULES.get(node.domain, {}).get(node.op_type), "in terms of other ops")


# -- parts


def _value(editor: Editor, like: ir.Value | None, dtype: ir.DataType, hint: str) -> ir.Value:
    return editor.value(hint, dtype, shape_of(like))


def _real(editor: Editor, node: ir.Node, at: int, axis: int | None = None) -> ir.Value:
    """Operands ``at`` .. ``at + 2`` (stored, scale, zero point) as a float tensor."""
    stored, scale, zero = (operand(node, at + i) for i in range(3))
    assert stored is not None
    real = _value(editor, stored, _FLOAT, f"{stored.name}/real")
    vector = axis is not None and elements(scale) != 1
    attributes: dict[str, Attribute] = {"axis": axis} if vector and axis is not None else {}
    inputs = [stored, _flat(editor, node, scale, vector=vector), _flat(editor, node, zero, vector=vector)]
    editor.ops("DequantizeLinear", inputs[: 2 if zero is None else 3], attributes, [real], before=node)
    return real


def _flat(editor: Editor, node: ir.Node, value: ir.Value | None, *, vector: bool) -> ir.Value | None:
    """A constant scale or zero point of rank 0, or 1 where it is one of many; others as they are, scales in float32."""
    if value is not None and value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        known = constant_of(value)
        if known is None:
            wide = _value(editor, value, _FLOAT, f"{value.name}/wide")
            editor.ops("Cast", [value], {"to": int(_FLOAT)}, [wide], before=node)
            return wide
        value = editor.constant(known.astype(np.float32), f"{value.name}/wide")
    array = constant_of(value)
    if value is None or array is None:
        return value
    shape = (array.size,) if vector else ()
    if array.shape == shape or (not vector and array.size != 1):
        return value
    return editor.constant(array.reshape(shape), f"{node.name}/{value.name}")


def _stored(editor: Editor, node: ir.Node, real: ir.Value, at: int) -> None:
    """Makes the node's result ``real`` quantized by operands ``at`` and ``at + 1``."""
    scale, zero = (_flat(editor, node, operand(node, at + i), vector=False) for i in (0, 1))
    if zero is None:
        dtype = next(v.dtype for v in (node.outputs[0], *node.inputs) if v is not None and v.dtype in _BYTES)
        assert dtype is not None
        zero = editor.constant(np.zeros((), dtype.numpy()), f"{node.name}/zero")
    result = editor.op("QuantizeLinear", [real, scale, zero], before=node, like=node.outputs[0])
    editor.substitute(node, result)
    made = result.producer()
    assert made is not None
    quantize(editor, made)  # where the zero point is computed


def _float_result(editor: Editor, node: ir.Node) -> ir.Value:
    return _value(editor, node.outputs[0], _FLOAT, f"{node.outputs[0].name}/real")


def _bias(editor: Editor, node: ir.Node, at: int, x_scale: int, w_scale: int) -> No | ir.Value | None:
    """An int32 bias, whose scale is the product of both others, as floats; None where there is none."""
    bias = operand(node, at)
    if bias is None:
        return None
    stored, a, b = (constant_of(v) for v in (bias, operand(node, x_scale), operand(node, w_scale)))
    if stored is None or a is None or b is None or a.size != 1:
        return No("its bias or a scale is computed", node=node.name or "")
    scale = (float(a.reshape(())) * b.astype(np.float64).reshape(-1)).astype(np.float32)
    many = scale.size > 1
    names = [bias, editor.constant(scale if many else scale.reshape(()), f"{node.name}/bias_scale")]
    real = _value(editor, bias, _FLOAT, f"{bias.name}/real")
    editor.ops("DequantizeLinear", names, {"axis": 0} if many else {}, [real], before=node)
    return real


# -- QLinear


def _convolution(editor: Editor, node: ir.Node) -> Answer:
    bias = _bias(editor, node, 8, 1, 4)
    if isinstance(bias, No):
        return bias
    inputs = [_real(editor, node, 0), _real(editor, node, 3, 0), *([] if bias is None else [bias])]
    result = _float_result(editor, node)
    editor.ops("Conv", inputs, kept(node), [result], before=node)
    _stored(editor, node, result, 6)
    return YES


def _product(editor: Editor, node: ir.Node) -> Answer:
    rank = len(shape_of(operand(node, 3)) or ())
    if elements(operand(node, 1)) != 1 or rank < 2:
        return No("its first operand has several scales, or its ranks are not known", node=node.name or "")
    result = _float_result(editor, node)
    editor.ops("MatMul", [_real(editor, node, 0), _real(editor, node, 3, rank - 1)], {}, [result], before=node)
    _stored(editor, node, result, 6)
    return YES


def _gemm(editor: Editor, node: ir.Node) -> Answer:
    """QGemm: without an output scale its result is a float."""
    bias = _bias(editor, node, 6, 1, 4)
    if isinstance(bias, No):
        return bias
    columns = 0 if node.attributes.get_int("transB", 0) else 1
    inputs = [_real(editor, node, 0), _real(editor, node, 3, columns), *([] if bias is None else [bias])]
    result = _float_result(editor, node)
    editor.ops("Gemm", inputs, kept(node), [result], before=node)
    if operand(node, 7) is None:
        editor.substitute(node, result)
    else:
        _stored(editor, node, result, 7)
    return YES


def _binary(op_type: str) -> Rule:
    def rule(editor: Editor, node: ir.Node) -> Answer:
        result = _float_result(editor, node)
        editor.ops(op_type, [_real(editor, node, 0), _real(editor, node, 3)], {}, [result], before=node)
        _stored(editor, node, result, 6)
        return YES

    return rule


def _unary(op_type: str, *dropped: str) -> Rule:
    """x, its scale and zero point, those of the result."""

    def rule(editor: Editor, node: ir.Node) -> Answer:
        if node.attributes.get_int("channels_last", 0):
            return No("its channels are last", node=node.name or "")
        if op_type == "Softmax" and node.attributes.get_int("opset", 13) < 13:
            return No("a softmax of flattened axes", node=node.name or "")
        result = _float_result(editor, node)
        attributes = kept(node, "channels_last", *dropped)
        editor.ops(op_type, [_real(editor, node, 0)], attributes, [result], before=node)
        _stored(editor, node, result, 3)
        return YES

    return rule


def _concat(editor: Editor, node: ir.Node) -> Answer:
    parts = [_real(editor, node, at) for at in range(2, len(node.inputs), 3)]
    result = _float_result(editor, node)
    editor.ops("Concat", parts, kept(node), [result], before=node)
    _stored(editor, node, result, 0)
    return YES


def _standard(editor: Editor, node: ir.Node) -> Answer:
    """The same op of the default domain."""
    y = node.outputs[0]
    editor.substitute(node, editor.op(node.op_type, node.inputs, kept(node), before=node, like=y))
    return YES


_STANDARD: dict[str, Rule] = {
    "QLinearConv": _convolution,
    "QLinearMatMul": _product,
    "ConvInteger": integer_product,
    "MatMulInteger": integer_product,
    "DynamicQuantizeLinear": dynamic_quantize,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
}
_CONTRIB: dict[str, Rule] = {
    "QLinearConv": _convolution,
    "QLinearMatMul": _product,
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearMul": _binary("Mul"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearSoftmax": _unary("Softmax", "opset"),
    "QLinearConcat": _concat,
    "MatMulIntegerToFloat": scaled_product,
    "DynamicQuantizeMatMul": dynamic_product,
    "QuantizeLinear": _standard,
    "DequantizeLinear": _standard,
}
_RULES = {"": _STANDARD, "com.microsoft": _CONTRIB}
