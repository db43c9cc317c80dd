"""Ops that put tensors together or around: concat, pad, tile, and space against depth."""

from __future__ import annotations

from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp
from ingot.kernels.cuda.maps.algebra import minus, plus, times
from ingot.kernels.cuda.maps.emit import Refused, Val
from ingot.kernels.cuda.maps.index import ZERO, Coord, Index, Name, add, coord, scaled, shifted
from ingot.kernels.cuda.maps.pull import Branch, Puller
from ingot.kernels.cuda.maps.views import axis_of, divided


def concat(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """The input in whose range the coordinate lies."""
    axis = axis_of(op, len(index), 0)
    c, start = index[axis], 0  # type: Coord, Dim
    branches: list[Branch] = []
    parts = [n for n in op.inputs if p.shape(n)[axis] != 0]
    if not parts:
        return p.constant(0, p.spec(name).dtype)
    for part in parts:
        size = p.shape(part)[axis]
        inner = (*index[:axis], shifted(c, minus(0, start)), *index[axis + 1 :])
        start = plus(start, size)
        last = part is parts[-1] and len(branches) == len(parts) - 1
        condition = "" if last else p.em.below(c, start)
        branches.append((condition, lambda part=part, inner=inner: p.pull(part, inner)))  # type: ignore[misc]
    return branches[0][1]() if len(branches) == 1 else p.select(name, branches)


def pad(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Pad in all its modes; negative amounts crop."""
    shape, mode = p.shape(op.inputs[0]), str(op.attr("mode", "constant"))
    amounts = p.dims(op, 1)
    if amounts is None:
        amounts = op.ints("pads", ())
    rank = len(shape)
    axes = p.dims(op, 3) or tuple(range(rank))
    if len(amounts) != 2 * len(axes) or any(isinstance(a, str) for a in axes):
        raise Refused(f"Pad by {len(amounts)} amounts along {len(axes)} axes")
    found, conditions = list(index), []  # type: list[Coord], list[str]
    for position, axis in enumerate(int(a) % rank for a in axes):
        before, after, size = amounts[position], amounts[position + len(axes)], shape[axis]
        if before == 0 and after == 0:
            continue
        c = shifted(index[axis], minus(0, before))
        if mode == "constant":
            found[axis] = c
            conditions += _inside(p, c, before, after, size)
        else:
            found[axis] = _folded(p, c, size, mode)
    if not conditions:
        return p.pull(op.inputs[0], tuple(found))
    return p.select(
        name,
        [(" && ".join(conditions), lambda: p.pull(op.inputs[0], tuple(found))), ("", lambda: _pad_value(p, op, name))],
    )


def _inside(p: Puller, c: Coord, before: Dim, after: Dim, size: Dim) -> list[str]:
    """Tests that a coordinate is not in the padding, as far as there may be some."""
    tests = [] if isinstance(before, int) and before <= 0 else [p.em.least(c, 0)]
    return tests if isinstance(after, int) and after <= 0 else [*tests, p.em.below(c, size)]


def _pad_value(p: Puller, op: BodyOp, name: str) -> Val:
    dtype = p.spec(name).dtype
    if len(op.inputs) < 3 or not op.inputs[2]:
        return p.constant(op.attr("value", 0), dtype)  # type: ignore[arg-type]
    if not p.is_literal(op.inputs[2]):
        return p.pull(op.inputs[2], (ZERO,) * len(p.shape(op.inputs[2])))
    return p.literal(op.inputs[2], dtype)


def _folded(p: Puller, c: Coord, size: Dim, mode: str) -> Coord:
    """A coordinate brought into ``[0, size)`` by reflection, repetition of the edge, or wrapping."""
    em, code, n = p.em, p.em.scalar(c), p.em.text.number(size)
    if mode == "edge":
        return coord(Name(em.let(f"ingot_clamp({code}, {n})"), size))
    if mode == "wrap":
        return coord(Name(em.let(f"ingot_wrap({code}, {n})"), size))
    if mode == "reflect":
        return coord(Name(em.let(f"ingot_reflect({code}, {n})"), size))
    raise Refused(f"Pad in mode {mode!r}")


def tile(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """The coordinate modulo the input's size."""
    found = []
    for size, out, c in zip(p.shape(op.inputs[0]), p.shape(name), index, strict=True):
        found.append(c if size == out else ZERO if size == 1 else divided(p, c, size)[1])
    return p.pull(op.inputs[0], tuple(found))


def depth_to_space(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Blocks of channels spread over space, in the order DCR or CRD."""
    block = int(op.attr("blocksize", 1))  # type: ignore[arg-type]
    n, c, h, w = _four(op, index)
    high_h, low_h = divided(p, h, block)
    high_w, low_w = divided(p, w, block)
    if str(op.attr("mode", "DCR")) == "CRD":
        depth = add(scaled(c, block * block), scaled(low_h, block), low_w)
    else:
        channels = p.shape(name)[1]
        depth = add(scaled(low_h, times(block, channels)), scaled(low_w, channels), c)
    return p.pull(op.inputs[0], (n, depth, high_h, high_w))


def space_to_depth(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Blocks of space stacked in the channels, in the order DCR or CRD."""
    block = int(op.attr("blocksize", 1))  # type: ignore[arg-type]
    n, c, h, w = _four(op, index)
    if str(op.attr("mode", "DCR")) == "CRD":
        channel, place = divided(p, c, block * block)
    else:
        place, channel = divided(p, c, p.shape(op.inputs[0])[1])
    low_h, low_w = divided(p, place, block)
    return p.pull(op.inputs[0], (n, channel, add(scaled(h, block), low_h), add(scaled(w, block), low_w)))


def _four(op: BodyOp, index: Index) -> tuple[Coord, Coord, Coord, Coord]:
    if len(index) != 4:
        raise Refused(f"{op.op} on rank {len(index)}")
    return index[0], index[1], index[2], index[3]
