"""The parameters of a Hopper product kernel, and what they cost in shared memory and registers."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.kernels.api import Variant

SHARED_PER_SM = 228 * 1024
SHARED_PER_BLOCK = 227 * 1024
WGMMA_BYTES = 32
"""Bytes of the depth that one wgmma takes."""
DEALT = 32
"""Columns that the four lanes of a row have, eight each."""
_RESERVED = 1024
"""Shared memory that the system takes of every resident block, and the slack to align the first stage."""
REGISTERS = 65536
"""Of an SM."""
_PRODUCER_REGISTERS = 40
WORKING = 44
"""Registers of a consumer beside its accumulators."""
_INSTRUCTION = 26
"""Registers of a wgmma beside its accumulators."""
_ADDING = 16
"""Registers of a consumer that adds what other blocks left."""


@dataclass(frozen=True)
class HopperTile:
    """The parameters of a variant."""

    units: int
    """Times 64 rows per consumer warpgroup."""
    groups: int
    """Consumer warpgroups."""
    ping: int
    """1: the two warpgroups take turns at whole tiles, one finishing while the other multiplies. 0: they share one."""
    n: int
    """Columns."""
    slice: int
    """Elements of the depth that one load brings: 16, 32, 64 or 128 bytes."""
    slices: int
    """Loads per operand and stage."""
    stages: int
    """Depth of the ring."""
    cluster: int = 1
    """Blocks, neighbours along the rows, that share each tile of B."""
    resident: int = 1
    """Blocks per SM."""
    order: int = 1
    """Row tiles that are visited before the next column of tiles."""
    persistent: int = 1
    """1: as many blocks as fit, each going on to further tiles; 0: one block per tile."""
    split: int = 1
    """Blocks of a cluster that share the depth of each tile and add up through shared memory."""
    slide: int = 0
    """Above 0: the taps along the width share one load of so many rows more than the tile has (slices: those taps)."""

    keep: int = 0
    """Above 0: all tiles of a block have the same columns; B stays in shared memory, so many stages' parts of it."""

    dealt: int = 0
    """Above 0: B's columns are dealt out so that so many times eight sums of a lane lie side by side, and are finished
    where they are."""

    stream: int = 0
    """1: the steps of the tiles that fill no whole wave are dealt out among all blocks (stream-K)."""

    @staticmethod
    def of(variant: Variant) -> HopperTile:
        """The tile that a Variant's text describes."""
        return HopperTile(**{_LONG[key]: value for key, value in variant.params})

    def variant(self, tactic: str) -> Variant:
        """The inverse of :meth:`of`."""
        given = ((short, getattr(self, long)) for short, long in _LONG.items())
        return Variant(tactic, tuple((short, value) for short, value in given if value or short not in _LATER))

    @property
    def m(self) -> int:
        """Rows."""
        return 64 * self.units * (1 if self.ping else self.groups)

    @property
    def k(self) -> int:
        """Depth of one stage."""
        return self.slice * self.slices

    @property
    def load_rows(self) -> float:
        """Rows of A that one load brings, those between the taps shared out among the loads."""
        return (self.m + self.slide) / self.slices if self.slide else self.m

    @property
    def threads(self) -> int:
        """Of a block: the producer's warpgroup and the consumers'."""
        return 128 * (1 + self.groups)

    def stage_bytes(self, itemsize: int) -> int:
        """One stage of both operands, of A alone where B is kept."""
        rows = self.m + -(-self.slide // 8) * 8
        columns = 0 if self.keep else self.n * self.slices
        return (rows * (1 if self.slide else self.slices) + columns) * self.slice * itemsize

    def kept_bytes(self, itemsize: int) -> int:
        """What of B stays."""
        return self.keep * self.n * self.slices * self.slice * itemsize

    def chunk(self, itemsize: int) -> int:
        """Columns that are finished at a time: 64 where they are staged and there is room, else 32."""
        if self.dealt:
            return DEALT * self.dealt
        wide = self.n % 64 == 0 and self.split == 1 and self.shared_with(itemsize, 64) <= self.room
        return 64 if wide else 32

    def shared_with(self, itemsize: int, chunk: int) -> int:
        """Dynamic shared memory with a staging area of ``chunk`` columns, bytes."""
        staging = 4 * self.groups * 16 * (chunk + 8) * 4 if self.split == 1 and not self.dealt else 0
        barriers = 8 * (2 * self.stages + 3)
        return self.stages * self.stage_bytes(itemsize) + self.kept_bytes(itemsize) + staging + barriers + _RESERVED

    def shared(self, itemsize: int) -> int:
        """Dynamic shared memory, bytes."""
        return self.shared_with(itemsize, self.chunk(itemsize))

    def passes(self, itemsize: int) -> int:
        """Rows of a chunk that a lane finishes part of."""
        return 2 if self.dealt else self.chunk(itemsize) // 16

    @property
    def room(self) -> int:
        """Dynamic shared memory that one block may have, bytes."""
        return min(SHARED_PER_SM // self.resident - _RESERVED, SHARED_PER_BLOCK)

    @property
    def entry_registers(self) -> int:
        """Registers per thread at the start: all that the resident blocks can have."""
        return min(REGISTERS // (self.threads * self.resident) // 8 * 8, 255)

    @property
    def registers(self) -> tuple[int, int]:
        """Registers per producer and consumer thread after they have been shared out; (0, 0): as they are."""
        pool = self.entry_registers // 8 * 8 * (1 + self.groups)
        consumer = min((pool - _PRODUCER_REGISTERS) // self.groups // 8 * 8, 240)
        return (0, 0) if self.entry_registers >= 232 else (_PRODUCER_REGISTERS, consumer)

    @property
    def free_registers(self) -> int:
        """Of a consumer, for sums and what is held while the products run."""
        return (self.registers[1] or self.entry_registers) - WORKING - 12

    def held_chunks(self, itemsize: int, fetched: int) -> int:
        """Chunks whose epilogue operands, ``fetched`` registers each, are held while the products run."""
        total = self.units * self.n // self.chunk(itemsize)
        spare = self.free_registers - self.units * self.n // 2
        spare -= _ADDING if self.stream else 0
        return max(1, min(total, spare // fetched)) if fetched else 1

    def fits(self, itemsize: int, beside: int = 0) -> bool:
        """Whether a block has the shared memory and the registers it needs, ``beside`` of them beside the sums."""
        consumer = self.registers[1] or self.entry_registers
        beside += _ADDING // 2 if self.stream else 0  # what a chunk's finishing takes is free meanwhile
        held = self.units * self.n // 2 + beside + WORKING <= consumer
        sums = self.m * (self.n + 8) * 4 if self.split > 1 else 0
        if sums > self.stages * self.stage_bytes(itemsize):
            return False
        # The compiler wants each instruction to fit before registers are shared out (its error C7602).
        return self.shared(itemsize) <= self.room and held and self.n // 2 + _INSTRUCTION <= self.entry_registers


_LONG = {
    "mu": "units",
    "wg": "groups",
    "pp": "ping",
    "bn": "n",
    "sl": "slice",
    "ns": "slices",
    "st": "stages",
    "cl": "cluster",
    "oc": "resident",
    "or": "order",
    "ps": "persistent",
    "sk": "split",
    "sw": "slide",
    "kb": "keep",
    "de": "dealt",
    "sr": "stream",
}
_LATER = frozenset({"kb", "de", "sr"})
"""Parameters that a variant's text leaves out when they are 0: times recorded before they existed keep their names."""
