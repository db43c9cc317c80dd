"""Ops that read where another tensor says. An index may be negative; one out of range is clamped."""

from __future__ import annotations

from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp
from ingot.kernels.cuda.maps.emit import Refused, Val, Varying
from ingot.kernels.cuda.maps.index import Coord, Index, Name, coord
from ingot.kernels.cuda.maps.pull import Puller
from ingot.kernels.cuda.maps.views import axis_of


def _looked_up(p: Puller, name: str, index: Index, size: Dim) -> Coord:
    """The element of an integer tensor as a coordinate in ``[0, size)``."""
    if size == 1:
        return Coord()
    value = p.literal(name, "int64") if p.is_literal(name) else p.pull(name, index)
    if value.lanes:
        raise Varying
    code = f"ingot_index<index_t>({value.computed('')}, {p.em.text.number(size)})"
    return coord(Name(p.em.let(code), size))


def gather(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Slices of the data along one axis."""
    data, indices = op.inputs[0], op.inputs[1]
    shape, rank = p.shape(data), len(p.shape(indices))
    axis = axis_of(op, len(shape), 0)
    place = _looked_up(p, indices, index[axis : axis + rank], shape[axis])
    return p.pull(data, (*index[:axis], place, *index[axis + rank :]))


def gather_elements(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """For each place in the indices, the element of the data at that index along one axis."""
    data, indices = op.inputs[0], op.inputs[1]
    axis = axis_of(op, len(index), 0)
    place = _looked_up(p, indices, index, p.shape(data)[axis])
    return p.pull(data, (*index[:axis], place, *index[axis + 1 :]))


def gather_nd(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Slices of the data at index tuples, the first dimensions shared."""
    data, indices = op.inputs[0], op.inputs[1]
    batch = int(op.attr("batch_dims", 0))  # type: ignore[arg-type]
    shape, rank, depth = p.shape(data), len(p.shape(indices)), p.shape(indices)[-1]
    if not isinstance(depth, int):
        raise Refused("GatherND with tuples of unknown length")
    found = [_looked_up(p, indices, (*index[: rank - 1], Coord(constant=k)), shape[batch + k]) for k in range(depth)]
    return p.pull(data, (*index[:batch], *found, *index[rank - 1 :]))
