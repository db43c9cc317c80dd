"""One stage of device steps as an explicit CUDA graph."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from ingot.device.graph import Graph, GraphBuilder, Node
from ingot.engine.numbers import Ints
from ingot.plan.spec import Plan, Step
from ingot.runtime.places import Place, Places
from ingot.runtime.table import LaunchTable


class Copy(NamedTuple):
    """``rows`` times ``width`` > 0 bytes; from row to row are ``pitch`` bytes on both sides."""

    to: int
    source: int
    width: int
    rows: int
    pitch: int


class SegmentBuilder:
    """Adds steps to one graph. Dependencies on steps outside the graph are met by stream order.

    ``table`` holds what :meth:`LaunchTable.fill` put there for the shapes and addresses of the graph.
    """

    def __init__(self, plan: Plan, table: LaunchTable, places: Places, addresses: Ints) -> None:
        self._plan, self._table, self._places, self._addresses = plan, table, places, addresses
        self.graph = GraphBuilder()
        self.graph.keep(table)
        self._nodes: dict[int, list[Node]] = {}
        self._passed: set[int] = set()
        self.kernels: list[tuple[int, Node]] = []
        """Steps that are kernels, and their nodes."""
        self.copies: list[Node] = []

    def add(self, index: int) -> None:
        """Step ``index`` after those of its dependencies that are in the graph."""
        step = self._plan.steps[index]
        nodes = self._nodes
        early: list[Node] = []
        if len(step.after) == 1:
            after = nodes.get(step.after[0], [])
            if step.programmatic and step.programmatic[0] not in self._passed:
                after, early = [], after
        else:
            programmatic = [i for i in step.programmatic if i not in self._passed]
            # Two steps may have come to the same node, where a copy of nothing lies between.
            after = list(dict.fromkeys(n for i in step.after if i not in programmatic for n in nodes.get(i, ())))
            early = [node for i in programmatic for node in nodes.get(i, ())]
        nodes[index] = self._emit(index, step, after, early)

    def leave_out(self, index: int) -> None:
        """Step ``index`` does not run: what waits for it waits for all that it would have waited for."""
        after = self._plan.steps[index].after
        self._nodes[index] = list(dict.fromkeys(node for i in after for node in self._nodes.get(i, ())))
        self._passed.add(index)

    def repeat(self, index: int, times: int) -> None:
        """Step ``index`` several times in a row, each after the one before."""
        last: list[Node] = []
        for _ in range(times):
            last = self._emit(index, self._plan.steps[index], last, [])

    def instantiate(self) -> Graph:
        """The graph, ready to launch."""
        return self.graph.instantiate()

    def _emit(self, index: int, step: Step, after: list[Node], early: list[Node]) -> list[Node]:
        table = self._table
        if step.kind == "kernel":
            address, function = table.parameters[index].value, table.functions[index]
            assert address is not None
            node = self.graph.add_prepared(address, function, after=after, programmatic=early)
            self.kernels.append((index, node))
            return [node]
        assert not early
        return self._copy(step, after)

    def _copy(self, step: Step, after: list[Node]) -> list[Node]:
        found = copies(step, self._table, self._places, self._addresses)
        if not found:
            return after  # nothing to copy: what waits for this step waits for its dependencies
        nodes = [self.graph.add_copy(c.to, c.source, c.width, rows=c.rows, pitch=c.pitch, after=after) for c in found]
        self.copies += nodes
        return nodes


def copies(step: Step, table: LaunchTable, places: Places, addresses: Ints) -> list[Copy]:
    """What a copy step does: the elements and nothing between them, since a window's gaps hold other Values."""
    place = places[step.reads[0]]
    assert place is not None
    rows = table.numbers.row_of
    source, to = (int(addresses[rows[i]]) for i in (step.reads[0], step.writes[0]))
    if not place.span:
        return []
    return [Copy(to + start, source + start, *rest) for start, *rest in _runs(place)]


def _runs(place: Place) -> list[tuple[int, int, int, int]]:
    """(first byte, bytes a row, rows, bytes from row to row) of 2-D copies that cover the elements."""
    axes = sorted((stride, size) for stride, size in zip(place.strides, place.shape, strict=True) if size != 1)
    width, item = 1, place.dtype.itemsize
    while axes and axes[0][0] == width:
        width *= axes.pop(0)[1]
    stride, rows = axes.pop() if axes else (width, 1)
    starts = (sum(offset) for offset in itertools.product(*(range(0, s * n, s) if s else (0,) for s, n in axes)))
    return [(start * item, width * item, rows, stride * item) for start in starts]
