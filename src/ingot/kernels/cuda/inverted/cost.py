"""Which variants of an inverted-residual kernel there are, and what they cost."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Region
from ingot.kernels.api import Target
from ingot.kernels.cost import LAUNCH, largest_cluster, shared_limit, shared_per_sm, threads_per_sm
from ingot.kernels.cuda.inverted.plan import InvertedPlan, plan_inverted
from ingot.kernels.cuda.inverted.tile import InvertedTile

_LEAST_CC = 80
_HEIGHTS = (1, 2, 4, 7, 8)
_WIDTHS = (4, 7, 8, 14, 16, 28)
_CHUNKS = (16, 32, 48, 64, 80, 96, 128, 144, 192)
_MOST_RESULTS = 128
"""Pixels of a tile's result."""
_MOST_SUMS = 8
"""Units of 16 by 16 sums that a warp keeps in registers."""
_THREADS = (128, 256, 512)
_MOST_SEEN = 8
"""Most pixels made for one of the result; by taps alone, with stride 2, there are four."""
_FILE = 65536
_REGISTERS = 64
"""Of a thread, as the compiler needs them."""
_FIXED = 0.75e-6
"""Seconds of a block beside what follows. These are fitted to 240 measured variants of MobileNetV2's blocks (H200)."""
_EACH_ALONE = 0.62e-9
"""Seconds for an instruction of the busiest warp, whose results it waits for."""
_EACH_ISSUED = 0.48e-9
"""Seconds for an instruction that each of an SM's four schedulers issues."""
_EACH_BYTE_SENT = 43e-12
"""Seconds for a byte of sums that goes from an SM to the others of its cluster."""
_EACH_BYTE_OF_WEIGHTS = 12e-12
"""Seconds for a byte of weights that an SM's blocks fetch, most of it before they wait."""
_EACH_BYTE_OF_IMAGE = 36e-12
"""Seconds for a byte of the image that an SM's blocks fetch."""
_EACH_PART = 13e-9
"""Seconds for a sum's part that a thread adds up in the end."""


def accepts(region: Region, target: Target) -> Answer:
    """Whether one kernel can run the Region: 16-bit floats, weights that fit in the shared memory of its blocks."""
    if target.cc < _LEAST_CC:
        return No(f"{target.name} is older than sm_80")
    plan = plan_inverted(region)
    if isinstance(plan, No):
        return plan
    clusters = largest_cluster(target) > 1
    where = "a cluster of blocks" if clusters else f"a block, and {target.name} has no clusters"
    return YES if tiles(plan, target) else No(f"the weights do not fit in the shared memory of {where}")


@lru_cache(maxsize=256)
def tiles(plan: InvertedPlan, target: Target) -> tuple[InvertedTile, ...]:
    """Every variant whose blocks are busy and whose tensors fit."""
    height, width = plan.size
    clusters = range(1, largest_cluster(target) + 1)
    found = []
    areas = itertools.product({min(h, height) for h in _HEIGHTS}, {min(w, width) for w in _WIDTHS})
    for (h, w), cluster, chunk in itertools.product(areas, clusters, _CHUNKS):
        if h * w > _MOST_RESULTS or not _even(plan, cluster, chunk):
            continue
        if plan.widen is None and cluster * chunk < plan.hidden:
            continue  # the image is not widened in parts: a block has all of its channels
        every = (InvertedTile(plan, h, w, cluster, chunk, threads) for threads in _THREADS)
        found += [tile for tile in every if _fits(tile, target)]
    return tuple(found)


def _even(plan: InvertedPlan, cluster: int, chunk: int) -> bool:
    """Whether blocks and parts of so many channels leave little over."""
    pieces = -(-plan.hidden // 16)
    share = -(-pieces // cluster)
    chunks = -(-share // (chunk // 16))
    slice_ = chunks * (chunk // 16)
    return chunk // 16 <= share and slice_ * cluster <= 1.15 * pieces and -(-pieces // slice_) == cluster


def _fits(tile: InvertedTile, target: Target) -> bool:
    """Whether shared memory and registers are enough, and threads have something to do."""
    if tile.shared > shared_limit(target) or tile.rounds_of_product > _MOST_SUMS:
        return False
    small = tile.results < min(math.prod(tile.plan.size), 16)
    return not (small and tile.pixels > _MOST_SEEN * tile.results)


def seconds(tile: InvertedTile, target: Target, batch: int) -> float:
    """Predicted seconds: waves of blocks, each of which goes one step after the other, or all traffic."""
    plan, g = tile.plan, tile.plan.geometry
    blocks = batch * math.prod(tile.tiles) * tile.cluster
    by_threads = min(threads_per_sm(target) // tile.threads, _FILE // (tile.threads * _REGISTERS))
    resident = max(1, min(shared_per_sm(target) // (tile.shared + 1024), by_threads))
    per_sm = -(-blocks // target.sms)
    together, waves = min(resident, per_sm), -(-per_sm // resident)
    item = itemsize(plan.x.dtype)
    instructions = tile.chunks * _instructions(tile)
    fetched = tile.slice * (tile.depth + tile.cols + g.taps) * _EACH_BYTE_OF_WEIGHTS
    fetched += tile.pixels * tile.depth * _EACH_BYTE_OF_IMAGE
    sent = tile.results * plan.cols * 4 * _EACH_BYTE_SENT if tile.cluster > 1 else 0.0
    once = instructions * (_EACH_ALONE + _EACH_ISSUED * together * tile.warps / 4)
    once += together * (item * fetched + sent) + tile.share * tile.cluster / tile.threads * _EACH_PART
    image = math.prod(int(size) for size in g.input) * plan.channels + math.prod(plan.size) * plan.cols
    return LAUNCH + _FIXED + max(waves * once, batch * image * item / target.bandwidth)


def _instructions(tile: InvertedTile) -> int:
    """Of the busiest warp, for one chunk."""
    expansion = tile.expansion(tile.wide_expansion) if tile.plan.widen else 0
    return expansion + tile.depthwise(tile.tall) + tile.rounds_of_product * (tile.chunk // 16 * 4 + 20)
