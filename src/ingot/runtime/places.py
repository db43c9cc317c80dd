"""Every Value of a Plan at one binding: its address, shape and strides as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.engine.bounds import extent
from ingot.engine.numbers import Ints, PlanNumbers
from ingot.graph.dims import Bindings, evaluate_shape
from ingot.graph.dtypes import itemsize, numpy_dtype
from ingot.plan.spec import Plan, ValueDecl

Array = np.ndarray[Any, Any]
Base = tuple[str, str]
"""Memory space and, for ``input`` and ``output``, the binding's name."""


@dataclass(frozen=True)
class Place:
    """A Value in memory. Addresses and offsets count bytes, strides elements."""

    base: Base
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def span(self) -> int:
        """Bytes from the first to behind the last element."""
        return extent(self.shape, self.strides) * self.dtype.itemsize

    @property
    def gapless(self) -> bool:
        """Whether the span holds nothing but this Value's elements."""
        return self.span == math.prod(self.shape) * self.dtype.itemsize

    def view(self, memory: memoryview, offset: int = 0) -> Array:
        """The Value as an array, whose first element is at ``offset`` of ``memory``."""
        steps = tuple(stride * self.dtype.itemsize for stride in self.strides)
        found: Array = np.ndarray(self.shape, self.dtype, buffer=memory, offset=offset, strides=steps)
        return found


def base_of(value: ValueDecl) -> Base:
    """The memory that ``value`` is a part of."""
    return value.memory.space, value.memory.binding


class Places:
    """Place of every Value, made when it is asked for; None where the shape depends on data (it lives on the host)."""

    def __init__(self, numbers: PlanNumbers, found: Ints, hidden: frozenset[int] = frozenset()) -> None:
        """``found``: what ``numbers`` gives for the shapes; ``hidden``: Values whose shape is not known yet."""
        self._numbers, self._found, self._hidden = numbers, found, hidden
        self._made: dict[int, Place] = {}

    def __getitem__(self, index: int) -> Place | None:
        row = self._numbers.row_of.get(index)
        if row is None or index in self._hidden:
            return None
        if index not in self._made:
            self._made[index] = self._place(index, row)
        return self._made[index]

    def _place(self, index: int, row: int) -> Place:
        numbers, found = self._numbers, self._found
        value = numbers.plan.values[index]
        rank = len(value.shape)
        return Place(
            base_of(value),
            int(found[numbers.offsets[row]]),
            tuple(found[numbers.shapes[row, :rank]].tolist()),
            tuple(found[numbers.strides[row, :rank]].tolist()),
            numpy_dtype(value.dtype),
        )


def device_bindings(plan: Plan) -> frozenset[Base]:
    """The inputs and outputs that need device memory; the others never leave the host.

    Those are what some device step touches, and outputs of which a host step writes only a window.
    """
    whole = {b.value for b in plan.outputs}
    return frozenset(
        base_of(plan.values[i])
        for step in plan.steps
        for i in (*step.reads, *step.writes)
        if _needs_device(plan.values[i].memory.space, step.kind != "host", i in whole)
    )


def _needs_device(space: str, device_step: bool, whole_output: bool) -> bool:
    return (space in ("input", "output") and device_step) or (space == "output" and not whole_output)


def capacity(plan: Plan, largest: Bindings) -> dict[Base, int]:
    """Bytes of every device-side input and output at the profile's largest shapes."""
    touched = device_bindings(plan)
    sizes: dict[Base, int] = {}
    for space, rows in (("input", plan.inputs), ("output", plan.outputs)):
        for b in rows:
            if (space, b.name) in touched:
                sizes[space, b.name] = math.prod(evaluate_shape(tuple(b.shape), largest)) * itemsize(b.dtype)
    return sizes
