"""How a recurrent layer is divided: units over blocks, the batch over groups of them, the depth over lanes or warps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ingot.graph import dtypes
from ingot.graph.dims import Dim, ceildiv, mul
from ingot.kernels.api import Target, Variant, Workspace
from ingot.kernels.cost import largest_cluster, shared_limit
from ingot.kernels.cuda.recurrent.plan import RecurrentPlan

COUNTERS = 128
"""Bytes from the counters of one group to those of the next: a line of the cache."""
SAFE = 0.85
"""Share of the target's SMs that blocks which wait for each other may want: cards of a family differ."""
_REGISTERS = 65536
_OPERAND_REGISTERS = 80
"""Most registers of a thread for R."""


class Group(IntEnum):
    """How the blocks that share a state wait for each other."""

    ALONE = 0
    """One block."""
    CLUSTER = 1
    """A cluster, sm_90 and later."""
    GRID = 2
    """Counters in device memory; the launch is cooperative."""


class Held(IntEnum):
    """Where R is from step to step."""

    MEMORY = 0
    SHARED = 1
    REGISTERS = 2


@dataclass(frozen=True)
class RecurrentTile:
    """One division."""

    tensor: bool
    """Tensor cores (eight units, sixteen rows a warp) instead of lanes."""
    blocks: int
    """Blocks of a group."""
    units: int
    """Units of a block."""
    batch: int
    """Rows of a group."""
    split: int
    """Parts of the depth: lanes, or warps with tensor cores."""
    rows: int = 16
    """Rows of a thread; of a warp with tensor cores."""

    @staticmethod
    def of(variant: Variant) -> RecurrentTile:
        """The tile of a variant."""
        p = dict(variant.params)
        return RecurrentTile(bool(p["tensor"]), p["blocks"], p["units"], p["batch"], p["split"], p["rows"])

    def variant(self, name: str) -> Variant:
        """The variant of tactic ``name`` with this tile."""
        return Variant(
            name,
            (
                ("tensor", int(self.tensor)), ("blocks", self.blocks), ("units", self.units), ("batch", self.batch),
                ("split", self.split), ("rows", self.rows),
            ),
        )  # fmt: skip

    @property
    def threads(self) -> int:
        """Threads of a block."""
        if self.tensor:
            return 32 * (self.units // 8) * (self.batch // 16) * self.split
        return self.units * (self.batch // self.rows) * self.split


@dataclass(frozen=True)
class Form:
    """A tile on a layer and a target: what of it fits where."""

    plan: RecurrentPlan
    tile: RecurrentTile
    target: Target

    @property
    def group(self) -> Group:
        """How its blocks wait for each other."""
        if self.tile.blocks == 1:
            return Group.ALONE
        return Group.CLUSTER if self.tile.blocks <= largest_cluster(self.target) else Group.GRID

    @property
    def slots(self) -> int:
        """States in the exchange: that before and that after a step, and the reset one."""
        return 3 if self.plan.two_halves else 2

    # -- with lanes

    @property
    def depth(self) -> int:
        """Length of a row of R in shared memory, without padding."""
        step = 4 * self.tile.split
        return -(-self.plan.form.hidden // step) * step

    @property
    def state_pitch(self) -> int:
        """Elements from one row of the state to the next: rows of neighbouring lanes lie in other banks."""
        return self._pitch(4)

    @property
    def weight_pitch(self) -> int:
        """As :attr:`state_pitch`, of R."""
        return self._pitch(dtypes.itemsize(self.plan.dtype))

    def _pitch(self, size: int) -> int:
        pitch, piece = self.depth, 4 * self.tile.split
        while pitch * size % 128 != piece * size % 128:
            pitch += 4
        return pitch

    # -- with tensor cores

    @property
    def depth_steps(self) -> int:
        """Operands of the depth."""
        return -(-self.plan.form.hidden // 16)

    @property
    def part(self) -> int:
        """Operands of the depth that a warp has."""
        return -(-self.depth_steps // self.tile.split)

    # -- shared memory

    @property
    def _operands(self) -> int:
        """Registers of a thread for R."""
        return 2 * self.plan.form.gates * self.part

    @property
    def _others(self) -> int:
        """Registers of a thread for the state's operand, the sums, the elements of its own and addresses."""
        return 4 * self.part + 8 * self.plan.form.gates + 56

    @property
    def registers(self) -> int:
        """Registers of a block with tensor cores, at least."""
        return (self._others + (self._operands if self.held is Held.REGISTERS else 0)) * self.tile.threads

    @property
    def held(self) -> Held:
        """Where R is."""
        registers = (self._operands + self._others) * self.tile.threads
        if self.tile.tensor and self._operands <= _OPERAND_REGISTERS and registers <= _REGISTERS:
            return Held.REGISTERS
        fits = self._weights + self._rest <= shared_limit(self.target)
        return Held.SHARED if fits else Held.MEMORY

    @property
    def _weights(self) -> int:
        rows = self.plan.form.gates * self.tile.units
        if self.tile.tensor:
            return rows * 16 * self.depth_steps * 2
        return -(-rows * self.weight_pitch * dtypes.itemsize(self.plan.dtype) // 16) * 16

    @property
    def weight_bytes(self) -> int:
        """Shared memory for R."""
        return self._weights if self.held is Held.SHARED else 0

    @property
    def part_bytes(self) -> int:
        """Shared memory for the sums of the parts of the depth."""
        tile = self.tile
        return (tile.split - 1) * (tile.units // 8) * (tile.batch // 16) * self.plan.form.gates * 512 * tile.tensor

    @property
    def state_bytes(self) -> int:
        """Shared memory for the state."""
        near = self.group is not Group.GRID
        if self.tile.tensor:
            return self.slots * self.tile.batch // 16 * self.depth_steps * 512 if near else 0
        return (self.slots if near else 1) * self.tile.batch * self.state_pitch * 4

    @property
    def _rest(self) -> int:
        return self.part_bytes + self.state_bytes

    @property
    def shared(self) -> int:
        """Dynamic shared memory of a block, bytes."""
        return self.weight_bytes + self._rest

    # -- device memory and the launch

    @property
    def tiles(self) -> Dim:
        """Groups of each direction."""
        return ceildiv(self.plan.batch, self.tile.batch)

    @property
    def groups(self) -> int:
        """Groups of each direction that are on the device at the same time, where they meet at counters."""
        return int(self.target.sms * SAFE) // (self.tile.blocks * self.plan.form.directions)

    @property
    def grid(self) -> tuple[Dim, Dim, Dim]:
        """Blocks: of a group, of the batch, of the directions."""
        rows = self.tiles
        if self.group is Group.GRID:
            rows = min(rows, self.groups) if isinstance(rows, int) else f"min({rows}, {self.groups})"
        return self.tile.blocks, rows, self.plan.form.directions

    @property
    def workspaces(self) -> tuple[Workspace, ...]:
        """The exchange, where it is in device memory, and counters."""
        if self.group is not Group.GRID:
            return ()
        words = self.tile.batch * (8 * self.depth_steps if self.tile.tensor else -(-self.plan.form.hidden // 4) * 4)
        exchange = Workspace(mul(self.tiles, self.plan.form.directions * self.slots * words * 4))
        return exchange, Workspace(COUNTERS * self.groups * self.plan.form.directions, zeroed=True)
