"""Predicted time of a stem kernel: blocks load, multiply and store one after another, and blocks of an SM overlap.

The constants were fitted to 170 measured variants of eleven networks' first layers on an H200 (15 % root mean
square); among the three likeliest is the best one, or one within 9 %, for all but one layer.
"""

from __future__ import annotations

import math

from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Target
from ingot.kernels.cost import shared_per_sm
from ingot.kernels.cuda.stem.tile import Form

_LAUNCH = 0.6e-6
"""From one kernel to the next: most of the start lies behind the kernel before."""
_CYCLE = 1 / 1.7e9
_LATENCY = 1.18e-6
"""From the start of a block to its image in shared memory, and from the last product to the end."""
_RUN = 0.05e-6
"""More for every run of weights that a thread has to put into shared memory."""
_STEP = 0.056e-6
"""One step of the depth for a warp alone."""
_FINISH = 0.0027e-6
"""Eight output channels' epilogue for a warp alone."""
_PRODUCT = 4.2
"""Cycles of an SM for one step of the depth, eight output channels and a warp."""
_WORDS = 2.0
"""Cycles of an SM for one pass over shared memory, times two pixels."""
_EPILOGUE = 7.6
"""Cycles of an SM for an element-wise op on a warp's results in eight output channels; four for the bare result."""
_LOAD = 18.2
"""Cycles of an SM for one vector of the image and a warp: load, conversion, store."""
_KEPT = 0.3
"""Cycles of an SM for one run of weights."""
_MEMORY = 0.6
"""Share of the time for device memory that nothing hides."""


def seconds(form: Form, target: Target, batch: int) -> float:
    """Predicted seconds on ``target``."""
    plan, tile = form.plan, form.tile
    blocks = batch * form.blocks[0] * form.blocks[1]
    room = shared_per_sm(target) // (form.shared + 1024)
    resident = max(min(room, form.resident), 1)
    runs = plan.taps[0] * plan.taps[1] * plan.channels * form.tiles_n / tile.threads
    alone = _LATENCY + runs * _RUN + form.per_warp * (form.depth.steps * _STEP + form.tiles_n * _FINISH)
    together = min(resident, math.ceil(blocks / target.sms))
    rounds = blocks / (target.sms * resident)
    rounds = math.ceil(rounds) if rounds < 4 else rounds + 0.5
    work = rounds * max(alone, together * _busy(form, runs) * _CYCLE / 4)
    moved = batch * math.prod(plan.size) * plan.channels * itemsize(plan.region.spec_of[plan.image].dtype)
    moved += batch * math.prod(plan.result_size) * plan.outputs * itemsize(plan.result.dtype)
    memory = moved / target.bandwidth
    return _LAUNCH + max(work + _MEMORY * memory, memory)


def _busy(form: Form, runs: float) -> float:
    """Cycles of the SM's four parts together that a block takes."""
    plan, tile, depth = form.plan, form.tile, form.depth
    ops = 4 + 4 * len(plan.middle)
    one = depth.passes * _WORDS + form.tiles_n * (depth.steps * _PRODUCT + ops * _EPILOGUE)
    loads = form.row_loads * form.warp_rows * tile.warps
    return form.per_warp * tile.warps * one + loads * (1 + plan.channels) * _LOAD + runs * tile.threads * _KEPT
