"""Stream-K: which tiles could have the steps of their last waves dealt out among all blocks.

On an H200 none of them was faster than the best tile without, in 17 layers (docs/performance.md), so ``cuda.hopper``
does not offer them: builds would only lose time. They compile and run like any other variant.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Target
from ingot.kernels.cuda.hopper.cost import seconds
from ingot.kernels.cuda.hopper.operands import Operands
from ingot.kernels.cuda.hopper.source import shares, tile_counts
from ingot.kernels.cuda.hopper.tactic import candidates, deepest
from ingot.kernels.cuda.hopper.tile import HopperTile

_IDLE = 0.1
"""Least share of the waves that must be empty for their steps to be dealt out."""
_WAVES = 5
"""Waves up to which that can matter."""
_SHARES = 4
"""Blocks up to which a tile's steps are dealt out: one of them adds all their sums."""
_STEPS = 6
"""Fewest steps of a tile that are dealt out."""
_SIZE = 64 * 128
"""Least size of such a tile: of smaller ones more are in a wave."""


def streams(o: Operands, target: Target, bindings: Bindings) -> list[HopperTile]:
    """Tiles with their last waves dealt out, where these leave enough of a wave empty, by predicted time."""
    found = [stream for tile in candidates(o, bindings) if (stream := _stream(o, tile, target, bindings)) is not None]
    return sorted(set(found), key=lambda tile: (seconds(o, tile, target, bindings), str(tile)))


def _stream(o: Operands, tile: HopperTile, target: Target, bindings: Bindings) -> HopperTile | None:
    steps, plain = o.steps(tile), tile.cluster == tile.split == 1 and not tile.keep
    if o.beside is not None or not plain or not isinstance(steps, int) or steps < _STEPS:
        return None
    tiles = math.prod(evaluate(d, bindings) for d in tile_counts(o, tile))
    blocks = target.sms * tile.resident
    idle = 1 - tiles / (-(-tiles // blocks) * blocks)
    if idle < _IDLE or tiles > _WAVES * blocks or tile.m * tile.n < _SIZE:
        return None
    if blocks > _SHARES * tiles or (tiles < blocks and shares(o, tile) < 2):
        return None
    return deepest(replace(tile, stages=2, stream=1), itemsize(o.a.dtype))
