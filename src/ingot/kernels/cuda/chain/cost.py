"""Predicted time of a chain kernel: traffic, or what a block does for its tiles one after another."""

from __future__ import annotations

import math

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Target
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.chain.plan import ChainPlan
from ingot.kernels.cuda.chain.source import tile_count
from ingot.kernels.cuda.chain.tile import BOX, ChainTile, chunk_bytes, chunks, slices

_FILL = 2.6e-6
"""Barriers, the first tile's way in, the last one's way out."""
_CLUSTER = 0.7e-6
"""More until the blocks of a cluster have met."""
_CHUNK = 0.45e-6
"""One chunk of one unit: two products that wait for each other, and the epilogue between them."""
_SHARED = 2.0e11
"""Bytes per second of an SM's shared memory."""
_L2 = 7.7e10
"""Bytes per second that one SM gets of the L2 cache while all of them ask."""
_MEMORY = 0.92
"""Share of the memory's bandwidth that is reached."""
_BESIDE = 0.2
"""Share of the shorter of work and traffic that nothing hides."""


def seconds(plan: ChainPlan, tile: ChainTile, target: Target, bindings: Bindings) -> float:
    """Predicted seconds; infinity when the tile cannot run."""
    if not tile.fits(plan):
        return math.inf
    clusters = evaluate(tile_count(plan, tile), bindings)
    rounds = math.ceil(clusters / (target.sms // tile.cluster))
    units = tile.units * tile.groups
    flops = 2 * 64 * plan.wide * (plan.depth + plan.narrow) * units
    slotted = (2 if plan.residual and plan.stored else 1) * chunks(plan) * BOX
    weights = 0 if tile.kept(plan) else chunks(plan) * chunk_bytes(plan)
    operands = units * chunks(plan) * (2 * slices(plan) * BOX + plan.narrow * 128)
    shared = operands + weights + 2 * units * slotted
    moved = weights * (1.0 if tile.cluster == 1 else 0.6) + units * (slices(plan) * BOX + slotted + plan.narrow * 128)
    each = max(flops / (target.flops / target.sms), shared / _SHARED, moved / _L2, tile.units * chunks(plan) * _CHUNK)
    total = _FILL + (_CLUSTER if tile.cluster > 1 else 0.0) + rounds * each
    total += tile.stages * chunk_bytes(plan) / _L2 if tile.kept(plan) else 0.0
    memory = region_bytes(plan.region, bindings) / (target.bandwidth * _MEMORY) + 1e-6
    return LAUNCH + max(total, memory) + _BESIDE * min(total, memory)


def middle_bytes(plan: ChainPlan, bindings: Bindings) -> int:
    """Bytes of the result between the products."""
    return evaluate(plan.rows, bindings) * plan.wide * itemsize(plan.first.a.dtype)
