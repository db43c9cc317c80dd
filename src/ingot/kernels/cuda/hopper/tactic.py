"""``cuda.hopper``: convolutions and matrix products on sm_90 through the copy engine and wgmma.

Operands are 16-bit floats, FP8 or 8-bit integers.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cuda.hopper.cost import seconds
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.source import ENTRY, generate, tile_counts, workspaces
from ingot.kernels.cuda.hopper.sums import sum_operands
from ingot.kernels.cuda.hopper.tile import DEALT, WGMMA_BYTES, HopperTile
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import check_epilogue, quick_math
from ingot.kernels.cuda.source import Source

_LIMIT = 40
_PER_BLOCK = 3
"""Most variants of one tile size at the head of the list."""
_FORMS = (
    # units, groups, ping
    (1, 1, 0), (2, 1, 0), (1, 2, 0), (2, 2, 0), (1, 3, 0), (1, 2, 1), (2, 2, 1),
)  # fmt: skip
_COLUMNS = (32, 64, 96, 128, 160, 192, 256)
_ALONE = 160
"""Columns that are tried only where they are enough for all, and 128 are not."""
_SLIDING = 32
"""Fewest bytes of channels per load for taps to share it."""
_MOST_HALO = 32
_SPLITS = (2, 4, 8)
_SMS = 132
_MOST_BLOCKS = 2 * _SMS
"""Blocks up to which sharing the depth is worth a try: two for each SM."""


@dataclass(frozen=True)
class HopperTactic:
    """Warp-specialised implicit product with a generated epilogue."""

    name: str = "cuda.hopper"
    kinds: frozenset[Kind] = frozenset({Kind.CONV, Kind.SUM, Kind.GEMM})

    def accepts(self, region: Region, target: Target) -> Answer:
        """16-bit floats, FP8 or bytes on sm_90; operands aligned to 16 bytes, the depth (or B's columns) contiguous."""
        if target.cc != 90:
            return No(f"{target.name} is not sm_90")
        o = _found(region)
        if isinstance(o, No):
            return o
        return check_epilogue(o)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time, the first ones of different shapes."""
        o = _read(region)
        ranked = sorted(candidates(o, bindings), key=lambda t: (seconds(o, t, target, bindings), str(t)))
        seen: Counter[tuple[int | bool, ...]] = Counter()
        head = []
        for tile in ranked:
            key = tile.m, tile.n, tile.slide, tile.split, tile.keep > 0, tile.dealt
            seen[key] += 1
            if seen[key] <= _PER_BLOCK:
                head.append(tile)
        return [tile.variant(self.name) for tile in head[:_LIMIT]]

    def source(self, region: Region, variant: Variant, target: Target) -> Source:
        """CUDA C++ of a variant."""
        return generate(_read(region), HopperTile.of(variant), target)

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        o, tile = _read(region), HopperTile.of(variant)
        source = generate(o, tile, target)
        cubin = compile_cuda(source.text, ENTRY, target, options=quick_math(region), specific=True).cubin
        shared = tile.shared(itemsize(o.a.dtype))
        grid, blocks = (source.grid, 1, 1), tile.cluster * tile.split
        kernel = Kernel(ENTRY, cubin, grid, tile.threads, shared, source.arguments, Pdl.TRIGGERS, blocks)
        return Program((kernel,), workspaces(tile, source.grid))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        return seconds(_read(region), HopperTile.of(variant), target, bindings)


def _found(region: Region) -> Operands | No:
    return sum_operands(region) if region.kind is Kind.SUM else operands(region)


@lru_cache(maxsize=256)
def _read(region: Region) -> Operands:
    o = _found(region)
    assert isinstance(o, Operands), o
    return o


def candidates(o: Operands, bindings: Bindings) -> list[HopperTile]:
    """Every tile that fits and is not larger than the product asks for."""
    rows, channels = evaluate(o.rows, bindings), evaluate(o.channels, bindings)
    item = itemsize(o.a.dtype)
    depth = _slice(channels, o)
    total = o.taps * -(-channels // depth)
    found = []
    for (units, groups, ping), n, (per_stage, slide) in itertools.product(_FORMS, _COLUMNS, _stages(o, depth, total)):
        if not slide and per_stage * depth * item > 128 and units * groups * n > 128:
            continue  # a long stage pays where tiles are small
        if n == _ALONE and not 128 < o.cols <= n:
            continue
        if n >= 2 * max(o.cols, 32) or (n > o.cols and n - o.cols >= 64) or (o.columns_inner and n % 64):
            continue
        for cluster, resident in ((1, 1), (1, 2), (2, 1)):
            tile = deepest(
                HopperTile(units, groups, ping, n, depth, per_stage, 2, cluster, resident, slide=slide), item
            )
            if tile is None or (tile.m >= 2 * rows and tile.m > 64):
                continue
            if cluster > 1 and (o.columns_inner or rows <= tile.m):
                continue
            found.append(tile)
    shares = [shared for tile in found for shared in _shares(o, tile, bindings)]
    ways = [dealt for dealt in (1, 2) if o.can_deal(dealt)]
    alone = [replace(t, dealt=d) for t in found if t.cluster == 1 for d in ways if t.n % (DEALT * d) == 0]
    dealt = [deeper for tile in alone if (deeper := deepest(tile, item)) is not None]
    if o.scales is not None:  # both products have sums of their own
        return [t for t in [*dealt, *_all_kept(o, dealt, bindings)] if t.fits(item, t.units * t.n // 2)]
    if item == 1 and dealt:  # staged sums have four times the size of the results
        found = [tile for tile in found if tile.cluster > 1]
    found += dealt
    return found + shares + _all_kept(o, found, bindings)


def _all_kept(o: Operands, tiles: Sequence[HopperTile], bindings: Bindings) -> list[HopperTile]:
    return [kept for tile in tiles if (kept := _kept(o, tile, bindings)) is not None]


def _kept(o: Operands, tile: HopperTile, bindings: Bindings) -> HopperTile | None:
    """The tile with B staying in shared memory, where there is room for it and blocks have several tiles."""
    steps, item = o.steps(tile), itemsize(o.a.dtype)
    overlaps = tile.ping or tile.resident > 1  # of the others none was ever the fastest
    if not isinstance(steps, int) or tile.cluster > 1 or o.batch != 1 or not overlaps or tile.n < min(64, o.cols):
        return None
    tiles_m, tiles_n, _ = (evaluate(d, bindings) for d in tile_counts(o, tile))
    blocks = _SMS * tile.resident
    if tiles_n > blocks or tiles_m * tiles_n <= blocks:
        return None
    return deepest(replace(tile, stages=2, keep=steps), item)


def _shares(o: Operands, tile: HopperTile, bindings: Bindings) -> list[HopperTile]:
    """The tile with its depth shared out among the blocks of a cluster, where tiles are few."""
    steps = o.steps(tile)
    alone = o.beside is None and not tile.ping and tile.cluster == tile.resident == 1
    if not alone or not isinstance(steps, int) or tile.units * tile.n > 128:
        return []
    tiles = math.prod(evaluate(d, bindings) for d in tile_counts(o, tile))
    counts = [s for s in _SPLITS if s <= steps // 2 and tiles * s <= _MOST_BLOCKS and -(-steps // -(-steps // s)) == s]
    return [shared for s in counts if (shared := replace(tile, split=s, persistent=0)).fits(itemsize(o.a.dtype))]


def _slice(channels: int, o: Operands) -> int:
    """Elements of the depth per load: as many as the channels fill without much waste; a single tap's fill a wgmma."""
    if o.columns_inner:
        return 64
    widest = 128 // itemsize(o.a.dtype)
    narrow = (widest // 8,) if o.taps > 1 else ()
    return next((width for width in (*narrow, widest // 4, widest // 2) if channels <= width), widest)


def _stages(o: Operands, width: int, total: int) -> list[tuple[int, int]]:
    """Loads per stage (128 or 256 bytes of the depth, or the little there is of it), and rows slid over."""
    row = width * itemsize(o.a.dtype)
    wanted = [128 // row, 256 // row]
    plain = [(count, 0) for count in wanted if count == wanted[0] or count <= total]
    # Loads past the depth's end bring zeros, and take longer than others.
    least = -(-total * row // WGMMA_BYTES) * WGMMA_BYTES // row
    exact = [n for n in range(1, wanted[0]) if n * row % WGMMA_BYTES == 0 and (total % n == 0 or n == least)]
    plain = [*((count, 0) for count in exact[-1:]), *plain]
    slides = o.halo > 0 and row >= _SLIDING and o.halo <= _MOST_HALO
    return [*plain, (o.filter.taps[1], o.halo)] if slides else plain


def deepest(tile: HopperTile, item: int) -> HopperTile | None:
    """The tile with as many stages as fit."""
    deepest_first = (replace(tile, stages=stages) for stages in range(8, 1, -1))
    return next((deeper for deeper in deepest_first if deeper.fits(item)), None)


TACTICS: tuple[HopperTactic, ...] = (HopperTactic(),)
