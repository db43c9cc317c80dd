"""Edges between steps: what must have finished before a step starts, and which edges are programmatic.

Edges come from data flow (read after write) and, where memory is reused in the order of the steps
and not only along data flow, from memory (write after read, write after write). They are
transitively reduced.

**Programmatic edges.** With programmatic dependent launch (PDL), step B may start while A runs, and
``griddepcontrol.wait`` in B returns when the grids B depends on *programmatically* have completed
and their writes are visible. Reduction drops edges that a path implies, so a path through
programmatic edges must still order its ends. It does, by induction along A -> B -> C:

1. every thread block of a kernel that waits executes the wait before it touches memory that another
   step writes, and before it triggers (the contract of ``kernels.api.Pdl``);
2. so B's blocks cannot complete, nor trigger, before A has completed: *B complete* implies
   *A complete and visible*, and C, started by B's trigger at the earliest, finds A complete;
3. a kernel that does not wait has only full edges, which imply the same.

A predecessor that never triggers does so implicitly when it completes: the edge is then merely
cheaper to launch. CUDA documents ``CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC`` per edge but says nothing
about a node that mixes kinds of incoming edges or has several programmatic ones; so an edge is
programmatic only where it is its consumer's only one. Weights may be prefetched before the wait:
no step writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ingot.kernels.api import Pdl
from ingot.plan.lifetimes import Buffer, ancestors, before_all, bits, members
from ingot.plan.steps import Launch

_WAITING: Final = (Pdl.WAITS, Pdl.TRIGGERS)


def flow_edges(
    launches: Sequence[Launch], steps_of: Mapping[int, tuple[int, ...]], depends: Mapping[int, frozenset[int]]
) -> list[set[int]]:
    """Direct dependencies by data flow; the kernels of one Program form a chain."""
    after: list[set[int]] = []
    for position, launch in enumerate(launches):
        if launch.part:
            after.append({position - 1})
        else:
            after.append({steps_of[before][-1] for before in depends[launch.region]})
    return after


def add_memory_edges(after: Sequence[set[int]], buffers: Sequence[Buffer], offsets: Sequence[int]) -> list[set[int]]:
    """``after`` plus what reuse of memory in the order of steps demands."""
    found = [set(before) for before in after]
    known = ancestors(found)
    spans = [(offset, offset + b.bytes) for b, offset in zip(buffers, offsets, strict=True)]
    ready = [before_all(b.written, known) for b in buffers]
    for i, a in enumerate(buffers):
        for j, b in enumerate(buffers):
            if not a.touched & ~ready[j] or a.touched.bit_length() > _first(b.touched) + 1 or i == j:
                continue
            if spans[i][0] < spans[j][1] and spans[j][0] < spans[i][1]:
                for writer in members(b.written):
                    found[writer].update(members(a.touched & ~known[writer]))
    return found


def _first(steps: int) -> int:
    return (steps & -steps).bit_length() - 1


def reduced(after: Sequence[set[int]]) -> list[list[int]]:
    """The fewest edges with the same meaning, sorted."""
    known = ancestors(after)
    result = []
    for before in after:
        implied = 0
        for step in before:
            implied |= known[step]
        result.append(members(bits(before) & ~implied))
    return result


def programmatic(after: Sequence[Sequence[int]], launches: Sequence[Launch]) -> list[list[int]]:
    """The programmatic ones among the (reduced) edges of each step."""
    result: list[list[int]] = []
    for before, launch in zip(after, launches, strict=True):
        waits = launch.kernel is not None and launch.kernel.pdl in _WAITING
        single = len(before) == 1 and launches[before[0]].kernel is not None
        result.append(list(before) if waits and single else [])
    return result
