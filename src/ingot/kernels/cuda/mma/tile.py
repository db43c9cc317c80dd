"""The parameters of an mma.sync product kernel, and what they cost in shared memory."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.kernels.api import Target, Variant
from ingot.kernels.cost import shared_per_sm, threads_per_sm

PIECE = 16
"""Bytes that lie together in shared memory: what ldmatrix takes of a row."""
_PAD = 8
"""Numbers between the rows of a staging area, so that rows start eight banks apart."""
_MOST_CHUNK = 64
_REGISTERS = 65536
_WORKING = 64
"""Registers of a thread beside its sums."""


@dataclass(frozen=True)
class MmaTile:
    """The parameters of a variant."""

    m: int
    """Rows."""
    n: int
    """Columns."""
    depth: int
    """Bytes of the depth of one step: 32, 64 or 128."""
    warps_m: int
    """Warps along the rows."""
    warps_n: int
    """Warps along the columns."""
    stages: int = 2
    """Tiles in flight; two where they go through registers."""
    split: int = 1
    """Blocks that share the depth of a tile; the last one adds up."""

    @staticmethod
    def of(variant: Variant) -> MmaTile:
        """The tile that a Variant's text describes."""
        return MmaTile(**{_LONG[key]: value for key, value in variant.params})

    def variant(self, tactic: str) -> Variant:
        """The inverse of :meth:`of`."""
        return Variant(tactic, tuple((short, getattr(self, long)) for short, long in _LONG.items()))

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.warps_m * self.warps_n

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    def resident(self, target: Target) -> int:
        """Blocks per SM that the compiler is to leave registers for."""
        registers = self.m * self.n // self.threads + _WORKING
        shared = shared_per_sm(target) // self.shared
        return max(min(_REGISTERS // (registers * self.threads), shared, threads_per_sm(target) // self.threads), 1)

    @property
    def warp_m(self) -> int:
        """Rows of a warp, a multiple of 16."""
        return self.m // self.warps_m

    @property
    def warp_n(self) -> int:
        """Columns of a warp, a multiple of 16."""
        return self.n // self.warps_n

    @property
    def chunk(self) -> int:
        """Columns of 16 rows that a warp finishes at a time: 16, 32 or 64."""
        return min(self.warp_n & -self.warp_n, _MOST_CHUNK)

    @property
    def shared(self) -> int:
        """Dynamic shared memory, bytes: operands of all stages; afterwards sums that change hands."""
        operands = self.stages * (self.m + self.n) * self.depth
        return max(operands, self.warps * 16 * (self.chunk + _PAD) * 4)


def stages_of(target: Target) -> tuple[int, ...]:
    """Numbers of stages worth a try: deep rings need asynchronous copies, which sm_80 brought."""
    return (3, 4) if target.cc >= 80 else (2,)


_LONG = {
    "bm": "m",
    "bn": "n",
    "bd": "depth",
    "wm": "warps_m",
    "wn": "warps_n",
    "st": "stages",
    "sk": "split",
}
