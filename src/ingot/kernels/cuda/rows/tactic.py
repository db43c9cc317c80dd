"""The tactic behind ``cuda.rowwise`` and ``cuda.reduce``: choice of threads, compilation, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, ceildiv, evaluate, evaluate_shape
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant, Workspace
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.rows.plan import RowPlan, plan_rows
from ingot.kernels.cuda.rows.source import RowSource, Threads, finishing, workspace_bytes
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.rows.vectors import best_vector

_HELD = 32
"""Most elements of one tensor that a thread keeps in registers."""
_SHARED = 40 * 1024
"""Most static shared memory of a block, bytes (the limit without opting in is 48 KiB)."""
_LAUNCH = 2.0e-6
_LATENCY = 0.7e-6
"""Seconds from issuing a load to having its data, memory being busy."""
_CLOCK = 1.7e9
"""Cycles per second; an SM issues four instructions in each."""
_SPLITS = (4, 16, 64)


@dataclass(frozen=True)
class RowTactic:
    """Reductions with pointwise prologue and epilogue, in one kernel (two when rows are split)."""

    name: str
    kinds: frozenset[Kind]
    may_split: bool

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes when the Region is pointwise ops and reductions over common axes."""
        if region.kind not in self.kinds:
            return No(f"{self.name} does not run regions of kind {region.kind}", node=region.name)
        plan = plan_rows(region)
        if isinstance(plan, No):
            return No(plan.reason, node=region.name)
        for count in (plan.rows, plan.columns):
            if isinstance(count, int) and count > 1 << 30:
                return No("more than 2^30 rows or columns", node=region.name)
            if count == 0:
                return No("an empty tensor", node=region.name)
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Thread counts worth a try, the likeliest first."""
        plan = _planned(region)
        found = _row_threads(plan, bindings) if plan.columns_inner else _column_threads(plan, bindings)
        if self.may_split and _may_split(plan):
            found += [
                Threads(t.per_row, t.block, t.vector, 0, splits)
                for t in found
                if t.held == 0 or t.per_row >= 128
                for splits in _SPLITS
                if _worth_splitting(plan, t, splits, target, bindings)
            ]
        variants = [_variant(self.name, threads) for threads in dict.fromkeys(found)]
        return sorted(variants, key=lambda v: self.estimate(region, v, target, bindings))

    def source(self, region: Region, variant: Variant, target: Target) -> str:
        """CUDA C++ of a variant: one kernel, or two when rows are split."""
        plan, threads = _planned(region), _threads(variant)
        text = HELPERS + RowSource(plan, threads, target).text("ingot_rows")
        if threads.splits > 1:
            text += RowSource(plan, finishing(threads), target, finish=True).text("ingot_finish")
        return text

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        plan, threads = _planned(region), _threads(variant)
        return program(plan, threads, target)

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Launch, plus the longer of memory traffic and instruction issue, plus what one thread waits for."""
        plan, threads = _planned(region), _threads(variant)
        rows, columns = evaluate(plan.rows, bindings), evaluate(plan.columns, bindings)
        lanes = threads.vector if plan.columns_inner else 1
        rounds = -(-columns // (lanes * threads.per_row * threads.splits))
        blocks = _blocks(plan, threads, rows) * threads.splits
        passes = 1 if threads.held else plan.stages + (1 if plan.has_full_output else 0)
        steps = 0 if threads.per_row == 1 else threads.per_row.bit_length() * 5 + (30 if threads.per_row > 32 else 0)
        work = passes * rounds * threads.vector * (len(plan.ops) + 3) + plan.stages * (steps + 10)
        issue = -(-blocks // target.sms) * (threads.block / 32) * work / (4 * _CLOCK)
        waves = -(-blocks * threads.block // (target.sms * 2048))
        loads = 1 if threads.held else passes * -(-rounds // 4)
        alone = waves * (loads * _LATENCY + work * 4 / _CLOCK)
        second = 0.0 if threads.splits == 1 else 2.0e-6
        near = abs(threads.block.bit_length() - 8) * 1e-9  # of equals, blocks of 128 threads
        traffic = _traffic(plan, threads, target, bindings, rounds, passes)
        return _LAUNCH + max(traffic, issue) + alone + second + near


def _traffic(plan: RowPlan, threads: Threads, target: Target, bindings: Bindings, rounds: int, passes: int) -> float:
    """Seconds of memory traffic at the bandwidth that the loads in flight, and their neighbourhood, allow."""
    total = sum(_bytes(plan, n, bindings) for n in plan.placed)
    width = max(dtypes.itemsize(plan.placed[n].spec.dtype) for n in plan.placed)
    rows = evaluate(plan.rows, bindings) // (1 if plan.columns_inner else threads.vector)
    resident = min(rows * threads.per_row * threads.splits, target.sms * 2048)
    flight = resident * min(rounds, threads.held or 4) * threads.vector * width
    beside = threads.per_row if plan.columns_inner else threads.slots
    fill = min(1.0, beside * threads.vector * width / 64)
    rate = target.bandwidth * min(1.0, flight / (target.sms * 32768.0)) * fill
    return total * (1 + 0.3 * (passes - 1)) / rate


def program(plan: RowPlan, threads: Threads, target: Target) -> Program:
    """The compiled kernels for one choice of threads."""
    pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
    first = RowSource(plan, threads, target)
    cubin = compile_cuda(HELPERS + first.text("ingot_rows"), "ingot_rows", target).cubin
    row_groups = ceildiv(plan.rows, threads.slots * first.row_width)
    grid: tuple[Dim, Dim, Dim] = (row_groups, threads.splits, 1)
    kernels = [Kernel("ingot_rows", cubin, grid, threads.block, 0, first.out.arguments, pdl)]
    if threads.splits == 1:
        return Program(tuple(kernels))
    last = finishing(threads)
    second = RowSource(plan, last, target, finish=True)
    cubin = compile_cuda(HELPERS + second.text("ingot_finish"), "ingot_finish", target).cubin
    kernels.append(
        Kernel("ingot_finish", cubin, (ceildiv(plan.rows, last.slots), 1, 1), last.block, 0, second.out.arguments, pdl)
    )
    return Program(tuple(kernels), tuple(Workspace(size) for size in workspace_bytes(plan, threads.splits)))


def _planned(region: Region) -> RowPlan:
    plan = plan_rows(region)
    assert isinstance(plan, RowPlan), plan
    return plan


def _variant(name: str, threads: Threads) -> Variant:
    return Variant(
        name,
        (
            ("per_row", threads.per_row), ("block", threads.block), ("vector", threads.vector), ("held", threads.held),
            ("splits", threads.splits),
        ),
    )  # fmt: skip


def _threads(variant: Variant) -> Threads:
    return Threads(variant["per_row"], variant["block"], variant["vector"], variant["held"], variant["splits"])


def _bytes(plan: RowPlan, name: str, bindings: Bindings) -> int:
    spec = plan.placed[name].spec
    count = 1
    for size in evaluate_shape(spec.shape, bindings):
        count *= size
    return count * dtypes.itemsize(spec.dtype)


def _blocks(plan: RowPlan, threads: Threads, rows: int) -> int:
    return -(-rows // (threads.slots * (1 if plan.columns_inner else threads.vector)))


def _row_threads(plan: RowPlan, bindings: Bindings) -> list[Threads]:
    """Rows that are contiguous: some lanes, a warp or a block for each."""
    vector = best_vector(plan)
    columns = evaluate(plan.columns, bindings)
    units = -(-columns // vector)
    found = []
    for per_row in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        if per_row > 2 and per_row >= 2 * units:
            break
        held = -(-units // per_row)
        fits = isinstance(plan.columns, int) and held * vector <= _HELD
        blocks = (32, 64, 128, 256) if per_row <= 32 else (per_row,)
        found += [Threads(per_row, block, vector, held if fits else 0) for block in blocks]
    return found


def _column_threads(plan: RowPlan, bindings: Bindings) -> list[Threads]:
    """Rows that lie side by side: vectors of rows across lanes, columns down the block."""
    columns = evaluate(plan.columns, bindings)
    widest = best_vector(plan)
    wide = 8 * (1 + sum(plan.is_reduction(op) for op in plan.ops))
    found = []
    for vector in dict.fromkeys((widest, max(widest // 2, 1), max(widest // 4, 1))):
        for block in (64, 128, 256):
            for per_row in (1, 2, 4, 8, 16, 32):
                if per_row > max(columns, 1) or block * vector * wide // 2 > _SHARED:
                    continue
                held = -(-columns // per_row)
                fits = isinstance(plan.columns, int) and held * vector <= _HELD
                found.append(Threads(per_row, block, vector, held if fits else 0))
    return found


def _may_split(plan: RowPlan) -> bool:
    """Whether partial results can be put together later: one level of reductions, nothing stored per column."""
    if plan.stages != 1 or plan.has_full_output:
        return False
    read = {n for op in plan.ops if op.outputs[0] in plan.full for n in plan.reads(op)}
    return not any(op.outputs[0] in read and op.outputs[0] not in plan.full for op in plan.ops)


def _worth_splitting(plan: RowPlan, threads: Threads, splits: int, target: Target, bindings: Bindings) -> bool:
    rows, columns = evaluate(plan.rows, bindings), evaluate(plan.columns, bindings)
    lanes = threads.vector if plan.columns_inner else 1
    blocks = _blocks(plan, threads, rows)
    return blocks * splits <= 8 * target.sms and columns // (lanes * threads.per_row * splits) >= 4


def row_tactic(name: str, kind: Kind, *, may_split: bool) -> RowTactic:
    """A tactic for Regions of one kind."""
    return RowTactic(name, frozenset({kind}), may_split)
