"""``cuda.transpose``: maps whose inputs and outputs run along different axes, through tiles in shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, divisible, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.maps.emit import Refused
from ingot.kernels.cuda.maps.plan import plan_map
from ingot.kernels.cuda.maps.tile_source import Tile, TileSource
from ingot.kernels.cuda.maps.tiles import TilePlan, plan_tiles
from ingot.kernels.cuda.maps.weight import BLOCK_START, CLOCK
from ingot.kernels.cuda.nvrtc import compile_cuda

_ENTRY = "ingot_transpose"
_BLOCK = 256
_CACHED = 24e6
"""Bytes that mostly come from the second-level cache."""
_LARGE_TILE_BYTES = 2
"""Largest elements for which a tile of 64 x 64 leaves room for several blocks on an SM."""


@dataclass(frozen=True)
class TransposeTactic:
    """Copies and pointwise maps between layouts, one tile per block."""

    name: str = "cuda.transpose"
    kinds: frozenset[Kind] = frozenset({Kind.MAP})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes when some input runs along another axis than the outputs."""
        tiles = _tiles(region)
        if isinstance(tiles, No):
            return No(tiles.reason, node=region.name)
        try:
            _source(region, Tile(32, 1, 1, _BLOCK))
        except Refused as refused:
            return No(refused.no.reason, node=region.name)
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tile sizes and vector widths, the likeliest first."""
        found = []
        for size, most in ((32, 4), (64, 8)):
            if size == 64 and _widest_element(region) > _LARGE_TILE_BYTES:
                continue
            load, store = _lanes(region, size, most, loading=True), _lanes(region, size, most, loading=False)
            for pair in dict.fromkeys(((load, store), (min(load, 2), min(store, 2)), (1, 1))):
                params = (("tile", size), ("load", pair[0]), ("store", pair[1]), ("block", _BLOCK))
                found.append(Variant(self.name, params))
        return sorted(found, key=lambda v: self.estimate(region, v, target, bindings))

    def source(self, region: Region, variant: Variant, target: Target) -> str:
        """CUDA C++ of a variant."""
        return _source(region, _cut(variant)).text

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = _source(region, _cut(variant))
        cubin = compile_cuda(source.text, _ENTRY, target).cubin
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((Kernel(_ENTRY, cubin, (source.grid, 1, 1), variant["block"], 0, source.arguments, pdl),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Launch, plus the longest of memory traffic, instruction issue and block starts, plus one block's work.

        The factors fit an H200: 0.85 of the copy bandwidth, less with small tiles; some 55 instructions for an
        element whose loads and stores are not vectors.
        """
        cut, tiles = _cut(variant), _planned(region)
        fill = 1.0
        for axes in (tiles.along, tiles.across):
            size = max(evaluate(tiles.size(axes), bindings), 1)
            fill *= size / (-(-size // cut.size) * cut.size)
        blocks = evaluate(_source(region, cut).grid, bindings)
        total = region_bytes(region, bindings)
        rate = target.bandwidth * (0.85 if cut.size == 64 else 0.75) * (1.3 if total < _CACHED else 1.0)
        traffic = total / (rate * min(1.0, 0.3 + fill))
        elements = blocks * cut.size * cut.size * (0.3 + 0.7 * fill)
        issue = elements * (13 / cut.load + 26 / cut.store + 16) / (target.sms * 128 * CLOCK)
        rounds = cut.size * cut.size / (cut.block * min(cut.load, cut.store)) * min(1.0, 4 * target.sms / blocks)
        return LAUNCH + max(traffic, issue, blocks * BLOCK_START) + 0.2e-6 + rounds * 0.08e-6


def _tiles(region: Region) -> TilePlan | No:
    plan = plan_map(region)
    return plan if isinstance(plan, No) else _tiled(region)


@lru_cache(maxsize=512)
def _tiled(region: Region) -> TilePlan | No:
    plan = plan_map(region)
    assert not isinstance(plan, No)
    return plan_tiles(plan)


def _planned(region: Region) -> TilePlan:
    tiles = _tiles(region)
    assert isinstance(tiles, TilePlan), tiles
    return tiles


@lru_cache(maxsize=512)
def _source(region: Region, cut: Tile) -> TileSource:
    return TileSource(_planned(region), cut, _ENTRY)


def _cut(variant: Variant) -> Tile:
    return Tile(variant["tile"], variant["load"], variant["store"], variant["block"])


def _widest_element(region: Region) -> int:
    return max(dtypes.itemsize(region.spec_of[name].dtype) for name, _ in _planned(region).staged)


def _lanes(region: Region, size: int, most: int, *, loading: bool) -> int:
    """Widest vectors along the loads' or the stores' axis that memory allows."""
    tiles = _planned(region)
    count = tiles.size(tiles.across if loading else tiles.along)
    names = {name for name, _ in tiles.staged} if loading else set(region.outputs)
    lanes = most
    while lanes > 1:
        if divisible(count, lanes):
            cut = Tile(size, lanes if loading else 1, 1 if loading else lanes, _BLOCK)
            source = _source(region, cut)
            widths = [a.width for a in (source.loads if loading else source.accesses) if a.name in names]
            if widths and max(widths) == lanes:
                return lanes
        lanes //= 2
    return 1
