"""Tails: the arithmetic behind one product, up to the value that others read.

Scalar ops that need nothing but the product's result and constants: one number, or one for each channel.
The kernel that makes the product does them for nothing, for several products at once where their tails are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Array, Attribute, Editor, constant_of, kept, readers, sole_reader
from ingot.graph.scalar_ops import is_scalar_op

_OTHERS = ("Cast", "CastLike", "BitCast", "QuantizeLinear", "DequantizeLinear")
"""Scalar ops that change the type of what others read: they end a tail."""
_MOST = 8
"""Ops that a tail may have."""


@dataclass(frozen=True)
class TailOp:
    """One op of a tail."""

    op_type: str
    attributes: Mapping[str, Attribute]
    operands: tuple[int | Array | None, ...]
    """The position of an earlier result (0: the product's), a constant of shape () or (channels,), or nothing."""


@dataclass(frozen=True)
class Tail:
    """The ops behind a product, in order, and the result of the last: without ops the product's."""

    ops: tuple[TailOp, ...]
    end: ir.Value


def tail_of(value: ir.Value, axis: int, channels: int) -> Tail:
    """The longest tail of ``value``, whose axis ``axis``, counted from the end, holds ``channels``."""
    places, ops, end = {value: 0}, list[TailOp](), value
    while len(ops) < _MOST:
        following = _following(end)
        if following is None:
            break
        found: list[TailOp] = []
        known = {end: places[end]}
        for node in following:
            op = _tail_op(node, known, axis, channels)
            if op is None:
                return Tail(tuple(ops), end)
            found.append(op)
            known[node.outputs[0]] = len(ops) + len(found)
        ops += found
        places |= known
        end = following[-1].outputs[0]
    return Tail(tuple(ops), end)


def _following(value: ir.Value) -> tuple[ir.Node, ...] | None:
    """The only reader of ``value``; or both, where the second alone reads the first, as in x * Sigmoid(x)."""
    found = [] if value.is_graph_output() else readers(value)
    if len(found) == 1:
        return (found[0],)
    if len(found) != 2:
        return None
    pairs = [(a, b) for a, b in (found, found[::-1]) if a.outputs and sole_reader(a.outputs[0]) is b]
    return pairs[0] if pairs else None


def _tail_op(node: ir.Node, known: Mapping[ir.Value, int], axis: int, channels: int) -> TailOp | None:
    inside = node.graph is next(iter(known)).graph  # and not in a branch or a loop
    if node.domain or not is_scalar_op(node.op_type) or node.op_type in _OTHERS or len(node.outputs) != 1 or not inside:
        return None
    operands: list[int | Array | None] = []
    for value in node.inputs:
        if value is None:
            operands.append(None)
        elif value in known:
            operands.append(known[value])
        else:
            array = _constant(value, axis, channels)
            if array is None:
                return None
            operands.append(array)
    return TailOp(node.op_type, kept(node), tuple(operands))


def _constant(value: ir.Value, axis: int, channels: int) -> Array | None:
    """One number as shape (), one for each channel as (channels,)."""
    array = constant_of(value)
    if array is None:
        return None
    if array.size == 1:
        return array.reshape(())
    along = array.ndim >= axis and array.size == channels == array.shape[-axis]
    return array.reshape(-1) if along else None


def alike(one: Tail, other: Tail) -> bool:
    """Whether both do the same; numbers for each channel may differ."""
    return len(one.ops) == len(other.ops) and all(map(_same, one.ops, other.ops))


def _same(one: TailOp, other: TailOp) -> bool:
    if (one.op_type, len(one.operands)) != (other.op_type, len(other.operands)) or one.attributes != other.attributes:
        return False
    return all(map(_same_operand, one.operands, other.operands))


def _same_operand(one: int | Array | None, other: int | Array | None) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray) and one == other
    if one.dtype != other.dtype or one.ndim != other.ndim:
        return False
    return one.ndim == 1 or bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def write(editor: Editor, value: ir.Value, tails: Sequence[Tail], axis: int, before: ir.Node) -> ir.Value:
    """What ``tails``, which are alike, make of ``value``, whose channels are those of their products in order."""
    results = [value]
    for position, op in enumerate(tails[0].ops):
        inputs: list[ir.Value | None] = []
        for place, operand in enumerate(op.operands):
            if isinstance(operand, np.ndarray):
                arrays = [np.asarray(tail.ops[position].operands[place]) for tail in tails]
                together = np.concatenate(arrays).reshape(-1, *(1,) * (axis - 1)) if operand.ndim else operand
                inputs.append(editor.constant(together, f"{value.name}/constant"))
            else:
                inputs.append(None if operand is None else results[operand])
        results.append(editor.op(op.op_type, inputs, op.attributes, before=before, like=value))
    return results[-1]
