"""Every Value of a Plan at one binding: its address, shape and strides as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.engine.bounds import data_dependent, extent, known_symbols
from ingot.graph.dims import Bindings, evaluate, evaluate_shape
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


def places(plan: Plan, bindings: Bindings) -> list[Place | None]:
    """Place of every Value; None where the shape depends on data (such Values live on the host)."""
    known = known_symbols(plan)
    return [None if data_dependent(value, known) else _place(value, bindings) for value in plan.values]


def _place(value: ValueDecl, bindings: Bindings) -> Place:
    return Place(
        base_of(value),
        evaluate(value.memory.offset, bindings),
        evaluate_shape(tuple(value.shape), bindings),
        evaluate_shape(tuple(value.strides), bindings),
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


def addresses(found: list[Place | None], bases: Mapping[Base, int]) -> list[int]:
    """Device address of every Value; 0 for those on the host."""
    return [0 if place is None or place.base not in bases else bases[place.base] + place.offset for place in found]
