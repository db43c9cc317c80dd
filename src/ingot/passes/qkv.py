"""Matrix products that read one value become one product, of which each takes its columns.

Queries, keys and values of one layer are the case that matters: one kernel reads the input once.
The parts are windows on the product's memory, so whoever reads them must read through strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import (
    Array,
    Editor,
    constant_of,
    is_op,
    maker,
    operand,
    rank_of,
    readers,
    shape_of,
    sole_reader,
)
from ingot.graph.scalar_ops import is_scalar_op
from ingot.passes.tails import Tail, alike, tail_of, write
from ingot.passes.together import hand_out, readers_of_one


@dataclass(frozen=True)
class _Branch:
    """tail(x @ weight + bias)."""

    product: ir.Node
    tail: Tail
    """What is done with all of it: nothing, or arithmetic in front of products that read it."""
    weight: Array
    """(features, columns); of a quantized product as it is stored."""
    bias: Array | None
    """(columns,)"""
    scale: Array | None = None
    """(columns,): of a quantized product."""


def join_products(model: ir.Model) -> list[str]:
    """Joins sibling products with constant weights; gives how many, and why others stay apart."""
    editor = Editor(model)
    joined = 0
    for nodes in readers_of_one(model, lambda node: is_op(node, "MatMul", "Gemm") and _weight(node) is not None):
        branches = [branch for node in nodes if (branch := _branch(node)) is not None]
        apart = [b for b in branches if _has_epilogue(b)]
        if apart:
            names = ", ".join(b.product.name or "" for b in apart)
            editor.note(f"{names}: arithmetic behind it is done by its own product, which is not joined to others")
        for group in _alike([b for b in branches if b not in apart]):
            if len(group) > 1:
                _join(editor, group)
                joined += len(group)
    if joined:
        editor.notes.insert(0, f"{joined} products joined with others that read the same value")
    return editor.notes


def _alike(branches: list[_Branch]) -> list[list[_Branch]]:
    """Branches by type of their weights, and what follows."""
    groups: list[list[_Branch]] = []
    for branch in branches:
        group = next((g for g in groups if _kind(g[0]) == _kind(branch) and alike(g[0].tail, branch.tail)), None)
        if group is None:
            groups.append([branch])
        else:
            group.append(branch)
    return groups


def _kind(branch: _Branch) -> tuple[str, bool]:
    return branch.weight.dtype.name, branch.scale is None


def _weight(node: ir.Node) -> tuple[Array, Array | None] | None:
    """The constant weight, or a stored one with a scale for each column and no zero points."""
    weight = constant_of(operand(node, 1))
    if weight is not None:
        return weight, None
    source = maker(operand(node, 1), "DequantizeLinear")
    stored, scale = (constant_of(operand(source, i)) for i in (0, 1)) if source is not None else (None, None)
    if source is None or stored is None or scale is None or stored.ndim != 2 or "block_size" in source.attributes:
        return None
    zero = operand(source, 2)
    if zero is not None and (constant_of(zero) is None or np.any(constant_of(zero).astype(np.float32))):  # type: ignore[union-attr]
        return None
    columns = 0 if node.attributes.get_int("transB", 0) else 1
    if scale.size != 1 and source.attributes.get_int("axis", 1) % 2 != columns:
        return None
    return stored, np.broadcast_to(scale.reshape(-1), (stored.shape[columns],))


def _branch(node: ir.Node) -> _Branch | None:
    found = _weight(node)
    if found is None or found[0].ndim != 2 or (rank_of(operand(node, 0)) or 0) < 2:
        return None
    weight, scale = found
    if is_op(node, "Gemm"):
        return _gemm(node, weight, scale)
    bias, last = _bias_behind(node, weight.shape[1])
    return _Branch(node, _tail(last, weight.shape[1]), weight, bias, scale)


def _gemm(node: ir.Node, weight: Array, scale: Array | None) -> _Branch | None:
    attributes = node.attributes
    plain = attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0
    if not plain or attributes.get_int("transA", 0) != 0:
        return None
    if attributes.get_int("transB", 0):
        weight = weight.T
    addend = operand(node, 2)
    bias = None if addend is None else constant_of(addend)
    if addend is not None and (bias is None or bias.size != weight.shape[1] or bias.shape[-1:] != weight.shape[1:]):
        return None
    return _Branch(node, _tail(node, weight.shape[1]), weight, None if bias is None else bias.reshape(-1), scale)


def _bias_behind(node: ir.Node, columns: int) -> tuple[Array | None, ir.Node]:
    """The constant that the product's only reader adds per column, and that reader; else None and the product."""
    reader = sole_reader(node.outputs[0])
    if reader is not None and is_op(reader, "Add"):
        for value in reader.inputs:
            bias = None if value is node.outputs[0] else constant_of(value)
            if bias is not None and bias.ndim == 1 and bias.size == columns:
                return bias, reader
    return None, node


def _tail(last: ir.Node, columns: int) -> Tail:
    """The arithmetic behind ``last``, if nothing but products read its result, and their first operand is it."""
    tail = tail_of(last.outputs[0], 1, columns)
    firsts = [is_op(use.node, "MatMul", "Gemm") and use.idx == 0 for use in tail.end.uses()]
    turned = [use.node.attributes.get_int("transA", 0) for use in tail.end.uses()]
    usable = all(firsts) and not any(turned) and not tail.end.is_graph_output()
    return tail if usable else Tail((), last.outputs[0])


def _has_epilogue(branch: _Branch) -> bool:
    """Whether arithmetic follows, which the product's own kernel does for nothing."""
    result = branch.tail.end
    return result.is_graph_output() or any(
        not node.domain and is_scalar_op(node.op_type) and not is_op(node, "Cast") for node in readers(result)
    )


def _join(editor: Editor, branches: list[_Branch]) -> None:
    first = branches[0].product
    source = first.inputs[0]  # which may have become a part itself
    sizes = [b.weight.shape[1] for b in branches]
    lead = (shape_of(source) or ())[:-1]
    base, dtype = f"{first.outputs[0].name}/joined", first.outputs[0].dtype
    weight = editor.constant(np.concatenate([b.weight for b in branches], axis=1), f"{base}/weight")
    scales = [b.scale for b in branches if b.scale is not None]
    kind: np.dtype[Any] = branches[0].weight.dtype
    if scales:
        kind = scales[0].dtype
        factors = editor.constant(np.concatenate(scales), f"{base}/scale")
        real = editor.value(f"{base}/real", branches[0].product.outputs[0].dtype, shape_of(weight))
        editor.ops("DequantizeLinear", [weight, factors], {"axis": 1}, [real], before=first)
        weight = real
    result = editor.value(base, dtype, (*lead, sum(sizes)))
    editor.ops("MatMul", [source, weight], None, [result], before=first)
    if any(b.bias is not None for b in branches):
        parts = [np.zeros(b.weight.shape[1], kind) if b.bias is None else b.bias for b in branches]
        bias = editor.constant(np.concatenate(parts), f"{base}/bias")
        product, result = result, editor.value(f"{base}/sum", dtype, (*lead, sum(sizes)))
        editor.ops("Add", [product, bias], None, [result], before=first)
    result = write(editor, result, [b.tail for b in branches], 1, first)
    hand_out(editor, result, [b.tail for b in branches], sizes, len(lead), first)
