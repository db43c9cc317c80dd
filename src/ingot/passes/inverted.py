"""Inverted residual blocks that become one Region: a 1 x 1 convolution, a depthwise one, and a 1 x 1 convolution.

The first one may be missing. As several kernels on few pixels they are launches that wait for each other, and the
widest tensors of the network go through memory between them. One kernel keeps these in shared memory, at the price of
making the pixels at the edges of its tiles more than once. Whether it or several are faster is measured: tactics for
both take the Region. What no tactic accepts is cut apart again.
"""

from __future__ import annotations

from collections.abc import Sequence

from ingot.graph.dims import Bindings, evaluate, mul
from ingot.graph.region import Kind
from ingot.passes.chains import bytes_of, is_pointwise
from ingot.passes.flatten import FlatGraph
from ingot.passes.partition import Apart, Group, Partition

MEASURED = 5 << 19
"""Bytes of the hidden tensor up to which one kernel was measured to be faster: a little more than 2.4 MB."""
MULTIPLIED = 27_000_000
"""Multiplications of the pointwise convolutions up to which it was: those of 112 x 112 pixels, 16 to 96 channels and
then 56 x 56 pixels to 24, are 26.5 million."""


def join_inverted(flat: FlatGraph, groups: Sequence[Group], apart: Apart, bindings: Bindings) -> list[Group]:
    """``groups`` with inverted residual blocks made one each, in topological order.

    Blocks whose hidden channels take :data:`MEASURED` bytes or more at ``bindings``, or with more than
    :data:`MULTIPLIED` multiplications, stay apart, as do those in ``apart`` and those of which another op, or the user,
    reads what is in between.
    """
    parts = Partition.of(flat, groups)
    for group in groups:
        if group.ident not in parts.groups or not _depthwise(flat, group):
            continue
        first, last = _before(parts, group), _behind(parts, group)
        if last is None or bytes_of(flat, flat.ops[group.ops[0]].body.inputs[0], bindings) >= MEASURED:
            continue
        pointwise = [last] if first is None else [first, last]
        if sum(_multiplications(flat, part, bindings) for part in pointwise) > MULTIPLIED:
            continue
        if first is None or not _join(parts, [first, group, last], apart):
            _join(parts, [group, last], apart)
    return parts.ordered()


def _join(parts: Partition, members: Sequence[Group], apart: Apart) -> bool:
    """Makes one group of ``members``, which read each other in this order; false where that cannot be."""
    first, last = members[0], members[-1]
    ops = sorted(index for member in members for index in member.ops)
    if (Kind.INVERTED, parts.flat.ops[ops[0]].name) in apart or not _closed(parts, ops, last) or not parts.fits(ops):
        return False
    for member in members[1:]:
        parts.merge(first, member)
    first.kind, first.shape, first.ops = Kind.INVERTED, None, ops
    return True


def _multiplications(flat: FlatGraph, group: Group, bindings: Bindings) -> int:
    """Of the pointwise convolution that ``group`` begins with."""
    body = flat.ops[group.ops[0]].body
    channels = flat.values[body.inputs[1]].shape[1]
    return evaluate(mul(flat.values[body.outputs[0]].elements, channels), bindings)


def _depthwise(flat: FlatGraph, group: Group) -> bool:
    """Whether it begins with a depthwise convolution of two dimensions, of 16-bit floats with constant weights."""
    op = flat.ops[group.ops[0]]
    if group.kind is not Kind.CONV or op.body.op != "Conv" or op.origin:
        return False
    weight = flat.values[op.body.inputs[1]]
    each = weight.rank == 4 and weight.shape[0] == op.body.attr("group", 1) and weight.shape[1] == 1
    return each and weight.dtype in ("float16", "bfloat16") and op.body.inputs[1] in flat.constants


def _before(parts: Partition, group: Group) -> Group | None:
    """The group of the pointwise convolution that makes the input of ``group``."""
    maker = parts.producer.get(parts.flat.ops[group.ops[0]].body.inputs[0])
    first = parts.groups.get(parts.group_of.get(maker, -1)) if maker is not None else None
    return first if first is not None and first is not group and is_pointwise(parts.flat, first) else None


def _behind(parts: Partition, group: Group) -> Group | None:
    """The group of the pointwise convolution that alone reads the result of ``group``."""
    made = list(parts.outputs(group.ops))
    readers = parts.readers[made[0]] if len(made) == 1 else []
    last = parts.groups.get(parts.group_of.get(readers[0], -1)) if len(readers) == 1 else None
    if last is None or last.ops[0] != readers[0] or not is_pointwise(parts.flat, last):
        return None
    return last if parts.flat.ops[last.ops[0]].body.inputs[0] == made[0] else None


def _closed(parts: Partition, ops: Sequence[int], last: Group) -> bool:
    """Whether all that others read of ``ops`` is one result of ``last``."""
    made = list(parts.outputs(ops))
    return len(made) == 1 and parts.producer[made[0]] == last.ops[-1]
