"""Fusion: which ops go into one Region.

Legality is general, not a list of patterns. A scalar op joins the group that produces one of its
inputs when its result has the group's shape and the merge makes no cycle; producers of rows and
reductions are absorbed when nobody else reads them. Writing an extra output costs no more than
the separate kernel that would read it back, so groups may have several outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from ingot.graph.dims import Shape
from ingot.graph.lowered import Guard
from ingot.graph.region import Kind
from ingot.graph.scalar_ops import is_scalar_op
from ingot.passes.excite import excite_ops
from ingot.passes.flatten import FlatGraph, FlatOp
from ingot.passes.rows import spreads_back, sums_softmax
from ingot.passes.stem import takes_pool

_ABSORBS_EPILOGUE = {Kind.CONV, Kind.STEM, Kind.GEMM, Kind.POOL, Kind.REDUCE, Kind.ROWWISE, Kind.MAP}
_ABSORBS_PROLOGUE = {Kind.ROWWISE, Kind.REDUCE, Kind.STEM}
_MOVES_ONCE = {"Pad", "DepthToSpace", "SpaceToDepth"}
"""Index maps that read each element once: what makes it may be computed on the way."""
_NEVER_WITH_EPILOGUE = {"Concat"}
"""A concat is better written in place by its producers (see layout)."""
_MAX_TENSORS = 24
"""Most tensors one kernel reads or writes: keeps register pressure and argument lists sane."""


Apart = Set[tuple[Kind, str]]
"""Joined convolutions that were refused: the Region's kind and its first op's name."""


@dataclass
class Group:
    """Ops that will be one Region. ``shape`` is the iteration space that epilogue ops must have."""

    ident: int
    kind: Kind
    shape: Shape | None
    ops: list[int] = field(default_factory=list)
    pointwise: bool = False
    """Only scalar ops so far."""
    light: bool = False
    """A lone dequantization of what others read too: it belongs to the kernel that reads it, not to its maker's."""


class Partition:
    """Groups of op indices over one FlatGraph, with the queries that keep merges acyclic."""

    def __init__(self, flat: FlatGraph) -> None:
        self.flat = flat
        self.groups: dict[int, Group] = {}
        self.group_of: dict[int, int] = {}
        self.producer: dict[str, int] = {}
        self.readers = flat.readers()
        for index, op in enumerate(flat.ops):
            for name in op.body.outputs:
                self.producer[name] = index

    @classmethod
    def of(cls, flat: FlatGraph, groups: Iterable[Group]) -> Partition:
        """One whose groups are ``groups``."""
        parts = cls(flat)
        for group in groups:
            parts.groups[group.ident] = group
            parts.group_of |= dict.fromkeys(group.ops, group.ident)
        return parts

    def add(
        self, index: int, kind: Kind, shape: Shape | None, *, pointwise: bool = False, light: bool = False
    ) -> Group:
        """A new group of one op."""
        group = Group(index, kind, shape, [index], pointwise, light)
        self.groups[group.ident], self.group_of[index] = group, group.ident
        return group

    def join(self, index: int, group: Group) -> None:
        """Adds an op to a group."""
        group.ops.append(index)
        group.light = False
        self.group_of[index] = group.ident

    def merge(self, group: Group, other: Group) -> None:
        """Moves every op of ``other`` into ``group``."""
        for index in other.ops:
            self.join(index, group)
        del self.groups[other.ident]

    def op_producers(self, index: int) -> list[Group]:
        """Groups that make the inputs of an op, the latest first, lone dequantizations last."""
        makers = {self.producer[n] for n in self.flat.tensor_inputs(self.flat.ops[index]) if n in self.producer}
        idents = dict.fromkeys(self.group_of[m] for m in sorted(makers, reverse=True) if m in self.group_of)
        return sorted((self.groups[i] for i in idents), key=lambda group: group.light)

    def inputs(self, ops: Iterable[int]) -> dict[str, None]:
        """Values that ``ops`` read and do not make, in order of use."""
        inside = set(ops)
        names = (n for i in sorted(inside) for n in self.flat.tensor_inputs(self.flat.ops[i]))
        return dict.fromkeys(n for n in names if self.producer.get(n, -1) not in inside)

    def outputs(self, ops: Iterable[int]) -> dict[str, None]:
        """Values that ``ops`` make and someone else reads, in order of making."""
        inside, final = set(ops), set(self.flat.outputs)
        names = (n for i in sorted(inside) for n in self.flat.ops[i].body.outputs if n)
        return dict.fromkeys(n for n in names if n in final or any(r not in inside for r in self.readers[n]))

    def successors(self, group: Group) -> set[int]:
        """Groups (made so far) that read what ``group`` makes."""
        readers = (r for i in group.ops for n in self.flat.ops[i].body.outputs for r in self.readers[n])
        return {self.group_of[r] for r in readers if r in self.group_of} - {group.ident}

    def reaches(self, start: Group, goal: Group, *, indirectly: bool = False) -> bool:
        """Whether ``goal`` depends on ``start``; ``indirectly``: through at least one other group."""
        stack = [i for i in self.successors(start) if not (indirectly and i == goal.ident)]
        seen = set(stack)
        while stack:
            ident = stack.pop()
            if ident == goal.ident:
                return True
            fresh = self.successors(self.groups[ident]) - seen
            seen |= fresh
            stack.extend(fresh)
        return False

    def guard(self, index: int) -> Guard:
        """The conditions under which an op runs."""
        return self.flat.guard(self.flat.ops[index])

    def fits(self, ops: Iterable[int]) -> bool:
        """Whether one kernel may hold ``ops``."""
        ops = list(ops)
        if self.flat.guards and len({self.guard(index) for index in ops}) > 1:
            return False
        return len(self.inputs(ops)) + len(self.outputs(ops)) <= _MAX_TENSORS

    def ordered(self) -> list[Group]:
        """Groups in topological order; ties by the first op."""
        done: set[int] = set()
        order: list[Group] = []
        pending = sorted(self.groups.values(), key=lambda g: max(g.ops))
        while pending:
            later = []
            for group in pending:
                names = (*self.inputs(group.ops), *(name for name, _ in self.guard(group.ops[0])))
                makers = (self.producer[n] for n in names if n in self.producer)
                if all(self.group_of[m] in done for m in makers):
                    done.add(group.ident)
                    order.append(group)
                else:
                    later.append(group)
            assert len(later) < len(pending), "fusion made a cycle"
            pending = later
        return order


def partition(flat: FlatGraph, solo: frozenset[str] = frozenset()) -> list[Group]:
    """Groups of ``flat``'s ops in topological order. Ops named in ``solo`` are not fused with others."""
    parts = Partition(flat)
    for index, op in enumerate(flat.ops):
        if op.kind is Kind.EXCITE:
            _place_excite(parts, index)
        elif index not in parts.group_of:
            _place(parts, index, op, solo)
    _absorb_dequantizations(parts, solo)
    _merge_maps(parts, solo)
    _absorb_prologues(parts, solo)
    _merge_islands(parts)
    for group in parts.groups.values():
        group.ops.sort()
    return parts.ordered()


def _place_excite(parts: Partition, index: int) -> None:
    """All of a squeeze-and-excitation block, of which ``index`` is the marked mean."""
    members = excite_ops(parts.flat, index, parts.readers)
    assert members is not None, "marked by the same rule"
    group = parts.add(index, Kind.EXCITE, parts.flat.values[parts.flat.ops[members[-1]].body.outputs[0]].shape)
    for member in members[1:]:
        parts.join(member, group)


def _place(parts: Partition, index: int, op: FlatOp, solo: frozenset[str]) -> None:
    flat = parts.flat
    if op.kind is Kind.HOST:
        _place_host(parts, index)
        return
    shape = flat.values[op.body.outputs[0]].shape
    pointwise = op.plugin is None and is_scalar_op(op.body.op)
    light = pointwise and op.body.op == "DequantizeLinear" and _belongs_to_reader(parts, op)
    if pointwise and not light and op.name not in solo:
        producers = parts.op_producers(index)
        for group in producers:
            if _joins(parts, index, group, shape, solo) and not any(
                parts.reaches(group, other) for other in producers if other is not group
            ):
                if group.kind is Kind.REDUCE and shape != group.shape:
                    group.kind, group.shape = Kind.ROWWISE, shape
                parts.join(index, group)
                return
    if op.kind is Kind.POOL and op.body.op == "MaxPool" and op.name not in solo and _pools_stem(parts, index, solo):
        return
    if op.kind is Kind.REDUCE and op.name not in solo and _ends_rows(parts, index, solo):
        return
    kind = op.kind
    space = flat.values[op.body.inputs[0]].shape if kind is Kind.ROWWISE else shape
    parts.add(index, kind, space, pointwise=pointwise, light=light)


def _belongs_to_reader(parts: Partition, op: FlatOp) -> bool:
    """Whether others read the quantized value too, or the reader takes in what makes its operand anyway."""
    if len(parts.readers[op.body.inputs[0]]) > 1:
        return True
    readers = [parts.flat.ops[i] for i in parts.readers[op.body.outputs[0]]]
    if len(readers) != 1:
        return False
    return readers[0].kind in (*_ABSORBS_PROLOGUE, Kind.POOL) or _meets_a_product(parts, op, readers[0])


def _meets_a_product(parts: Partition, op: FlatOp, reader: FlatOp) -> bool:
    """Whether the reader combines it with the result of another product, whose kernel can do that.

    Of two results one is written to memory: then it is the quantized one.
    """
    shape, own = parts.flat.values[op.body.outputs[0]].shape, parts.producer.get(op.body.inputs[0])
    if own is None or not is_scalar_op(reader.body.op):
        return False
    for name in parts.flat.tensor_inputs(reader):
        index = None if name == op.body.outputs[0] else parts.producer.get(name)
        while index is not None and is_scalar_op(parts.flat.ops[index].body.op):
            before = parts.flat.ops[index].body
            index = None if before.op == "DequantizeLinear" else parts.producer.get(before.inputs[0])
        if index is None or parts.flat.ops[index].kind not in (Kind.CONV, Kind.GEMM):
            continue
        if parts.flat.values[parts.flat.ops[index].body.outputs[0]].shape != shape:
            continue
        known = index in parts.group_of and own in parts.group_of
        if not known:
            return True
        there, here = parts.groups[parts.group_of[index]], parts.groups[parts.group_of[own]]
        if there is not here and not parts.reaches(there, here):
            return True
    return False


def _absorb_dequantizations(parts: Partition, solo: frozenset[str]) -> None:
    """Moves lone dequantizations into the group of the scalar op or pooling that reads them."""
    for group in [g for g in parts.groups.values() if g.light]:
        (index,) = group.ops
        op = parts.flat.ops[index]
        readers = parts.readers[op.body.outputs[0]]
        if len(readers) != 1 or op.body.outputs[0] in parts.flat.outputs or op.name in solo:
            continue
        reader = parts.flat.ops[readers[0]]
        goal = parts.groups[parts.group_of[readers[0]]]
        takes = is_scalar_op(reader.body.op) or reader.kind is Kind.POOL
        if not takes or goal.kind in (Kind.HOST, Kind.PLUGIN) or reader.name in solo:
            continue
        if parts.fits([*goal.ops, index]):
            parts.merge(goal, group)


def _joins(parts: Partition, index: int, group: Group, shape: Shape, solo: frozenset[str]) -> bool:
    ops = parts.flat.ops
    if group.kind is Kind.ATTENTION:
        return _quantizes(parts, index, group) and not any(ops[i].name in solo for i in group.ops)
    if group.kind not in _ABSORBS_EPILOGUE or any(ops[i].name in solo for i in group.ops):
        return False
    if ops[group.ops[0]].body.op in _NEVER_WITH_EPILOGUE or not parts.fits([*group.ops, index]):
        return False
    if any(parts.flat.values[n].shape != shape for n in ops[index].body.outputs):
        return False
    return shape == group.shape or (group.kind is Kind.REDUCE and spreads_back(parts.flat, group.ops[0], shape))


def _quantizes(parts: Partition, index: int, group: Group) -> bool:
    """Whether an op quantizes, by numbers, all that an attention gives: its kernel does nothing else behind itself."""
    op, flat = parts.flat.ops[index].body, parts.flat
    known = all(name in flat.literals for name in op.inputs[1:] if name)
    made = op.inputs[0]
    alone = len(group.ops) == 1 and parts.readers[made] == [index] and made not in flat.outputs
    return op.op == "QuantizeLinear" and known and alone and flat.values[op.outputs[0]].shape == group.shape


def _pools_stem(parts: Partition, index: int, solo: frozenset[str]) -> bool:
    """Puts a MaxPool into the stem that makes its input, if nobody else reads what the stem makes."""
    op, ops = parts.flat.ops[index], parts.flat.ops
    maker = parts.producer.get(op.body.inputs[0])
    group = parts.groups[parts.group_of[maker]] if maker is not None and maker in parts.group_of else None
    if group is None or group.kind is not Kind.STEM or any(ops[i].name in solo for i in group.ops):
        return False
    made = parts.outputs(group.ops)
    alone = all(reader == index for name in made for reader in parts.readers[name])
    free = not made.keys() & set(parts.flat.outputs)
    pooled = any(ops[i].body.op == "MaxPool" for i in group.ops)
    if not (alone and free) or pooled or not takes_pool(op.body) or not parts.fits([*group.ops, index]):
        return False
    parts.join(index, group)
    group.shape = parts.flat.values[op.body.outputs[0]].shape
    return True


def _ends_rows(parts: Partition, index: int, solo: frozenset[str]) -> bool:
    """Puts a sum over what a softmax was taken over into the softmax's kernel, if nobody else reads what that makes."""
    op, ops = parts.flat.ops[index].body, parts.flat.ops
    maker = parts.producer.get(op.inputs[0])
    group = parts.groups[parts.group_of[maker]] if maker is not None and maker in parts.group_of else None
    if group is None or group.kind is not Kind.ROWWISE or any(ops[i].name in solo for i in group.ops):
        return False
    alone = list(parts.outputs(group.ops)) == [op.inputs[0]] and parts.readers[op.inputs[0]] == [index]
    if not alone or not sums_softmax(parts.flat, group.ops, index) or not parts.fits([*group.ops, index]):
        return False
    parts.join(index, group)
    group.shape = parts.flat.values[op.outputs[0]].shape
    return True


def _place_host(parts: Partition, index: int) -> None:
    producers = parts.op_producers(index)
    if parts.flat.ops[index].plugin is not None:  # its reference runs by itself
        parts.add(index, Kind.HOST, None)
        return
    hosts = [g for g in producers if g.kind is Kind.HOST and parts.flat.ops[g.ops[0]].plugin is None]
    for group in hosts:
        if parts.guard(group.ops[0]) != parts.guard(index):
            continue
        if not any(parts.reaches(group, other) for other in producers if other is not group):
            parts.join(index, group)
            return
    parts.add(index, Kind.HOST, None)


def _merge_maps(parts: Partition, solo: frozenset[str]) -> None:
    """Merges map groups of one shape along their edges."""
    for ident in sorted(parts.groups):
        group = parts.groups.get(ident)
        if group is None or not group.pointwise or any(parts.flat.ops[i].name in solo for i in group.ops):
            continue
        for maker_index in sorted({parts.producer[n] for n in parts.inputs(group.ops) if n in parts.producer}):
            maker = parts.groups[parts.group_of[maker_index]]
            fusible = maker.pointwise and maker.kind is Kind.MAP and maker.shape == group.shape and maker is not group
            if not fusible or any(parts.flat.ops[i].name in solo for i in maker.ops):
                continue
            if parts.fits([*maker.ops, *group.ops]) and not parts.reaches(maker, group, indirectly=True):
                parts.merge(group, maker)


def _merge_islands(parts: Partition) -> None:
    """Merges islands that hand values to each other or read the same ones: fewer copies, fewer turns of the host."""
    islands = [g for g in parts.groups.values() if g.kind is Kind.HOST and parts.flat.ops[g.ops[0]].plugin is None]
    for later in sorted(islands, key=lambda g: min(g.ops)):
        for first in sorted(islands, key=lambda g: min(g.ops)):
            if (
                first is later
                or not {first.ident, later.ident} <= parts.groups.keys()
                or parts.guard(first.ops[0]) != parts.guard(later.ops[0])
                or not _share(parts, first, later)
            ):
                continue
            if not parts.reaches(first, later, indirectly=True) and not parts.reaches(later, first, indirectly=True):
                parts.merge(first, later)
                break


def _share(parts: Partition, one: Group, other: Group) -> bool:
    """Whether a value that some op makes goes from one to the other, or into both."""
    reads = parts.inputs(one.ops).keys(), parts.inputs(other.ops).keys()
    inside = {*one.ops, *other.ops}
    made = reads[0] & parts.producer.keys() & reads[1]
    return bool(made) or any(parts.producer.get(n, -1) in inside for n in (*reads[0], *reads[1]))


def _absorb_prologues(parts: Partition, solo: frozenset[str]) -> None:
    """Moves pointwise producers into the only reduction, row kernel or simple index map that reads them."""
    for ident in sorted(parts.groups):
        group = parts.groups.get(ident)
        if group is None or any(parts.flat.ops[i].name in solo for i in group.ops):
            continue
        anchor = parts.flat.ops[min(group.ops)].body
        if group.kind is Kind.PLUGIN:
            continue
        if group.kind not in _ABSORBS_PROLOGUE and anchor.op not in _MOVES_ONCE:
            continue
        source = anchor.inputs[0]
        maker_index = parts.producer.get(source)
        if maker_index is None or maker_index in group.ops:
            continue
        maker = parts.groups[parts.group_of[maker_index]]
        if not maker.pointwise or maker.kind is not Kind.MAP or maker.shape != parts.flat.values[source].shape:
            continue
        if any(parts.flat.ops[i].name in solo for i in maker.ops):
            continue
        only = parts.successors(maker) == {group.ident} and not set(parts.outputs(maker.ops)) & set(parts.flat.outputs)
        if only and parts.fits([*maker.ops, *group.ops]):
            parts.merge(group, maker)
