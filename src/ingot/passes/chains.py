"""Chains: a pointwise convolution and the pointwise convolution that reads its result, as one Region.

Where the tensor between two of them is too large for the second-level cache, reading it back costs as much as the other
convolution's work. One kernel that makes a tile of it, and multiplies that tile on, reads it never. Whether that
kernel or two are faster is measured: tactics for both take the Region. What no tactic accepts is cut apart again.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Kind
from ingot.passes.flatten import FlatGraph, FlatOp
from ingot.passes.partition import Group, Partition

_LARGE = 24 << 20
"""Bytes of the tensor between, from which reading it back can cost memory traffic: half of a cache of 50 MB."""


def join_chains(flat: FlatGraph, groups: Sequence[Group], apart: Set[str], bindings: Bindings) -> list[Group]:
    """``groups`` with those of two pointwise convolutions in a row made one, in topological order.

    Sizes are those at ``bindings``. First convolutions named in ``apart`` are left alone.
    """
    parts = Partition(flat)
    for group in groups:
        parts.groups[group.ident] = group
        parts.group_of |= dict.fromkeys(group.ops, group.ident)
    for second in list(groups):
        first = _before(parts, second)
        if first is None or flat.ops[first.ops[0]].name in apart or not _large(flat, second, bindings):
            continue
        if parts.fits([*first.ops, *second.ops]) and not parts.reaches(first, second, indirectly=True):
            parts.merge(first, second)
            first.kind, first.shape = Kind.CHAIN, None
            first.ops.sort()
    return parts.ordered()


def _before(parts: Partition, second: Group) -> Group | None:
    """The group of the pointwise convolution whose result the one of ``second`` reads."""
    ops = parts.flat.ops
    if second.ident not in parts.groups or not _pointwise(parts.flat, second):
        return None
    made = ops[second.ops[0]].body.inputs[0]
    maker = parts.producer.get(made)
    first = parts.groups[parts.group_of[maker]] if maker is not None else None
    if first is None or first is second or not _pointwise(parts.flat, first):
        return None
    own = {name for i in first.ops for name in ops[i].body.outputs}
    alone = all(name not in own or name == made for i in second.ops for name in ops[i].body.inputs)
    return first if alone else None


def _pointwise(flat: FlatGraph, group: Group) -> bool:
    """Whether it begins with a 1 x 1 convolution of 16-bit floats with constant weights."""
    op: FlatOp = flat.ops[group.ops[0]]
    if group.kind is not Kind.CONV or op.body.op != "Conv" or op.origin or op.body.attr("group", 1) != 1:
        return False
    weight = flat.values[op.body.inputs[1]]
    plain = all(s == 1 for s in op.body.ints("strides", (1, 1))) and not any(op.body.ints("pads", (0,)))
    taps = weight.shape[2:]
    half = weight.dtype in ("float16", "bfloat16") and op.body.inputs[1] in flat.constants
    return half and plain and len(taps) == 2 and all(tap == 1 for tap in taps)


def _large(flat: FlatGraph, second: Group, bindings: Bindings) -> bool:
    value = flat.values[flat.ops[second.ops[0]].body.inputs[0]]
    return evaluate(value.elements, bindings) * itemsize(value.dtype) >= _LARGE
