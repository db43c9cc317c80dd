"""What a map kernel runs over: the outputs of one shape at once, in the memory order of the largest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Dim, Shape
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.cuda.maps.algebra import canonical, canonical_shape, minus, plus, times
from ingot.kernels.cuda.maps.index import ZERO, Coord, Digit, Index, coord
from ingot.kernels.cuda.rows.axes import typical

_NARROW = (1 << 31) - 1
_LONGEST_EXPRESSION = 3000


@dataclass(frozen=True)
class Space:
    """Outputs of one shape, and the order their elements are walked in."""

    outputs: tuple[str, ...]
    shape: Shape
    order: tuple[int, ...]
    """Dimensions outermost first; those of size 1 are left out."""

    @property
    def total(self) -> Dim:
        """Number of elements."""
        return times(*self.shape)

    def index(self) -> Index:
        """The coordinates of the element at the linear index."""
        found: list[Coord] = [ZERO] * len(self.shape)
        step: Dim = 1
        for axis in reversed(self.order):
            found[axis] = coord(Digit(step, self.shape[axis]))
            step = times(step, self.shape[axis])
        return tuple(found)


@dataclass(frozen=True)
class MapPlan:
    """A Region with its dimensions in normal form, and its spaces."""

    region: Region
    spaces: tuple[Space, ...]
    extent: Dim | None
    """The largest number an index may reach, plus one; None when it is too long to write down."""

    @property
    def fits_int(self) -> bool:
        """Whether 32-bit arithmetic is enough for every binding."""
        return isinstance(self.extent, int) and self.extent <= _NARROW

    @property
    def may_fit_int(self) -> bool:
        """Whether 32-bit arithmetic is enough for some bindings."""
        return isinstance(self.extent, str) or self.fits_int


@lru_cache(maxsize=512)
def plan_map(region: Region) -> MapPlan | No:
    """The plan of a Region, or why there is none."""
    for name in (*region.inputs, *region.outputs):
        if name not in region.spec_of:
            return No(f"the shape of {name!r} is not known")
    unknown = next((s.dtype for s in region.spec_of.values() if s.dtype not in dtypes.TABLE), None)
    if unknown is not None:
        return No(f"no device type for {unknown}")
    plain = region.with_specs({name: _canonical(spec) for name, spec in region.values})
    groups: dict[Shape, list[str]] = {}
    for name in plain.outputs:
        groups.setdefault(plain.spec_of[name].shape, []).append(name)
    return MapPlan(plain, tuple(_space(plain, shape, names) for shape, names in groups.items()), _extent(plain))


def _canonical(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=canonical_shape(spec.shape), strides=canonical_shape(spec.strides))


def _space(region: Region, shape: Shape, names: list[str]) -> Space:
    lead = max((region.spec_of[n] for n in names), key=lambda s: dtypes.itemsize(s.dtype))
    axes = [axis for axis, size in enumerate(shape) if size != 1]
    axes.sort(key=lambda axis: (-typical(lead.strides[axis]), axis))
    return Space(tuple(names), shape, tuple(axes))


def _extent(region: Region) -> Dim | None:
    """Bound of every count and offset in the Region."""
    ends = {*region.inputs, *region.outputs}
    found = {reach(spec) if name in ends else times(*spec.shape) for name, spec in region.values}
    numbers = [d for d in found if isinstance(d, int)]
    rest = sorted(d for d in found if isinstance(d, str))
    largest = max(numbers, default=0)
    if not rest:
        return largest
    text = f"max({largest}, {', '.join(rest)})"
    return canonical(text) if len(text) <= _LONGEST_EXPRESSION and largest <= _NARROW else None


def reach(spec: TensorSpec) -> Dim:
    """Elements from a tensor's first to its last, inclusive."""
    return plus(1, *(times(minus(d, 1), s) for d, s in zip(spec.shape, spec.strides, strict=True)))
