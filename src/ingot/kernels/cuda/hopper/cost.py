"""Predicted time of a Hopper product kernel.

The same kind of model as :mod:`ingot.kernels.cost`, for a kernel whose loads, products and stores
overlap: a block takes as long as the slowest of the three, plus what nothing hides. The constants
were fitted to a thousand measured variants of ResNet-50's layers at batch 1, 8 and 128 on an H100
(benchmarks/conv_layers.py): of the likeliest four the best is 0.4 % slower than the best of all, on average.
"""

from __future__ import annotations

import math

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Target
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.hopper.operands import Operands
from ingot.kernels.cuda.hopper.source import shares, tile_counts
from ingot.kernels.cuda.hopper.tile import REGISTERS, SHARED_PER_SM, WORKING, HopperTile

_START = 0.11e-6
"""Barriers and tensor maps; most of it is hidden behind the kernel before."""
_STEP = 0.12e-6
"""Least time of one stage: barrier, issue, wait."""
_LATENCY = 1.33e-6
"""From asking for a stage to having it."""
_EPILOGUE = 0.29e-6
"""Through shared memory and out, per 64 rows of 128 columns and warpgroup."""
_DEALT = 0.16e-6
"""The same where nothing goes through shared memory."""
_BYTES = 0.2e-6
"""Instructions that make bytes of 64 rows of 128 columns, for all warps of an SM together."""
_RELOADED = 1.25
"""The same where what the epilogue reads for whole columns does not stay in registers."""
_RESCALED = (0.12e-6, 0.5e-6)
"""Bringing sums of a first product to the scales of the second, per 64 rows of 128 columns: with quotients that are
there, and where they are made of what is read for every tile (64 + 64 -> 256 at 56 x 56, batch 8, on an H200)."""
_CLUSTER = 0.71e-6
"""More until the blocks of a cluster have met."""
_MEETING = 0.3e-6
"""Barriers of a cluster that shares a tile's depth."""
_SHARED_SUM = 1.8e-12
"""Adding up one sum of such a tile, for every doubling of the shares and block at work (H200): all of them read each
other's shared memory at once."""
_CLUSTERS = {2: 66, 4: 30, 8: 14}
"""Clusters by their blocks, one block an SM, that an H200 of 132 SMs runs at a time."""
_EXCHANGE = 3.0e-6
"""What blocks that share steps lose beside the traffic of their sums (H200)."""
_SPARE = 12
"""Registers of a thread beside sums and what is always there."""
_L2 = 7.7e10
"""Bytes per second that one SM gets of the L2 cache while all of them ask."""
_ROW = 2.4e-9
"""Seconds that the copy engine of an SM takes for a row of less than 128 bytes (INT8 layers of an H200)."""
_WHOLE_ROW = 128
_ZEROS = 2.4
"""What a row past the depth's end takes, relative to others."""
_SHARED_TILE = 1.12
"""Cost of a tile of B that two blocks share, relative to one of its own."""
_SHARED_MEMORY = 1.3e11
"""Bytes per second that wgmma reads of an SM's shared memory."""
_TENSOR = 1.02
"""Rate of the tensor cores relative to the Target's, which is that of a large product."""
_STORE = 6.5e10
"""Most bytes per second that one SM stores."""
_MEMORY = 0.92
"""Share of the memory's bandwidth that is reached."""
_FABRIC = 1.0e13
"""Bytes per second between all SMs and the L2 cache, both ways."""
_BESIDE = 0.2
"""Share of the shorter of work and transport that nothing hides."""


def seconds(o: Operands, tile: HopperTile, target: Target, bindings: Bindings) -> float:
    """Predicted seconds; infinity when the tile cannot run."""
    item = itemsize(o.a.dtype)
    if not tile.fits(item):
        return math.inf
    clusters_m, tiles_n, batch = (evaluate(d, bindings) for d in tile_counts(o, tile))
    tiles = clusters_m * tile.cluster * tiles_n * batch * tile.split
    slots = target.sms * tile.resident
    rounds = math.ceil(tiles / slots) if tile.split == 1 else _cluster_rounds(tile, tiles, item, target)
    working = tiles * shares(o, tile) if tile.stream else tiles
    busy = min(working, target.sms)
    together = math.ceil(min(working, slots) / target.sms)
    main = math.ceil(evaluate(o.steps(tile), bindings) / tile.split) * _step(o, tile, target, together)
    stored = together * tile.m * min(tile.n, o.cols) * _row_bytes(o) / tile.split
    store = stored / min(target.bandwidth / busy, _STORE)
    finish = _finish(o, tile) * tile.units * tile.n / 128 + store
    if o.scales is not None:
        finish += _RESCALED[not _held(o, tile)] * together * tile.groups * tile.units * tile.n / 128
    if tile.split > 1:
        finish += _MEETING + _SHARED_SUM * math.log2(tile.split) * tile.m * tile.n * min(tiles, slots)
    total = _START + tile.kept_bytes(item) / _L2 + (_CLUSTER if tile.cluster * tile.split > 1 else 0.0)
    if tile.stream:
        total += _streamed(tile, tiles, min(slots, working), main, finish)
    elif (tile.ping or tile.resident > 1) and rounds > 1:  # one tile is finished while the next is multiplied
        each = max(main, store, (main + finish) / 2) if tile.ping else max(main, finish)  # two finish side by side
        total += rounds * each + min(main, finish)
    else:
        total += rounds * (main + finish)
    memory = region_bytes(o.region, bindings) / (target.bandwidth * _MEMORY) + 1e-6
    fabric = _fabric_bytes(o, tile, bindings, tiles) / _FABRIC
    bound = max(memory, fabric)
    return LAUNCH + max(total, bound) + _BESIDE * min(total, bound)


def _streamed(tile: HopperTile, tiles: int, blocks: int, main: float, finish: float) -> float:
    """Seconds of blocks that end together: equal parts of all products, sums left once, added by who ends a tile.

    Nothing hides the exchange of sums. The times of 100 tiles of 17 layers on an H200, relative to the same tiles
    without, are met to 14 % (root of the mean square; benchmarks/stream_layers.py).
    """
    exchange = _EXCHANGE + tile.m * tile.n * 4 * tile.resident * (1 / _STORE + math.ceil(blocks / tiles) / _L2)
    products, finishing = tiles / blocks * main, math.ceil(tiles / blocks) * finish
    if tile.ping or tile.resident > 1:
        return max(products, (products + finishing) / 2) + min(main, finish) + exchange
    return products + finishing + exchange


def _cluster_rounds(tile: HopperTile, blocks: int, item: int, target: Target) -> int:
    """How often all SMs get clusters that share a depth; two blocks are on an SM where they have room."""
    room = 2 * (tile.shared(item) + 1024) <= SHARED_PER_SM
    registers = 2 * tile.threads * (tile.units * tile.n // 2 + WORKING + _SPARE) <= REGISTERS
    at_once = _CLUSTERS[tile.split] * target.sms / 132 * (2 if room and registers else 1)
    return math.ceil(blocks / tile.split / max(at_once, 1.0))


def _finish(o: Operands, tile: HopperTile) -> float:
    """Seconds of a warpgroup for 64 rows of 128 columns, without the traffic."""
    alone = _DEALT / tile.dealt**0.25 if tile.dealt else _EPILOGUE
    if any(itemsize(spec.dtype) > 1 for spec in o.region.output_specs):
        return alone
    stays = tile.keep > 0 and _held(o, tile)
    together = tile.groups * tile.resident
    return max(alone, _BYTES * together * (1.0 if stays else _RELOADED))


def _held(o: Operands, tile: HopperTile) -> bool:
    """Whether what bytes are made with for whole columns, two or three numbers each, is held in registers."""
    if o.scales is not None:
        return tile.units * tile.n <= 64
    return tile.n <= 128 and (tile.units + 1) * tile.n <= 256


def _fabric_bytes(o: Operands, tile: HopperTile, bindings: Bindings, tiles: int) -> float:
    """Bytes between the SMs and the L2 cache: operands of every tile, results, what the epilogue reads."""
    item = itemsize(o.a.dtype)
    columns = 0.0 if tile.keep else tile.n / tile.cluster
    steps = math.ceil(evaluate(o.steps(tile), bindings) / tile.split)
    finished = evaluate(o.rows, bindings) * o.cols * evaluate(o.batch, bindings) * _row_bytes(o)
    return tiles * steps * (tile.load_rows + columns) * tile.k * item + finished


def _step(o: Operands, tile: HopperTile, target: Target, together: int) -> float:
    """Seconds of one stage in each of the blocks ``together`` on an SM."""
    item = itemsize(o.a.dtype)
    compute = tile.m * tile.n * tile.k * item / (target.flops / target.sms * _TENSOR)
    shared = tile.k * item * (64 + tile.n) * (tile.m // 64) / _SHARED_MEMORY  # every 64 rows read all of B again
    columns = 0 if tile.keep else tile.n * (_SHARED_TILE if tile.cluster > 1 else 1.0)
    transfer = (tile.load_rows + columns) * tile.k * item / _L2
    if tile.slice * item < _WHOLE_ROW:
        rows = (tile.load_rows + columns) * tile.slices
        transfer = max(transfer, rows * _ROW * (1 + (_ZEROS - 1) * _past_the_end(o, tile)))
    return max(together * max(compute, shared, transfer, _LATENCY / tile.stages), _STEP)


def _past_the_end(o: Operands, tile: HopperTile) -> float:
    """Share of the loads that bring nothing but zeros."""
    channels = o.channels
    if tile.slide or not isinstance(channels, int):
        return 0.0
    used, steps = o.taps * -(-channels // tile.slice), o.steps(tile)
    return 1 - used / (steps * tile.slices) if isinstance(steps, int) else 0.0


def _row_bytes(o: Operands) -> float:
    """Bytes read and written by the epilogue for one element of the result."""
    region = o.region
    shape = region.shape(region.ops[0].outputs[0])
    whole = [n for n in (*region.inputs[2:], *region.outputs) if region.shape(n) == shape]
    return float(sum(itemsize(region.spec_of[name].dtype) for name in whole))
