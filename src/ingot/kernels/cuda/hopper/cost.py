"""Predicted time of a Hopper product kernel.

The same kind of model as :mod:`ingot.kernels.cost`, for a kernel whose loads, products and stores
overlap: a block takes as long as the slowest of the three, plus what nothing hides.
"""

from __future__ import annotations

import math

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Target
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.hopper.operands import Operands
from ingot.kernels.cuda.hopper.source import tile_counts
from ingot.kernels.cuda.hopper.tile import HopperTile

_START = 2.2e-6
"""Barriers, tensor maps and the first tiles."""
_STEP = 0.04e-6
"""Least time of one stage: barrier, issue, wait."""
_LATENCY = 0.9e-6
"""From asking for a tile to having it."""
_SHARES = 0.8e-6
"""Sums into shared memory, barrier of the cluster, and reading the others'."""
_EPILOGUE = 0.5e-6
"""Through shared memory and out, per 64 rows of 128 columns and warpgroup."""
_L2 = 5.6e10
"""Bytes per second that one SM gets of the L2 cache while all of them ask."""
_SHARED_TILE = 0.8
"""Cost of a tile of B that two blocks share, relative to one of its own."""
_SHARED_BYTES = 115.0
"""Bytes per cycle that wgmma reads of shared memory."""
_CLOCK = 1.6e9
_TENSOR = 0.92
"""Share of the tensor cores' rate that a full pipeline keeps."""


def seconds(o: Operands, tile: HopperTile, target: Target, bindings: Bindings) -> float:
    """Predicted seconds; infinity when the tile cannot run."""
    item = itemsize(o.a.dtype)
    if not tile.fits(item):
        return math.inf
    clusters_m, tiles_n, batch = (evaluate(d, bindings) for d in tile_counts(o, tile))
    tiles = clusters_m * tile.cluster * tiles_n * batch * tile.split
    steps = math.ceil(evaluate(o.steps(tile), bindings) / tile.split)
    slots = target.sms * tile.resident
    busy = min(tiles, slots)
    rounds = math.ceil(tiles / slots)
    together = math.ceil(busy / target.sms)
    flops = 2 * tile.m * tile.n * tile.k
    compute = together * flops / (target.flops / 0.79 / target.sms * _TENSOR)
    reads = tile.k * item * (64 + tile.n) * (tile.m // 64)  # every 64 rows read all of B again
    shared = together * reads / (_SHARED_BYTES * _CLOCK)
    rows = (tile.m + tile.slide) / tile.slices if tile.slide else tile.m
    columns = tile.n * (_SHARED_TILE if tile.cluster > 1 else 1.0)
    transfer = (rows + columns) * tile.k * item * together / _L2
    step = max(compute, shared, transfer, _STEP, together * _LATENCY / tile.stages)
    per_row = _row_bytes(o)
    stored = (
        together
        / tile.split
        * tile.m
        * min(tile.n, o.cols)
        * per_row
        / min(target.bandwidth / min(target.sms, busy), 6.5e10)
    )
    finish = _EPILOGUE * tile.units * tile.n / 128 + stored + (_SHARES if tile.split > 1 else 0)
    main = steps * step
    overlap = tile.ping or tile.resident > 1
    each = max(main, finish) if overlap and rounds > 1 else main + finish
    total = _START + rounds * each + (min(main, finish) if overlap and rounds > 1 else 0)
    return LAUNCH + max(total, region_bytes(o.region, bindings) / (target.bandwidth * 0.92) + 1e-6)


def _row_bytes(o: Operands) -> float:
    """Bytes read and written by the epilogue for one element of the result."""
    region = o.region
    shape = region.shape(region.ops[0].outputs[0])
    whole = [n for n in (*region.inputs[2:], *region.outputs) if region.shape(n) == shape]
    return float(sum(itemsize(region.spec_of[name].dtype) for name in whole))
