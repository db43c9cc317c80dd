"""Transposes, reshapes and repetitions move down through arithmetic, where that pays.

It pays where they meet their opposite further down, where the arithmetic then stands right behind a
convolution or product, whose kernel does it for nothing, and always where elements are repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import (
    Array,
    Editor,
    constant_of,
    ints_of,
    is_op,
    kept,
    maker,
    operand,
    rank_of,
    readers,
    same_shape,
    shape_of,
)
from ingot.graph.scalar_ops import is_scalar_op
from ingot.passes.rules import repeat

_ROUNDS = 16
_DEPTH = 8
_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_ANCHORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_LARGEST_CONSTANT = 1 << 20
"""Elements up to which a constant is spread out to be reshaped."""
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Mover:
    """A Transpose, a change of shape or a repetition, without its operand."""

    op_type: str
    numbers: tuple[int, ...]
    """The permutation, or the axes that go or come (not negative, ascending)."""
    before: Dims
    after: Dims

    def undone(self, array: Array) -> Array | None:
        """A constant beside a moved value, as it must be beside the unmoved one; None where it has no such form."""
        if array.size == 1:
            return array.reshape(())
        if array.ndim > len(self.after) or self.op_type == "Expand":
            return None
        full = array.reshape((1,) * (len(self.after) - array.ndim) + array.shape)
        if self.op_type == "Transpose":
            return np.ascontiguousarray(full.transpose(np.argsort(self.numbers)))
        if self.op_type == "Squeeze":
            return np.expand_dims(full, self.numbers)
        if self.op_type == "Unsqueeze":
            return full.squeeze(self.numbers) if all(full.shape[axis] == 1 for axis in self.numbers) else None
        return self._reshaped(full)

    def _reshaped(self, full: Array) -> Array | None:
        """A constant over all but the leading axes that the reshape leaves alone."""
        same = next(
            (i for i, (a, b) in enumerate(zip(self.before, self.after, strict=False)) if a != b),
            min(len(self.before), len(self.after)),
        )
        before, after = self.before[same:], self.after[same:]
        if not all(isinstance(d, int) for d in (*before, *after)):
            return None
        inner = tuple(d for d in before if isinstance(d, int))
        spread = tuple(d for d in after if isinstance(d, int))
        if math.prod(spread) * math.prod(full.shape[:same]) > _LARGEST_CONSTANT:
            return None
        return np.broadcast_to(full, (*full.shape[:same], *spread)).reshape(*full.shape[:same], *inner)


def sink_moves(model: ir.Model) -> list[str]:
    """Moves what it pays to move and removes round trips; gives how many of each."""
    editor = Editor(model)
    _keep_reduced_axes(editor)
    gone, moved = repeat(editor, (_cancel, _sink), _ROUNDS)
    notes = [f"{gone} transposes and reshapes undo each other"] if gone else []
    return notes + ([f"{moved} transposes and reshapes moved behind arithmetic"] if moved else [])


def mover_of(value: ir.Value | None) -> Mover | None:
    """The move that makes ``value``, None where it is made by anything else or shapes are not known."""
    node = maker(value, "Transpose", "Expand", *_RESHAPES)
    before, after = (shape_of(operand(node, 0)), shape_of(value)) if node is not None else (None, None)
    if node is None or before is None or after is None or None in before or None in after:
        return None
    if is_op(node, "Transpose"):
        perm = node.attributes.get_ints("perm", range(len(before))[::-1])
        return Mover("Transpose", tuple(int(p) for p in perm), before, after)
    if is_op(node, "Squeeze", "Unsqueeze"):
        axes, rank = ints_of(operand(node, 1)), max(len(before), len(after))
        numbers = None if axes is None else tuple(sorted(a % rank for a in axes))
        return None if numbers is None else Mover(node.op_type, numbers, before, after)
    return Mover("Expand" if is_op(node, "Expand") else "Reshape", (), before, after)


def _sink(editor: Editor, node: ir.Node) -> bool:
    """Arithmetic on moved values becomes moved arithmetic."""
    y = node.outputs[0] if len(node.outputs) == 1 else None
    if y is None or node.domain or not is_scalar_op(node.op_type) or y.is_graph_output():
        return False
    moved = next((v for v in node.inputs if mover_of(v) is not None), None)
    mover = mover_of(moved)
    if moved is None or mover is None or shape_of(y) != mover.after:
        return False
    inputs = _unmoved(editor, node, mover)
    if inputs is None:
        return False
    inner = editor.value(f"{y.name}/unmoved", y.dtype, mover.before)
    editor.ops(node.op_type, inputs, kept(node), [inner], before=node)
    move = moved.producer()
    assert move is not None
    editor.substitute(node, editor.op(move.op_type, [inner, *move.inputs[1:]], kept(move), before=node, like=y))
    return True


def _unmoved(editor: Editor, node: ir.Node, mover: Mover) -> list[ir.Value | None] | None:
    """The operands before the move; None where one has no such form, or the move does not pay."""
    moved = [v for v in node.inputs if v is not None and mover_of(v) == mover]
    pays = (
        mover.op_type == "Expand"
        or _meets_another(node.outputs[0], mover, _DEPTH)
        or all(_behind_anchor(v, _DEPTH) for v in moved)
    )
    shared = any(v.is_graph_output() or any(not is_scalar_op(r.op_type) or r.domain for r in readers(v)) for v in moved)
    if not pays or shared:
        return None
    inputs: list[ir.Value | None] = []
    constants: dict[int, Array] = {}
    for position, value in enumerate(node.inputs):
        array = constant_of(value)
        if array is not None and not (array.size == 1 and array.ndim == 0):
            undone = mover.undone(array)
            if undone is None:
                return None
            constants[position] = undone
        elif value is not None and array is None and mover_of(value) != mover:
            return None
        move = value.producer() if value is not None and array is None else None
        inputs.append(value if move is None else move.inputs[0])
    for position, undone in constants.items():
        inputs[position] = editor.constant(undone, f"{node.name}/unmoved")
    return inputs


def _meets_another(value: ir.Value, mover: Mover, depth: int) -> bool:
    """Whether arithmetic leads from ``value`` to another move of the same sort."""
    sort = ("Transpose",) if mover.op_type == "Transpose" else _RESHAPES
    for node in readers(value) if depth else ():
        if is_op(node, *sort):
            return True
        if not node.domain and is_scalar_op(node.op_type) and _meets_another(node.outputs[0], mover, depth - 1):
            return True
    return False


def _behind_anchor(moved: ir.Value, depth: int) -> bool:
    """Whether the kernel of a convolution or product would do arithmetic on the unmoved value."""
    move = moved.producer()
    source = None if move is None else move.inputs[0]
    node = None if source is None else source.producer()
    if source is None or node is None or not depth or node.domain:
        return False
    if any(not is_scalar_op(r.op_type) for r in readers(source) if r is not move) or source.is_graph_output():
        return False
    if is_op(node, *_ANCHORS):
        return True
    if mover_of(source) is not None:
        return _behind_anchor(source, depth - 1)
    return is_scalar_op(node.op_type) and any(_anchored(v, depth - 1) for v in node.inputs)


def _anchored(value: ir.Value | None, depth: int) -> bool:
    node = None if value is None or not depth else value.producer()
    if node is None or node.domain:
        return False
    return is_op(node, *_ANCHORS) or (is_scalar_op(node.op_type) and any(_anchored(v, depth - 1) for v in node.inputs))


def _cancel(editor: Editor, node: ir.Node) -> bool:
    """A reshape that leads back to the shape from which others came, or a transpose of a transpose."""
    if is_op(node, "Transpose"):
        inner = maker(operand(node, 0), "Transpose")
        outer, first = mover_of(node.outputs[0]), mover_of(operand(node, 0))
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
        if rank is None or not axes or y.is_graph_output() or y.shape is None or not _put_back(y, _DEPTH):
            continue
        places = sorted(a % rank for a in axes)
        left = iter(shape_of(y) or ())
        whole = editor.value(f"{y.name}/kept", y.dtype, [1 if axis in places else next(left) for axis in range(rank)])
        editor.ops(node.op_type, node.inputs, kept(node) | {"keepdims": 1}, [whole], before=node)
        gone = editor.constant(np.asarray(places, np.int64), f"{y.name}/axes")
        editor.substitute(node, editor.op("Squeeze", [whole, gone], before=node, like=y))


def _put_back(value: ir.Value, depth: int) -> bool:
    """Whether arithmetic leads from ``value`` to a Reshape or Unsqueeze."""
    for node in readers(value) if depth else ():
        if is_op(node, "Reshape", "Unsqueeze"):
            return True
        if not node.domain and is_scalar_op(node.op_type) and _put_back(node.outputs[0], depth - 1):
            return True
    return False
