"""Concatenations: arithmetic on them is done on their parts, and splitting them again gives the parts.

The kernels that make the parts write them in place and do the arithmetic for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import (
    Array,
    Attribute,
    Editor,
    constant_of,
    is_op,
    kept,
    maker,
    operand,
    rank_of,
    shape_of,
    sole_reader,
)
from ingot.graph.op_table import kind_of
from ingot.graph.region import Kind
from ingot.graph.scalar_ops import is_scalar_op

_VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
_FUNCTIONS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
_EPILOGUES = frozenset({Kind.CONV, Kind.GEMM, Kind.POOL, Kind.REDUCE, Kind.ROWWISE, Kind.MAP})


def open_concats(model: ir.Model) -> list[str]:
    """Rewrites both; gives how many."""
    editor = Editor(model)
    raised = split = 0
    for node in list(model.graph):
        if node.graph is not model.graph:
            continue
        if _split(editor, node):
            split += 1
    changed = True
    while changed:
        changed = False
        for node in list(model.graph):
            if node.graph is model.graph and _raise(editor, node):
                raised, changed = raised + 1, True
    notes = [f"{split} splits give back what was concatenated"] if split else []
    return notes + ([f"arithmetic on {raised} concats done on their parts"] if raised else [])


# -- arithmetic


def _raise(editor: Editor, node: ir.Node) -> bool:
    """f(concat(a, b), constant) as concat(f(a, constant), f(b, constant))."""
    if node.domain or not is_scalar_op(node.op_type) or len(node.outputs) != 1:
        return False
    whole = next((v for v in node.inputs if maker(v, "Concat") is not None), None)
    concat, y = maker(whole, "Concat"), node.outputs[0]
    shape = shape_of(whole)
    if concat is None or whole is None or shape is None or shape_of(y) != shape or sole_reader(whole) is not node:
        return False
    axis = concat.attributes.get_int("axis", 0) % len(shape)
    sizes = _sizes(concat, axis)
    if sizes is None or not all(_takes_arithmetic(v, concat) for v in concat.inputs):
        return False
    columns = [_cut(v, whole, axis, sizes, len(shape)) for v in node.inputs]
    if any(column is None for column in columns):
        return False
    parts: list[ir.Value | None] = []
    attributes = kept(node)
    for index, part in enumerate(concat.inputs):
        expanded = _on_expanded(editor, node, part, whole, columns, index)
        if expanded is not None:
            parts.append(expanded)
            continue
        inputs: list[ir.Value | None] = []
        for value, column in zip(node.inputs, columns, strict=True):
            piece = None if column is None else column[index]
            if piece is not None:
                inputs.append(editor.constant(piece, f"{node.name}/part"))
            else:
                inputs.append(part if value is whole else value)
        made = editor.value(f"{y.name}/part", y.dtype, shape_of(part))
        editor.ops(node.op_type, inputs, attributes, [made], before=node)
        parts.append(made)
    editor.substitute(node, editor.op("Concat", parts, {"axis": axis}, before=node, like=y))
    return True


def _on_expanded(
    editor: Editor,
    node: ir.Node,
    part: ir.Value | None,
    whole: ir.Value,
    columns: Sequence[list[Array | None] | None],
    index: int,
) -> ir.Value | None:
    """Arithmetic of two constants on a part that is a constant repeated, such as a class token: done now."""
    expand, function = maker(part, "Expand"), _FUNCTIONS.get(node.op_type)
    token = None if expand is None else constant_of(operand(expand, 0))
    if expand is None or token is None or function is None or part is None or len(node.inputs) != 2:
        return None
    arrays = []
    for value, column in zip(node.inputs, columns, strict=True):
        piece = None if column is None else column[index]
        array = token if value is whole else piece if piece is not None else constant_of(value)
        if array is None:
            return None
        arrays.append(array)
    result = function(*arrays)
    if result.shape != token.shape:
        return None
    constant = editor.constant(result.astype(token.dtype), f"{node.name}/token")
    return editor.op("Expand", [constant, expand.inputs[1]], before=node, like=part, hint=f"{part.name}/done")


def _sizes(concat: ir.Node, axis: int) -> list[int] | None:
    """Length of each part, None where one is not fixed."""
    sizes = [None if (s := shape_of(v)) is None else s[axis] for v in concat.inputs]
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None


def _takes_arithmetic(part: ir.Value | None, concat: ir.Node) -> bool:
    """Whether the kernel that makes ``part``, for the concat alone, can do arithmetic on it."""
    reader = concat
    if (expand := maker(part, "Expand")) is not None and part is not None:
        return sole_reader(part) is reader and constant_of(operand(expand, 0)) is not None
    for _ in range(8):
        node = None if part is None else part.producer()
        if part is None or node is None or sole_reader(part) is not reader:
            return False
        if not is_op(node, *_VIEWS):
            return kind_of(node.op_type, node.domain) in _EPILOGUES and not is_op(node, "Concat", "Shape", "Size")
        part, reader = node.inputs[0], node
    return False


def _cut(value: ir.Value | None, whole: ir.Value, axis: int, sizes: list[int], rank: int) -> list[Array | None] | None:
    """What each part reads in place of an operand: its piece of a constant, or None for the operand itself."""
    if value is None or value is whole:
        return [None] * len(sizes)
    array = constant_of(value)
    if array is None or array.ndim > rank:
        return None
    place = axis - (rank - array.ndim)
    if place < 0 or array.shape[place] == 1:
        return [None] * len(sizes)
    if array.shape[place] != sum(sizes):
        return None
    return list(np.split(array, np.cumsum(sizes)[:-1], axis=place))


# -- splits


def _split(editor: Editor, node: ir.Node) -> bool:
    """Split of what a Concat put together, directly or below concats of other axes and reshapes."""
    source, rank = operand(node, 0), rank_of(operand(node, 0))
    if not is_op(node, "Split") or source is None or not rank:
        return False
    axis = node.attributes.get_int("axis", 0) % rank
    lengths = [None if (s := shape_of(v)) is None else s[axis] for v in node.outputs]
    sizes = [n for n in lengths if isinstance(n, int)]
    if len(sizes) != len(lengths) or sole_reader(source) is not node or not _divides(source, axis, sizes, node):
        return False
    for output, part in zip(node.outputs, _parts(editor, source, axis, sizes, node), strict=True):
        editor.replace(output, part)
    editor.sweep([node])
    return True


def _runs(concat: ir.Node, axis: int, sizes: list[int]) -> list[list[ir.Value]] | None:
    """The concat's inputs in runs of the given lengths."""
    lengths = _sizes(concat, axis)
    if lengths is None:
        return None
    runs: list[list[ir.Value]] = []
    left = list(zip(concat.inputs, lengths, strict=True))
    for size in sizes:
        run: list[ir.Value] = []
        while size > 0 and left and left[0][1] <= size and left[0][0] is not None:
            value, length = left.pop(0)
            assert value is not None
            run.append(value)
            size -= length
        if size or not run:
            return None
        runs.append(run)
    return None if left else runs


def _divides(value: ir.Value, axis: int, sizes: list[int], reader: ir.Node) -> bool:
    """Whether :func:`_parts` finds the parts of ``value``."""
    node, shape = value.producer(), shape_of(value)
    if node is None or shape is None or sole_reader(value) is not reader:
        return False
    if is_op(node, "Concat"):
        if node.attributes.get_int("axis", 0) % len(shape) == axis:
            return _runs(node, axis, sizes) is not None
        return all(v is not None and _divides(v, axis, sizes, node) for v in node.inputs)
    source = operand(node, 0)
    before = shape_of(source)
    if not is_op(node, "Reshape") or source is None or before is None or before[: axis + 1] != shape[: axis + 1]:
        return False
    unknown = [d for i, d in enumerate(shape) if i > axis and not isinstance(d, int)]
    return None not in shape and len(unknown) <= 1 and _divides(source, axis, sizes, node)


def _parts(editor: Editor, value: ir.Value, axis: int, sizes: list[int], before: ir.Node) -> list[ir.Value]:
    """``value`` cut along ``axis`` into pieces of the given lengths, by undoing what put it together."""
    node, shape = value.producer(), shape_of(value)
    assert node is not None and shape is not None

    def made(op_type: str, inputs: list[ir.Value], attributes: dict[str, Attribute], size: int) -> ir.Value:
        piece = editor.value(
            f"{value.name}/piece", value.dtype, [size if i == axis else d for i, d in enumerate(shape)]
        )
        editor.ops(op_type, inputs, attributes, [piece], before=before)
        return piece

    if is_op(node, "Concat"):
        along = node.attributes.get_int("axis", 0) % len(shape)
        if along == axis:
            runs = _runs(node, axis, sizes)
            assert runs is not None
            pairs = zip(runs, sizes, strict=True)
            return [run[0] if len(run) == 1 else made("Concat", run, {"axis": axis}, size) for run, size in pairs]
        columns = [_parts(editor, v, axis, sizes, before) for v in node.inputs if v is not None]
        return [made("Concat", [c[i] for c in columns], {"axis": along}, size) for i, size in enumerate(sizes)]
    source = node.inputs[0]
    assert source is not None
    pieces = []
    for piece, size in zip(_parts(editor, source, axis, sizes, before), sizes, strict=True):
        # Zero keeps a size in front of the axis; behind it at most one is not fixed.
        numbers = [
            0 if i < axis else size if i == axis else d if isinstance(d, int) else -1 for i, d in enumerate(shape)
        ]
        target = editor.constant(np.asarray(numbers, np.int64), f"{value.name}/shape")
        pieces.append(made("Reshape", [piece, target], {}, size))
    return pieces
