"""The tiles worth a try for one product, the likeliest first."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import lru_cache

from ingot.kernels.api import Target
from ingot.kernels.cost import ProductShape, product_seconds
from ingot.kernels.triton.tile import Tile

_LIMIT = 48
_HEAD = 12
"""The first so many differ in more than details: a tuner with little time measures these."""
_PER_SHAPE = 3
"""Most variants that differ in warps, stages and split alone."""
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
_UNROLLED = 512
"""Multiply-adds of a thread that Triton writes out for one step where there are no tensor cores for it."""
_MAX_ACCUMULATOR = 192
"""Registers per thread that the accumulator may take."""


def _power(value: int, low: int, high: int) -> int:
    """The least power of two not below ``value``, within bounds."""
    return max(low, min(high, 1 << max(value - 1, 0).bit_length()))


@lru_cache(maxsize=4096)
def shortlist(shape: ProductShape, target: Target, limit: int = _LIMIT) -> tuple[Tile, ...]:
    """Tiles by predicted time: first a diverse dozen, then the best of the others with few near-duplicates."""
    timed = [(product_seconds(shape, tile, target), tile) for tile in _candidates(shape, target)]
    fitting = [each for each in timed if not math.isinf(each[0])]
    fitting.sort(key=lambda each: (each[0], -each[1].stages, abs(each[1].warps - 4)))
    ranked = [tile for _, tile in fitting]
    head = _thinned(ranked, _HEAD, 1, 2)
    taken = set(head)
    rest = [t for t in ranked if t not in taken]
    return (*head, *_thinned(rest, limit - len(head), _PER_SHAPE, limit))


def _thinned(ranked: list[Tile], limit: int, per_shape: int, per_block: int) -> list[Tile]:
    """The best ``limit`` tiles with at most so many of one (m, n, k) and of one (m, n)."""
    chosen: list[Tile] = []
    shapes: Counter[tuple[int, int, int]] = Counter()
    blocks: Counter[tuple[int, int]] = Counter()
    for tile in ranked:
        shape, block = (tile.m, tile.n, tile.k), (tile.m, tile.n)
        if len(chosen) < limit and shapes[shape] < per_shape and blocks[block] < per_block:
            shapes[shape] += 1
            blocks[block] += 1
            chosen.append(tile)
    return chosen


def _candidates(shape: ProductShape, target: Target) -> list[Tile]:
    largest_m, largest_n = _power(shape.rows, 16, 256), _power(shape.cols, 16, 256)
    sizes_m = [m for m in (16, 32, 64, 128, 256) if m <= largest_m]
    sizes_n = [n for n in (16, 32, 64, 128, 256) if n <= largest_n]
    fp32 = shape.itemsize == 4
    wanted = (16, 32, 64) if fp32 else (32, 64, 128)
    least = 32 if shape.itemsize == 1 else 16  # what one instruction of the tensor cores takes
    sizes_k = [b for b in wanted if b <= _power(shape.chunk, 16, 128)] or [least]
    exact = [b for b in sizes_k if shape.chunk % b == 0]
    found = []
    for m, n, block_k in itertools.product(sizes_m, sizes_n, exact or sizes_k):
        if m * n > 256 * 128 or (m == 256 and n == 16) or (m == 16 and n == 256 and fp32):
            continue
        steps = shape.steps(block_k)
        depths = (2,) if target.cc < 80 else (2, 3, 4, 5, 6)  # deeper pipelines are made of asynchronous copies
        for warps, stages, split in itertools.product((2, 4, 8), depths, _splits(shape, m, n, steps, target)):
            if target.cc < 80 and m * n * block_k > _UNROLLED * 32 * warps:
                continue
            accumulator = m * n // (32 * warps)
            if not 4 <= accumulator <= (96 if fp32 else _MAX_ACCUMULATOR):
                continue
            if stages > 2 and stages > math.ceil(steps / split) + 1:
                continue
            blocks = math.ceil(shape.rows / m) * math.ceil(shape.cols / n) * shape.batch * split
            found.append(Tile(m, n, block_k, warps, stages, split, early=int(blocks <= target.sms)))
    return found


def _splits(shape: ProductShape, m: int, n: int, steps: int, target: Target) -> list[int]:
    """Numbers of parts of the depth: only while blocks are few, and without empty parts."""
    if not shape.splittable:
        return [1]
    tiles = math.ceil(shape.rows / m) * math.ceil(shape.cols / n) * shape.batch
    fitting = [s for s in _SPLITS if s == 1 or (s <= steps // 2 and tiles * s <= 4 * target.sms)]
    return [s for s in fitting if math.ceil(steps / math.ceil(steps / s)) == s]
