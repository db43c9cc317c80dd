"""The graphs of a Context: where only numbers differ from one made before, an executable graph is updated.

Adding a node, instantiating it and destroying it costs several times what it costs to set its parameters. A graph that
is in use is never touched: an executable is updated when nobody holds its Graph any more.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import deque
from contextlib import suppress
from functools import partial
from weakref import WeakSet

import numpy as np

from ingot.device.graph import Executable, Graph, copy_parameters
from ingot.engine.numbers import Ints
from ingot.errors import IngotError
from ingot.plan.spec import conditions
from ingot.runtime.places import Places
from ingot.runtime.recent import Recent
from ingot.runtime.segment import Copy, SegmentBuilder, copies
from ingot.runtime.stages import Stage
from ingot.runtime.table import LaunchTable, State

_SPARES = 2
"""Executables of one topology that nobody uses and that are kept for the next shape; they take device memory."""
_TOPOLOGIES = 64
"""Kept per Context, least recently used out first: one for each stage, and each course that data takes through it."""
_Key = tuple[Stage, frozenset[int], tuple[int, ...]]


class Topology:
    """Nodes and edges of a graph, and executables of it that are free."""

    def __init__(self, builder: SegmentBuilder, table: LaunchTable) -> None:
        """``builder`` has added its nodes from ``table`` as it is now."""
        self._builder, self._table = builder.graph, table
        self._state = table.state()
        kernels = builder.kernels
        self._rows = np.array([table.row[index] for index, _ in kernels], np.int64)
        self._nodes = [ctypes.c_void_p(node) for _, node in kernels]
        self._parameters = [table.parameters[index] for index, _ in kernels]
        self._copies = [ctypes.c_void_p(node) for node in builder.copies]
        self._free: deque[tuple[Executable, State]] = deque(maxlen=_SPARES)

    def first(self) -> Graph:
        """The graph as it was built."""
        return self._graph(self._builder.executable(), self._state)

    def make_ready(self) -> None:
        """Makes the executable for a shape to come, if none is free. Raises IngotError when the device has no room."""
        if not self._free:
            self._free.append((self._builder.executable(), self._state))

    def bound(self, wanted: list[Copy]) -> Graph | None:
        """A graph of what is in the table now and of ``wanted`` copies. None where the driver does not update one."""
        executable, state = self._free.popleft() if self._free else (self._builder.executable(), self._state)
        changed = self._table.changed(state)[self._rows].tolist()
        nodes = itertools.compress(self._nodes, changed)
        if not executable.update(nodes, itertools.compress(self._parameters, changed)):
            return None
        if wanted:
            made = [copy_parameters(*copy) for copy in wanted]
            if not executable.update(self._copies, [ctypes.c_void_p(int(m.getPtr())) for m in made]):
                return None
        return self._graph(executable, self._table.state())

    def _graph(self, executable: Executable, state: State) -> Graph:
        return Graph(executable, self, partial(self._left, state))

    def _left(self, state: State, executable: Executable) -> None:
        self._free.append((executable, state))


class Segments:
    """Makes the graphs of stages, for shapes and addresses that are in the launch table."""

    def __init__(self, table: LaunchTable) -> None:
        plan = table.numbers.plan
        self.table = table
        self.conditions = conditions(plan.steps)
        self._topologies = Recent[_Key, Topology](_TOPOLOGIES)
        self._switches = bool(plan.data) or any(p.min < p.max for p in plan.profiles)
        self._used = WeakSet[Topology]()
        """Those of graphs that were made since :meth:`make_ready`, as long as something else holds them."""

    def builder(self, places: Places, addresses: Ints) -> SegmentBuilder:
        """An empty graph, for any steps of the plan."""
        return SegmentBuilder(self.table.numbers.plan, self.table, places, addresses)

    def graph(self, stage: Stage, idle: frozenset[int], places: Places, addresses: Ints) -> Graph:
        """The steps of a device stage, without those that are ``idle``. Raises IngotError when the device has no room.

        Which nodes there are depends on the idle steps, and on how many runs of bytes each copy moves.
        """
        steps = self.table.numbers.plan.steps
        moved = [copies(steps[i], self.table, places, addresses) for i in stage.copies if i not in idle]
        every = [copy for several in moved for copy in several]
        if any(copy.rows > 1 for copy in every):  # the driver does not update copies in two dimensions
            return self._built(stage, idle, places, addresses).instantiate()
        key = (stage, idle, tuple(map(len, moved)))
        topology = self._topologies.get(key)
        graph = topology.bound(every) if topology is not None else None
        if graph is None:
            topology = Topology(self._built(stage, idle, places, addresses), self.table)
            self._topologies.put(key, topology)
            graph = topology.first()
        if self._switches and topology is not None:
            self._used.add(topology)
        return graph

    def make_ready(self) -> None:
        """So that the next new shape need not wait for an executable: one more, where the last one is in use.

        To be called when the host would wait for the device anyway. Without room on the device there is none.
        """
        if not self._used:
            return
        for topology in list(self._used):
            with suppress(IngotError):
                topology.make_ready()
        self._used.clear()

    def _built(self, stage: Stage, idle: frozenset[int], places: Places, addresses: Ints) -> SegmentBuilder:
        builder = self.builder(places, addresses)
        for index in stage.steps:
            if index in idle:
                builder.leave_out(index)
            else:
                builder.add(index)
        return builder
