"""Quantization by scales and zero points that are computed, or differ along an axis, as arithmetic."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.edit import Editor, constant_of, maker, operand, shape_of
from ingot.graph.scalar_quantize import LIMITS
from ingot.passes.quantized_integers import elements, float_product

_FLOAT = ir.DataType.FLOAT
_LIMITS = {ir.DataType(dtypes.onnx_code(name)): limits for name, limits in LIMITS.items()}


def dynamic_product(editor: Editor, node: ir.Node) -> Answer:
    """DynamicQuantizeMatMul(a, b, b_scale, b_zero, bias)."""
    a, b, b_scale, b_zero, bias = (operand(node, i) for i in range(5))
    if a is None or b is None or b_scale is None or a.shape is None:
        return No("an operand is absent or has no known shape", node=node.name or "")
    return float_product(editor, node, _dynamic(editor, node, a), (b, b_scale, b_zero), bias)


def dynamic_quantize(editor: Editor, node: ir.Node) -> Answer:
    """DynamicQuantizeLinear."""
    x = operand(node, 0)
    if x is None or x.shape is None:
        return No("its shape is not known", node=node.name or "")
    for old, new in zip(node.outputs, _dynamic(editor, node, x), strict=False):
        editor.replace(old, new)
    editor.sweep([node])
    return YES


def _dynamic(editor: Editor, node: ir.Node, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """uint8 numbers, scale and zero point that cover the values of x and zero."""
    zero_point = editor.value(f"{x.name}/zero", ir.DataType.UINT8, ())
    like = editor.value(f"{x.name}/scalar", _FLOAT, ())

    def number(value: float) -> ir.Value:
        return editor.constant(np.asarray(value, np.float32), f"{node.name}/number")

    ends = []
    for side in ("Max", "Min"):
        reduced = editor.op(f"Reduce{side}", [x], {"keepdims": 0}, before=node, like=like)
        ends.append(editor.op(side, [reduced, number(0.0)], before=node, like=like))
    span = editor.op("Sub", ends, before=node, like=like)
    scale = editor.op("Div", [span, number(255.0)], before=node, like=like)
    below = editor.op("Neg", [ends[1]], before=node, like=like)
    rounded = editor.op("Round", [editor.op("Div", [below, scale], before=node, like=like)], before=node, like=like)
    zero = editor.op("Clip", [rounded, number(0.0), number(255.0)], before=node, like=like)
    editor.ops("Cast", [zero], {"to": int(ir.DataType.UINT8)}, [zero_point], before=node)
    wide = editor.value(f"{x.name}/wide", _FLOAT, shape_of(x))
    stored = _arithmetic(editor, node, x, scale, zero, ir.DataType.UINT8, wide)
    return stored, scale, zero_point


def _arithmetic(
    editor: Editor,
    node: ir.Node,
    x: ir.Value,
    scale: ir.Value,
    zero: ir.Value | None,
    dtype: ir.DataType,
    like: ir.Value,
) -> ir.Value:
    """Quantization by a float zero point as division, rounding, addition, bounds and a cast."""
    low, high = (editor.constant(np.asarray(v, np.float32), f"{node.name}/limit") for v in _LIMITS[dtype])
    value = editor.op("Round", [editor.op("Div", [x, scale], before=node, like=like)], before=node, like=like)
    if zero is not None:
        value = editor.op("Add", [value, zero], before=node, like=like)
    bounded = editor.op("Clip", [value, low, high], before=node, like=like)
    stored = editor.value(f"{x.name}/stored", dtype, shape_of(x))
    editor.ops("Cast", [bounded], {"to": int(dtype)}, [stored], before=node)
    return stored


def _needs_arithmetic(node: ir.Node) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear of an activation is none by one known zero point."""
    source = maker(operand(node, 0), "QuantizeLinear")
    weight = operand(node, 0) if source is None else operand(source, 0)
    if constant_of(weight) is not None or "block_size" in node.attributes:
        return False
    zero = operand(node, 2)
    many = any(elements(operand(node, i)) not in (None, 1) for i in (1, 2))
    return many or (zero is not None and constant_of(zero) is None)


def quantize(editor: Editor, node: ir.Node) -> Answer:
    """QuantizeLinear of an activation along an axis, or with a computed zero point."""
    x, scale, y = operand(node, 0), operand(node, 1), node.outputs[0]
    if not _needs_arithmetic(node):
        return No("")
    if x is None or scale is None or y.dtype not in _LIMITS or shape_of(x) is None or x.dtype != _FLOAT:
        return No("its type or shape has no other form", node=node.name or "")
    parts = [_spread(editor, node, i) for i in (1, 2)]
    if parts[0] is None:
        return No("its scale has no known size", node=node.name or "")
    assert y.dtype is not None
    like = editor.value(f"{x.name}/wide", _FLOAT, shape_of(x))
    editor.substitute(node, _arithmetic(editor, node, x, parts[0], parts[1], y.dtype, like))
    return YES


def dequantize(editor: Editor, node: ir.Node) -> Answer:
    """DequantizeLinear of the same."""
    x, y = operand(node, 0), node.outputs[0]
    if not _needs_arithmetic(node):
        return No("")
    if x is None or shape_of(x) is None or y.dtype != _FLOAT:
        return No("its type or shape has no other form", node=node.name or "")
    scale, zero = _spread(editor, node, 1), _spread(editor, node, 2)
    if scale is None:
        return No("its scale has no known size", node=node.name or "")
    value = editor.op("Cast", [x], {"to": int(_FLOAT)}, before=node, like=y)
    if zero is not None:
        value = editor.op("Sub", [value, zero], before=node, like=y)
    editor.substitute(node, editor.op("Mul", [value, scale], before=node, like=y))
    return YES


def _spread(editor: Editor, node: ir.Node, position: int) -> ir.Value | None:
    """A scale or zero point as floats that broadcast to the tensor."""
    value, rank = operand(node, position), len(shape_of(operand(node, 0)) or ())
    if value is None:
        return None
    axis = node.attributes.get_int("axis", 1) % max(rank, 1)
    count = elements(value)
    if count is None:
        return None
    array = constant_of(value)
    shape = [count if i == axis else 1 for i in range(axis, rank)] if count > 1 else []
    if array is not None:
        return editor.constant(array.astype(np.float32).reshape(shape), f"{node.name}/{value.name}")
    if value.dtype != _FLOAT:
        wide = editor.value(f"{value.name}/real", _FLOAT, shape_of(value))
        editor.ops("Cast", [value], {"to": int(_FLOAT)}, [wide], before=node)
        value = wide
    if count == 1:
        return value
    spread = editor.value(f"{value.name}/spread", _FLOAT, shape)
    where = editor.constant(np.asarray(shape, np.int64), f"{node.name}/shape")
    editor.ops("Reshape", [value, where], None, [spread], before=node)
    return spread
