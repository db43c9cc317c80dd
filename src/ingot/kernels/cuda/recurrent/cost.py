"""Predicted time of a recurrent layer: its steps come one after another, and each has a product and a barrier."""

from __future__ import annotations

import math

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.kernels.cost import LAUNCH
from ingot.kernels.cuda.recurrent.tile import Form, Group, Held

_CLOCK = 1.7e9
_BARRIER = {Group.ALONE: 0.05e-6, Group.CLUSTER: 0.9e-6, Group.GRID: 1.5e-6}
"""From a state written to the state read by all, seconds."""
_GATES = 0.25e-6
"""Activations of a thread's own elements, and the loads of the next inputs."""
_LANE_FLOPS = 2 * 128 * 0.5
"""Of an SM in a clock, by lanes that read shared memory."""
_TENSOR_FLOPS = 2 * 1024 * 0.5
_FAR_BYTES = 32.0
"""Of the L2 cache to an SM in a clock."""


def seconds(form: Form, bindings: Bindings) -> float:
    """Predicted seconds at the sizes ``bindings``."""
    plan, tile, target = form.plan, form.tile, form.target
    steps, tiles = evaluate(plan.steps, bindings), evaluate(form.tiles, bindings)
    blocks = tile.blocks * tiles * plan.form.directions
    depth = plan.form.hidden
    weights = plan.form.gates * tile.units * depth
    flops = 2.0 * weights * tile.batch
    busy = min(1.0, tile.threads / 256)
    clocks = flops / ((_TENSOR_FLOPS if tile.tensor else _LANE_FLOPS) * busy)
    size = itemsize(plan.dtype)
    if form.held is Held.MEMORY:
        clocks += weights * size / _FAR_BYTES * 4
    if tile.blocks > 1:
        clocks += tile.batch * depth * (2 if tile.tensor else 4) / _FAR_BYTES
    step = clocks / _CLOCK + _BARRIER[form.group] + _GATES
    if plan.two_halves:
        step += _BARRIER[form.group] + _GATES / 2
    start = weights * size / _FAR_BYTES / _CLOCK
    waves = math.ceil(blocks / target.sms)
    return LAUNCH + waves * (2e-6 + start + steps * step)
