"""A Plan bound to shapes and addresses: graphs and host steps ready to run, nothing left to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ingot.device.graph import Graph
from ingot.device.stream import Stream
from ingot.engine.bounds import check_at
from ingot.graph.dims import Bindings
from ingot.plan.spec import Plan
from ingot.runtime.hostmodel import HostFunction
from ingot.runtime.island import HostArrays, Island
from ingot.runtime.places import Base, Place, addresses, places
from ingot.runtime.segment import Functions, SegmentBuilder
from ingot.runtime.stages import Stage

Array = np.ndarray[Any, Any]


class Program:
    """What one (shapes, I/O addresses) pair runs."""

    def __init__(
        self,
        plan: Plan,
        schedule: Sequence[Stage],
        bindings: Bindings,
        bases: Mapping[Base, int],
        functions: Functions,
        models: Mapping[int, HostFunction],
        weights: memoryview,
    ) -> None:
        """Builds the graphs. ``bases``: device address of every memory; a missing one is on the host.

        Raises IngotError when a size, grid or number is out of bounds at ``bindings``, or the
        device has no room.
        """
        check_at(plan, bindings)
        self.plan, self.bindings, self.bases = plan, dict(bindings), dict(bases)
        self.places: list[Place | None] = places(plan, bindings)
        self.at = addresses(self.places, bases)
        self._functions = functions
        self._host_inputs = _host_inputs(plan, self.places, self.at)
        self._constants = _host_constants(plan, self.places, weights)
        # Host steps read weights from the file, never back from the device.
        for_islands = [0 if i in self._constants else address for i, address in enumerate(self.at)]
        self.parts: list[Graph | Island] = []
        for stage in schedule:
            if stage.host:
                self.parts += [Island(plan, plan.steps[i], models[i], self.places, for_islands) for i in stage.steps]
            else:
                self.parts.append(self._segment(stage))
        self.host: HostArrays = dict(self._constants)
        self._only = self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], Graph) else None

    def _segment(self, stage: Stage) -> Graph:
        builder = self.segment_builder()
        for index in stage.steps:
            builder.add(index, self.bindings)
        return builder.instantiate()

    def segment_builder(self) -> SegmentBuilder:
        """An empty graph over this program's addresses."""
        return SegmentBuilder(self.plan, self._functions, self.places, self.at)

    @property
    def on_device(self) -> bool:
        """Whether everything is one graph, so that a launch never waits for the host."""
        return self._only is not None

    def feed_host(self, feeds: Mapping[str, Array]) -> None:
        """Give the inputs that only host steps read (in C order, already checked)."""
        for index, name, offset in self._host_inputs:
            array, place = feeds[name], self.places[index]
            if place is None or (offset == 0 and place.shape == array.shape):
                self.host[index] = array
            else:  # a view of an input, such as a Reshape
                self.host[index] = place.view(np.ravel(array).view(np.uint8).data, offset)

    def launch(self, stream: Stream) -> None:
        """Submit everything; host steps wait for the device when their turn comes."""
        if self._only is not None:
            self._only.launch(stream)
            return
        for part in self.parts:
            if isinstance(part, Graph):
                part.launch(stream)
            else:
                part.run(stream, self.host)

    def prepare(self, stream: Stream) -> None:
        """Send the graphs to the device ahead of the first launch."""
        for part in self.parts:
            if isinstance(part, Graph):
                part.upload(stream)


def _host_inputs(plan: Plan, found: Sequence[Place | None], at: Sequence[int]) -> list[tuple[int, str, int]]:
    """Values that lie in inputs which stay on the host: index, input, byte offset."""
    rows = []
    for index, value in enumerate(plan.values):
        if value.memory.space == "input" and not at[index]:
            place = found[index]
            rows.append((index, value.memory.binding, 0 if place is None else place.offset))
    return rows


def _host_constants(plan: Plan, found: Sequence[Place | None], weights: memoryview) -> HostArrays:
    """Weights that host steps read, as views of the file."""
    constants: HostArrays = {}
    for step in plan.steps:
        for index in step.reads if step.kind == "host" else ():
            place = found[index]
            if plan.values[index].memory.space == "weights" and place is not None:
                constants[index] = np.ascontiguousarray(place.view(weights, place.offset)).reshape(place.shape)
    return constants
