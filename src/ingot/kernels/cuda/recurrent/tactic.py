"""``cuda.recurrent``: a whole layer of an LSTM, GRU or RNN in one kernel, which keeps R on chip from step to step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import largest_cluster, shared_limit
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.recurrent.cost import seconds
from ingot.kernels.cuda.recurrent.plan import RecurrentPlan, plan_recurrent
from ingot.kernels.cuda.recurrent.source import ENTRY, generate
from ingot.kernels.cuda.recurrent.tile import Form, Group, RecurrentTile

_EACH = 4
"""Variants of a kind."""
_THREADS = 1024
_REGISTERS = 65536


@dataclass(frozen=True)
class RecurrentTactic:
    """One kernel for all steps."""

    name: str = "cuda.recurrent"
    kinds: frozenset[Kind] = frozenset({Kind.RECURRENT})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Floats of 16 or 32 bits, a state of known size."""
        plan = plan_recurrent(region)
        if isinstance(plan, No):
            return plan
        return YES if candidates(plan, target) else No("no tile fits in shared memory", node=region.name)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time; a few of each kind, since the model compares kinds less well than sizes."""
        plan = _planned(region)
        forms = [Form(plan, tile, target) for tile in candidates(plan, target)]
        ranked = sorted(forms, key=lambda form: (seconds(form, bindings), str(form.tile)))
        taken: dict[tuple[bool, Group], int] = {}
        found = []
        for form in ranked:
            kind = form.tile.tensor, form.group
            taken[kind] = taken.get(kind, 0) + 1
            if taken[kind] <= _EACH:
                found.append(form.tile.variant(self.name))
        return found

    def source(self, region: Region, variant: Variant, target: Target) -> str:
        """CUDA C++ of a variant."""
        return generate(Form(_planned(region), RecurrentTile.of(variant), target))[0]

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        form = Form(_planned(region), RecurrentTile.of(variant), target)
        text, out = generate(form)
        cubin = compile_cuda(text, ENTRY, target).cubin
        together = form.group is Group.GRID
        pdl = Pdl.WAITS if target.pdl and not together else Pdl.NONE
        cluster = form.tile.blocks if form.group is Group.CLUSTER else 1
        sizes = (form.grid, form.tile.threads, form.shared)
        kernel = Kernel(ENTRY, cubin, *sizes, out.arguments, pdl, cluster, together)
        return Program((kernel,), form.workspaces)

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        return seconds(Form(_planned(region), RecurrentTile.of(variant), target), bindings)


@lru_cache(maxsize=64)
def candidates(plan: RecurrentPlan, target: Target) -> tuple[RecurrentTile, ...]:
    """Every tile that fits on a block and is no larger than the layer asks for."""
    tiles = [*_lanes(plan, target)]
    if plan.dtype != "float32" and target.cc >= 80:
        tiles += _tensor(plan, target)
    forms = [Form(plan, tile, target) for tile in dict.fromkeys(tiles)]
    fits = (f for f in forms if f.shared <= shared_limit(target) and (f.group is not Group.GRID or f.groups))
    return tuple(f.tile for f in fits)


def _ceildiv(a: int, b: int) -> int:
    return -(-a // b)


def _blocks(plan: RecurrentPlan, target: Target) -> list[int]:
    """Blocks of a group: one, a cluster, and so many that each has few units."""
    few = [blocks for blocks in (1, 2, 4, 8, 16) if blocks <= largest_cluster(target)]
    many = {_ceildiv(plan.form.hidden, units) for units in (8, 12, 16, 32, 64, 128)}
    return [*few, *sorted(blocks for blocks in many if blocks > few[-1])]


def _rows(plan: RecurrentPlan, least: int) -> list[int]:
    """Rows of a group worth a try: no more than the batch has, where that is known."""
    most = plan.batch if isinstance(plan.batch, int) else 32
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size >= least]
    return [size for size in sizes if size == least or size < 2 * most]


def _lanes(plan: RecurrentPlan, target: Target) -> list[RecurrentTile]:
    found = []
    for blocks, batch, split, rows in itertools.product(_blocks(plan, target), _rows(plan, 1), (4, 8), (1, 2, 4, 8)):
        if rows > batch or batch // rows > 8 or plan.form.gates * rows > 32:
            continue
        whole = max(32 // (split * (batch // rows)), 1)  # warps
        units = _ceildiv(_ceildiv(plan.form.hidden, blocks), whole) * whole
        if units * (blocks - 1) < plan.form.hidden or blocks == 1:
            found.append(RecurrentTile(False, blocks, units, batch, split, rows))
    return [tile for tile in found if tile.threads <= _THREADS]


def _tensor(plan: RecurrentPlan, target: Target) -> list[RecurrentTile]:
    depth = _ceildiv(plan.form.hidden, 16)
    found = []
    for blocks, batch, split in itertools.product(_blocks(plan, target), _rows(plan, 16), (1, 2, 4, 8)):
        units = 8 * _ceildiv(2 * depth, blocks)
        if split <= depth and (blocks == 1 or units * blocks < 2 * plan.form.hidden):
            found.append(RecurrentTile(True, blocks, units, batch, split))
    return [tile for tile in found if tile.threads <= _THREADS and Form(plan, tile, target).registers <= _REGISTERS]


@lru_cache(maxsize=256)
def _planned(region: Region) -> RecurrentPlan:
    plan = plan_recurrent(region)
    assert isinstance(plan, RecurrentPlan), plan
    return plan


TACTICS: tuple[RecurrentTactic, ...] = (RecurrentTactic(),)
