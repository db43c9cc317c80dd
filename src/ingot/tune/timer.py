"""Times a Program as the engine will run it: in a CUDA graph, back to back, with realistic caches.

In the engine's steady state a layer's activations were just written by the layer before it,
so they come from the second-level cache as far as they fit; its weights were last read one whole inference
ago, so they come from wherever the model's weights as a whole fit. Here, therefore, activations
rotate over two sets only, unless the engine reads them long after they were written (see ``reuse``); weights
rotate over as many copies as launches (up to the model's own weight bytes), and before each timed replay as many
bytes as the rest of the model's weights are overwritten, which drives out of the cache what the rest of the model
would.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ingot.device.device import Device
from ingot.device.graph import Graph, GraphBuilder, Node
from ingot.device.launch import Grid, KernelArgs
from ingot.device.memory import Buffer
from ingot.device.module import Function
from ingot.device.stream import Event, Stream
from ingot.kernels.api import Pdl
from ingot.tune.setting import Effort, Timing


@dataclass(frozen=True)
class Launch:
    """One kernel of a Program, ready for any set of buffers."""

    function: Function
    grid: Grid
    block: int
    pdl: Pdl


Arguments = Callable[[int, int], KernelArgs]
"""(kernel, launch) -> arguments: the buffers rotate with the launch."""


class Timer:
    """Measures on one device. ``evict``: bytes to overwrite before each timed replay."""

    def __init__(self, device: Device, evict: int) -> None:
        self._stream = Stream()
        self._events = Event(), Event()
        limit = 2 * device.info.l2_bytes
        self._evict = Buffer(min(evict, limit), "emptying the cache") if evict > 0 else None

    def graph(self, launches: Sequence[Launch], arguments: Arguments, count: int) -> Graph:
        """``count`` dependent runs of the Program, with programmatic edges where its kernels take them."""
        builder = GraphBuilder()
        before: list[Node] = []
        for turn in range(count):
            for index, launch in enumerate(launches):
                early = launch.pdl is not Pdl.NONE
                node = builder.add_kernel(
                    launch.function,
                    launch.grid,
                    launch.block,
                    arguments(index, turn),
                    after=() if early else before,
                    programmatic=before if early else (),
                )
                before = [node]
        return builder.instantiate()

    def time(self, launches: Sequence[Launch], arguments: Arguments, effort: Effort) -> Timing:
        """Median time of one run of the Program."""
        return self.compare([(launches, arguments)], effort)[0]

    def compare(self, programs: Sequence[tuple[Sequence[Launch], Arguments]], effort: Effort) -> list[Timing]:
        """Times of several Programs whose replays alternate, so that a drifting clock hits all alike."""
        graphs: list[tuple[Graph, int]] = []
        for launches, arguments in programs:
            count = self._count(launches, arguments, effort)
            graphs.append((self.graph(launches, arguments, count), count))
        samples: list[list[float]] = [[] for _ in graphs]
        for turn in range(effort.replays + 1):
            for (graph, count), times in zip(graphs, samples, strict=True):
                seconds = self._replay(graph) / count
                if turn:  # the first one also uploads the graph
                    times.append(seconds)
        return [_timing(times) for times in samples]

    def _count(self, launches: Sequence[Launch], arguments: Arguments, effort: Effort) -> int:
        least, most = effort.launches
        graph = self.graph(launches, arguments, 4)
        self._replay(graph)
        seconds = self._replay(graph) / 4
        return min(most, max(least, round(effort.seconds / max(seconds, 1e-7))))

    def _replay(self, graph: Graph) -> float:
        start, end = self._events
        if self._evict is not None:
            self._stream.fill(self._evict.pointer, 0x5A, self._evict.bytes)
        start.record(self._stream)
        graph.launch(self._stream)
        end.record(self._stream)
        end.synchronize()
        return end.since(start)


def _timing(samples: Sequence[float]) -> Timing:
    middle = statistics.median(samples)
    if len(samples) < 4:
        return Timing(middle, (max(samples) - min(samples)) / (2 * middle) if middle else 0.0)
    low, _, high = statistics.quantiles(samples, n=4)
    return Timing(middle, (high - low) / (2 * middle) if middle else 0.0)
