"""Sums of two quantized pointwise convolutions, of which one has its result quantized and dequantized before.

Where a residual block's other branch has a convolution of its own, a quantized model stores that one's result as
bytes, for the kernel of the sum to read. As one product of both depths (:mod:`ingot.kernels.cuda.hopper.sums`) the
sum needs no such tensor, and so no quantization of it: what is left out is its rounding, and its bounds, which a
range of both signs has for outliers. One that ends at zero is a Relu's and stays. If no tactic takes the sum, the
model's own form comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ingot.graph.region import BodyOp, Kind
from ingot.graph.scalar_quantize import LIMITS
from ingot.passes.flatten import FlatGraph
from ingot.passes.partition import Apart, Group, Partition

_LARGEST = {"uint8": 255.0, "int8": 128.0}
_SUMS = float(1 << 31)


@dataclass(frozen=True)
class _Sum:
    """One rewrite, by indices of ops."""

    beside: Group
    main: Group
    add: int
    gone: tuple[int, int]
    """The quantization and the dequantization."""
    between: str
    """What the dequantization makes."""
    real: str
    """What is quantized."""

    @property
    def ops(self) -> list[int]:
        """Those of the Region, in order."""
        return sorted({*self.beside.ops, *self.main.ops} - set(self.gone))


def join_quantized_sums(flat: FlatGraph, groups: Sequence[Group], apart: Apart) -> tuple[FlatGraph, list[Group]]:
    """``flat`` without quantizations that only such a sum reads, and ``groups`` with its convolutions made one.

    What is in ``apart`` is left alone.
    """
    parts = Partition.of(flat, groups)
    sums: list[_Sum] = []
    for group in groups:
        found = _found(parts, group) if group.ident in parts.groups else None
        if found is None or (Kind.SUM, flat.ops[found.ops[0]].name) in apart or not _in_range(flat, found.ops):
            continue
        if not parts.fits(found.ops) or parts.reaches(found.beside, found.main, indirectly=True):
            continue
        parts.merge(found.main, found.beside)
        found.main.kind, found.main.shape = Kind.SUM, None
        sums.append(found)
    if not sums:
        return flat, list(groups)
    return _without(flat, list(parts.groups.values()), sums)


def _found(parts: Partition, main: Group) -> _Sum | None:
    """The sum at the end of ``main``'s arithmetic, if its other side is a dequantized convolution's result."""
    ops = parts.flat.ops
    if not _pointwise(parts.flat, main):
        return None
    for index in main.ops:
        body = ops[index].body
        if body.op != "DequantizeLinear" or parts.producer.get(body.inputs[0]) is None:
            continue
        source, made = parts.producer[body.inputs[0]], body.outputs[0]
        beside, quantize = parts.groups[parts.group_of[source]], ops[source].body
        readers = parts.readers[made]
        alone = parts.readers[quantize.outputs[0]] == [index] and len(readers) == 1
        inner = not {made, *quantize.inputs[:1], *quantize.outputs} & set(parts.flat.outputs)
        same = quantize.inputs[1:] == body.inputs[1:] and _of_both_signs(parts.flat, quantize)
        if not (alone and inner and same) or beside is main or ops[readers[0]].body.op != "Add":
            continue
        lone = parts.readers[quantize.inputs[0]] == [source] and beside.ops[-1] == source
        if lone and readers[0] in main.ops and _pointwise(parts.flat, beside):
            return _Sum(beside, main, readers[0], (source, index), made, quantize.inputs[0])
    return None


def _of_both_signs(flat: FlatGraph, op: BodyOp) -> bool:
    """Whether it quantizes to integers on both sides of its zero point."""
    zero = flat.literals.get(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] else 0
    low, high = LIMITS.get(flat.values[op.outputs[0]].dtype, (0, 0))
    return op.op == "QuantizeLinear" and isinstance(zero, int | float) and low < zero < high


def _pointwise(flat: FlatGraph, group: Group) -> bool:
    """Whether it is a 1 x 1 convolution of integers with constant weights that are scaled next."""
    body = [flat.ops[index].body for index in group.ops]
    if group.kind is not Kind.CONV or body[0].op != "ConvInteger" or [op.op for op in body[1:3]] != ["Cast", "Mul"]:
        return False
    weight = flat.constants.get(body[0].inputs[1])
    unpadded = not any(body[0].ints("pads", (0,))) and body[0].attr("group", 1) == 1
    return weight is not None and unpadded and weight.ndim == 4 and weight.shape[2:] == (1, 1)


def _in_range(flat: FlatGraph, ops: Sequence[int]) -> bool:
    """Whether the first product's sums fit int32 at the other one's scales, with that one's sums added to them.

    The Region's first convolution is the one whose scales hold for both.
    """
    bounds: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for index in ops:
        body = flat.ops[index].body
        if body.op != "ConvInteger":
            continue
        weight = flat.constants[body.inputs[1]].astype(np.float64)
        largest = _LARGEST.get(flat.values[body.inputs[0]].dtype)
        scale = _scale(flat, ops, body.outputs[0])
        if largest is None or scale is None or scale.size != weight.shape[0] or not np.all(scale > 0):
            return False
        bounds.append((np.abs(weight).sum(axis=(1, 2, 3)) * largest, scale.reshape(-1)))
    (beside, unit), (main, scale) = bounds
    return bool(np.all(main * scale / unit + beside < _SUMS))


def _scale(flat: FlatGraph, ops: Sequence[int], sums: str) -> NDArray[np.float64] | None:
    """The constant that ``sums`` are multiplied by, once they are floats."""
    for wanted in ("Cast", "Mul"):
        body = next((flat.ops[i].body for i in ops if sums in flat.ops[i].body.inputs), None)
        if body is None or body.op != wanted:
            return None
        found = [flat.constants[name] for name in body.inputs if name in flat.constants]
        sums = body.outputs[0]
    return found[0].astype(np.float64) if found else None


def _without(flat: FlatGraph, groups: Sequence[Group], sums: Sequence[_Sum]) -> tuple[FlatGraph, list[Group]]:
    """The graph and groups without the quantizations of ``sums``; every Add reads what was quantized."""
    gone = {index for found in sums for index in found.gone}
    ops = list(flat.ops)
    for found in sums:
        body = ops[found.add].body
        inputs = tuple(found.real if name == found.between else name for name in body.inputs)
        ops[found.add] = replace(ops[found.add], body=replace(body, inputs=inputs))
    place = {old: new for new, old in enumerate(i for i in range(len(ops)) if i not in gone)}
    left = replace(flat, ops=tuple(ops[old] for old in place))
    moved = [replace(group, ops=sorted(place[i] for i in group.ops if i in place)) for group in groups]
    return left, Partition.of(left, moved).ordered()
