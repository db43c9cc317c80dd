"""Transposes and squeezes move down through arithmetic, to where they meet their opposite.

What exporters of channels-last frameworks leave between a convolution and its bias or activation
keeps them from becoming one kernel; on this side of the arithmetic it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import (
    Array,
    Editor,
    constant_of,
    ints_of,
    is_op,
    maker,
    operand,
    rank_of,
    readers,
    same_shape,
    shape_of,
)
from ingot.graph.scalar_ops import is_scalar_op

_ROUNDS = 16
_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True)
class _Mover:
    """A Transpose or a Squeeze."""

    op_type: str
    numbers: tuple[int, ...]
    """The permutation, or the axes that go (not negative, ascending)."""
    rank: int
    """Number of axes before the move."""

    def undone(self, array: Array) -> Array | None:
        """A constant beside a moved value, as it must be beside the unmoved one; None where it has no such form."""
        rank = self.rank
        if array.size == 1:
            return array.reshape(())
        if self.op_type == "Transpose":
            if array.ndim > rank:
                return None
            full = array.reshape((1,) * (rank - array.ndim) + array.shape)
            return np.ascontiguousarray(full.transpose(np.argsort(self.numbers)))
        kept = rank - len(self.numbers)
        if array.ndim > kept:
            return None
        full = array.reshape((1,) * (kept - array.ndim) + array.shape)
        return np.expand_dims(full, self.numbers)


def sink_moves(model: ir.Model) -> list[str]:
    """Moves what can be moved and removes round trips; gives how many disappeared."""
    editor = Editor(model)
    gone = 0
    _keep_reduced_axes(editor)
    for _ in range(_ROUNDS):
        changed = False
        for node in list(model.graph):
            if node.graph is not model.graph:
                continue
            if _cancel(editor, node):
                gone += 1
                changed = True
            elif _sink(editor, node):
                changed = True
        if not changed:
            break
    return [f"{gone} transposes and reshapes undo each other"] if gone else []


def _mover(value: ir.Value | None) -> _Mover | None:
    node = maker(value, "Transpose", "Squeeze")
    rank = None if node is None else rank_of(operand(node, 0))
    if node is None or rank is None:
        return None
    if is_op(node, "Transpose"):
        return _Mover("Transpose", tuple(int(p) for p in node.attributes.get_ints("perm", range(rank)[::-1])), rank)
    axes = ints_of(operand(node, 1))
    return None if axes is None else _Mover("Squeeze", tuple(sorted(a % rank for a in axes)), rank)


def _sink(editor: Editor, node: ir.Node) -> bool:
    """Arithmetic on moved values becomes moved arithmetic."""
    if node.domain or not is_scalar_op(node.op_type) or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return False
    mover = next((m for v in node.inputs if (m := _mover(v)) is not None), None)
    if mover is None or rank_of(node.outputs[0]) != rank_of(next(v for v in node.inputs if _mover(v) == mover)):
        return False
    inputs = _unmoved(editor, node, mover)
    if inputs is None:
        return False
    y = node.outputs[0]
    moved = next(v for v in node.inputs if _mover(v) == mover)
    assert moved is not None
    source = moved.producer()
    assert source is not None
    shape = _unmoved_shape(shape_of(y), mover)
    inner = editor.value(f"{y.name}/unmoved", y.dtype, shape)
    attributes = {name: attr.value for name, attr in node.attributes.items()}
    editor.ops(node.op_type, inputs, attributes, [inner], before=node)
    if mover.op_type == "Transpose":
        result = editor.op("Transpose", [inner], {"perm": mover.numbers}, before=node, like=y)
    else:
        result = editor.op("Squeeze", [inner, source.inputs[1]], before=node, like=y)
    editor.substitute(node, result)
    return True


def _unmoved(editor: Editor, node: ir.Node, mover: _Mover) -> list[ir.Value | None] | None:
    """The operands before the move; None where one has no such form, or the move would be doubled."""
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        if _mover(value) == mover and value is not None:
            others = [reader for reader in readers(value) if reader is not node]
            if value.is_graph_output() or any(not is_scalar_op(r.op_type) or r.domain for r in others):
                return None
    for value in node.inputs:
        array = constant_of(value)
        if value is None:
            inputs.append(value)
        elif array is not None:
            undone = mover.undone(array)
            if undone is None:
                return None
            inputs.append(
                value if array.size == 1 and array.ndim == 0 else editor.constant(undone, f"{value.name}/unmoved")
            )
        elif _mover(value) == mover:
            source = value.producer()
            assert source is not None
            inputs.append(source.inputs[0])
        else:
            return None
    return inputs


def _unmoved_shape(shape: tuple[int | str | None, ...] | None, mover: _Mover) -> list[int | str | None] | None:
    if shape is None:
        return None
    if mover.op_type == "Transpose":
        return [shape[i] for i in np.argsort(mover.numbers)]
    left = iter(shape)
    return [1 if axis in mover.numbers else next(left) for axis in range(mover.rank)]


def _cancel(editor: Editor, node: ir.Node) -> bool:
    """A reshape that leads back to the shape from which others came, or a transpose of a transpose."""
    if is_op(node, "Transpose"):
        inner = maker(operand(node, 0), "Transpose")
        outer, first = _mover(node.outputs[0]), _mover(operand(node, 0))
        if inner is None or outer is None or first is None or inner.inputs[0] is None:
            return False
        perm = tuple(first.numbers[p] for p in outer.numbers)
        if perm == tuple(range(len(perm))):
            editor.substitute(node, inner.inputs[0])
        else:
            y = node.outputs[0]
            editor.substitute(node, editor.op("Transpose", [inner.inputs[0]], {"perm": perm}, before=node, like=y))
        return True
    if not is_op(node, *_RESHAPES):
        return False
    source = operand(node, 0)
    while (view := maker(source, *_RESHAPES)) is not None:
        source = operand(view, 0)
        if source is not None and same_shape(source, node.outputs[0]):
            editor.substitute(node, source)
            return True
    return False


def _keep_reduced_axes(editor: Editor) -> None:
    """Reductions whose axes are put back later keep them, with a Squeeze that can sink."""
    for node in list(editor.graph):
        if not node.op_type.startswith("Reduce") or node.domain or node.attributes.get_int("keepdims", 1) != 0:
            continue
        y, rank = node.outputs[0], rank_of(operand(node, 0))
        axes = (
            ints_of(operand(node, 1)) if operand(node, 1) is not None else tuple(node.attributes.get_ints("axes", ()))
        )
        if rank is None or not axes or y.is_graph_output() or not _put_back(y, 8):
            continue
        places = sorted(a % rank for a in axes)
        left = iter(shape_of(y) or ())
        shape = None if y.shape is None else [1 if axis in places else next(left) for axis in range(rank)]
        kept = editor.value(f"{y.name}/kept", y.dtype, shape)
        attributes = {name: attr.value for name, attr in node.attributes.items()} | {"keepdims": 1}
        editor.ops(node.op_type, node.inputs, attributes, [kept], before=node)
        gone = editor.constant(np.asarray(places, np.int64), f"{y.name}/axes")
        editor.substitute(node, editor.op("Squeeze", [kept, gone], before=node, like=y))


def _put_back(value: ir.Value, depth: int) -> bool:
    """Whether arithmetic leads from ``value`` to a Reshape or Unsqueeze."""
    for node in readers(value) if depth else ():
        if is_op(node, "Reshape", "Unsqueeze"):
            return True
        if not node.domain and is_scalar_op(node.op_type) and any(_put_back(v, depth - 1) for v in node.outputs):
            return True
    return False
