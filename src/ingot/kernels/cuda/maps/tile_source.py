"""CUDA C++ of a tiled transpose: a tile of each staged input through shared memory, then the map itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ingot.graph import dtypes
from ingot.graph.dims import Dim, ceildiv, maximum
from ingot.kernels.api import Argument
from ingot.kernels.cuda.maps.algebra import canonical, times
from ingot.kernels.cuda.maps.emit import Emitter
from ingot.kernels.cuda.maps.helpers import MAP_HELPERS
from ingot.kernels.cuda.maps.index import Coord
from ingot.kernels.cuda.maps.moves import MOVES
from ingot.kernels.cuda.maps.pull import Access, Puller
from ingot.kernels.cuda.maps.source import wrapped
from ingot.kernels.cuda.maps.tiles import TilePlan

_BANK = 4
"""Bytes of a bank of shared memory: rows are one longer than the tile, so columns spread over banks."""


@dataclass(frozen=True)
class Tile:
    """Elements of a (square) tile along each axis, lanes of loads and of stores, threads of a block."""

    size: int
    load: int
    store: int
    block: int


class TileSource:
    """Emits one kernel for a TilePlan."""

    def __init__(self, tiles: TilePlan, cut: Tile, entry: str) -> None:
        self.tiles, self.cut = tiles, cut
        self.em = Emitter(tiles.plan.region)
        self.puller = Puller(tiles.plan.region, self.em, MOVES)
        self.sizes = {"a": tiles.size(tiles.along), "b": tiles.size(tiles.across)}
        counts = {n: canonical(maximum(1, ceildiv(size, cut.size))) for n, size in self.sizes.items()}
        self.grid: Dim = canonical(maximum(1, times(tiles.outer, counts["a"], counts["b"])))
        self._blocks(counts)
        for position, (name, offset) in enumerate(tiles.staged):
            self._fill(position, name, offset)
        self.em.line("__syncthreads();")
        self.em.line("pdl_trigger();")
        self.loads = tuple(self.puller.accesses)
        self._drain()
        self.text = MAP_HELPERS + wrapped(self.em, tiles.plan, cut.block, entry)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What to pass to the kernel."""
        return self.em.text.arguments

    @property
    def accesses(self) -> tuple[Access, ...]:
        """Loads and stores that were written."""
        return tuple(self.puller.accesses)

    def _blocks(self, counts: dict[str, Dim]) -> None:
        """Which tile of which matrix the block has."""
        em, size = self.em, self.cut.size
        along, across = em.text.number(counts["a"]), em.text.number(counts["b"])
        em.line("linear_t t = blockIdx.x;")
        em.line(f"const linear_t a0 = t % {along} * {size};")
        em.line(f"t /= {along};")
        em.line(f"const linear_t b0 = t % {across} * {size};")
        em.line(f"t /= {across};")
        em.line(f"const bool some = t < {em.text.number(self.tiles.outer)};")
        em.line("pdl_wait();")

    def _pitch(self, name: str) -> int:
        size = dtypes.itemsize(self.tiles.plan.region.spec_of[name].dtype)
        return self.cut.size + max(_BANK // size, 1)

    def _fill(self, position: int, name: str, offset: Coord) -> None:
        """Reads a tile along the input's own axis."""
        em, cut = self.em, self.cut
        kind = dtypes.TABLE[self.tiles.plan.region.spec_of[name].dtype].cuda
        pitch = self._pitch(name)
        em.line(f"__shared__ {kind} tile{position}[{cut.size * pitch}];")
        with self._each("b", "a", cut.load), em.walking(self.tiles.walks({"b": cut.load})):
            value = self.puller.load(name, offset)
            if value.lanes:
                em.each_lane(lambda j: f"tile{position}[(row + {j}) * {pitch} + column] = {value.at(j)};")
            else:
                em.line(f"tile{position}[row * {pitch} + column] = {value.at('')};")

    def _drain(self) -> None:
        """Computes and stores along the output's own axis."""
        em, cut = self.em, self.cut
        for position, key in enumerate(self.tiles.staged):
            self.puller.staged[key] = f"tile{position}[row * {self._pitch(key[0])} + column[]]"
        with self._each("a", "b", cut.store), em.walking(self.tiles.walks({"a": cut.store})):
            self.puller.settle(self.tiles.space.outputs, self.tiles.index())
            for name in self.tiles.space.outputs:
                self.puller.write(name, self.tiles.index())

    @contextmanager
    def _each(self, fast: str, slow: str, lanes: int) -> Iterator[None]:
        """A loop over the tile, threads side by side along ``fast``; ``row`` counts along b, ``column`` along a."""
        em, cut = self.em, self.cut
        local = {"a": "column", "b": "row"}
        steps = cut.size * cut.size // (lanes * cut.block)
        em.line("#pragma unroll")
        with em.block(f"for (int i = 0; i < {steps}; ++i)"):
            em.line(f"const int unit = threadIdx.x + i * {cut.block};")
            em.line(f"const int {local[fast]} = unit % {cut.size // lanes} * {lanes};")
            em.line(f"const int {local[slow]} = unit / {cut.size // lanes};")
            em.line("const linear_t a = a0 + column, b = b0 + row;")
            limits = [f"{name} < {em.text.number(size)}" for name, size in self.sizes.items()]
            with em.block(f"if (some && {' && '.join(limits)})"):
                yield
