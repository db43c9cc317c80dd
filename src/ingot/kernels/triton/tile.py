"""The parameters of a product kernel."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.kernels.api import Variant


@dataclass(frozen=True)
class Tile:
    """The parameters of a variant."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    split: int = 1
    group: int = 8
    """Row tiles that are visited before the next column of tiles: reuse in the L2 cache."""

    early: int = 0
    """1: dependents may start with the main loop; 0: after it. Only where they find room beside this kernel."""

    @staticmethod
    def of(variant: Variant) -> Tile:
        """The tile that a Variant's text describes."""
        return Tile(**{_LONG[key]: value for key, value in variant.params})

    def variant(self, tactic: str) -> Variant:
        """The inverse of :meth:`of`."""
        return Variant(tactic, tuple((short, getattr(self, long)) for short, long in _LONG.items()))

    def shared(self, itemsize: int) -> int:
        """Shared memory of the operand tiles in flight, bytes."""
        return max(self.stages, 1) * (self.m + self.n) * self.k * itemsize


_LONG = {
    "bm": "m",
    "bn": "n",
    "bk": "k",
    "warps": "warps",
    "stages": "stages",
    "split": "split",
    "group": "group",
    "early": "early",
}
