"""A Plan bound to shapes and addresses: graphs and host steps ready to run, nothing left to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.device.graph import Graph
from ingot.device.stream import Stream
from ingot.graph.dims import Bindings
from ingot.plan.spec import Plan, Step
from ingot.runtime.hostmodel import HostFunction
from ingot.runtime.island import HostArrays, Island, Shapes, as_bound, host_constants
from ingot.runtime.places import Base, Places
from ingot.runtime.segment import SegmentBuilder
from ingot.runtime.segments import Segments
from ingot.runtime.stages import Stage
from ingot.runtime.stream_call import StreamCall, StreamFunction

Array = np.ndarray[Any, Any]


class Program:
    """What one (shapes, I/O addresses) pair runs."""

    def __init__(
        self,
        segments: Segments,
        schedule: Sequence[Stage],
        bindings: Bindings,
        bases: Mapping[Base, int],
        models: Mapping[int, HostFunction],
        calls: Mapping[int, StreamFunction],
        weights: memoryview,
        ordinal: int = 0,
        hidden: frozenset[int] = frozenset(),
        idle: frozenset[int] = frozenset(),
    ) -> None:
        """Makes the graphs. ``bases``: device address of every memory; a missing one is on the host.
        ``hidden``: Values whose shape is not known yet, which stay on the host. ``idle``: steps that do not run.

        Raises IngotError when a size, grid or number is out of bounds at ``bindings``, or the
        device has no room.
        """
        table = segments.table
        numbers = table.numbers
        plan = numbers.plan
        self.plan, self.bindings, self.bases = plan, dict(bindings), dict(bases)
        self._table, self._segments, self._schedule, self._idle = table, segments, tuple(schedule), idle
        self.found = numbers.at(bindings)
        """What the plan's expressions are at ``bindings``."""
        self._hidden = hidden
        self.places = Places(numbers, self.found, hidden)
        self._addresses = table.addresses(self.found, bases)
        self._host_inputs: list[tuple[int, str, int]] = []
        self.constants: HostArrays = {}
        if any(stage.host for stage in schedule):
            self._host_inputs = _host_inputs(plan, self.places, self.at)
            self.constants = host_constants(plan, self.places, weights)
        self.parts: list[Graph | Island | StreamCall] = []
        self.hosted: dict[int, Island | StreamCall] = {}
        """Those parts that are host steps, by step."""
        table.fill(self.found, self._addresses)
        kept = segments.conditions
        for stage in schedule:
            if not stage.host:
                if not idle.issuperset(stage.steps):
                    self.parts.append(segments.graph(stage, idle, self.places, self._addresses))
                continue
            for i in stage.steps:
                if i in idle:
                    self.constants |= self._junk(plan.steps[i], kept)
                    continue
                if i in calls:
                    self.hosted[i] = StreamCall(plan, plan.steps[i], calls[i], self.places, self.at, ordinal)
                else:
                    self.hosted[i] = Island(plan, plan.steps[i], models[i], self.places, self._at_island, kept)
                self.parts.append(self.hosted[i])
        self.host: HostArrays = dict(self.constants)
        self._only = self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], Graph) else None

    def at(self, index: int) -> int:
        """Device address of a Value; 0 for one on the host."""
        row = self._table.numbers.row_of.get(index)
        return 0 if row is None or index in self._hidden else int(self._addresses[row])

    def _at_island(self, index: int) -> int:
        """As :meth:`at` for host steps, which read weights from the file, never back from the device."""
        return 0 if index in self.constants else self.at(index)

    def _junk(self, step: Step, kept: frozenset[int]) -> HostArrays:
        """Zeros in place of what a host step that does not run would leave on the host."""
        left = (i for i in step.writes if i in kept or not self.at(i))
        places = {i: place for i in left if (place := self.places[i]) is not None}
        return {i: np.zeros(place.shape, place.dtype) for i, place in places.items()}

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that run, in the schedule's order."""
        return tuple(i for stage in self._schedule for i in stage.steps if i not in self._idle)

    def segment_builder(self) -> SegmentBuilder:
        """An empty graph over this program's shapes and addresses, until another Program is made or asked for one."""
        self._table.fill(self.found, self._addresses)
        return self._segments.builder(self.places, self._addresses)

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
        for turn in self.turns(stream):
            turn.launch(stream)

    def turns(self, stream: Stream) -> Iterator[Turn]:
        """The whole program, as one turn."""
        yield Turn(self, self.host, as_bound)

    def prepare(self, stream: Stream) -> None:
        """Send the graphs to the device ahead of the first launch."""
        for part in self.parts:
            if isinstance(part, Graph):
                part.upload(stream)


@dataclass(frozen=True)
class Turn:
    """A part of a run, all of whose sizes and conditions are known when its turn comes."""

    program: Program
    host: HostArrays
    shapes: Shapes
    """The real shape of a Value where it is smaller than the one bound."""

    def launch(self, stream: Stream) -> None:
        """Submit everything."""
        for part in self.program.parts:
            if isinstance(part, Graph):
                part.launch(stream)
            else:
                self._run(part, stream)

    def run_hosted(self, index: int, stream: Stream) -> None:
        """Run host step ``index`` alone."""
        self._run(self.program.hosted[index], stream)

    def _run(self, part: Island | StreamCall, stream: Stream) -> None:
        if isinstance(part, Island):
            part.run(stream, self.host, self.shapes)
        else:
            part.run(stream, self.host)


def _host_inputs(plan: Plan, found: Places, at: Callable[[int], int]) -> list[tuple[int, str, int]]:
    """Values that lie in inputs which stay on the host: index, input, byte offset."""
    rows = []
    for index, value in enumerate(plan.values):
        if value.memory.space == "input" and not at(index):
            place = found[index]
            rows.append((index, value.memory.binding, 0 if place is None else place.offset))
    return rows
