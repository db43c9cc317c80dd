"""The frame of every product kernel: tile order, split-K, the main loop, and the epilogue."""

from __future__ import annotations

from typing import Protocol

from ingot.errors import IngotError
from ingot.graph.dims import Dim, ceildiv, divisible, mul
from ingot.graph.dtypes import TABLE
from ingot.graph.region import BodyOp, Region
from ingot.kernels.api import Kernel, Program, Target, Workspace
from ingot.kernels.cost import shared_limit
from ingot.kernels.triton.builder import KernelBuilder
from ingot.kernels.triton.epilogue import Epilogue
from ingot.kernels.triton.indexing import Space
from ingot.kernels.triton.tile import Tile


class Operands(Protocol):
    """How a product reads A and B. All code is emitted with ``row``, ``col``, ``z``, ``rk`` in scope."""

    rows: Dim
    """Length of the row index of one batch member."""
    cols: Dim
    batch: Dim
    steps: Dim
    """Iterations of the main loop."""
    space: Space
    steps_code: str
    """Code of the number of iterations where it differs between batch members; empty for ``steps``."""
    row_mask: str
    """Further condition on rows beside ``row < rows``; empty for none."""

    def setup(self, k: KernelBuilder) -> None:
        """Emits what does not change in the main loop; ``m_index``/``n_index`` are clamped into range."""
        ...

    def load(self, k: KernelBuilder) -> None:
        """Emits the loads of ``a`` [BM, BK] and ``b`` [BK, BN] of iteration ``step``."""
        ...

    def prefetch(self, k: KernelBuilder) -> None:
        """Emits what may run before the kernels before this one have finished (constants only)."""
        ...


def generate(region: Region, target: Target, tile: Tile, operands: Operands, ops: tuple[BodyOp, ...], result: str,
             scale: float = 1.0) -> KernelBuilder:  # fmt: skip
    """Source of a product kernel with its epilogue."""
    k = KernelBuilder(region, target, pdl=target.pdl)
    _tile_indices(k, tile, operands)
    if tile.split > 1:
        k.line("part = tl.program_id(1)")
    operands.setup(k)
    epilogue = Epilogue(k, operands.space, *_masks(tile, operands, k), tile.m * tile.n // (32 * tile.warps))
    epilogue.preload(constants=True)
    if k.pdl:
        operands.prefetch(k)
        k.line("gdc_wait()")
        if tile.early:
            k.line("gdc_launch_dependents()")
    epilogue.preload(constants=False)
    _main_loop(k, tile, operands)
    if k.pdl and not tile.early:
        k.line("gdc_launch_dependents()")
    if scale != 1.0:
        k.line(f"acc = acc * {scale!r}")
    if tile.split > 1:
        _reduce_splits(k, tile)
    epilogue.run("acc", ops, result)
    return k


def tiles(tile: Tile, operands: Operands) -> Dim:
    """Number of output tiles over all batch members."""
    return mul(ceildiv(operands.rows, tile.m), ceildiv(operands.cols, tile.n), operands.batch)


def program(k: KernelBuilder, tile: Tile, operands: Operands) -> Program:
    """Compiles a generated kernel into a Program."""
    count = tiles(tile, operands)
    kernel: Kernel = k.kernel((count, tile.split, 1), num_warps=tile.warps, num_stages=tile.stages)
    if kernel.shared > shared_limit(k.target):
        raise IngotError(
            f"a tile needs {kernel.shared} bytes of shared memory, {k.target.name} has {shared_limit(k.target)}"
        )
    if tile.split == 1:
        return Program((kernel,))
    partial = Workspace(mul(count, tile.split * tile.m * tile.n * 4))
    return Program((kernel,), (partial, Workspace(mul(count, 4), zeroed=True)))


def _tile_indices(k: KernelBuilder, tile: Tile, operands: Operands) -> None:
    k.line("pid = tl.program_id(0)")
    tiles_m, tiles_n = ceildiv(operands.rows, tile.m), ceildiv(operands.cols, tile.n)
    k.line("tile_index = pid")
    if operands.batch != 1:
        each = k.dim(mul(tiles_m, tiles_n))
        k.line(f"z = pid // {each}")
        k.line(f"pid = pid % {each}")
    m, n = k.dim(tiles_m), k.dim(tiles_n)
    if tiles_n == 1:
        k.line("pid_m = pid")
        k.line("pid_n = 0")
    elif tile.group <= 1 or tiles_m == 1:
        k.line(f"pid_m = pid % {m}")
        k.line(f"pid_n = pid // {m}")
    else:
        k.line(f"first = pid // ({tile.group} * {n}) * {tile.group}")
        k.line(f"height = tl.minimum({m} - first, {tile.group})")
        k.line(f"within = pid % ({tile.group} * {n})")
        k.line("pid_m = first + within % height")
        k.line("pid_n = within // height")
    k.line(f"row = pid_m * {tile.m} + tl.arange(0, {tile.m})")
    k.line(f"n_local = pid_n * {tile.n} + tl.arange(0, {tile.n})")
    k.line(f"rk = tl.arange(0, {tile.k})")
    rows, cols = k.dim(operands.rows), k.dim(operands.cols)
    clamped = not divisible(operands.rows, tile.m)
    k.line(f"m_index = tl.where(row < {rows}, row, 0)" if clamped else "m_index = row")
    inside = divisible(operands.cols, tile.n)
    k.line("n_index = n_local" if inside else f"n_index = tl.where(n_local < {cols}, n_local, 0)")


def _masks(tile: Tile, operands: Operands, k: KernelBuilder) -> tuple[str, str]:
    rows = [] if divisible(operands.rows, tile.m) else [f"(row < {k.dim(operands.rows)})"]
    if operands.row_mask:
        rows.append(operands.row_mask)
    cols = "" if divisible(operands.cols, tile.n) else f"n_local < {k.dim(operands.cols)}"
    return " & ".join(rows), cols


def _main_loop(k: KernelBuilder, tile: Tile, operands: Operands) -> None:
    k.line(f"acc = tl.zeros(({tile.m}, {tile.n}), dtype=tl.{sum_type(k.region)})")
    steps = operands.steps_code or k.dim(operands.steps)
    assert tile.split == 1 or not operands.steps_code, "split-K needs one number of iterations"
    if tile.split > 1:
        each = k.dim(ceildiv(operands.steps, tile.split))
        k.line(f"begin = part * {each}")
        if divisible(operands.steps, tile.split) and isinstance(operands.steps, int):
            k.line(f"for step in range(begin, begin + {each}):")
        else:
            k.line(f"for step in range(begin, tl.minimum(begin + {each}, {steps})):")
    else:
        k.line(f"for step in range(0, {steps}):")
    k.indent += 1
    operands.load(k)
    dtype = k.region.spec_of[k.region.ops[0].inputs[0]].dtype
    precision = ""
    if dtype == "float32":
        precision = ', input_precision="tf32"' if k.target.tf32 else ', input_precision="ieee"'
    if dtype == "uint8":
        # Tensor cores multiply equal types: 128 less, and 128 times the sum of the other operand more.
        k.line("acc += 128 * tl.sum(b.to(tl.int32), axis=0)[None, :]")
        k.line("a = (a ^ 128).to(tl.int8, bitcast=True)")
    if sum_type(k.region) == "int32":
        precision = ", out_dtype=tl.int32"
    k.line(f"acc = tl.dot(a, b, acc{precision})")
    k.indent -= 1


def sum_type(region: Region) -> str:
    """Type of the sums: int32 of integers, float32 of floats."""
    return "int32" if region.ops[0].op.endswith("Integer") else "float32"


def _reduce_splits(k: KernelBuilder, tile: Tile) -> None:
    """The last block of a tile adds up the parts, in order, so the result does not depend on who is last."""
    partial, counter = k.scratch(0, TABLE[sum_type(k.region)].triton), k.scratch(1, "i32")
    size = tile.m * tile.n
    k.line(f"inside = tl.arange(0, {tile.m})[:, None] * {tile.n} + tl.arange(0, {tile.n})[None, :]")
    k.line(f"slab = {partial} + tile_index.to(tl.int64) * {tile.split * size}")
    k.line(f"tl.store(slab + part * {size} + inside, acc)")
    k.line("tl.debug_barrier()")
    k.line(f'arrived = tl.atomic_add({counter} + tile_index, 1, sem="acq_rel", scope="gpu")')
    k.line(f"if arrived == {tile.split - 1}:")
    k.indent += 1
    k.line("tl.debug_barrier()")
    k.line(f"tl.store({counter} + tile_index, 0)")
    k.line('acc = tl.load(slab + inside, cache_modifier=".cg")')
    for part in range(1, tile.split):
        k.line(f'acc += tl.load(slab + {part * size} + inside, cache_modifier=".cg")')
