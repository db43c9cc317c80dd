"""Small rewrites that remove work: padding, constants one after the other, products in two axes, picks by index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import (
    Array,
    Attribute,
    Editor,
    constant_of,
    ints_of,
    is_op,
    maker,
    operand,
    rank_of,
    scalar_of,
    shape_of,
    sole_reader,
)
from ingot.passes.bins import mean_of_bins

_Rule = Callable[[Editor, ir.Node], bool]
_LONGEST_CONSTANT = 1 << 16
"""Elements up to which two constants are combined into one of the broadcast shape."""


def small_rewrites(model: ir.Model) -> list[str]:
    """Applies each rule of the table wherever it holds; gives how often."""
    editor = Editor(model)
    counts: dict[str, int] = {}
    for node in list(model.graph):
        for what, rule in _RULES:
            if node.graph is model.graph and rule(editor, node):
                counts[what] = counts.get(what, 0) + 1
                break
    return [f"{count} {what}" for what, count in counts.items()]


# -- padding


def _spatial_pads(pad: ir.Node, rank: int) -> list[int] | None:
    """Begins and ends of the spatial axes of a Pad with constants; None where it pads or crops anything else."""
    numbers, axes = ints_of(operand(pad, 1)), ints_of(operand(pad, 3))
    if numbers is None or pad.attributes.get_string("mode", "constant") != "constant":
        return None
    if operand(pad, 3) is not None and axes is None:
        return None
    places = range(rank) if axes is None else [a % rank for a in axes]
    if len(numbers) != 2 * len(places):
        return None
    begins, ends = [0] * rank, [0] * rank
    for i, place in enumerate(places):
        begins[place], ends[place] = numbers[i], numbers[i + len(places)]
    if any(n < 0 for n in (*begins, *ends)) or any((*begins[:2], *ends[:2])):
        return None
    return begins[2:] + ends[2:]


def _take_pad(editor: Editor, node: ir.Node) -> bool:
    """Pad before Conv, AveragePool or MaxPool goes into their own padding."""
    pad = maker(operand(node, 0), "Pad") if is_op(node, "Conv", "AveragePool", "MaxPool") else None
    rank = rank_of(operand(node, 0))
    if (
        pad is None
        or not rank
        or rank < 3
        or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    ):
        return False
    pads, fill = _spatial_pads(pad, rank), 0.0 if operand(pad, 2) is None else scalar_of(operand(pad, 2))
    own = list(node.attributes.get_ints("pads", [0] * (2 * (rank - 2))))
    if pads is None or fill is None or not _same_padding(node, pad, fill, own):
        return False
    node.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, pads, strict=True)])
    node.attributes.pop("auto_pad", None)
    if is_op(node, "AveragePool"):
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    node.replace_input_with(0, pad.inputs[0])
    editor.sweep([pad])
    return True


def _same_padding(node: ir.Node, pad: ir.Node, fill: float, own: list[int]) -> bool:
    """Whether the op pads with what ``pad`` fills in."""
    if is_op(node, "Conv"):
        return fill == 0.0
    if node.attributes.get_int("ceil_mode", 0):
        return False
    if is_op(node, "AveragePool"):
        return fill == 0.0 and (not any(own) or bool(node.attributes.get_int("count_include_pad", 0)))
    # MaxPool pads with minus infinity, which zeros equal where nothing is negative.
    pads = _spatial_pads(pad, rank_of(operand(node, 0)) or 0) or []
    kernel = node.attributes.get_ints("kernel_shape", ())
    inside = all(a + b < k for a, b, k in zip(pads, own, [*kernel, *kernel], strict=False))
    lowest = fill == -np.inf or fill <= float(np.finfo(np.float32).min)
    return inside and len(node.outputs) == 1 and (lowest or (fill == 0.0 and _not_negative(operand(pad, 0))))


def _not_negative(value: ir.Value | None) -> bool:
    node = maker(value, "Relu", "Sigmoid", "Clip")
    if node is None or not is_op(node, "Clip"):
        return node is not None
    low = scalar_of(operand(node, 1))
    return low is not None and low >= 0.0


# -- constants


def _combine_constants(editor: Editor, node: ir.Node) -> bool:
    """(x + a) + b and (x * a) * b, with one constant each."""
    if not is_op(node, "Add", "Mul"):
        return False
    for position in (0, 1):
        inner, outer = maker(operand(node, position), node.op_type), constant_of(operand(node, 1 - position))
        if inner is None or outer is None or outer.dtype.kind != "f" or sole_reader(inner.outputs[0]) is not node:
            continue
        for place in (0, 1):
            array, x = constant_of(operand(inner, place)), operand(inner, 1 - place)
            if array is None or x is None:
                continue
            both = _combined(node.op_type, array, outer)
            if both is None:
                return False
            constant = editor.constant(both, f"{node.name}/constant")
            editor.substitute(node, editor.op(node.op_type, [x, constant], before=node, like=node.outputs[0]))
            return True
    return False


def _combined(op_type: str, a: Array, b: Array) -> Array | None:
    if a.dtype != b.dtype:
        return None
    try:
        size = int(np.prod(np.broadcast_shapes(a.shape, b.shape)))
    except ValueError:
        return None
    if size > max(_LONGEST_CONSTANT, a.size, b.size):
        return None
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(over="ignore"):
        result = (wide_a + wide_b if op_type == "Add" else wide_a * wide_b).astype(a.dtype)
    finite = bool(np.isfinite(result).all()) or not bool(np.isfinite(a).all() and np.isfinite(b).all())
    return result if finite else None


# -- products


def _product_in_place(editor: Editor, node: ir.Node) -> bool:
    """Reshape to two axes, product, reshape back: a product over the last axis, whose epilogue sees the whole shape."""
    if not is_op(node, "Reshape"):
        return False
    value = operand(node, 0)
    add = maker(value, "Add")
    bias: Array | None = None
    if add is not None and value is not None and sole_reader(value) is node:
        for position in (0, 1):
            array = constant_of(operand(add, position))
            if array is not None and array.ndim == 1:
                bias, value = array, operand(add, 1 - position)
    product = maker(value, "MatMul", "Gemm")
    if product is None or value is None or sole_reader(value) not in (node, add):
        return False
    found = _columns(product, bias)
    flat = maker(operand(product, 0), "Reshape", "Flatten")
    x = None if flat is None else operand(flat, 0)
    shape, result = shape_of(x), shape_of(node.outputs[0])
    if found is None or x is None or not shape or result is None or None in shape or rank_of(operand(product, 0)) != 2:
        return False
    weight, bias = found
    if len(shape) < 3 or shape[-1] != weight.shape[0] or result != (*shape[:-1], weight.shape[1]):
        return False
    y = node.outputs[0]
    old = operand(product, 1)
    kept = old if old is not None and old.const_value is not None and is_op(product, "MatMul") else None
    weights = kept or editor.constant(np.ascontiguousarray(weight), f"{product.name}/weight")
    made = editor.op("MatMul", [x, weights], before=node, like=y)
    if bias is not None:
        made = editor.op("Add", [made, editor.constant(bias, f"{product.name}/bias")], before=node, like=y)
    editor.substitute(node, made)
    return True


def _columns(product: ir.Node, bias: Array | None) -> tuple[Array, Array | None] | None:
    """Weight (features, columns) and bias (columns,) of a product with constants; None for any other."""
    weight, attributes = constant_of(operand(product, 1)), product.attributes
    if weight is None or weight.ndim != 2:
        return None
    if is_op(product, "Gemm"):
        plain = attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0
        addend = operand(product, 2)
        own = constant_of(addend)
        if (
            not plain
            or attributes.get_int("transA", 0) != 0
            or (addend is not None and (own is None or bias is not None))
        ):
            return None
        weight = weight.T if attributes.get_int("transB", 0) else weight
        if own is not None:
            if own.size != weight.shape[1] or own.shape[-1] != weight.shape[1]:
                return None
            bias = own.reshape(-1)
    return (weight, bias) if bias is None or bias.shape == weight.shape[1:] else None


# -- picks


def _pick(editor: Editor, node: ir.Node) -> bool:
    """Gather of one index of a tensor of numbers: a Slice and a Squeeze, which move nothing."""
    if not is_op(node, "Gather"):
        return False
    source, where = operand(node, 0), operand(node, 1)
    shape, index = shape_of(source), scalar_of(where)
    floats = source is not None and source.dtype is not None and source.dtype.is_floating_point()
    if (
        source is None
        or shape is None
        or index is None
        or rank_of(where) != 0
        or not floats
        or constant_of(source) is not None
    ):
        return False
    axis = node.attributes.get_int("axis", 0) % len(shape)
    size, at = shape[axis], int(index)
    if at < 0 and isinstance(size, int):
        at += size
    if at < 0:
        return False
    bounds = [
        editor.constant(np.asarray([n], np.int64), f"{node.name}/{hint}")
        for n, hint in ((at, "first"), (at + 1, "last"), (axis, "axis"))
    ]
    cut = editor.value(
        f"{node.outputs[0].name}/cut", source.dtype, [1 if i == axis else d for i, d in enumerate(shape)]
    )
    editor.ops("Slice", [source, *bounds], None, [cut], before=node)
    editor.substitute(node, editor.op("Squeeze", [cut, bounds[2]], before=node, like=node.outputs[0]))
    return True


def _flat_concat(editor: Editor, node: ir.Node) -> bool:
    """Concat of a Concat along the same axis."""
    rank = rank_of(node.outputs[0]) if is_op(node, "Concat") else None
    if not rank:
        return False
    axis = node.attributes.get_int("axis", 0) % rank
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        inner = maker(value, "Concat")
        same = inner is not None and inner.attributes.get_int("axis", 0) % rank == axis
        if same and inner is not None and value is not None and sole_reader(value) is node:
            inputs.extend(inner.inputs)
        else:
            inputs.append(value)
    if len(inputs) == len(node.inputs):
        return False
    attributes: dict[str, Attribute] = {"axis": axis}
    editor.substitute(node, editor.op("Concat", inputs, attributes, before=node, like=node.outputs[0]))
    return True


_RULES: tuple[tuple[str, _Rule], ...] = (
    ("paddings taken into the op behind them", _take_pad),
    ("constants combined", _combine_constants),
    ("products without reshapes around them", _product_in_place),
    ("means of bins without a convolution", mean_of_bins),
    ("picks by index as slices", _pick),
    ("concats flattened", _flat_concat),
)
