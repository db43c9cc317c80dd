"""A host step between graph segments: its inputs brought to the host, its outputs taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.device.memory import PinnedBuffer
from ingot.device.stream import Stream
from ingot.errors import IngotError
from ingot.plan.spec import Plan, Step
from ingot.runtime.hostmodel import HostFunction
from ingot.runtime.places import Places

Array = np.ndarray[Any, Any]
HostArrays = dict[int, Array]
"""Values that lie on the host, by index: fed inputs and what host steps have made."""
Shapes = Callable[[int], tuple[int, ...] | None]
"""The real shape of a Value by index, None where it is the one bound."""


def as_bound(index: int) -> None:
    """Every Value has the shape that is bound."""


@dataclass
class _Transfer:
    """One Value that must cross between the device and page-locked memory."""

    index: int
    address: int
    pinned: PinnedBuffer
    view: Array
    size: int


class Island:
    """One host step bound to shapes and addresses."""

    def __init__(
        self,
        plan: Plan,
        step: Step,
        function: HostFunction,
        found: Places,
        at: Callable[[int], int],
        kept: frozenset[int] = frozenset(),
    ) -> None:
        """``at``: device address of every Value, 0 for those on the host. Allocates the staging memory.
        ``kept``: Values that the host needs, too, where they are sent to the device."""
        self._step, self._function = step, function
        self._places, self._kept = found, kept
        self._down = [self._transfer(i, at(i), step) for i in dict.fromkeys(step.reads) if at(i)]
        self._up = {i: self._transfer(i, at(i), step) for i in step.writes if at(i)}
        # Between the elements of a window lie other Values: they make the trip with it, unchanged.
        self._around = [up for i, up in self._up.items() if (place := found[i]) is not None and not place.gapless]

    def _transfer(self, index: int, address: int, step: Step) -> _Transfer:
        place = self._places[index]
        assert place is not None
        pinned = PinnedBuffer(place.span, f"host step {step.name}")
        return _Transfer(index, address, pinned, place.view(pinned.memory), place.span)

    def run(self, stream: Stream, host: HostArrays, shapes: Shapes = as_bound) -> None:
        """Wait for the device, run the model, send its outputs. ``host`` gains the outputs that stay.

        ``shapes`` gives the real shape of a Value where it is smaller than the one bound.
        """
        for down in (*self._down, *self._around):
            stream.copy(down.pinned.pointer, down.address, down.size)
        if self._down or self._up:
            stream.synchronize()
        local = {down.index: cut(down.view, shapes(down.index)) for down in self._down}
        arrays = [local[i] if i in local else host[i] for i in self._step.reads]
        results = call(self._function, arrays, self._step.name)
        for index, result in zip(self._step.writes, results, strict=True):
            place = self._places[index]
            shape = place and (shapes(index) or place.shape)
            if place is not None and (result.shape != shape or result.dtype != place.dtype):
                made, want = f"{result.dtype}{list(result.shape)}", f"{place.dtype}{list(shape or ())}"
                raise IngotError(f"the host model made {made}, the plan says {want}", node=self._step.name)
            up = self._up.get(index)
            if up is None or index in self._kept:
                host[index] = result
            if up is not None:
                if result.shape == up.view.shape:
                    up.view[...] = result
                else:  # a size of nothing
                    up.view[...] = 0
                    up.view[tuple(slice(0, size) for size in result.shape)] = result
                stream.copy(up.address, up.pinned.pointer, up.size)


def cut(view: Array, shape: tuple[int, ...] | None) -> Array:
    """What came from the device, contiguous, without what is behind ``shape``."""
    part = view if shape is None else view[tuple(slice(0, size) for size in shape)]
    return np.ascontiguousarray(part).reshape(part.shape)


def call(function: Callable[[Sequence[Array]], list[Array]], arrays: Sequence[Array], name: str) -> list[Array]:
    """The host model's outputs; what it raises becomes an IngotError."""
    try:
        return function(arrays)
    except Exception as error:  # the host libraries raise exceptions of their own, without a common base
        raise IngotError(f"the host model failed: {error}", node=name) from error


def host_constants(plan: Plan, found: Places, weights: memoryview) -> HostArrays:
    """Weights that host steps read, as views of the file."""
    constants: HostArrays = {}
    for step in plan.steps:
        for index in step.reads if step.kind == "host" else ():
            place = found[index]
            if plan.values[index].memory.space == "weights" and place is not None:
                constants[index] = np.ascontiguousarray(place.view(weights, place.offset)).reshape(place.shape)
    return constants
