"""Integer products with zero points as products without them, and what makes up for them."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Array, Editor, constant_of, fixed_shape, is_op, kept, operand, shape_of
from ingot.graph.quantization import centred
from ingot.passes.writer import Writer

_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32


def elements(value: ir.Value | None) -> int | None:
    """Number of elements; None where it is not known."""
    shape = fixed_shape(value)
    return None if shape is None else math.prod(shape)


def integer_product(editor: Editor, node: ir.Node) -> Answer:
    """MatMulInteger and ConvInteger with zero points: x (w - zw) - zx * sum of (w - zw)."""
    x, w, zero_x, zero_w = (operand(node, i) for i in range(4))
    if zero_x is None and zero_w is None:
        return No("")
    if x is None or not (zero_x is None or elements(zero_x) == 1):
        return No("its first operand has several zero points", node=node.name or "")
    weight, offset = constant_of(w), constant_of(zero_w) if zero_w is not None else np.zeros((), np.int8)
    conv = is_op(node, "ConvInteger")
    whole = None
    if weight is not None and offset is not None:
        across = offset.reshape(-1, *(1,) * (weight.ndim - 1)) if conv and offset.size > 1 else offset
        whole = centred(weight, across)
    if whole is None:
        return computed_product(editor, node)
    y, attributes = node.outputs[0], kept(node)
    if conv and zero_x is not None:
        padded = _padded(editor, node, x, zero_x)
        if padded is None:
            return No("its padding is not written out", node=node.name or "")
        x = padded
        attributes = kept(node, "pads", "auto_pad")
    inputs = [x, editor.constant(whole, f"{node.name}/weight")]
    result = editor.op(node.op_type, inputs, attributes, before=node, like=y)
    if zero_x is not None and not (constant_of(zero_x) is not None and not np.any(constant_of(zero_x))):
        axes = tuple(range(1, whole.ndim)) if conv else (-2,)
        sums = whole.sum(axis=axes, dtype=np.int32)
        sums = sums.reshape(-1, *(1,) * (whole.ndim - 2)) if conv else sums
        result = _corrected(editor, node, result, zero_x, sums)
    editor.substitute(node, result)
    return YES


def computed_product(editor: Editor, node: ir.Node) -> Answer:
    """The same where the second operand or its zero points are computed, or less them it does not fit bytes.

    (x - zx) (w - zw) = x w - zx * sum of w - zw * sum of x + number of terms * zx * zw.
    """
    x, w, zero_x, zero_w = (operand(node, i) for i in range(4))
    conv, name, sizes = is_op(node, "ConvInteger"), node.name or "", fixed_shape(w)
    if x is None or w is None or sizes is None or len(sizes) < 2 or node.attributes.get_int("group", 1) != 1:
        return No("its second operand is computed and of unknown sizes, or in groups", node=name)
    several = zero_w is not None and elements(zero_w) != 1
    if several and elements(zero_w) != (sizes[0] if conv else sizes[-1]):
        return No("its second operand has another number of zero points than columns", node=name)
    if conv:
        padded = _padded(editor, node, x, zero_x) if zero_x is not None else x
        if padded is None or (zero_x is None and node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"):
            return No("its padding is not written out", node=name)
        x = padded
    write = Writer(editor, node)
    attributes = kept(node, "pads", "auto_pad") if conv and zero_x is not None else kept(node)
    tail = (1,) * (len(sizes) - 2) if conv else ()
    terms = math.prod(sizes[1:]) if conv else sizes[-2]
    z_x = write("Reshape", write("Cast", zero_x, to=_INT32), write.ints()) if zero_x is not None else None
    z_w = write("Cast", zero_w, to=_INT32) if zero_w is not None else None
    if z_w is not None:
        z_w = write("Reshape", z_w, write.ints(*((-1, *tail) if several else ())))
    if w.dtype == ir.DataType.UINT8:  # kernels multiply by signed bytes
        half = write.const(128, np.int32)
        w = write("Cast", write("Sub", write("Cast", w, to=_INT32), half), to=ir.DataType.INT8)
        z_w = write.const(-128, np.int32) if z_w is None else write("Sub", z_w, half)
    result = write(node.op_type, x, w, **attributes)
    if z_x is not None:
        axes = write.ints(*(range(1, len(sizes)) if conv else (-2,)))
        sums = write("ReduceSum", write("Cast", w, to=_INT32), axes, keepdims=0 if conv else 1)
        sums = write("Reshape", sums, write.ints(-1, *tail)) if conv else sums
        result = write("Sub", result, write("Mul", sums, z_x))
    if z_w is not None:
        if conv:
            ones = write.const(np.ones((1, *sizes[1:])), np.int8)
            of_x = write("ConvInteger", x, ones, **attributes)
        else:
            of_x = write("ReduceSum", write("Cast", x, to=_INT32), write.ints(-1), keepdims=1)
        result = write("Sub", result, write("Mul", of_x, z_w))
    if z_x is not None and z_w is not None:
        both = write("Mul", write("Mul", z_x, z_w), write.const(terms, np.int32))
        result = write("Add", result, both)
    write.done(write.typed(result))
    return YES


def _corrected(editor: Editor, node: ir.Node, product: ir.Value, zero: ir.Value, sums: Array) -> ir.Value:
    y = node.outputs[0]
    wide = editor.value(f"{zero.name}/wide", _INT32, shape_of(zero))
    editor.ops("Cast", [zero], {"to": int(_INT32)}, [wide], before=node)
    excess = editor.value(f"{node.name}/excess", _INT32, sums.shape)
    editor.ops("Mul", [editor.constant(sums, f"{node.name}/sums"), wide], None, [excess], before=node)
    return editor.op("Sub", [product, excess], before=node, like=y)


def _padded(editor: Editor, node: ir.Node, x: ir.Value, zero: ir.Value) -> ir.Value | None:
    """x with its border filled by what stands for zero; None where the padding follows from sizes."""
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pads = [int(p) for p in node.attributes.get_ints("pads", ())]
    if not any(pads):
        return x
    rank, shape = len(pads) // 2 + 2, shape_of(x)
    amount = editor.constant(np.asarray([0, 0, *pads[: rank - 2], 0, 0, *pads[rank - 2 :]], np.int64), "pads")
    scalar = constant_of(zero)
    if scalar is None and shape is not None and all(isinstance(size, int) for size in shape[2:]):
        return _bordered(editor, node, x, zero, pads)
    fill = zero if scalar is None else editor.constant(scalar.reshape(()), f"{node.name}/fill")
    grown = None
    if shape is not None:
        grown = [d + pads[i] + pads[i + rank - 2] if isinstance(d, int) else None for i, d in enumerate(shape[2:])]
    out = editor.value(f"{x.name}/padded", x.dtype, None if shape is None or grown is None else [*shape[:2], *grown])
    editor.ops("Pad", [x, amount, fill], {"mode": "constant"}, [out], before=node)
    return out


def _bordered(editor: Editor, node: ir.Node, x: ir.Value, zero: ir.Value, pads: list[int]) -> ir.Value:
    """x with a border of a computed zero point, chosen by a mask: kernels pad with known numbers."""
    write, spatial = Writer(editor, node), len(pads) // 2
    sizes = [int(size) for size in (shape_of(x) or ())[2:] if isinstance(size, int)]
    inside = np.pad(np.ones((1, 1, *sizes), bool), [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    amount = write.ints(0, 0, *pads[:spatial], 0, 0, *pads[spatial:])
    grown = write("Pad", x, amount, mode="constant")
    return write("Where", write.const(inside, bool), grown, write("Reshape", zero, write.ints()))


def scaled_product(editor: Editor, node: ir.Node) -> Answer:
    """MatMulIntegerToFloat(a, b, a_scale, b_scale, a_zero, b_zero, bias)."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (operand(node, i) for i in range(7))
    if a is None or b is None or a_scale is None or b_scale is None:
        return No("an operand is absent", node=node.name or "")
    return float_product(editor, node, (a, a_scale, a_zero), (b, b_scale, b_zero), bias)


def float_product(
    editor: Editor,
    node: ir.Node,
    a: tuple[ir.Value, ir.Value, ir.Value | None],
    b: tuple[ir.Value, ir.Value, ir.Value | None],
    bias: ir.Value | None,
) -> Answer:
    """The node becomes a product of (stored tensor, scale, zero point) twice, scaled, with a bias."""
    y = node.outputs[0]
    sums = editor.value(f"{y.name}/sums", _INT32, shape_of(y))
    editor.ops("MatMulInteger", [a[0], b[0], a[2], b[2]], None, [sums], before=node)
    result = _scale_sums(editor, node, sums, a[1], b[1], bias)
    product = sums.producer()
    editor.substitute(node, result)
    assert product is not None
    answer = integer_product(editor, product)
    return answer if isinstance(answer, No) and answer.reason else YES


def _scale_sums(
    editor: Editor, node: ir.Node, sums: ir.Value, x_scale: ir.Value, w_scale: ir.Value, bias: ir.Value | None
) -> ir.Value:
    y = node.outputs[0]
    real = editor.op("Cast", [sums], {"to": int(_FLOAT)}, before=node, like=y)
    scale = editor.value(f"{node.name}/scale", _FLOAT, shape_of(w_scale))
    editor.ops("Mul", [x_scale, w_scale], None, [scale], before=node)
    result = editor.op("Mul", [real, scale], before=node, like=y)
    return result if bias is None else editor.op("Add", [result, bias], before=node, like=y)
