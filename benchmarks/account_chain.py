"""What kernels that do nothing cost one after another: the least that an engine pays for having so many."""

from __future__ import annotations

import statistics

import msgspec

from ingot.device.graph import Graph, GraphBuilder, Node
from ingot.device.launch import KernelArgs
from ingot.device.module import Function, Module
from ingot.device.stream import Event, Stream
from ingot.kernels.api import Target
from ingot.kernels.cuda.nvrtc import compile_cuda

_ENTRY = "ingot_nothing"
_SOURCE = f"""
extern "C" __global__ void {_ENTRY}() {{
  pdl_trigger();
  pdl_wait();
}}
"""
_COUNTS = (20, 120)
"""Kernels of the two graphs whose times are compared."""
_THREADS = 384
_ROUNDS = 60


class Nothing(msgspec.Struct, frozen=True):
    """Microseconds from one kernel to the next; a block of 384 threads on every SM."""

    ordinary: float
    """Each starts when the one before has ended."""
    programmatic: float
    """The next one's blocks are there before."""
    shared: int
    """Dynamic shared memory of a block, bytes, for the next two."""
    heavy: float
    """As ``programmatic`` with that."""
    half: float
    """As ``heavy`` on half of the SMs: the next one's blocks have room on the others."""


def nothing(target: Target, shared: int) -> Nothing:
    """Measures it. Raises IngotError where the device has not as much shared memory."""
    module = Module(compile_cuda(_SOURCE, _ENTRY, target).cubin)
    light, heavy = module.function(_ENTRY), module.function(_ENTRY, shared)
    return Nothing(
        _each(light, target.sms, programmatic=False),
        _each(light, target.sms, programmatic=True),
        shared,
        _each(heavy, target.sms, programmatic=True),
        _each(heavy, target.sms // 2, programmatic=True),
    )


def _each(function: Function, blocks: int, *, programmatic: bool) -> float:
    few, many = _COUNTS
    graphs = [_chain(function, blocks, count, programmatic=programmatic) for count in _COUNTS]
    short, long = _medians(graphs)
    return 1e6 * (long - short) / (many - few)


def _chain(function: Function, blocks: int, count: int, *, programmatic: bool) -> Graph:
    builder, last = GraphBuilder(), list[Node]()
    for _ in range(count):
        after, early = ([], last) if programmatic else (last, [])
        args = KernelArgs([])
        last = [builder.add_kernel(function, (blocks, 1, 1), _THREADS, args, after=after, programmatic=early)]
    return builder.instantiate()


def _medians(graphs: list[Graph]) -> list[float]:
    """Seconds of each graph between events, behind a launch of its own, so that the host's pace does not count."""
    stream, start, end = Stream(), Event(), Event()
    samples: list[list[float]] = [[] for _ in graphs]
    for _ in range(_ROUNDS):
        for graph, found in zip(graphs, samples, strict=True):
            graph.launch(stream)
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            stream.synchronize()
            found.append(end.since(start))
    return [statistics.median(found) for found in samples]
