"""Predicted time of a chain kernel: traffic, or what a block does for its tiles one after another."""

from __future__ import annotations

import math

from ingot.graph.dims import Bindings, evaluate
from ingot.kernels.api import Target
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.chain.plan import ChainPlan
from ingot.kernels.cuda.chain.source import part_count
from ingot.kernels.cuda.chain.tile import BOX, ChainTile, chunks, piece_bytes, slices

_FILL = 2.6e-6
"""Barriers, the first tile's way in, the last one's way out."""
_CLUSTER = 0.7e-6
"""More until the blocks of a cluster have met."""
_CHUNK = 0.45e-6
"""One chunk of one unit: two products that wait for each other, and the epilogue between them."""
_IMAGE = 0.5e-6
"""What the input's way in leaves open where a warpgroup has room for one tile of it only."""
_AHEAD = 0.3e-6
"""What one chunk waits for the copy engine, over the pieces or slots that it is ahead."""
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
    parts = evaluate(part_count(plan, tile), bindings)
    blocks = min(-(-parts // tile.cluster), target.sms // tile.cluster) * tile.cluster
    full, rest = divmod(parts, blocks * tile.groups)
    work = full * _round(plan, tile, target, tile.groups) + _round(plan, tile, target, math.ceil(rest / blocks))
    total = _FILL + (_CLUSTER if tile.cluster > 1 else 0.0) + work
    total += tile.weight_bytes(plan) / _L2 if tile.kept(plan) else 0.0
    memory = region_bytes(plan.region, bindings) / (target.bandwidth * _MEMORY) + 1e-6
    return LAUNCH + max(total, memory) + _BESIDE * min(total, memory)


def _round(plan: ChainPlan, tile: ChainTile, target: Target, groups: int) -> float:
    """Seconds in which so many warpgroups of each block do a part each."""
    if groups == 0:
        return 0.0
    units = tile.units * groups
    flops = 2 * 64 * plan.wide * (plan.depth + plan.narrow) * units
    slotted = (2 if plan.residual and plan.stored else 1) * chunks(plan) * BOX
    weights = 0 if tile.kept(plan) else chunks(plan) * sum(piece_bytes(plan))
    operands = units * chunks(plan) * (2 * slices(plan) * BOX + plan.narrow * 128)
    shared = operands + weights + 2 * units * slotted
    moved = weights * (1.0 if tile.cluster == 1 else 0.6) + units * (slices(plan) * BOX + slotted + plan.narrow * 128)
    latency = tile.units * chunks(plan) * _CHUNK
    waits = chunks(plan) * _AHEAD * (tile.units / tile.slots + (0.0 if tile.kept(plan) else 1.0 / tile.pieces))
    waits += _IMAGE if tile.images == 1 else 0.0
    return max(flops / (target.flops / target.sms), shared / _SHARED, moved / _L2, latency) + waits
