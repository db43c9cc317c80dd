"""Normalisations written out in means, squares and roots become ``LayerNormalization`` or ``RMSNormalization``.

The anchor is the root: what it divides says whether the operand was centred, what it is taken of
must be the variance (or mean square) of that same operand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
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
    readers,
    scalar_of,
    shape_of,
    sole_reader,
)

_LARGEST_EPSILON = 0.1


@dataclass(frozen=True)
class _Moment:
    """variance(x) or mean(x * x) over the trailing axes, plus epsilon."""

    x: ir.Value
    axis: int
    """First of the axes, not negative."""
    epsilon: float
    centred: bool


@dataclass(frozen=True)
class _Normal:
    """A node whose result is x normalised, perhaps with scale and shift."""

    node: ir.Node
    scale: ir.Value | None = None
    shift: ir.Value | None = None


def fuse_normalisations(model: ir.Model) -> list[str]:
    """Replaces every written-out normalisation; gives how many, and why near matches stay."""
    editor = Editor(model)
    counts = {"LayerNormalization": 0, "RMSNormalization": 0}
    for node in list(model.graph):
        root = node if node.graph is model.graph else None
        moment = _moment(root) if root is not None else None
        if root is None or moment is None:
            continue
        answer = _fuse(editor, root, moment)
        if isinstance(answer, No):
            editor.note(f"not fused: {answer}")
        else:
            counts["LayerNormalization" if moment.centred else "RMSNormalization"] += 1
    editor.notes[:0] = [f"{count} {name} recognised" for name, count in counts.items() if count]
    return editor.notes


# -- the moment


def _moment(root: ir.Node) -> _Moment | None:
    """What ``root`` takes the square root of; None where that is no variance or mean square."""
    half = is_op(root, "Pow") and scalar_of(operand(root, 1)) in (0.5, -0.5)
    if not is_op(root, "Sqrt") and not half:
        return None
    inside, epsilon = operand(root, 0), 0.0
    add = maker(inside, "Add")
    if add is not None:
        for position in (0, 1):
            number = scalar_of(operand(add, position))
            if number is not None and 0.0 < number <= _LARGEST_EPSILON:
                inside, epsilon = operand(add, 1 - position), number
    inside = _without_floor(inside)
    found = _mean(inside)
    if found is not None:
        squared, axis = found
        base = _squared(squared)
        if base is None:
            return None
        centre = _centred(base)
        if centre is not None and centre[1] == axis:
            return _Moment(centre[0], axis, epsilon, centred=True)
        return _Moment(base, axis, epsilon, centred=False)
    difference = _mean_square_less_squared_mean(inside)
    return None if difference is None else _Moment(*difference, epsilon, centred=True)


def _without_floor(value: ir.Value | None) -> ir.Value | None:
    """x of max(x, 0), which keeps rounding from making a variance negative."""
    node = maker(value, "Max", "Relu")
    if node is None or is_op(node, "Relu"):
        return value if node is None else operand(node, 0)
    if len(node.inputs) == 2:
        for position in (0, 1):
            if scalar_of(node.inputs[position]) == 0.0:
                return node.inputs[1 - position]
    return value


def _mean(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """What ``value`` is the mean of over trailing axes, kept as ones, and the first of these axes."""
    mean = maker(value, "ReduceMean", "ReduceSum")
    count = 1.0
    if mean is None:
        scaled = maker(value, "Mul", "Div")
        if scaled is None:
            return None
        for position in (0, 1) if is_op(scaled, "Mul") else (1,):
            number, mean = scalar_of(operand(scaled, position)), maker(operand(scaled, 1 - position), "ReduceSum")
            if number and mean is not None:
                count = 1.0 / number if is_op(scaled, "Mul") else number
                break
        if mean is None:
            return None
    source = operand(mean, 0)
    rank, axes = rank_of(source), _axes(mean)
    if source is None or rank is None or not axes or not mean.attributes.get_int("keepdims", 1):
        return None
    places = sorted(axis % rank for axis in axes)
    if places != list(range(places[0], rank)):
        return None
    if is_op(mean, "ReduceSum"):
        size = _size(source, places[0])
        if size is None or not math.isclose(size, count, rel_tol=1e-6):
            return None
    return source, places[0]


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    if operand(node, 1) is not None:
        return ints_of(operand(node, 1))
    return tuple(node.attributes.get_ints("axes", ())) or None


def _size(value: ir.Value, axis: int) -> int | None:
    """Elements of the axes from ``axis`` on, None where not fixed."""
    shape = shape_of(value)
    sizes = [] if shape is None else [d for d in shape[axis:] if isinstance(d, int)]
    return math.prod(sizes) if shape is not None and len(sizes) == len(shape) - axis else None


def _squared(value: ir.Value | None) -> ir.Value | None:
    """x of x * x or x ^ 2."""
    node = maker(value, "Mul", "Pow")
    if node is None:
        return None
    if is_op(node, "Pow"):
        return operand(node, 0) if scalar_of(operand(node, 1)) == 2.0 else None
    return node.inputs[0] if node.inputs[0] is node.inputs[1] else None


def _centred(value: ir.Value) -> tuple[ir.Value, int] | None:
    """x and axis of x - mean(x)."""
    node = maker(value, "Sub")
    found = None if node is None else _mean(operand(node, 1))
    return found if found is not None and node is not None and operand(node, 0) is found[0] else None


def _mean_square_less_squared_mean(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """x and axis of mean(x * x) - mean(x) ^ 2."""
    node = maker(value, "Sub")
    first = None if node is None else _mean(operand(node, 0))
    second = None if node is None else _squared(operand(node, 1))
    of_square, of_x = (None if first is None else _squared(first[0])), _mean(second)
    if first is None or of_x is None or of_square is not of_x[0] or first[1] != of_x[1]:
        return None
    return of_x


# -- what is done with the root


def _fuse(editor: Editor, root: ir.Node, moment: _Moment) -> Answer:
    name = root.name or ""
    found = next((f for find in (_quotient, _by_reciprocal) if (f := find(root, moment)) is not None), None)
    if found is None:
        return No("a root of a mean square does not divide what the mean is of", node=name)
    shape = shape_of(moment.x)
    assert shape is not None
    trailing = shape[moment.axis :]
    if not all(isinstance(d, int) for d in trailing):
        return No(f"the normalised axes {trailing} are not fixed", node=name)
    sizes = tuple(d for d in trailing if isinstance(d, int))
    if any(v is not None and _over(constant_of(v), sizes) is None for v in (found.scale, found.shift)):
        return No("its scale or shift varies along other axes than the normalised ones", node=name)
    found = _extended(found, sizes, shifted=moment.centred)
    _put(editor, moment, found, sizes)
    return YES


def _put(editor: Editor, moment: _Moment, found: _Normal, sizes: tuple[int, ...]) -> None:
    node, x = found.node, moment.x
    dtype = np.dtype((x.dtype or ir.DataType.FLOAT).numpy())

    def parameter(value: ir.Value | None, fill: float, hint: str) -> ir.Value:
        array = _over(constant_of(value), sizes)
        flat = np.full(sizes, fill, dtype) if array is None else array
        return editor.constant(np.ascontiguousarray(flat.astype(dtype)), f"{node.name}/{hint}")

    attributes: dict[str, Attribute] = {"axis": moment.axis, "epsilon": moment.epsilon}
    inputs = [x, parameter(found.scale, 1.0, "scale")]
    if moment.centred and found.shift is not None:
        inputs.append(parameter(found.shift, 0.0, "shift"))
    if not moment.centred:
        editor.needs_opset(23)
    op_type = "LayerNormalization" if moment.centred else "RMSNormalization"
    editor.substitute(node, editor.op(op_type, inputs, attributes, before=node, like=node.outputs[0]))


def _over(array: Array | None, sizes: tuple[int, ...]) -> Array | None:
    """A constant spread over the normalised axes; None where it varies along others."""
    if array is None or array.size > math.prod(sizes):
        return None
    while array.ndim > len(sizes) and array.shape[0] == 1:
        array = array.reshape(array.shape[1:])
    fits = array.ndim <= len(sizes) and all(a in (1, b) for a, b in zip(array.shape[::-1], sizes[::-1], strict=False))
    return np.broadcast_to(array, sizes) if fits else None


def _is_operand(value: ir.Value | None, moment: _Moment) -> bool:
    """Whether ``value`` is what the moment normalises: x, or x less its mean."""
    if value is None:
        return False
    if not moment.centred:
        return value is moment.x
    centre = _centred(value)
    return centre is not None and centre == (moment.x, moment.axis)


def _quotient(root: ir.Node, moment: _Moment) -> _Normal | None:
    """operand / root."""
    if is_op(root, "Pow") and scalar_of(operand(root, 1)) != 0.5:
        return None
    divisions = (n for n in readers(root.outputs[0]) if is_op(n, "Div") and operand(n, 1) is root.outputs[0])
    return next((_Normal(node) for node in divisions if _is_operand(operand(node, 0), moment)), None)


def _by_reciprocal(root: ir.Node, moment: _Moment) -> _Normal | None:
    """operand * (1 / root), where the reciprocal may have been scaled, and the mean moved into the shift."""
    inverse = _inverse(root)
    for node in [] if inverse is None else readers(inverse):
        if not is_op(node, "Mul"):
            continue
        other = next((v for v in node.inputs if v is not inverse), None)
        if _is_operand(other, moment):
            return _Normal(node)
        if constant_of(other) is None:
            continue
        for product in readers(node.outputs[0]):
            factor = next((v for v in product.inputs if v is not node.outputs[0]), None)
            if is_op(product, "Mul") and _is_operand(factor, moment):
                return _Normal(product, scale=other)
            if is_op(product, "Mul") and moment.centred and factor is moment.x:
                return _with_moved_mean(product, node.outputs[0], other, moment)
    return None


def _inverse(root: ir.Node) -> ir.Value | None:
    if is_op(root, "Pow") and scalar_of(operand(root, 1)) == -0.5:
        return root.outputs[0]
    for node in readers(root.outputs[0]):
        one_over = is_op(node, "Div") and scalar_of(operand(node, 0)) == 1.0
        if is_op(node, "Reciprocal") or one_over:
            return node.outputs[0]
    return None


def _with_moved_mean(product: ir.Node, factor: ir.Value, scale: ir.Value | None, moment: _Moment) -> _Normal | None:
    """x * f + (shift - mean(x) * f), as TensorFlow writes a normalisation; ``product`` is x * f."""
    add = sole_reader(product.outputs[0])
    if add is None or not is_op(add, "Add"):
        return None
    rest = next((v for v in add.inputs if v is not product.outputs[0]), None)
    sub = maker(rest, "Sub")
    shift, moved = (operand(sub, 0), maker(operand(sub, 1), "Mul")) if sub is not None else (None, None)
    if moved is None or constant_of(shift) is None or factor not in moved.inputs:
        return None
    mean = next((v for v in moved.inputs if v is not factor), None)
    return _Normal(add, scale, shift) if _mean(mean) == (moment.x, moment.axis) else None


def _extended(found: _Normal, sizes: tuple[int, ...], *, shifted: bool) -> _Normal:
    """Takes in a following multiplication and addition by constants over the normalised axes."""

    def step(node: ir.Node, op_type: str) -> tuple[ir.Node, ir.Value] | None:
        reader = sole_reader(node.outputs[0])
        if reader is None or not is_op(reader, op_type):
            return None
        other = next((v for v in reader.inputs if v is not node.outputs[0]), None)
        same_rank = rank_of(reader.outputs[0]) == rank_of(node.outputs[0])
        return (
            (reader, other)
            if other is not None and same_rank and _over(constant_of(other), sizes) is not None
            else None
        )

    if found.scale is None and found.shift is None and (scaled := step(found.node, "Mul")) is not None:
        found = _Normal(scaled[0], scale=scaled[1])
    if shifted and found.shift is None and (moved := step(found.node, "Add")) is not None:
        found = _Normal(moved[0], found.scale, moved[1])
    return found
