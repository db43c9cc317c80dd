"""Predicted time of a recurrent layer: its steps come one after another, and each has a product and a barrier.

The constants are those of an H200.
"""

from __future__ import annotations

import math

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Target
from ingot.kernels.cost import LAUNCH, shared_per_sm, threads_per_sm
from ingot.kernels.cuda.recurrent.tile import SAFE, Form, Group, Held

_CLOCK = 1.7e9
_BARRIER = {Group.ALONE: 0.05e-6, Group.CLUSTER: 0.6e-6, Group.GRID: 1.4e-6}
"""From a state written to the state read by all, seconds; that of clusters is estimated."""
_GATES = 0.35e-6
"""Activations of a thread's own elements, and the loads of the next inputs."""
_START = 2e-6
_ACCESS = 128
"""Bytes of shared memory that an SM reads in a clock."""
_FAR_BYTES = 22.0
"""Of the L2 cache to an SM in a clock."""
_MMA, _MMA_LATENCY = 12, 45
"""Clocks from one m16n8k16 of a scheduler to the next, and to one that needs its result."""
_SCHEDULERS = 4


def seconds(form: Form, bindings: Bindings) -> float:
    """Predicted seconds at the sizes ``bindings``."""
    plan, tile = form.plan, form.tile
    steps, tiles = evaluate(plan.steps, bindings), evaluate(form.tiles, bindings)
    size = itemsize(plan.dtype)
    weights = plan.form.gates * tile.units * plan.form.hidden * size
    clocks = _tensor_clocks(form) if tile.tensor else _lane_clocks(form, size)
    if form.held is Held.MEMORY:
        clocks += weights / _FAR_BYTES
    if form.group is Group.GRID:
        clocks += tile.batch * plan.form.hidden * (tile.units // 4 if tile.tensor else 4) / _FAR_BYTES
    groups, together = tiles * plan.form.directions, _together(form, form.target)
    clocks *= max(min(groups, together) * tile.blocks / (SAFE * form.target.sms), 1.0)  # blocks that share an SM
    halves = 2 if plan.two_halves else 1
    step = clocks / _CLOCK + halves * (_BARRIER[form.group] + _GATES)
    start = 0.0 if form.held is Held.MEMORY else weights / _FAR_BYTES / _CLOCK
    return LAUNCH + math.ceil(groups / together) * (_START + start + steps * step)


def _together(form: Form, target: Target) -> int:
    """Groups that run at the same time. Not all SMs can be part of a cluster."""
    on_one = min(shared_per_sm(target) // (form.shared + 1024), threads_per_sm(target) // form.tile.threads)
    if form.group is Group.ALONE:
        return target.sms * on_one
    return max(int(SAFE * target.sms * (on_one if form.group is Group.CLUSTER else 1)) // form.tile.blocks, 1)


def _lane_clocks(form: Form, size: int) -> float:
    """Clocks of an SM for one product: multiplications, or the reads of shared memory that feed them."""
    tile, gates = form.tile, form.plan.form.gates
    low = min(tile.batch // tile.rows, 2)
    beside = max(32 // (tile.split * low), 1)
    reads = gates * math.ceil(tile.split * beside * 4 * size / _ACCESS)
    reads += tile.rows * math.ceil(tile.split * low * 16 / _ACCESS)
    work = gates * tile.rows + (2 * gates if size == 2 else 0)  # and conversions
    turns = form.depth / (4 * tile.split)
    warps = tile.threads / 32
    return turns * max(warps * max(reads, work), _SCHEDULERS * work, 40.0)


def _tensor_clocks(form: Form) -> float:
    """As :func:`_lane_clocks`, with tensor cores: a warp's chain, its scheduler's, or the reads of R."""
    tile, gates = form.tile, form.plan.form.gates
    warps = math.ceil(tile.threads / 32 / _SCHEDULERS)
    clocks: float = form.part * max(gates * _MMA * warps, _MMA_LATENCY)
    reads = form.part * tile.threads / 32 * (4 + (2 * gates if form.held is Held.SHARED else 0))
    clocks = max(clocks, reads)
    return clocks + (60 + 8 * gates * tile.split if tile.split > 1 else 0)
