"""Depthwise convolutions: no product, one multiply-add per tap, vectorised over channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings, Dim, ceildiv, divisible, evaluate, mul
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program, Target, Variant
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.triton.builder import KernelBuilder
from ingot.kernels.triton.conv import MAX_DEPTHWISE_TAPS, accepts_conv
from ingot.kernels.triton.epilogue import Epilogue
from ingot.kernels.triton.geometry import Geometry, geometry
from ingot.kernels.triton.indexing import Axis, Space, fits_int32, times
from ingot.kernels.triton.normal import Normal, normal_conv
from ingot.kernels.triton.product import sum_type

_LIMIT = 36
_UNROLLED_TAPS = 49
_CLOCK = 1.7e9
_SCHEDULERS = 4
_TAP_CLOCKS = 3.1
"""Of a scheduler for a tap of one result of a warp: conversions, and the multiply-add."""
_LOAD_CLOCKS = 8.0
"""The same for a load: address and mask."""
_RESULT_CLOCKS = 2.7
"""More for each result: epilogue and store."""
_BLOCK_START = 58e-9
"""From one block of an SM to the next."""
_ONE_WARP = 1.6
"""That of blocks of one warp, relative to others."""
_RESULT_AFTER = 84e-9
"""For each result of a thread: nothing of a block ends before its last."""
_MEMORY_START = 0.3e-6


class DepthwiseTactic:
    """Every output channel reads one input channel (``group`` = input channels), Conv or ConvTranspose."""

    name = "triton.depthwise"
    kinds = frozenset({Kind.CONV})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Depthwise convolutions of up to 256 taps."""
        answer = accepts_conv(region, target)
        if not answer:
            return answer
        g = geometry(region)
        assert isinstance(g, Geometry)
        if not g.depthwise:
            return No("not depthwise")
        return answer if g.taps <= MAX_DEPTHWISE_TAPS else No(f"{g.taps} taps are too many for the depthwise kernel")

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Pixels by channels of a block, likeliest first."""
        g = geometry(region)
        assert isinstance(g, Geometry)
        channels, pixels = g.groups * g.out_channels, _pixels(g, bindings)
        found = []
        for m in (4, 8, 16, 32, 64, 128, 256):
            for c in (8, 16, 32, 64, 128, 256):
                for warps in (1, 2, 4, 8):
                    per_thread = m * c // (32 * warps)
                    smallest = (m, c, warps) == (4, 8, 1)  # the one for fewer than eight pixels and channels
                    if (2 <= per_thread <= 32 or smallest) and c < 2 * max(channels, 8) and m < 2 * max(pixels, 4):
                        found.append(Variant(self.name, (("bm", m), ("bc", c), ("warps", warps))))
        return sorted(found, key=lambda v: self.estimate(region, v, target, bindings))[:_LIMIT]

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of one block size."""
        k, _ = self.generate(region, variant, target)
        grid = (self.blocks(region, variant), 1, 1)
        return Program((k.kernel(grid, num_warps=variant["warps"], num_stages=2),))

    def blocks(self, region: Region, variant: Variant) -> Dim:
        """Blocks of a launch."""
        g = geometry(region)
        assert isinstance(g, Geometry)
        return mul(ceildiv(mul(g.batch, *g.output), variant["bm"]), -(-g.groups * g.out_channels // variant["bc"]))

    def generate(self, region: Region, variant: Variant, target: Target) -> tuple[KernelBuilder, Geometry]:
        """Source of one block size."""
        normal = normal_conv(region)
        g = geometry(normal.region)
        assert isinstance(g, Geometry)
        k = KernelBuilder(normal.region, target, pdl=target.pdl)
        _emit(k, normal, g, variant["bm"], variant["bc"], variant["warps"])
        return k, g

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds: the slower of memory and of what an SM's blocks do, and one thread's results in turn.

        The constants were fitted to the times of MobileNetV2's layers at batch 1 and 32 on an H200.
        """
        g = geometry(region)
        assert isinstance(g, Geometry)
        m, c, warps = variant["bm"], variant["bc"], variant["warps"]
        blocks = math.ceil(_pixels(g, bindings) / m) * math.ceil(g.groups * g.out_channels / c)
        size, each = itemsize(g.x.dtype), m * c / (32 * warps)
        inner = g.x.strides[1] == 1
        vector = min(8, c, max(1, each)) if inner else 1
        issue = (g.taps * (each * _TAP_CLOCKS + each / vector * _LOAD_CLOCKS) + each * _RESULT_CLOCKS) / _SCHEDULERS
        # A load takes a clock for every 128 bytes, and for every line that it touches: each pixel is in one of its own.
        lines = max(32 * vector * size / 128, 32 * vector / c, 1)
        loads = g.taps * each / vector * lines
        start = _BLOCK_START * (_ONE_WARP if warps == 1 else 1.0)
        work = math.ceil(blocks / target.sms) * (warps * max(issue, loads) / _CLOCK + start)
        memory = region_bytes(region, bindings) / target.bandwidth
        return LAUNCH + max(each * _RESULT_AFTER + work, memory + _MEMORY_START)


def _pixels(g: Geometry, bindings: Bindings) -> int:
    return evaluate(mul(g.batch, *g.output), bindings)


def _emit(k: KernelBuilder, normal: Normal, g: Geometry, m: int, c: int, warps: int) -> None:
    rank = len(g.kernel)
    channels, rows = g.groups * g.out_channels, mul(g.batch, *g.output)
    tiles_c = -(-channels // c)
    k.line("pid = tl.program_id(0)")
    k.line(f"row = (pid // {tiles_c}) * {m} + tl.arange(0, {m})")
    k.line(f"channel = (pid % {tiles_c}) * {c} + tl.arange(0, {c})")
    row_mask = "" if divisible(rows, m) else f"(row < {k.dim(rows)})"
    col_mask = "" if channels % c == 0 else f"(channel < {channels})"
    k.line(f"m_index = {f'tl.where({row_mask}, row, 0)' if row_mask else 'row'}")
    rest = "m_index"
    for i in reversed(range(rank)):
        k.line(f"q_{i} = {rest} % {k.dim(g.output[i])}")
        rest = f"({rest} // {k.dim(g.output[i])})"
        origin = f"q_{i} + {g.pad[i]}" if g.transposed else f"q_{i} * {g.stride[i]} - {g.pad[i]}"
        k.line(f"pos_{i} = {origin}")
    wide = not fits_int32(g.x)
    k.line(f"n_coord = {rest}{'.to(tl.int64)' if wide else ''}")
    source = "channel" if g.out_channels == 1 else f"(channel // {g.out_channels})"
    x_name, w_name = k.region.ops[0].inputs[:2]
    batch = times("n_coord", k.dim(g.x.strides[0])) or "n_coord * 0"
    columns = times(source, k.dim(g.x.strides[1])) or "channel * 0"
    k.line(f"x_ptr = {k.input(x_name)} + ({batch})[:, None] + ({columns})[None, :]")
    w_channel = _weight_channel(k, g)
    k.line(f"w_ptr = {k.input(w_name)} + {w_channel}")
    space_rows = (Axis(0, g.batch), *(Axis(2 + i, g.output[i]) for i in range(rank)))
    shape = k.region.spec_of[k.region.ops[0].outputs[0]].shape
    space = Space(shape, space_rows, 1, col_code="channel")
    epilogue = Epilogue(k, space, row_mask, col_mask, m * c // (32 * warps))
    epilogue.preload(constants=True)
    if k.pdl:
        # The block needs little beside registers: what follows finds room at once.
        k.line("gdc_wait()")
        k.line("gdc_launch_dependents()")
    epilogue.preload(constants=False)
    k.line(f"acc = tl.zeros(({m}, {c}), dtype=tl.{sum_type(k.region)})")
    _taps(k, g, col_mask)
    epilogue.run("acc", normal.epilogue, normal.product.outputs[0])


def _weight_channel(k: KernelBuilder, g: Geometry) -> str:
    """Offset of a channel's first weight: (K, 1, ...) for Conv, (C, K/group, ...) for ConvTranspose."""
    if not g.transposed:
        return times("channel", k.dim(g.w.strides[0])) or "channel * 0"
    major = times(f"(channel // {g.out_channels})", k.dim(g.w.strides[0]))
    minor = times(f"(channel % {g.out_channels})", k.dim(g.w.strides[1])) if g.out_channels > 1 else ""
    return " + ".join(p for p in (major, minor) if p) or "channel * 0"


def _taps(k: KernelBuilder, g: Geometry, col_mask: str) -> None:
    """One multiply-add per tap; the taps are unrolled while they are few."""
    counter = "tl.static_range" if g.taps <= _UNROLLED_TAPS else "range"
    k.line(f"for tap in {counter}({g.taps}):")
    k.indent += 1
    inner, tests = 1, []
    for i in reversed(range(len(g.kernel))):
        k.line(f"t_{i} = tap // {inner} % {g.kernel[i]}")
        inner *= g.kernel[i]
        if g.transposed:
            k.line(f"up_{i} = pos_{i} - t_{i} * {g.dilation[i]}")
            k.line(f"at_{i} = up_{i} // {g.stride[i]}")
            tests.append(f"(up_{i} >= 0) & (up_{i} % {g.stride[i]} == 0) & (at_{i} < {k.dim(g.input[i])})")
        else:
            k.line(f"at_{i} = pos_{i} + t_{i} * {g.dilation[i]}")
            if g.bounded(i):
                tests.append(f"(at_{i} >= 0) & (at_{i} < {k.dim(g.input[i])})")
    spatial = [times(f"at_{i}", k.dim(g.x.strides[2 + i])) for i in range(len(g.kernel))]
    weight = [times(f"t_{i}", k.dim(g.w.strides[2 + i])) for i in range(len(g.kernel))]
    masks = ([f"({' & '.join(tests)})[:, None]"] if tests else []) + ([f"{col_mask}[None, :]"] if col_mask else [])
    guard = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
    w_guard = f", mask={col_mask}, other=0.0" if col_mask else ""
    offset = " + ".join(s for s in spatial if s)
    k.line(f"x = tl.load(x_ptr{f' + ({offset})[:, None]' if offset else ''}{guard})")
    k.line(f"w = tl.load(w_ptr + {' + '.join(w for w in weight if w) or '0'}{w_guard})")
    kind = sum_type(k.region)
    k.line(f"acc += x.to(tl.{kind}) * w.to(tl.{kind})[None, :]")
    k.indent -= 1
