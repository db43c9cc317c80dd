"""Quantized convolutions that read one tensor and have the same arithmetic behind them become one convolution.

As :mod:`ingot.passes.siblings` does for floats, on products of integers that are written out already. What each makes
is quantized by a scale of its own: the joined result by that of the first, after a factor for each channel that
makes up for the difference, so that every part is what it was, in its own steps. Parts are windows of channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ingot.graph.dims import Shape
from ingot.graph.region import BodyOp, Kind, Literal
from ingot.graph.scalar_ops import is_scalar_op
from ingot.graph.tensor import TensorSpec, spec
from ingot.passes.flatten import FlatGraph, FlatOp

Array = np.ndarray[Any, Any]
_COLUMNS = 32
"""Parts start at multiples of it: as many channels the lanes of a kernel finish side by side, a sector of memory."""
_MOST_CHANNELS = 256
"""Of a joined result: more columns than one tile has share no more reads."""
_MOST_OPS = 12


@dataclass(frozen=True)
class _Sibling:
    """One convolution of integers, and the ops behind it up to a quantization by known numbers."""

    ops: tuple[int, ...]
    channels: int
    scale: float
    form: tuple[object, ...]
    """What has to be equal in all that are joined."""


def join_quantized_siblings(flat: FlatGraph) -> FlatGraph:
    """``flat`` with siblings joined: the new ops stand where the first of each group was quantized."""
    readers = flat.readers()
    groups: dict[tuple[object, ...], list[_Sibling]] = defaultdict(list)
    for index, op in enumerate(flat.ops):
        found = _sibling(flat, readers, index) if op.body.op == "ConvInteger" and op.kind is Kind.CONV else None
        if found is not None:
            groups[found.form].append(found)
    joined = [group for group in groups.values() if len(group) > 1 and sum(s.channels for s in group) <= _MOST_CHANNELS]
    return _Joiner(flat).run(joined) if joined else flat


def _sibling(flat: FlatGraph, readers: Mapping[str, list[int]], index: int) -> _Sibling | None:
    """The convolution at ``index`` and what follows, if nobody else reads anything of it before it is quantized."""
    body = flat.ops[index].body
    weight, result = flat.constants.get(body.inputs[1]), flat.values[body.outputs[0]]
    if weight is None or body.attr("group", 1) != 1 or weight.shape[0] % _COLUMNS or any(body.inputs[2:]):
        return None
    ops, places, ends = [index], {body.outputs[0]: 0}, [body.outputs[0]]
    form: list[object] = [body.inputs[0], body.attrs, weight.shape[1:], weight.dtype]
    while ends:
        following = sorted({i for name in ends for i in readers[name]} - set(ops))
        ready = [i for i in following if _scalar(flat, i, places, result.shape)]
        if len(ops) > _MOST_OPS or not ready or any(name in flat.outputs for name in ends):
            return None
        op = flat.ops[ready[0]].body
        ops.append(ready[0])
        made = op.outputs[0]
        final = op.op == "QuantizeLinear"
        form.append((op.op, op.attrs, _operands(flat, op, places), flat.values[made].dtype))
        places[made] = len(places)
        left = [name for name in places if name != made and set(readers[name]) - set(ops)]
        if final:
            reads = [flat.ops[i].body for i in readers[made]]
            wanted = bool(reads) and all(r.op == "ConvInteger" and r.inputs[0] == made for r in reads)
            known = isinstance(flat.literals.get(op.inputs[1]), float) and made not in flat.outputs
            done = not left and wanted and known
            scale = float(flat.literals[op.inputs[1]]) if done else 0.0  # type: ignore[arg-type]
            return _Sibling(tuple(ops), int(weight.shape[0]), scale, tuple(form)) if scale > 0 else None
        ends = [*left, made]
    return None


def _scalar(flat: FlatGraph, index: int, places: Mapping[str, int], shape: Shape) -> bool:
    """Whether an op needs nothing but earlier results and constants, and has a result of the convolution's shape."""
    op = flat.ops[index]
    if op.kind is not Kind.MAP or op.plugin is not None or not is_scalar_op(op.body.op) or len(op.body.outputs) != 1:
        return False
    known = all(not n or n in places or n in flat.constants or n in flat.literals for n in op.body.inputs)
    return known and flat.values[op.body.outputs[0]].shape == shape


def _operands(flat: FlatGraph, op: BodyOp, places: Mapping[str, int]) -> tuple[object, ...]:
    """Operands as what has to be equal: a place, a literal's value (less a result's scale), a constant's type."""
    found: list[object] = []
    for position, name in enumerate(op.inputs):
        if name in places or not name:
            found.append(places.get(name, name))
        elif name in flat.literals:
            scale = op.op == "QuantizeLinear" and position == 1
            found.append("scale" if scale else ("literal", flat.literals[name]))
        else:
            array = flat.constants[name]
            by_channel = array.ndim == 3 and array.shape[0] == flat.values[op.outputs[0]].shape[1] and array.size > 1
            kind = ("channels", array.dtype, array.shape[1:]) if by_channel else object()
            found.append(("own", name) if array.size == 1 else kind)
    return tuple(found)


class _Joiner:
    def __init__(self, flat: FlatGraph) -> None:
        self.flat = flat
        self.values: dict[str, TensorSpec] = dict(flat.values)
        self.constants: dict[str, Array] = dict(flat.constants)
        self.literals: dict[str, Literal] = dict(flat.literals)

    def run(self, groups: Sequence[Sequence[_Sibling]]) -> FlatGraph:
        """The graph with every group joined."""
        made: dict[int, list[FlatOp]] = {}
        gone: set[int] = set()
        for group in groups:
            first = min(group, key=lambda s: s.ops[-1])
            made[first.ops[-1]] = self._joined([first, *(s for s in group if s is not first)])
            gone |= {index for s in group for index in s.ops}
        ops: list[FlatOp] = []
        for index, op in enumerate(self.flat.ops):
            ops += made.get(index, [] if index in gone else [op])
        return replace(self.flat, ops=tuple(ops), values=self.values, constants=self.constants, literals=self.literals)

    def _joined(self, group: Sequence[_Sibling]) -> list[FlatOp]:
        first, flat = group[0], self.flat
        total = sum(s.channels for s in group)
        names: dict[str, str] = {}
        made: list[FlatOp] = []
        for step, index in enumerate(first.ops):
            op = flat.ops[index]
            each = [flat.ops[s.ops[step]].body for s in group]
            inputs = [names.get(n, n) for n in op.body.inputs]
            for position, name in enumerate(op.body.inputs):
                if name in flat.constants and name not in flat.literals:
                    inputs[position] = self._side_by_side([body.inputs[position] for body in each])
            if op.body.op == "QuantizeLinear" and len({s.scale for s in group}) > 1:
                made.append(self._factors(group, inputs[0], total))
                inputs[0] = made[-1].body.outputs[0]
            out = op.body.outputs[0]
            names[out] = f"{out}/joined"
            self.values[names[out]] = _widened(flat.values[out], total)
            body = replace(op.body, inputs=tuple(inputs), outputs=(names[out],))
            made.append(replace(op, name=f"{op.name}/joined", body=body))
        parts = tuple(flat.ops[s.ops[-1]].body.outputs[0] for s in group)
        sizes = f"{parts[0]}/joined/sizes"
        self.literals[sizes] = tuple(s.channels for s in group)
        split = BodyOp("Split", (made[-1].body.outputs[0], sizes), parts, (("axis", 1),))
        return [*made, FlatOp(f"{parts[0]}/parts", split, Kind.VIEW, origin=made[-1].origin)]

    def _side_by_side(self, names: Sequence[str]) -> str:
        """A constant with those of all siblings along the channels of the result."""
        if self.constants[names[0]].size == 1:
            return names[0]  # the same for all
        name = f"{names[0]}/joined"
        self.constants[name] = np.concatenate([self.constants[n] for n in names])
        self.values[name] = spec(self.values[names[0]].dtype, self.constants[name].shape, constant=True)
        return name

    def _factors(self, group: Sequence[_Sibling], source: str, total: int) -> FlatOp:
        """The product that brings every part to the first one's steps."""
        factors = np.concatenate([np.full((s.channels, 1, 1), group[0].scale / s.scale, np.float32) for s in group])
        name, out = f"{source}/factors", f"{source}/in_steps"
        self.constants[name] = factors
        self.values[name] = spec("float32", factors.shape, constant=True)
        self.values[out] = spec("float32", _widened(self.values[source], total).shape)
        return FlatOp(out, BodyOp("Mul", (source, name), (out,)), Kind.MAP, origin=source)


def _widened(value: TensorSpec, channels: int) -> TensorSpec:
    return spec(value.dtype, (value.shape[0], channels, *value.shape[2:]))
