"""Which axes a tiled transpose exchanges: found by watching how a map reads its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Dim
from ingot.kernels.cuda.maps.algebra import times
from ingot.kernels.cuda.maps.emit import Emitter, Refused, Walk
from ingot.kernels.cuda.maps.index import ZERO, Coord, Digit, Index, coord
from ingot.kernels.cuda.maps.moves import MOVES
from ingot.kernels.cuda.maps.plan import MapPlan, Space
from ingot.kernels.cuda.maps.pull import Access, Puller
from ingot.kernels.cuda.rows.axes import typical

_LEAST = 8
"""Fewest elements along both axes for which going through shared memory pays."""
_MOST_STAGED = 2
"""Inputs that are staged at most: shared memory is short where the kernel exists in two widths."""


@dataclass(frozen=True)
class TilePlan:
    """A space cut into tiles of ``along`` (consecutive in the output) by ``across`` (consecutive in the inputs)."""

    plan: MapPlan
    space: Space
    along: tuple[int, ...]
    across: tuple[int, ...]
    staged: tuple[tuple[str, Coord], ...]
    """Loads that go through shared memory: input and offset."""

    def size(self, axes: tuple[int, ...]) -> Dim:
        """Elements along a group of axes."""
        return times(*(self.space.shape[axis] for axis in axes))

    @property
    def outer(self) -> Dim:
        """Number of matrices that are transposed."""
        rest = (a for a in self.space.order if a not in self.along and a not in self.across)
        return times(*(self.space.shape[axis] for axis in rest))

    def walks(self, lanes: Mapping[str, int]) -> dict[str, Walk]:
        """The linear indices t (outer), a (along) and b (across)."""
        totals = {"t": self.outer, "a": self.size(self.along), "b": self.size(self.across)}
        return {name: Walk(name, total, lanes.get(name, 1)) for name, total in totals.items()}

    def index(self) -> Index:
        """Coordinates as digits of the three linear indices."""
        return _index(self.space, self.along, self.across)


def plan_tiles(plan: MapPlan) -> TilePlan | No:
    """The tiles of a Region whose inputs and outputs run along different axes, or why there are none."""
    if len(plan.spaces) != 1:
        return No("outputs of several shapes")
    (space,) = plan.spaces
    if len(space.order) < 2:
        return No("fewer than two axes")
    inner = space.order[-1]
    across = _across(plan, space, inner)
    if isinstance(across, No):
        return across
    along = _along(plan, space, across)
    tiles = TilePlan(plan, space, along, across, ())
    loads = _loads(plan, tiles.walks({}), tiles.index())
    staged = [
        (a.name, a.offset)
        for a in loads
        if _factor(a.offset, Digit(1, tiles.size(across), "b")) == 1 and _strided(a.offset, "a")
    ]
    found = tuple(dict.fromkeys(staged))
    if not found:
        return No("no input runs along one other axis")
    for axes in (along, across):
        if typical(tiles.size(axes)) < _LEAST:
            return No(f"fewer than {_LEAST} elements to exchange along one axis")
    if len(found) > _MOST_STAGED:
        return No(f"more than {_MOST_STAGED} inputs to transpose")
    return TilePlan(plan, space, along, across, found)


def _across(plan: MapPlan, space: Space, inner: int) -> tuple[int, ...] | No:
    """The axes that the largest transposed input runs along."""
    walks = {f"c{axis}": Walk(f"c{axis}", space.shape[axis]) for axis in space.order}
    found = list((ZERO,) * len(space.shape))
    for axis in space.order:
        found[axis] = coord(Digit(1, space.shape[axis], f"c{axis}"))
    loads = _loads(plan, walks, tuple(found))
    best, most, strides = -1, 0, dict[int, Dim]()
    for access in loads:
        steps = {axis: _factor(access.offset, Digit(1, space.shape[axis], f"c{axis}")) for axis in space.order}
        if steps[inner] in (0, 1):
            continue
        unit = [axis for axis in space.order if steps[axis] == 1]
        size = dtypes.itemsize(plan.region.spec_of[access.name].dtype)
        if len(unit) == 1 and size > most:
            best, most, strides = unit[0], size, steps
    if best < 0:
        return No("no input runs along one other axis")
    group = [best]
    for axis in reversed(space.order[: space.order.index(best)]):
        if strides[axis] != times(strides[group[0]], space.shape[group[0]]):
            break
        group.insert(0, axis)
    return tuple(group)


def _along(plan: MapPlan, space: Space, across: tuple[int, ...]) -> tuple[int, ...]:
    """The innermost axes of the output that are one in memory."""
    lead = plan.region.spec_of[space.outputs[0]]
    group = [space.order[-1]]
    for axis in reversed(space.order[:-1]):
        if axis in across or lead.strides[axis] != times(lead.strides[group[0]], space.shape[group[0]]):
            break
        group.insert(0, axis)
    return tuple(group)


def _index(space: Space, along: tuple[int, ...], across: tuple[int, ...]) -> Index:
    found: list[Coord] = [ZERO] * len(space.shape)
    steps: dict[str, Dim] = {"t": 1, "a": 1, "b": 1}
    for axis in reversed(space.order):
        walk = "a" if axis in along else "b" if axis in across else "t"
        found[axis] = coord(Digit(steps[walk], space.shape[axis], walk))
        steps[walk] = times(steps[walk], space.shape[axis])
    return tuple(found)


def _loads(plan: MapPlan, walks: Mapping[str, Walk], index: Index) -> list[Access]:
    """How the inputs are read at an index. Nothing is kept of the code."""
    em = Emitter(plan.region)
    puller = Puller(plan.region, em, MOVES)
    try:
        with em.walking(walks):
            puller.settle(plan.spaces[0].outputs, index)
    except (Refused, RecursionError):
        return []
    return puller.accesses


def _factor(offset: Coord, digit: Digit) -> Dim:
    return next((factor for term, factor in offset.terms if term == digit), 0)


def _strided(offset: Coord, walk: str) -> bool:
    """Whether the offset is made of digits alone and neighbours along ``walk`` lie apart."""
    if not all(isinstance(term, Digit) for term, _ in offset.terms):
        return False
    steps = [f for term, f in offset.terms if isinstance(term, Digit) and term.walk == walk and term.stride == 1]
    return bool(steps) and steps[0] != 1
