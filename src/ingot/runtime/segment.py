"""One stage of device steps as an explicit CUDA graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from ingot.device.graph import Graph, GraphBuilder, Node
from ingot.device.launch import Arg, KernelArgs
from ingot.device.module import Function
from ingot.device.tensor_map import encoded
from ingot.errors import IngotError
from ingot.graph.dims import Bindings, evaluate
from ingot.plan.spec import Argument, Plan, Step
from ingot.runtime.places import Place

Functions = Callable[[Step], Function]


class SegmentBuilder:
    """Adds steps to one graph. Dependencies on steps outside the graph are met by stream order."""

    def __init__(self, plan: Plan, functions: Functions, found: Sequence[Place | None], at: Sequence[int]) -> None:
        """``at``: device address of every Value, as :func:`ingot.runtime.places.addresses` gives them."""
        self._plan, self._functions, self._places, self._at = plan, functions, found, at
        self._graph = GraphBuilder()
        self._nodes: dict[int, list[Node]] = {}

    def add(self, index: int, bindings: Bindings) -> None:
        """Step ``index`` after those of its dependencies that are in the graph."""
        step = self._plan.steps[index]
        early = [node for i in step.programmatic for node in self._nodes.get(i, ())]
        after = [node for i in step.after if i not in step.programmatic for node in self._nodes.get(i, ())]
        unique = {int(node): node for node in after}
        self._nodes[index] = self._emit(step, bindings, list(unique.values()), early)

    def repeat(self, index: int, bindings: Bindings, times: int) -> None:
        """Step ``index`` several times in a row, each after the one before."""
        last: list[Node] = []
        for _ in range(times):
            last = self._emit(self._plan.steps[index], bindings, last, [])

    def instantiate(self) -> Graph:
        """The graph, ready to launch."""
        return self._graph.instantiate()

    def _emit(self, step: Step, bindings: Bindings, after: list[Node], early: list[Node]) -> list[Node]:
        if step.kind == "copy":
            assert not early
            return self._copy(step, after)
        try:
            args = KernelArgs([self._argument(argument, bindings) for argument in step.arguments])
        except OverflowError as error:
            raise IngotError(str(error), node=step.name, fix="keep the shapes within the engine's profile") from None
        x, y, z = (evaluate(dim, bindings) for dim in step.grid)
        node = self._graph.add_kernel(
            self._functions(step), (x, y, z), step.block, args, after=after, programmatic=early
        )
        return [node]

    def _argument(self, argument: Argument, bindings: Bindings) -> Arg:
        if argument.kind == "value":
            return self._at[argument.index], 8
        if argument.map is not None:
            return encoded(argument.map, self._at[argument.index], bindings)
        return (0, 8) if argument.kind == "null" else (evaluate(argument.dim, bindings), argument.bytes)

    def _copy(self, step: Step, after: list[Node]) -> list[Node]:
        """The elements and nothing between them: a window's gaps hold other Values."""
        place = self._places[step.reads[0]]
        assert place is not None
        source, to = self._at[step.reads[0]], self._at[step.writes[0]]
        if not place.span:
            return after  # nothing to copy: what waits for this step waits for its dependencies
        return [
            self._graph.add_copy(to + start, source + start, width, rows=rows, pitch=pitch, after=after)
            for start, width, rows, pitch in _runs(place)
        ]


def _runs(place: Place) -> list[tuple[int, int, int, int]]:
    """(first byte, bytes a row, rows, bytes from row to row) of 2-D copies that cover the elements."""
    axes = sorted((stride, size) for stride, size in zip(place.strides, place.shape, strict=True) if size != 1)
    width, item = 1, place.dtype.itemsize
    while axes and axes[0][0] == width:
        width *= axes.pop(0)[1]
    stride, rows = axes.pop() if axes else (width, 1)
    starts = (sum(offset) for offset in itertools.product(*(range(0, s * n, s) if s else (0,) for s, n in axes)))
    return [(start * item, width * item, rows, stride * item) for start in starts]
