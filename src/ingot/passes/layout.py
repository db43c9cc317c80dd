"""Layout: where the elements of every Value lie, which Values are windows on others, and what must be copied.

Convolutions run channels-last from end to end; a transpose survives only where a consumer
cannot read through strides. A concat is written in place by the Regions that make its parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ingot.graph import dtypes
from ingot.graph.dims import Dim, add, divisible, mul
from ingot.graph.lowered import Window
from ingot.graph.op_table import WINDOW
from ingot.graph.recurrent import BATCH_FIRST
from ingot.graph.region import ANCHORS, CONVOLUTIONS, WEIGHTED, BodyOp, Kind, Literal, Region
from ingot.graph.scalar_ops import is_scalar_op
from ingot.graph.tensor import Order, TensorSpec, channels_last, row_major, spec
from ingot.passes.flatten import FlatGraph
from ingot.passes.orders import among_pixels, flattens_pixels, weight_order
from ingot.passes.partition import Group
from ingot.passes.recurrent import swapped_behind
from ingot.passes.views import RESHAPES, view_of
from ingot.plugins.api import Layout as PluginLayout

_SPATIAL_KINDS = CONVOLUTIONS | {Kind.POOL}
_FEW_CHANNELS = 8
"""Below this many channels a convolution reads a channels-first image as it is."""
_WEIGHTED_OPS = frozenset({*ANCHORS[Kind.CONV], *ANCHORS[Kind.GEMM]})
_FREE_ORDER = (Kind.GEMM, Kind.ATTENTION, Kind.RECURRENT)
"""Kinds whose results may as well lie as the transpose behind them wants them."""
_VECTOR = 16
"""Bytes of the widest load: parts of a concat written in place start at multiples of it."""


@dataclass
class Layout:
    """Result of :func:`assign_layout`."""

    values: dict[str, TensorSpec] = field(default_factory=dict)
    windows: dict[str, Window] = field(default_factory=dict)
    regions: list[Region] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)
    """Original by name of a copy in another layout."""


def assign_layout(flat: FlatGraph, groups: list[Group]) -> Layout:
    """Regions of ``groups``, in order, with physical TensorSpecs; copies inserted where needed."""
    return _Assigner(flat, groups).run()


class _Assigner:
    def __init__(self, flat: FlatGraph, groups: list[Group]) -> None:
        self.flat, self.groups = flat, groups
        self.out = Layout()
        self.copies: dict[tuple[str, Order], str] = {}
        self.readers: dict[str, list[tuple[Group, BodyOp]]] = {}
        self.maker: dict[str, Group] = {}
        for group in groups:
            for index in group.ops:
                op = flat.ops[index]
                for name in flat.tensor_inputs(op):
                    self.readers.setdefault(name, []).append((group, op.body))
                for name in op.body.outputs:
                    self.maker[name] = group
        self.spatial = self._spatial_values()
        self.placed: dict[str, Window] = {}
        """Values to be written inside another: concat parts and reshaped outputs."""
        self.inside: set[tuple[str, str]] = set()
        """(concat, part) where the part needs no copy."""
        self.in_place: set[int] = set()
        """Groups whose work their producers do."""
        self.pixels: set[str] = set()  # feature maps to be written as pixels of a concat of such

    def run(self) -> Layout:
        for name in (*self.flat.inputs, *self.flat.constants):
            if name in self.flat.values:
                self.out.values[name] = replace(self.flat.values[name], constant=name in self.flat.constants)
        self._order_weights()
        for group in reversed(self.groups):
            self._place_reshaped_output(group)
        for group in self.groups:
            self._place_concat(group)
        for group in self.groups:
            self._lay_out(group)
        return self.out

    # -- decisions made before any Value is laid out

    def _spatial_values(self) -> set[str]:
        """Values that should be channels-last: near convolutions, through pointwise groups of the same rank."""
        spatial: set[str] = set()
        rank = {name: value.rank for name, value in self.flat.values.items()}
        for group in reversed(self.groups):
            inputs, outputs = self._ends(group)
            first = self.flat.ops[group.ops[0]]
            if group.kind in _SPATIAL_KINDS:
                spatial.update(n for n in (*inputs[:1], *outputs) if rank[n] >= 3)
            elif first.body.op == WINDOW or first.layout is PluginLayout.CHANNELS_LAST:
                spatial.update(inputs)  # it exists only over channels-last memory
            elif (group.kind is Kind.MAP or first.layout is PluginLayout.ANY) and any(n in spatial for n in outputs):
                spatial.update(n for n in inputs if rank[n] == rank[outputs[0]] >= 3)
        for group in self.groups:
            inputs, outputs = self._ends(group)
            follows = group.kind in (Kind.MAP, Kind.REDUCE, Kind.ROWWISE)
            follows |= self.flat.ops[group.ops[0]].layout is PluginLayout.ANY
            if follows and any(n in spatial and rank[n] == rank[outputs[0]] for n in inputs):
                spatial.update(n for n in outputs if rank[n] >= 3)
            if self._is_concat(group) and all(self._flattened(name) in spatial for name in inputs):
                spatial.update(outputs)
        return spatial

    def _flattened(self, name: str) -> str:
        """The feature map that is ``name`` with its pixels in one dimension; empty where it is none."""
        maker = self.maker.get(name)
        op = self.flat.ops[maker.ops[0]].body if maker is not None and maker.kind is Kind.VIEW else None
        return op.inputs[0] if op is not None and flattens_pixels(op, self.flat) else ""

    def _ends(self, group: Group) -> tuple[list[str], list[str]]:
        inside = set(group.ops)
        made = {n for i in group.ops for n in self.flat.ops[i].body.outputs if n}
        inputs = dict.fromkeys(n for i in group.ops for n in self.flat.tensor_inputs(self.flat.ops[i]) if n not in made)
        if group.kind is Kind.PLUGIN:  # its kernels write all that they are told of
            return list(inputs), [n for i in sorted(inside) for n in self.flat.ops[i].body.outputs if n]
        final = set(self.flat.outputs)
        outputs = [
            n
            for i in sorted(inside)
            for n in self.flat.ops[i].body.outputs
            if n and (n in final or any(g is not group for g, _ in self.readers.get(n, ())))
        ]
        return list(inputs), outputs or [n for n in self.flat.ops[max(inside)].body.outputs if n][:1]

    def _order_weights(self) -> None:
        for group in self.groups:
            for index in group.ops if group.kind in WEIGHTED else ():
                op = self.flat.ops[index].body
                if op.op in _WEIGHTED_OPS and op.inputs[1] in self.flat.constants:
                    weight = self.out.values[op.inputs[1]]
                    self.out.values[op.inputs[1]] = weight.ordered(weight_order(group.kind, op, weight))

    def _free_to_place(self, name: str) -> bool:
        """Whether a device Region makes this Value in memory of its own."""
        maker = self.maker.get(name)
        if maker is None or maker.kind in (Kind.VIEW, Kind.HOST) or name in self.placed or name in self.flat.outputs:
            return False
        return self.flat.ops[maker.ops[0]].order(1) is None and maker.ident not in self.in_place

    def _place_reshaped_output(self, group: Group) -> None:
        op = self.flat.ops[group.ops[0]].body
        if group.kind is not Kind.VIEW or op.op not in RESHAPES or op.outputs[0] not in self.flat.outputs:
            return
        if self._free_to_place(op.inputs[0]) and not self._is_concat(self.maker[op.inputs[0]]):
            self.placed[op.inputs[0]] = Window(op.outputs[0], 0)
            self.in_place.add(group.ident)

    def _is_concat(self, group: Group) -> bool:
        return group.kind is Kind.MAP and len(group.ops) == 1 and self.flat.ops[group.ops[0]].body.op == "Concat"

    def _place_concat(self, group: Group) -> None:
        if not self._is_concat(group):
            return
        op = self.flat.ops[group.ops[0]].body
        whole = self._own_spec(op.outputs[0])
        axis = int(op.attr("axis", 0)) % whole.rank  # type: ignore[arg-type]
        start: Dim = 0
        windows: list[Window] = []
        for name in op.inputs:
            offset = mul(start, whole.strides[axis])
            windows.append(Window(op.outputs[0], offset))
            start = add(start, self.flat.values[name].shape[axis])
        rows = [s for s, d in zip(whole.strides, whole.shape, strict=True) if s != 1 and d != 1]
        steps = (mul(x, dtypes.itemsize(whole.dtype)) for x in (*rows, *(w.offset for w in windows)))
        if not all(divisible(step, _VECTOR) for step in steps):
            return
        wholes = {n: self._whole_split(op, position, axis) for position, n in enumerate(op.inputs)}
        once = [n for n in op.inputs if op.inputs.count(n) == 1]
        free = [self._free_to_place(n) and n in once for n in op.inputs]
        inner = once if axis == 2 and whole.strides[1] == 1 else []
        maps = {n: x for n in inner if (x := self._flattened(n)) and self._free_to_place(x)}
        if not any(free) and not any(wholes.values()) and not maps:
            return
        self.in_place.add(group.ident)
        for name, window, ok in zip(op.inputs, windows, free, strict=True):
            split = wholes[name]
            if split is not None and self._free_to_place(split.inputs[0]):
                self.placed[split.inputs[0]] = window
                self.inside.update((op.outputs[0], part) for part in split.outputs)
            elif ok and name not in self.placed:  # a split of it may have placed it since
                self.placed[name] = window
                self.inside.add((op.outputs[0], name))
            elif name in maps and maps[name] not in self.placed:
                self.placed[maps[name]] = window
                self.pixels.add(maps[name])
                self.inside.add((op.outputs[0], name))

    def _whole_split(self, concat: BodyOp, position: int, axis: int) -> BodyOp | None:
        """The Split along the same axis whose outputs, all of them and in order, start at this input of a concat.

        What it splits is then written into the concat as it is.
        """
        maker = self.maker.get(concat.inputs[position])
        split = self.flat.ops[maker.ops[0]].body if maker is not None and maker.kind is Kind.VIEW else None
        if split is None or split.op != "Split" or not self._free_to_place(split.inputs[0]):
            return None
        rank = self.flat.values[split.inputs[0]].rank
        run = concat.inputs[position : position + len(split.outputs)]
        once = all(concat.inputs.count(name) == 1 for name in run)
        same_axis = int(split.attr("axis", 0)) % rank == axis  # type: ignore[arg-type]
        return split if run == split.outputs and once and same_axis else None

    # -- laying out one Value

    def _own_spec(self, name: str) -> TensorSpec:
        """The spec of a Value that a Region writes: dense in its order, or a window's strides."""
        known = self.out.values.get(name)
        if known is not None:
            return known
        value = self.flat.values[name]
        if name in self.placed:
            window, parent = self.placed[name], self._own_spec(self.placed[name].parent)
            maker, pixels = self.maker[window.parent], name in self.pixels
            part = parent.rank == value.rank and maker.ident in self.in_place and self._is_concat(maker)
            if part or pixels:
                strides = among_pixels(value, parent) if pixels else parent.strides
                return TensorSpec(value.dtype, value.shape, strides, parent.part_align(window.offset))
            return value
        return value.ordered(self._order(name))

    def _order(self, name: str) -> Order:
        value = self.flat.values[name]
        if name in self.flat.outputs:
            return row_major(value.rank)
        if (asked := self.flat.ops[self.maker[name].ops[0]].order(value.rank)) is not None:
            return asked
        if name in self.spatial and self.maker[name].kind not in (Kind.GEMM, Kind.ATTENTION, Kind.HOST):
            return channels_last(value.rank)
        readers = self.readers.get(name, [])
        if self.maker[name].kind is Kind.RECURRENT and swapped_behind(self.flat, name, self.readers):
            return BATCH_FIRST
        if self.maker[name].kind in _FREE_ORDER and readers and value.rank > 2:
            perms = {op.ints("perm", ()) if op.op == "Transpose" else () for _, op in readers}
            perm = perms.pop() if len(perms) == 1 else ()
            if perm and perm[-1] == value.rank - 1:
                return perm  # the transpose that follows becomes the dense view
        return row_major(value.rank)

    def _lay_out(self, group: Group) -> None:
        op = self.flat.ops[group.ops[0]].body
        if group.ident in self.in_place and group.kind is not Kind.VIEW:
            self._emit_concat(group, op)
            return
        if group.kind is Kind.VIEW:
            if group.ident in self.in_place:
                self.out.values[op.outputs[0]] = self.flat.values[op.outputs[0]]
                self._emit(group, Kind.VIEW, {})
                return
            if self._emit_view(group, op):
                return
        renames = self._adapted_inputs(group)
        _, outputs = self._ends(group)
        for name in outputs:
            if name not in self.flat.values:
                continue  # only islands make what has no dense form; lowering refuses it at an island's edge
            self.out.values[name] = self._own_spec(name)
            if name in self.placed:
                self.out.windows[name] = self.placed[name]
        self._emit(group, Kind.MAP if group.kind is Kind.VIEW else group.kind, renames)

    def _emit_view(self, group: Group, op: BodyOp) -> bool:
        if any(name in self.flat.outputs for name in op.outputs):
            return False
        source = self.out.values[op.inputs[0]]
        views = view_of(op, source, self.flat)
        if views is None:
            return False
        for name, view in zip(op.outputs, views, strict=True):
            if name:
                self.out.values[name] = view.spec
                self.out.windows[name] = Window(op.inputs[0], view.offset)
        self._emit(group, Kind.VIEW, {})
        return True

    def _emit_concat(self, group: Group, op: BodyOp) -> None:
        """A concat in place: parts that their producers could not write are copied into their window."""
        whole = self._own_spec(op.outputs[0])
        self.out.values[op.outputs[0]] = whole
        if op.outputs[0] in self.placed:
            self.out.windows[op.outputs[0]] = self.placed[op.outputs[0]]
        axis = int(op.attr("axis", 0)) % whole.rank  # type: ignore[arg-type]
        renames: dict[str, str] = {}
        start: Dim = 0
        parts = []
        for position, name in enumerate(op.inputs):
            offset = mul(start, whole.strides[axis])
            start = add(start, self.flat.values[name].shape[axis])
            if (op.outputs[0], name) in self.inside:
                parts.append(name)
                continue
            part = f"{op.outputs[0]}/part{position}"
            align = whole.part_align(offset)
            self.out.values[part] = TensorSpec(whole.dtype, self.flat.values[name].shape, whole.strides, align)
            self.out.windows[part] = Window(op.outputs[0], offset)
            self._emit_copy(name, part)
            parts.append(part)
        region = self._region(group, Kind.VIEW, renames)
        moved = BodyOp(op.op, tuple(parts), op.outputs, op.attrs)
        names = tuple(dict.fromkeys(parts))
        specs = tuple((n, self.out.values[n]) for n in (*names, *op.outputs))
        self.out.regions.append(replace(region, inputs=names, ops=(moved,), values=specs, literals=()))

    # -- copies

    def _adapted_inputs(self, group: Group) -> dict[str, str]:
        """Copies of inputs that the group's kernels could not read as they lie."""
        renames: dict[str, str] = {}
        for index in group.ops:
            op = self.flat.ops[index]
            for name in self.flat.tensor_inputs(op):
                if name not in self.out.values or name in renames:
                    continue
                order = self._wanted(group, op.body, name, self.out.values[name])
                if order is not None:
                    renames[name] = self._copied(name, order)
        return renames

    def _wanted(self, group: Group, op: BodyOp, name: str, have: TensorSpec) -> Order | None:
        if (asked := self.flat.ops[group.ops[0]].order(have.rank)) is not None:
            return None if have.dense(asked) else asked
        if have.constant or not have.rank:
            return None
        unit = [have.shape[a] == 1 or have.strides[a] == 1 for a in range(have.rank)]
        if group.kind in CONVOLUTIONS - {Kind.STEM, Kind.EXCITE} and name == op.inputs[0] and op.op in _WEIGHTED_OPS:
            channels = have.shape[1]
            few = isinstance(channels, int) and channels < _FEW_CHANNELS and have.dense()
            return None if unit[1] or few else channels_last(have.rank)
        if group.kind is Kind.POOL and op.op.endswith("Pool"):
            return None if unit[1] or unit[-1] else channels_last(have.rank)
        if group.kind is Kind.GEMM and op.op in _WEIGHTED_OPS and name in op.inputs[:2]:
            return None if any(unit[-2:]) else row_major(have.rank)
        if group.kind is Kind.ATTENTION and name in op.inputs[:3]:
            return None if unit[-1] else row_major(have.rank)
        if group.kind in (Kind.ROWWISE, Kind.REDUCE):
            return None if any(unit) else row_major(have.rank)
        return None

    def _copied(self, name: str, order: Order) -> str:
        key = (name, order)
        if key not in self.copies:
            copy = f"{name}/copy{len(self.copies)}"
            have = self.out.values[name]
            self.out.values[copy] = spec(have.dtype, have.shape, order)
            self._emit_copy(name, copy)
            self.copies[key] = copy
            self.out.copies[copy] = name
        return self.copies[key]

    def _emit_copy(self, source: str, target: str) -> None:
        specs = ((source, self.out.values[source]), (target, self.out.values[target]))
        op = BodyOp("Identity", (source,), (target,))
        note = f"copies {source} into another layout"
        self.out.regions.append(
            Region(Kind.MAP, f"copy:{target}", (source,), (target,), (op,), specs, opset=self.flat.opset, notes=(note,))
        )

    # -- Regions

    def _emit(self, group: Group, kind: Kind, renames: dict[str, str]) -> None:
        self.out.regions.append(self._region(group, kind, renames))

    def _region(self, group: Group, kind: Kind, renames: dict[str, str]) -> Region:
        flat = self.flat
        inputs, outputs = self._ends(group)
        literals: dict[str, Literal] = {}
        ops = []
        for index in group.ops:
            op = flat.ops[index].body
            for position, name in enumerate(op.inputs):
                if name and flat.is_literal(op, position):
                    value = flat.literals[name]
                    literals[name] = value[0] if isinstance(value, tuple) and is_scalar_op(op.op) else value
            ops.append(replace(op, inputs=tuple(renames.get(n, n) for n in op.inputs)))
        names = dict.fromkeys(n for op in ops for n in (*op.inputs, *op.outputs) if n)
        ends = {renames.get(n, n) for n in inputs} | set(outputs)
        specs = []
        for name in names:
            known = self.out.values.get(name) if name in ends else flat.values.get(name)
            if known is not None:
                specs.append((name, known))
        title = "+".join(dict.fromkeys(flat.ops[i].name for i in group.ops[:1])) or kind.value
        return Region(
            kind,
            title,
            tuple(dict.fromkeys(renames.get(n, n) for n in inputs)),
            tuple(outputs),
            tuple(ops),
            tuple(specs),
            tuple(literals.items()),
            flat.opset,
        )
