"""The parameters of a chain kernel, and what they cost in shared memory and registers."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.kernels.api import Variant
from ingot.kernels.cuda.chain.plan import ChainPlan
from ingot.kernels.cuda.hopper.tile import SHARED_PER_BLOCK

BOX = 64 * 128
"""Bytes of 64 rows of 64 elements."""
_SLACK = 1024
_REGISTERS = 65536
_PRODUCER_REGISTERS = 40
_WORKING = 88
"""Registers of a consumer beside the second product's sums: those of the first 32, its results 16, the rest."""
_INSTRUCTION = 30
"""Registers of a wgmma beside its accumulators."""
MOST_SLOTS = 10


@dataclass(frozen=True)
class ChainTile:
    """The parameters of a variant."""

    units: int
    """Times 64 rows per consumer warpgroup."""
    groups: int
    """Consumer warpgroups, at most three."""
    images: int
    """Tiles of the input that a warpgroup has room for."""
    slots: int
    """Pieces of 64 rows and columns, of residual and results, that a warpgroup has room for."""
    pieces: int
    """Pieces of the weights that there is room for, two to a chunk; where it is all of them, they stay."""
    cluster: int = 1
    """Blocks that share each chunk of the weights."""
    hints: int = 0
    """1: the residual is marked as passing through the L2 cache; 2: the first result, too."""

    @staticmethod
    def of(variant: Variant) -> ChainTile:
        """The tile that a Variant's text describes."""
        return ChainTile(**{_LONG[key]: value for key, value in variant.params})

    def variant(self, tactic: str) -> Variant:
        """The inverse of :meth:`of`."""
        return Variant(tactic, tuple((short, getattr(self, long)) for short, long in _LONG.items()))

    @property
    def rows(self) -> int:
        """Rows of a block's tile."""
        return 64 * self.units * self.groups

    @property
    def threads(self) -> int:
        """Of a block: the producer's warpgroup and the consumers'."""
        return 128 * (1 + self.groups)

    @property
    def registers(self) -> tuple[int, int]:
        """Registers per producer and consumer thread after they have been shared out."""
        pool = self.entry_registers // 8 * 8 * (1 + self.groups)
        return _PRODUCER_REGISTERS, min((pool - _PRODUCER_REGISTERS) // self.groups // 8 * 8, 240)

    @property
    def entry_registers(self) -> int:
        """Registers per thread at the start."""
        return min(_REGISTERS // self.threads // 8 * 8, 248)

    def kept(self, plan: ChainPlan) -> bool:
        """Whether all chunks of the weights stay in shared memory."""
        return self.pieces == 2 * chunks(plan)

    def shared(self, plan: ChainPlan) -> int:
        """Dynamic shared memory, bytes."""
        boxes = self.groups * (self.images * self.units * slices(plan) + self.slots)
        barriers = 16 * (self.pieces + self.groups * (self.images + self.slots))
        return self.weight_bytes(plan) + boxes * BOX + barriers + _SLACK

    def weight_bytes(self, plan: ChainPlan) -> int:
        """Room for the weights; with an odd number of pieces both kinds lie in each place by turns."""
        first, second = piece_bytes(plan)
        return self.pieces * max(first, second) if self.pieces % 2 else self.pieces // 2 * (first + second)

    def fits(self, plan: ChainPlan) -> bool:
        """Whether a block has the shared memory and the registers it needs."""
        sums = plan.narrow // 2
        held = self.units * sums + _WORKING <= self.registers[1]
        return held and sums + _INSTRUCTION <= self.entry_registers and self.shared(plan) <= SHARED_PER_BLOCK


def slices(plan: ChainPlan) -> int:
    """Slices of 64 input channels."""
    return sum(-(-depth // 64) for depth in plan.depths)


def chunks(plan: ChainPlan) -> int:
    """Chunks of 64 columns of the first product."""
    return -(-plan.wide // 64)


def piece_bytes(plan: ChainPlan) -> tuple[int, int]:
    """Weights of the first and of the second product for one chunk."""
    return slices(plan) * BOX, plan.narrow * 128


_LONG = {
    "mu": "units", "wg": "groups", "xs": "images", "ss": "slots", "wp": "pieces", "cl": "cluster", "eh": "hints",
}  # fmt: skip
