"""How long ago a Region's inputs were written when the engine reads them.

What the Region before has just written is in the second-level cache as far as it fits. The other side of a residual
addition, or a skip connection, was written several Regions ago, and everything since has passed through the
same cache. A timer that runs one Region again and again would find both there, so it rotates such inputs over
more buffers.
"""

from __future__ import annotations

import statistics

from ingot.graph.dims import Bindings
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind, Region
from ingot.tune.storage import Stored

MOST_SETS = 8
"""Buffers that one input rotates over at most."""
LEAST_SETS = 2


def distances(lowered: Lowered, bindings: Bindings) -> dict[str, tuple[int, ...]]:
    """By Region likeness: for each input, bytes that other work touches between its writing and its reading.

    Regions run in the order of ``lowered``. 0 for weights, and for what the Region just before wrote. Graph inputs are
    written before the first Region. Of several like Regions the median counts. Those of the host have no ages.
    """
    written: dict[str, int] = {}
    found: dict[str, list[tuple[int, ...]]] = {}
    clock = 0
    for region in lowered.regions:
        if region.kind is Kind.VIEW:
            age = max((written.get(_root(lowered, name), 0) for name in region.inputs), default=0)
            written |= {_root(lowered, name): max(age, written.get(_root(lowered, name), 0)) for name in region.outputs}
            continue
        if region.kind is Kind.HOST:  # whose Values may have no known shape, and are sent anew
            written |= {_root(lowered, name): clock for name in region.outputs}
            continue
        ages = tuple(
            0 if tensor.constant else clock - written.get(_root(lowered, name), 0)
            for name, tensor in zip(region.inputs, region.input_specs, strict=True)
        )
        found.setdefault(region.likeness, []).append(ages)
        clock += touched(region, bindings)
        written |= {_root(lowered, name): clock for name in region.outputs}
    return {s: tuple(int(statistics.median(column)) for column in zip(*rows, strict=True)) for s, rows in found.items()}


def touched(region: Region, bindings: Bindings) -> int:
    """Bytes of a Region's inputs and outputs."""
    return sum(Stored.of(tensor, bindings).nbytes for tensor in (*region.input_specs, *region.output_specs))


def sets_for(distance: int, launch: int) -> int:
    """Buffers to rotate an input over, so that ``launch`` bytes a launch put ``distance`` bytes between its uses."""
    return max(LEAST_SETS, min(MOST_SETS, round(distance / launch))) if launch else LEAST_SETS


def _root(lowered: Lowered, name: str) -> str:
    """The Value in whose memory ``name`` lies."""
    while name in lowered.windows:
        name = lowered.windows[name].parent
    return name
