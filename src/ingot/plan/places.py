"""Where each Value of a lowered Graph lies: its root (the memory it is a part of) and the root's space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, add, evaluate, mul, symbols
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.graph.tensor import TensorSpec


@dataclass(frozen=True)
class Place:
    """A Value as a part of a root: ``offset`` counts elements from the root's first one."""

    root: str
    offset: Dim = 0


@dataclass(frozen=True)
class Places:
    """Places, spaces and sizes of every Value of one lowered Graph."""

    lowered: Lowered

    @cached_property
    def of(self) -> Mapping[str, Place]:
        """Place by value name; a Value that is no window is its own root."""
        return {name: self._place(name) for name in self.lowered.values}

    def _place(self, name: str) -> Place:
        offset: Dim = 0
        root, values = name, self.lowered.values
        seen = {root}
        while root in self.lowered.windows:
            window = self.lowered.windows[root]
            assert values[window.parent].dtype == values[root].dtype, f"{root} is a window of another element type"
            offset, root = add(offset, window.offset), window.parent
            assert root not in seen, f"{name} is a window on itself"
            seen.add(root)
        return Place(root, offset)

    @cached_property
    def corners(self) -> tuple[Bindings, ...]:
        """The bindings at which sizes are taken: maximum, optimum and minimum of the profile."""
        found: list[dict[str, int]] = []
        for which in ("max", "opt", "min"):
            if (bindings := self.lowered.bindings(which)) not in found:
                found.append(bindings)
        return tuple(found)

    def most(self, dim: Dim) -> int:
        """The largest value of ``dim`` at the corners of the profile."""
        return max(evaluate(dim, bindings) for bindings in self.corners)

    def data_dependent(self, name: str) -> bool:
        """Whether the shape is known only when a host step has made the Value, or it is no tensor at all."""
        known = {r.symbol for r in self.lowered.ranges}
        if dtypes.nested(self.lowered.values[name].dtype) is not None:
            return True
        return any(symbols(dim) - known for dim in self.lowered.values[name].shape)

    @cached_property
    def root_bytes(self) -> Mapping[str, int]:
        """Bytes of each root, at the largest shapes: enough for itself and for every window on it."""
        sizes: dict[str, int] = {}
        for name, spec in self.lowered.values.items():
            place = self.of[name]
            sizes.setdefault(place.root, 0)
            if self.data_dependent(name):
                continue
            start = mul(place.offset, dtypes.itemsize(spec.dtype))
            need = max(evaluate(start, b) + evaluate(extent_bytes(spec), b) for b in self.corners)
            sizes[place.root] = max(sizes[place.root], need)
        return sizes

    @cached_property
    def space(self) -> Mapping[str, str]:
        """Space of each root (the vocabulary of ``plan.spec.Memory``)."""
        lowered = self.lowered
        outside = {name for name in lowered.outputs if name in lowered.windows}
        if outside:
            raise IngotError("an output is a window on another value", node=min(outside), fix="report this model")
        roots = {place.root for place in self.of.values()}
        spaces = {root: "host" if root in self._host_only else "arena" for root in roots}
        spaces |= {root: "weights" for root in roots if root in lowered.constants}
        spaces |= dict.fromkeys(lowered.inputs, "input")
        spaces |= dict.fromkeys(lowered.outputs, "output")
        return spaces

    @cached_property
    def _host_only(self) -> frozenset[str]:
        """Values made by an island, without windows, that only islands read."""
        made = {n for r in self.lowered.regions if r.kind is Kind.HOST for n in r.outputs}
        touched = {n for r in self.lowered.regions if r.kind is not Kind.HOST for n in (*r.inputs, *r.outputs)}
        parents = {w.parent for w in self.lowered.windows.values()}
        return frozenset(made - touched - parents - self.lowered.windows.keys())


def extent_bytes(spec: TensorSpec) -> Dim:
    """Bytes from the first to the last element of a strided tensor without empty dimensions, both included."""
    item = dtypes.itemsize(spec.dtype)
    if spec.dense():
        return mul(spec.elements, item)
    if 0 in spec.shape:
        return 0
    last = add(*(mul(add(size, -1), stride) for size, stride in zip(spec.shape, spec.strides, strict=True)))
    return mul(add(last, 1), item)
