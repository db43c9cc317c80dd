"""The parameters of a kernel for few rows, and what it costs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from ingot.graph.dims import Bindings, evaluate
from ingot.kernels.api import Target, Variant
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.mma.operands import MmaOperands

MOST_ROWS = 8
_THREADS = (64, 128, 256)
_COLUMNS = (1, 2, 4)
_GROUPS = (1, 2, 4, 8, 16, 32)
_FEWEST_LANES = 4
_MOST_HELD = 8
"""Accesses of a thread that are on their way together."""
_MOST_SHARED = 16 << 10
_USUAL_DEPTH = 512
"""Taken for a depth that is not known."""
_WAY = 0.9e-6
"""Seconds from the wait to A, through the lanes, and out again."""
_AGAIN = 0.5e-6
"""Seconds that a chunk of the depth behind the first one waits for its weights."""
_CLOCK = 1.7e9
_LANES = 128
"""Instructions that an SM issues per clock, times the lanes of each."""
_MEMORY = 0.75
"""Share of the memory's bandwidth that is reached."""
_RESIDENT = 1024
"""Threads of an SM that registers leave room for."""


@dataclass(frozen=True)
class GemvTile:
    """The parameters of a variant."""

    lanes: int
    """Threads that share a column's depth."""
    columns: int
    """Columns of a thread whose depth is contiguous; 1 where the columns are."""
    threads: int
    held: int
    """Accesses along the depth whose weights are fetched before the kernel waits."""

    @staticmethod
    def of(variant: Variant) -> GemvTile:
        """The tile that a Variant's text describes."""
        return GemvTile(variant["ln"], variant["co"], variant["th"], variant["he"])

    def variant(self, tactic: str) -> Variant:
        """The inverse of :meth:`of`."""
        params = (("ln", self.lanes), ("co", self.columns), ("th", self.threads), ("he", self.held))
        return Variant(tactic, params)

    def block_columns(self, o: MmaOperands) -> int:
        """Columns of a block."""
        return self.threads // self.lanes * (o.b.width if o.b.across else self.columns)

    def shared(self, o: MmaOperands) -> int:
        """Bytes of shared memory: the sums of every warp that has a part of a column's depth."""
        in_warp = 32 * self.lanes // self.threads if o.b.across else min(self.lanes, 32)
        rows = o.rows
        assert isinstance(rows, int), "the tactic refuses others"
        return self.lanes // in_warp * rows * self.block_columns(o) * 4

    def depth(self, o: MmaOperands) -> int:
        """Elements of the depth that all lanes take in one access."""
        return self.lanes * (1 if o.b.across else o.b.width)


def candidates(o: MmaOperands) -> list[GemvTile]:
    """Every tile that the product asks for."""
    depth = o.depth if isinstance(o.depth, int) else _USUAL_DEPTH
    found = []
    for threads in _THREADS:
        if o.b.across:
            forms = [(threads // groups, 1) for groups in _GROUPS if groups * o.b.width < 2 * max(o.cols, o.b.width)]
        else:
            powers = [1 << p for p in range(threads.bit_length()) if 1 << p >= _FEWEST_LANES]
            forms = [(lanes, c) for lanes, c in itertools.product(powers, _COLUMNS) if c <= o.cols]
        for lanes, columns in forms:
            tile = GemvTile(lanes, columns, threads, 1)
            accesses = max(1, math.ceil(depth / tile.depth(o)))
            if tile.depth(o) >= 2 * depth and lanes > _FEWEST_LANES:
                continue
            held = min(1 << (accesses - 1).bit_length(), _MOST_HELD // columns)
            tile = GemvTile(lanes, columns, threads, held)
            if tile.shared(o) <= _MOST_SHARED:
                found.append(tile)
    return found


def seconds(o: MmaOperands, tile: GemvTile, target: Target, bindings: Bindings) -> float:
    """Predicted seconds: the way of one result, and traffic or issue beside it."""
    depth, rows, batch = (evaluate(d, bindings) for d in (o.depth, o.rows, o.batch))
    blocks = math.ceil(o.cols / tile.block_columns(o)) * batch
    accesses = math.ceil(depth / tile.depth(o))
    chunks = math.ceil(accesses / tile.held)
    width = o.b.width * tile.columns
    # A conversion and its load's share for each weight; of A again for each row, but not for each column.
    beside = 1 if o.b.across else o.b.width
    each = width * (1.2 + rows) + rows * (1.3 * beside + 3) + 4
    share = math.ceil(blocks / target.sms)
    issue = share * tile.threads * accesses * each / (_LANES * _CLOCK)
    waves = math.ceil(share * tile.threads / _RESIDENT)
    late = (0.0 if o.b.spec.constant else _AGAIN) + (waves * chunks - 1) * _AGAIN
    memory = region_bytes(o.region, bindings) / (target.bandwidth * _MEMORY)
    sums = rows * (o.b.width if o.b.across else tile.columns) * 6 * 4 / _CLOCK
    return LAUNCH + _WAY + sums + max(issue + late, memory)
