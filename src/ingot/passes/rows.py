"""Reductions in one kernel with what is beside them: sums behind a softmax, and what is spread over rows again."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.graph.dims import Shape
from ingot.graph.region import Kind
from ingot.passes.flatten import FlatGraph


def sums_softmax(flat: FlatGraph, members: Sequence[int], index: int) -> bool:
    """Whether op ``index`` sums what ``members``, a softmax and scalar ops, make, over the axis of the softmax."""
    op = flat.ops[index].body
    shape, last = flat.values[op.inputs[0]].shape, flat.ops[members[-1]].body
    rows = [flat.ops[i].body for i in members if flat.ops[i].kind is Kind.ROWWISE]
    axes = flat.literals.get(op.inputs[1]) if len(op.inputs) > 1 else None
    if op.op != "ReduceSum" or op.attr("keepdims", 1) != 1 or len(rows) != 1 or rows[0].op != "Softmax":
        return False
    over, whole = rows[0].attr("axis", -1), flat.values[rows[0].inputs[0]].shape == shape
    if not whole or last.outputs[0] != op.inputs[0] or op.inputs[0] in flat.outputs or not isinstance(over, int):
        return False
    return axes in ((over % len(shape),), (over % len(shape) - len(shape),))


def spreads_back(flat: FlatGraph, index: int, shape: Shape) -> bool:
    """Whether op ``index`` reduces the last axis of ``shape``, so that it can be broadcast back over it."""
    op = flat.ops[index].body
    source = flat.values[op.inputs[0]].shape
    if len(shape) in (0, 4) or not op.op.startswith("Reduce") or source != shape or op.attr("keepdims", 1) != 1:
        return False
    axes = flat.literals.get(op.inputs[1]) if len(op.inputs) > 1 else None
    return axes in ((-1,), (len(shape) - 1,)) and flat.values[op.outputs[0]].dtype.startswith("float")
