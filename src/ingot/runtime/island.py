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

    def __init__(self, plan: Plan, step: Step, function: HostFunction, found: Places, at: Callable[[int], int]) -> None:
        """``at``: device address of every Value, 0 for those on the host. Allocates the staging memory."""
        self._step, self._function = step, function
        self._places = found
        self._down = [self._transfer(i, at(i), step) for i in dict.fromkeys(step.reads) if at(i)]
        self._up = {i: self._transfer(i, at(i), step) for i in step.writes if at(i)}
        # Between the elements of a window lie other Values: they make the trip with it, unchanged.
        self._around = [up for i, up in self._up.items() if (place := found[i]) is not None and not place.gapless]

    def _transfer(self, index: int, address: int, step: Step) -> _Transfer:
        place = self._places[index]
        assert place is not None
        pinned = PinnedBuffer(place.span, f"host step {step.name}")
        return _Transfer(index, address, pinned, place.view(pinned.memory), place.span)

    def run(self, stream: Stream, host: HostArrays) -> None:
        """Wait for the device, run the model, send its outputs. ``host`` gains the outputs that stay."""
        for down in (*self._down, *self._around):
            stream.copy(down.pinned.pointer, down.address, down.size)
        if self._down or self._up:
            stream.synchronize()
        local = {down.index: np.ascontiguousarray(down.view).reshape(down.view.shape) for down in self._down}
        arrays = [local[i] if i in local else host[i] for i in self._step.reads]
        results = call(self._function, arrays, self._step.name)
        for index, result in zip(self._step.writes, results, strict=True):
            place = self._places[index]
            if place is not None and (result.shape != place.shape or result.dtype != place.dtype):
                made, want = f"{result.dtype}{list(result.shape)}", f"{place.dtype}{list(place.shape)}"
                raise IngotError(f"the host model made {made}, the plan says {want}", node=self._step.name)
            up = self._up.get(index)
            if up is None:
                host[index] = result
            else:
                up.view[...] = result
                stream.copy(up.address, up.pinned.pointer, up.size)


def call(function: Callable[[Sequence[Array]], list[Array]], arrays: Sequence[Array], name: str) -> list[Array]:
    """The host model's outputs; what it raises becomes an IngotError."""
    try:
        return function(arrays)
    except Exception as error:  # the host libraries raise exceptions of their own, without a common base
        raise IngotError(f"the host model failed: {error}", node=name) from error
