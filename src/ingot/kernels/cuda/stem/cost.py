"""Predicted time of a stem kernel: blocks load, multiply and store one after another, and blocks of an SM overlap."""

from __future__ import annotations

import math

from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Target
from ingot.kernels.cost import LAUNCH
from ingot.kernels.cuda.stem.tile import PIXELS, Form

_SHARED_PER_SM = {80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 103: 228, 110: 228, 120: 100, 121: 100}
"""KiB of shared memory of an SM."""
_LATENCY = 1.3e-6
"""From the start of a block to its image and weights in shared memory."""
_INSTRUCTION = 0.05e-6
"""One step of the depth for a warp that nothing overlaps with."""
_CLOCK = 1.7e9
_FINISH = 0.1e-6
"""Epilogue of one tile for a warp that nothing overlaps with."""
_SHARED_LANES = 128.0
"""Bytes of shared memory an SM reads per cycle."""


def seconds(form: Form, target: Target, batch: int) -> float:
    """Predicted seconds on ``target``."""
    plan, tile = form.plan, form.tile
    blocks = batch * form.blocks[0] * form.blocks[1]
    room = _SHARED_PER_SM.get(target.cc, 100) * 1024 // (form.shared + 1024)
    resident = max(min(room, form.resident), 1)
    per_warp = form.conv_rows if form.window else -(-tile.rows * tile.wide // tile.warps)
    tiles = per_warp * tile.warps
    steps = form.depth.steps
    # Words of the image, weights (by warpgroup), and the tensor core, for one block.
    words = tiles * form.depth.passes * 2
    weights = tiles / 4 * steps * form.tiles_n * 8 * 16 * 2 / _SHARED_LANES
    flops = tiles * PIXELS * form.tiles_n * 8 * steps * 32
    issue = tiles * (steps * 6 + form.tiles_n * 30) / 4
    busy = max((words + weights + 2.0 * _elements(form) / 32) / _CLOCK, flops / (target.flops / target.sms))
    busy = max(busy, issue / _CLOCK)
    alone = _LATENCY + per_warp * (steps * _INSTRUCTION + _FINISH)
    rounds = blocks / (target.sms * resident)
    rounds = math.ceil(rounds) if rounds < 4 else rounds + 0.5
    together = min(resident, math.ceil(blocks / target.sms))
    moved = batch * math.prod(plan.size) * plan.channels * itemsize(plan.region.spec_of[plan.image].dtype)
    moved += batch * math.prod(plan.result_size) * plan.outputs * itemsize(plan.result.dtype)
    return LAUNCH + max(rounds * max(alone, together * busy), moved / target.bandwidth + _LATENCY)


def _elements(form: Form) -> int:
    """Elements of the image that a block puts into shared memory."""
    return form.image_rows[1] * form.row_pixels * form.pixel
