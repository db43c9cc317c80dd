"""Cost model: roofline, wave quantisation, latency at low occupancy, split-K.

The constants are those of an H200 and scale with the Target's bandwidth, FLOP rate and SM count. The
model ranks variants where nothing can be measured; it does not promise microseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Region
from ingot.kernels.api import Target

LAUNCH = 1.0e-6
"""Seconds from one kernel of a CUDA graph to the next, blocks started."""
_LOAD_LATENCY = 0.65e-6
"""From issuing a tile load to using it, mostly out of the L2 cache."""
_STEP_OVERHEAD = 0.07e-6
"""Barrier, wait and issue of one iteration of a main loop."""
_EPILOGUE = 0.7e-6
"""Through registers and out again, once per block."""
_SPLIT_OVERHEAD = 1.1e-6
"""Partial sums written, counter, and the last block's first read."""
_EXPOSED = 0.35
"""Share of a load's latency that double buffering leaves open: the tensor core still reads the other buffer."""
_FULL_THREAD = 32
"""Accumulators per thread below which more warps do not pay."""
_L2_OVER_DRAM = 1.4
"""Bandwidth of the L2 cache relative to device memory."""
_SHARED_PER_SM = {75: 64, 80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 103: 228, 110: 228, 120: 100, 121: 100}
"""KiB of shared memory of an SM; one block may have all but one of them."""
_PEAK = {1: 2.0, 4: 0.5}
"""Rate of the tensor cores by the bytes of an operand, relative to two."""
_OF_BYTES = 1.8
"""How much longer products of one-byte elements take than the model says, relative to others (H200, INT8)."""
_SCALAR = 0.5
"""Share of the FP32 rate that products of converted 16-bit floats reach without tensor cores."""
_REGISTERS = 65536
_THREADS = {75: 1024}
"""Threads of an SM where they are not 2048."""
_PORTABLE_CLUSTER = 8
"""Blocks of a cluster that every device from sm_90 on can have."""
_LARGE_CLUSTER = {90: 16, 100: 16}
"""By compute capability, where they may be more."""


class TileLike(Protocol):
    """What the model reads of a variant's parameters."""

    @property
    def m(self) -> int:
        """Rows."""
        ...

    @property
    def n(self) -> int:
        """Columns."""
        ...

    @property
    def k(self) -> int:
        """Depth of one step."""
        ...

    @property
    def warps(self) -> int:
        """Warps per block."""
        ...

    @property
    def stages(self) -> int:
        """Tiles in flight."""
        ...

    @property
    def split(self) -> int:
        """Parts of the depth."""
        ...


@dataclass(frozen=True)
class ProductShape:
    """A batch of matrix products, or a convolution seen as one."""

    rows: int
    cols: int
    depth: int
    batch: int
    itemsize: int
    a_bytes: int
    """Distinct bytes of A (a convolution reads each input element for many taps)."""
    extra_bytes: int
    """Other inputs and the outputs."""
    chunk: int
    """Length of a contiguous run along the depth: no step of the main loop goes past its end."""
    gather: bool = False
    """Whether A is gathered element by element."""
    splittable: bool = True
    """Whether the depth may be cut into parts (every batch member has the same depth)."""

    def steps(self, block_k: int) -> int:
        """Iterations of the main loop."""
        return self.depth // self.chunk * math.ceil(self.chunk / block_k)

    @property
    def flops(self) -> int:
        """Useful floating-point operations."""
        return 2 * self.batch * self.rows * self.cols * self.depth

    @property
    def bytes(self) -> int:
        """Fewest bytes through device memory."""
        return self.a_bytes + self.batch * self.cols * self.depth * self.itemsize + self.extra_bytes


def shared_per_sm(target: Target) -> int:
    """Shared memory of an SM, bytes; the least of all families for one that is not known."""
    return _SHARED_PER_SM.get(target.cc, 100) * 1024


def threads_per_sm(target: Target) -> int:
    """Threads of an SM."""
    return _THREADS.get(target.cc, 2048)


def largest_cluster(target: Target) -> int:
    """Most blocks of a cluster; 1 where there are none."""
    return _LARGE_CLUSTER.get(target.cc, _PORTABLE_CLUSTER) if target.cc >= 90 else 1


def shared_limit(target: Target) -> int:
    """Most dynamic shared memory of one block, bytes: the Target's own figure, and never more than its family has."""
    return min(target.shared_per_block, shared_per_sm(target) - 1024)


def occupancy(tile: TileLike, size: int, target: Target) -> int:
    """Blocks per SM that shared memory, registers and threads allow; 0 when not even one fits."""
    shared = tile.stages * (tile.m + tile.n) * tile.k * size
    if shared > shared_limit(target):
        return 0
    registers = min(255, tile.m * tile.n // (32 * tile.warps) + 56) * 32 * tile.warps
    return min(
        shared_per_sm(target) // (shared + 1024),
        _REGISTERS // registers,
        threads_per_sm(target) // (32 * tile.warps),
        32,
    )


def _peak(shape: ProductShape, tile: TileLike, target: Target) -> float:
    """FLOP per second and SM that a tile of this form can reach."""
    if shape.itemsize == 4 and not target.tf32:
        return target.flops_fp32 / target.sms * 0.55
    peak = target.flops / target.sms * _PEAK.get(shape.itemsize, 1.0)
    warpgroup = target.cc // 10 in (9, 10) and tile.m >= 64 and tile.warps >= 4
    reuse = tile.m * tile.n / (tile.m + tile.n)  # FLOPs per operand element
    feed = min(1.0, reuse / 64)
    per_warp = tile.m * tile.n / tile.warps
    balance = min(1.0, 0.55 + per_warp / 8192) * (0.8 if per_warp > 16384 else 1.0)
    return peak * feed * balance * (1.0 if warpgroup or target.cc < 90 else 0.6)


def product_seconds(shape: ProductShape, tile: TileLike, target: Target) -> float:
    """Predicted seconds of one product with this tile; infinity when it cannot run."""
    resident = occupancy(tile, shape.itemsize, target)
    if resident == 0:
        return math.inf
    tiles = math.ceil(shape.rows / tile.m) * math.ceil(shape.cols / tile.n) * shape.batch
    blocks = tiles * tile.split
    steps = math.ceil(shape.steps(tile.k) / tile.split)
    together = min(resident, math.ceil(blocks / target.sms))
    waves = blocks / (target.sms * together)
    waves = math.ceil(waves) if waves < 4 else waves + 0.5
    bandwidth = target.bandwidth * _L2_OVER_DRAM / target.sms
    tile_bytes = (tile.m + tile.n) * tile.k * shape.itemsize
    compute = together * 2 * tile.m * tile.n * tile.k / _peak(shape, tile, target)
    transfer = together * tile_bytes / bandwidth * (4 if shape.gather else 1)
    latency = _LOAD_LATENCY / max(tile.stages - 1, 1)
    step = max(compute, transfer, latency, _STEP_OVERHEAD) + _STEP_OVERHEAD * 0.5
    if tile.stages == 2 and steps > 1:
        step += _LOAD_LATENCY * _EXPOSED / together
    if tile.warps > 4 and tile.m * tile.n // (32 * tile.warps) < _FULL_THREAD:
        step += _STEP_OVERHEAD * 0.2  # wider barriers for little work each
    stored = together * tile.m * tile.n * shape.itemsize / bandwidth
    block = _LOAD_LATENCY + steps * step + _EPILOGUE + stored
    if tile.split > 1:
        partial = tile.m * tile.n * 4 / bandwidth
        block += _SPLIT_OVERHEAD + together * partial + tile.split * partial / 3
    slower = _OF_BYTES if shape.itemsize == 1 else 1.0
    return LAUNCH + slower * max(waves * block, shape.bytes / target.bandwidth)


def without_tensor_cores(target: Target) -> Target:
    """The Target as a kernel sees it whose products are multiply-adds: Triton's before sm_80."""
    return target if target.cc >= 80 else replace(target, flops=target.flops_fp32 * _SCALAR)


def region_bytes(region: Region, bindings: Bindings) -> int:
    """Fewest bytes through device memory: every input and output once."""
    specs = (*region.input_specs, *region.output_specs)
    return sum(evaluate(spec.elements, bindings) * itemsize(spec.dtype) for spec in specs)


def streaming_seconds(total_bytes: int, target: Target, *, efficiency: float = 0.8) -> float:
    """Predicted seconds of a kernel bound by device memory."""
    return LAUNCH + 1.5e-6 + total_bytes / (target.bandwidth * efficiency)
