"""Sequences whose elements are known when building: the ops that make and read them go, the tensors stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Editor, constant_of, fixed_shape, is_op, operand, scalar_of
from ingot.passes.writer import Writer

_Elements = list[ir.Value]


def resolve_sequences(model: ir.Model) -> list[str]:
    """Replaces reads of known sequences by their elements; gives how many."""
    editor, count = Editor(model), 0
    known: dict[ir.Value, _Elements] = {}
    makers: list[ir.Node] = []
    for node in list(model.graph):
        found = _made(editor, node, known)
        if found is not None:
            known[node.outputs[0]] = found
            makers.append(node)
        else:
            count += _read(editor, node, known)
    editor.sweep(makers[::-1])
    return [f"{count} reads of sequences are reads of their elements"] if count else []


def _made(editor: Editor, node: ir.Node, known: dict[ir.Value, _Elements]) -> _Elements | None:
    """The elements of the sequence that a node makes; None where it makes none, or they are not known."""
    if is_op(node, "SequenceEmpty"):
        return []
    if is_op(node, "SequenceConstruct"):
        return [v for v in node.inputs if v is not None]
    if is_op(node, "SplitToSequence"):
        return _split(editor, node)
    source = node.inputs[0] if node.inputs else None
    before = known.get(source) if source is not None else None
    if before is None:
        return None
    if is_op(node, "Identity"):
        return before
    if is_op(node, "SequenceInsert"):
        tensor, place = node.inputs[1], _position(node, 2, len(before), len(before))
        if tensor is None or place is None:
            return None
        return [*before[:place], tensor, *before[place:]]
    if is_op(node, "SequenceErase"):
        place = _position(node, 1, len(before), len(before) - 1)
        return None if place is None else [*before[:place], *before[place + 1 :]]
    return None


def _position(node: ir.Node, at: int, count: int, absent: int = 0) -> int | None:
    """A position from the front; ``absent`` where none is given, None where it is data."""
    if operand(node, at) is None:
        return absent
    place = scalar_of(operand(node, at))
    return None if place is None else int(place) + (count if place < 0 else 0)


def _read(editor: Editor, node: ir.Node, known: dict[ir.Value, _Elements]) -> bool:
    """Rewrites a node that reads a known sequence; whether it was one."""
    source = node.inputs[0] if node.inputs else None
    elements = known.get(source) if source is not None else None
    if elements is None:
        return False
    w = Writer(editor, node)
    if is_op(node, "SequenceLength"):
        w.done(w.const(len(elements), np.int64))
    elif is_op(node, "SequenceAt"):
        place = _position(node, 1, len(elements))
        if place is None or not 0 <= place < len(elements):
            return False
        editor.substitute(node, elements[place])
    elif is_op(node, "ConcatFromSequence") and elements:
        axis = node.attributes.get_int("axis", 0)
        fresh = node.attributes.get_int("new_axis", 0)
        parts = [w("Unsqueeze", v, w.ints(axis)) for v in elements] if fresh else elements
        w.done(w("Concat", *parts, axis=axis))
    else:
        return False
    return True


def _split(editor: Editor, node: ir.Node) -> _Elements | None:
    """The slices that SplitToSequence makes, where their sizes are known."""
    x, sizes = node.inputs[0], constant_of(operand(node, 1))
    shape = fixed_shape(x)
    if shape is None or (operand(node, 1) is not None and sizes is None):
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    whole = shape[axis]
    # Without sizes, slices of one; with keepdims of 0 they lose the axis.
    step = 1 if sizes is None else int(sizes) if sizes.ndim == 0 else 0
    ends = list(np.cumsum(sizes).tolist()) if sizes is not None and not step else [*range(step, whole, step), whole]
    if ends[-1] != whole:
        return None
    w, found = Writer(editor, node), []
    for start, end in zip([0, *ends], ends, strict=False):
        part = w("Slice", x, w.ints(start), w.ints(end), w.ints(axis))
        if sizes is None and not node.attributes.get_int("keepdims", 1):
            part = w("Squeeze", part, w.ints(axis))
        found.append(part)
    return found
