"""Pointwise convolutions that become one Region: the sum of two, and two in a row.

Where the tensor between them is too large for the second-level cache, reading it back costs as much as the other
convolution's work. A sum of two is one product of greater depth, and needs no such tensor. In a row, one kernel that
makes a tile of it, and multiplies that tile on, never reads it. Whether that kernel or two are faster is measured:
tactics for both take the Region. What no tactic accepts is cut apart again.
"""

from __future__ import annotations

from collections.abc import Sequence

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Kind
from ingot.passes.flatten import FlatGraph, FlatOp
from ingot.passes.partition import Apart, Group, Partition

LARGE = 12 << 20
"""Bytes of the tensor between from which one kernel is likely to be faster: what two kernels write and read once each
passes through a cache of 50 MB as a whole."""


def join_pointwise(flat: FlatGraph, groups: Sequence[Group], apart: Apart, bindings: Bindings) -> list[Group]:
    """``groups`` with sums and chains of two pointwise convolutions made one, in topological order.

    Sizes are those at ``bindings``. What is in ``apart`` is left alone.
    """
    parts = Partition.of(flat, groups)
    for group in groups:
        if group.ident in parts.groups and is_pointwise(flat, group, strided=True):
            beside = _added(parts, group)
            if beside is not None and bytes_of(flat, flat.ops[beside.ops[0]].body.outputs[0], bindings) >= LARGE:
                _join(parts, beside, group, Kind.SUM, apart)
    for group in groups:
        if group.ident in parts.groups and is_pointwise(flat, group):
            first = _before(parts, group)
            if first is not None and bytes_of(flat, flat.ops[group.ops[0]].body.inputs[0], bindings) >= LARGE:
                _join(parts, first, group, Kind.CHAIN, apart)
    return parts.ordered()


def _join(parts: Partition, first: Group, second: Group, kind: Kind, apart: Apart) -> None:
    ops = sorted([*first.ops, *second.ops])
    if (kind, parts.flat.ops[ops[0]].name) in apart or not parts.fits(ops):
        return
    if not parts.reaches(first, second, indirectly=True):
        parts.merge(first, second)
        first.kind, first.shape, first.ops = kind, None, ops


def _added(parts: Partition, group: Group) -> Group | None:
    """The group of a lone pointwise convolution whose result is only added to the one of ``group``."""
    ops, made = parts.flat.ops, parts.flat.ops[group.ops[0]].body.outputs[0]
    for index in group.ops:
        body = ops[index].body
        if body.op != "Add" or made not in body.inputs:
            continue
        other = next((name for name in body.inputs if name != made), made)
        maker = parts.producer.get(other)
        found = parts.groups[parts.group_of[maker]] if maker is not None else None
        lone = found is not None and found is not group and found.ops == [maker] and other not in parts.flat.outputs
        if found is not None and lone and parts.readers[other] == [index] and parts.readers[made] == [index]:
            return found if is_pointwise(parts.flat, found, strided=True) else None
    return None


def _before(parts: Partition, second: Group) -> Group | None:
    """The group of the pointwise convolution whose result the one of ``second`` reads."""
    ops = parts.flat.ops
    made = ops[second.ops[0]].body.inputs[0]
    maker = parts.producer.get(made)
    first = parts.groups[parts.group_of[maker]] if maker is not None else None
    if first is None or first is second or not (is_pointwise(parts.flat, first) or _unstrided_sum(parts.flat, first)):
        return None
    own = {name for i in first.ops for name in ops[i].body.outputs}
    alone = all(name not in own or name == made for i in second.ops for name in ops[i].body.inputs)
    return first if alone else None


def _unstrided_sum(flat: FlatGraph, group: Group) -> bool:
    strides = [flat.ops[i].body.ints("strides", (1, 1)) for i in group.ops if flat.ops[i].body.op == "Conv"]
    return group.kind is Kind.SUM and all(set(pair) == {1} for pair in strides)


def is_pointwise(flat: FlatGraph, group: Group, *, strided: bool = False) -> bool:
    """Whether it begins with a 1 x 1 convolution of 16-bit floats with constant weights; ``strided``: of any stride."""
    op: FlatOp = flat.ops[group.ops[0]]
    if group.kind is not Kind.CONV or op.body.op != "Conv" or op.origin or op.body.attr("group", 1) != 1:
        return False
    weight = flat.values[op.body.inputs[1]]
    plain = strided or all(s == 1 for s in op.body.ints("strides", (1, 1)))
    taps = weight.shape[2:]
    half = weight.dtype in ("float16", "bfloat16") and op.body.inputs[1] in flat.constants
    unpadded = not any(op.body.ints("pads", (0,)))
    return half and plain and unpadded and len(taps) == 2 and all(tap == 1 for tap in taps)


def bytes_of(flat: FlatGraph, name: str, bindings: Bindings) -> int:
    """Bytes of a value at ``bindings``."""
    value = flat.values[name]
    return evaluate(value.elements, bindings) * itemsize(value.dtype)
