"""Squeeze-and-excitation: the mean of each channel, two small products, and the gate that multiplies the channels.

As separate kernels it is four launches that wait for each other, of which two do next to nothing, and it reads the
tensor twice. ``mark_excites`` gives the mean the kind EXCITE where all of it can be one Region; where no tactic
accepts that, the ops are fused as any others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ingot.graph.region import Kind
from ingot.graph.scalar_ops import is_scalar_op
from ingot.passes.flatten import FlatGraph, FlatOp

_MARK = "/excite"
"""Behind a node's name, the origin of the mean marked."""
_PRODUCTS = 2
_FLOATS = frozenset({"float32", "float16", "bfloat16"})


def mark_excites(flat: FlatGraph, refused: frozenset[str]) -> FlatGraph:
    """``flat`` with the means of squeeze-and-excitation blocks marked; origins in ``refused`` are left alone."""
    readers = flat.readers()
    ops = list(flat.ops)
    for index, op in enumerate(ops):
        origin = f"{op.name}{_MARK}"
        if _is_mean(flat, op) and origin not in refused and excite_ops(flat, index, readers) is not None:
            ops[index] = replace(op, kind=Kind.EXCITE, origin=origin)
    return replace(flat, ops=tuple(ops))


def excite_ops(flat: FlatGraph, mean: int, readers: Mapping[str, Sequence[int]]) -> tuple[int, ...] | None:
    """The ops from the mean to the product with the gate, in order; None where they are not alone or not these.

    Between them: 1 x 1 convolutions of constant weights, twice, and scalar ops on what they make. Nobody else reads
    what is made in between.
    """
    source, found = flat.ops[mean].body.inputs[0], [mean]
    inside = set(flat.ops[mean].body.outputs)
    products = 0
    for index in range(mean + 1, len(flat.ops)):
        op = flat.ops[index]
        read = flat.tensor_inputs(op)
        if not inside & set(read):
            continue
        if op.plugin is not None or len(op.body.outputs) != 1:
            return None
        if _is_product(flat, op, inside):
            products += 1
        elif source in read:
            found.append(index)
            return tuple(found) if products == _PRODUCTS and _closed(flat, found, readers) else None
        elif not is_scalar_op(op.body.op) or not set(read) <= inside:
            return None
        found.append(index)
        inside |= set(op.body.outputs)
        if products > _PRODUCTS:
            return None
    return None


def _is_mean(flat: FlatGraph, op: FlatOp) -> bool:
    """Whether it is the mean over height and width, kept as dimensions of size 1."""
    body = op.body
    if op.kind is not Kind.REDUCE or body.op not in ("GlobalAveragePool", "ReduceMean"):
        return False
    x, y = flat.values[body.inputs[0]], flat.values[body.outputs[0]]
    return x.rank == 4 and x.dtype in _FLOATS and y.shape == (*x.shape[:2], 1, 1)


def _is_product(flat: FlatGraph, op: FlatOp, inside: set[str]) -> bool:
    """Whether it is a 1 x 1 convolution of what is inside, with constant weights."""
    body = op.body
    if op.kind is not Kind.CONV or body.op != "Conv" or body.attr("group", 1) != 1 or body.inputs[0] not in inside:
        return False
    constant = all(name in flat.constants for name in body.inputs[1:] if name)
    return constant and flat.values[body.inputs[1]].shape[2:] == (1, 1) and not any(body.ints("pads", (0,)))


def _closed(flat: FlatGraph, found: Sequence[int], readers: Mapping[str, Sequence[int]]) -> bool:
    """Whether the last op multiplies the mean's operand and all before it serves only these ops."""
    last, source = flat.ops[found[-1]].body, flat.ops[found[0]].body.inputs[0]
    if last.op != "Mul" or last.inputs.count(source) != 1:
        return False
    if flat.values[last.outputs[0]].shape != flat.values[source].shape:
        return False
    if len({flat.guard(flat.ops[index]) for index in found}) > 1:
        return False  # they do not all run under the same conditions
    made = [name for index in found[:-1] for name in flat.ops[index].body.outputs]
    return not set(made) & set(flat.outputs) and all(set(readers.get(name, ())) <= set(found) for name in made)
