"""All numbers of a Plan that depend on shapes, as arrays: evaluated and checked in one go when a Context binds shapes.

What is checked is what :mod:`ingot.engine.bounds` checks of sizes, places, grids and arguments; where something is
wrong, that module is asked to say what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.engine.bounds import GRID, MAX_BYTES, check_at, data_dependent, dense, known_symbols, memories
from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.graph.dim_code import compile_all
from ingot.graph.dims import Bindings, Dim
from ingot.plan.spec import Binding, Plan, ValueDecl

Ints = np.ndarray[Any, np.dtype[np.int64]]


class _Slots:
    """Distinct dimensions and their positions in the array of values."""

    def __init__(self) -> None:
        self.rows: dict[Dim, int] = {}

    def one(self, dim: Dim) -> int:
        return self.rows.setdefault(dim, len(self.rows))

    def table(self, rows: Sequence[Sequence[Dim]], fill: int) -> Ints:
        """Positions, a row each; rows are filled up with ``fill``."""
        width = max((len(row) for row in rows), default=0) or 1
        padded = [[*map(self.one, row), *[self.one(fill)] * (width - len(row))] for row in rows]
        return np.array(padded, np.int64).reshape(len(rows), width)

    def column(self, dims: Sequence[Dim]) -> Ints:
        return np.array([self.one(dim) for dim in dims], np.int64)


class _Ends:
    """Positions of the numbers of an input or output and of its Value."""

    def __init__(self, space: str, binding: Binding, value: ValueDecl, slots: _Slots) -> None:
        self.memory = (space, binding.name)
        self.item = dtypes.itemsize(binding.dtype)
        self.sizes = slots.column(binding.shape)
        self.shape, self.strides = slots.column(value.shape), slots.column(value.strides)


@dataclass(frozen=True)
class _Checked:
    """Positions of the numbers of some Values, and of some tensor maps with the Values that they read."""

    shapes: Ints
    strides: Ints
    offsets: Ints
    sizes: Ints
    items: Ints
    spaces: Ints
    map_dims: Ints
    map_steps: Ints
    map_offsets: Ints
    map_sizes: Ints
    map_items: Ints

    def but(
        self, constant: np.ndarray[Any, np.dtype[np.bool_]], fixed: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> _Checked:
        """Without those whose numbers are all ``constant``, by position, in memories that are ``fixed``."""
        parts = (self.shapes, self.strides, self.offsets, self.sizes)
        kept = ~(_all(constant, *parts) & fixed[self.spaces])
        maps = (self.map_dims, self.map_steps, self.map_offsets, self.map_sizes)
        live = ~_all(constant, *maps)
        return _Checked(
            *(part[kept] for part in (*parts, self.items, self.spaces)), *(m[live] for m in (*maps, self.map_items))
        )

    def sound(self, v: Ints, room: Ints) -> bool:
        """Whether every Value lies within its memory, of ``room`` bytes, and no tensor map reaches past its Value."""
        shape, strides, offset, size = v[self.shapes], v[self.strides], v[self.offsets], v[self.sizes]
        if any(part.size and part.min() < 0 for part in (shape, strides, offset, size)):
            return False
        if size.size and (size.max() > MAX_BYTES or offset.max() > MAX_BYTES):
            return False
        if not _fits(shape, strides, self.items, size) or (offset % self.items).any():
            return False
        return bool((offset + size <= room[self.spaces]).all()) and self._mapped(v)

    def _mapped(self, v: Ints) -> bool:
        if not len(self.map_items):
            return True
        dims, strides = v[self.map_dims], v[self.map_steps]
        if dims.min() < 1 or strides.min() < 0 or (strides % 16).any() or (v[self.map_offsets] % 16).any():
            return False
        reach = ((dims[:, 1:] - 1.0) * strides[:, : dims.shape[1] - 1]).sum(1) + dims[:, 0] * self.map_items
        return bool((reach <= v[self.map_sizes]).all())


def _all(constant: np.ndarray[Any, np.dtype[np.bool_]], *parts: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether all numbers of a row are constant."""
    found = np.ones(len(parts[0]), np.bool_)
    for part in parts:
        found &= constant[part].all(axis=tuple(range(1, part.ndim)))
    return found


class PlanNumbers:
    """Where each number of a Plan is found in the array that :meth:`at` gives."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        known = known_symbols(plan)
        self.loose = frozenset(i for i, value in enumerate(plan.values) if data_dependent(value, known))
        slots = self._slots = _Slots()
        values = [(i, v) for i, v in enumerate(plan.values) if i not in self.loose]
        self.row_of = {i: row for row, (i, _) in enumerate(values)}
        """Row of a Value in the tables below, which leave out what depends on data."""
        self.shapes = slots.table([v.shape for _, v in values], 1)
        self.strides = slots.table([v.strides for _, v in values], 0)
        self.offsets = slots.column([v.memory.offset for _, v in values])
        sizes = slots.column([v.memory.bytes for _, v in values])
        items = np.array([dtypes.itemsize(v.dtype) for _, v in values], np.int64)
        spaces = list(dict.fromkeys((v.memory.space, v.memory.binding) for _, v in values))
        self.spaces = spaces
        self.space_of = np.array([spaces.index((v.memory.space, v.memory.binding)) for _, v in values], np.int64)
        kernels = [step for step in plan.steps if step.kind == "kernel"]
        self.grids = slots.table([step.grid for step in kernels], 1)
        self._clusters = np.array([step.cluster for step in kernels], np.int64)
        arguments = [a for step in kernels for a in step.arguments]
        numbers = [a for a in arguments if a.kind == "dim"]
        self.numbers = slots.column([a.dim for a in numbers])
        """Arguments that are numbers, in the order of the kernels."""
        self._limits = np.array([(1 << (8 * a.bytes - 1)) - 1 for a in numbers], np.int64)
        maps = self.tensor_maps = [(a.index, a.map) for a in arguments if a.map is not None]
        """Value and tensor map of every argument that is one, in the order of the kernels."""
        self.maps = slots.column([dim for _, m in maps for dim in (*m.dims, *m.strides)])
        """Sizes and strides of these, one map after another."""
        of = np.array([self.row_of[index] for index, _ in maps], np.int64)
        self._every = _Checked(
            self.shapes, self.strides, self.offsets, sizes, items, self.space_of,
            slots.table([m.dims for _, m in maps], 1), slots.table([m.strides for _, m in maps], 0),
            self.offsets[of], sizes[of], np.array([dtypes.itemsize(m.dtype) for _, m in maps], np.int64),
        )  # fmt: skip
        self._unchecked = self._every
        """Once all were found sound, only what depends on shapes is checked again."""
        self._ends = [
            _Ends(space, b, plan.values[b.value], slots)
            for space, rows in (("input", plan.inputs), ("output", plan.outputs))
            for b in rows
            if b.value not in self.loose
        ]
        try:
            self._compile()
        except OverflowError:
            raise IngotError("invalid engine: a number of more than 64 bits", fix="build the engine again") from None

    def _compile(self) -> None:
        texts = [dim for dim in self._slots.rows if isinstance(dim, str)]
        self._compute = compile_all(
            texts, [*(p.symbol for p in self.plan.profiles), *(d.symbol for d in self.plan.data)]
        )
        self._constants = np.array([0 if isinstance(dim, str) else dim for dim in self._slots.rows], np.int64)
        self._symbolic = self._slots.column(texts)

    def at(self, bindings: Bindings) -> Ints:
        """Every number at ``bindings``. Raises IngotError where one is out of bounds.

        Bytes and operations of layers, which only describe, are not among them.
        """
        found = self._constants.copy()
        try:
            found[self._symbolic] = self._compute(bindings)
            sound = self._sound(found)
        except (IngotError, OverflowError):
            sound = False
        if not sound:
            check_at(self.plan, bindings)
            raise IngotError("invalid engine: a size, place or grid is out of bounds", fix="build the engine again")
        return found

    def _sound(self, v: Ints) -> bool:
        room = self._capacities(v)
        if room is None or not self._unchecked.sound(v, room) or not self._launchable(v):
            return False
        if self._unchecked is self._every:
            constant = np.ones(len(v), np.bool_)
            constant[self._symbolic] = False
            fixed = np.array([space not in ("input", "output") for space, _ in self.spaces], np.bool_)
            self._unchecked = self._every.but(constant, fixed)
        return True

    def _capacities(self, v: Ints) -> Ints | None:
        """Bytes of every memory in ``spaces``; None where an input or output is not dense or too large."""
        found = memories(self.plan)
        for end in self._ends:
            size = math.prod(v[end.sizes].tolist()) * end.item
            if size > MAX_BYTES or not dense(v[end.shape].tolist(), v[end.strides].tolist()):
                return None
            found[end.memory] = size
        return np.array([found.get(space, 0) for space in self.spaces], np.int64)

    def _launchable(self, v: Ints) -> bool:
        if len(self.grids):
            grid = v[self.grids]
            if grid.min() < 1 or (grid > np.array(GRID, np.int64)).any() or (grid[:, 0] % self._clusters).any():
                return False
        numbers = v[self.numbers]
        return bool((numbers <= self._limits).all() and (numbers >= -self._limits - 1).all())


def _fits(shape: Ints, strides: Ints, items: Ints, size: Ints) -> bool:
    """Whether the elements of every Value fit in its bytes. Floating point is exact as far as memory reaches."""
    extents = ((shape - 1.0) * strides).sum(1) + 1
    extents[(shape == 0).any(1)] = 0
    return bool((extents * items <= size).all())
