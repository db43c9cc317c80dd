"""``cuda.narrow``: convolutions of bytes over 16 to 64 channels, multiplied straight out of an image in shared memory.

For the copy engine a pixel of 16 bytes is as much work as one of 128, and each is fetched once for every tap. Here each
is fetched once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph.dims import Bindings, Dim, ceildiv, evaluate, mul
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.depthwise.pixels import Pixels, in_vectors, pixels
from ingot.kernels.cuda.epilogue import EpilogueText
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import check_epilogue, quick_math
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.source import Source, constants, template
from ingot.kernels.triton.geometry import Geometry, geometry
from ingot.kernels.triton.indexing import broadcast_strides

ENTRY = "ingot_narrow"
_TYPES = {"int8": ("signed char", "s8"), "uint8": ("unsigned char", "u8")}
_PARTS_OF_OUTPUTS = (1, 2)
"""How many warps share the output channels of a result."""
_CHANNELS = (16, 32, 64)
_OUTPUTS = (16, 32, 64)
_PIECE = 16
"""Bytes of a pixel that a row of a matrix has."""
_WORD = 4
"""Bytes of the weights that one access takes."""
_RESULTS = 16
"""Results side by side that a warp makes at a time."""
_WORDS = 80
"""Most registers that weights may take."""
_WARPS = (4, 8)
_ROWS = (1, 2, 4, 8)
_PARTS = (1, 2, 3, 4, 6)
"""Blocks that share a row of results."""
_SHARED = 112 << 10
"""Most bytes of two images in shared memory: two blocks on an SM that has 228 KB."""
_SM_SHARED = 228 << 10
_SM_REGISTERS = 1 << 16
_SM_THREADS = 1024
"""That are worth having on an SM: more blocks have fewer parts each, and start one after another."""
_CLOCK = 1.7e9
_START = 2.4e-6
"""Seconds of one block beside its instructions: weights, then the image, then results on their way out."""
_SLOW_OPS = {"Sigmoid": 6, "Gelu": 20, "Exp": 5, "Tanh": 18, "Div": 5, "Erf": 20}
"""Instructions of scalar ops that take more than ``_OP``."""
_OP = 1.5


class NarrowTactic:
    """Fragments of ``mma.sync`` by ldmatrix; a pixel and tap is a row of them."""

    name = "cuda.narrow"
    kinds = frozenset({Kind.CONV})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Bytes from sm_80 on, 16 to 64 channels innermost on both sides, strides of 1 or 2, no dilation, no groups."""
        if target.cc < 80:
            return No(f"{target.name} has no mma.sync of 32 bytes")
        found = _pixels(region)
        if not isinstance(found, No) and _shared(found.geometry, 1, 1) > min(_SHARED, target.shared_per_block):
            return No("too large a window")
        answer = found if isinstance(found, No) else check_epilogue(found)
        return _columns_are_constant(_read(region)) if answer else answer

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Warps, rows of results and sixteens of results in a row of a block, likeliest first."""
        g = _read(region).geometry
        across = -(-int(g.output[1]) // _RESULTS)
        wide = sorted({-(-across // parts) for parts in _PARTS})
        found = [
            Variant(self.name, (("warps", warps), ("rows", rows), ("wide", w)))
            for warps in _WARPS
            for rows in _ROWS
            for w in wide
            if _shared(g, rows, w) <= min(_SHARED, target.shared_per_block) and rows * w * _shares(g) >= warps
        ]
        found = found or [Variant(self.name, (("warps", 4), ("rows", 1), ("wide", 1)))]
        return sorted(found, key=lambda v: (self.estimate(region, v, target, bindings), str(v)))

    def source(self, region: Region, variant: Variant, target: Target) -> Source:
        """CUDA C++ of a variant."""
        return _generate(_read(region), variant["warps"], variant["rows"], variant["wide"], target)

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = self.source(region, variant, target)
        cubin = compile_cuda(source.text, ENTRY, target, options=quick_math(region)).cubin
        shared = _shared(_read(region).geometry, variant["rows"], variant["wide"])
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        block = 32 * variant["warps"]
        return Program((Kernel(ENTRY, cubin, (source.grid, 1, 1), block, shared, source.arguments, pdl),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds: the slower of memory and issue, the latter by whole rounds of blocks."""
        o, (warps, rows, wide) = _read(region), (variant[key] for key in ("warps", "rows", "wide"))
        g = o.geometry
        blocks = evaluate(_blocks(o, rows, wide), bindings)
        columns = o.cols // 8 // _shares(g)
        finish = 2 * columns * sum(_SLOW_OPS.get(op.op, _OP) for op in o.normal.epilogue)
        tile = _steps(g) * (6 + 2 * columns) + 2 * finish + 30
        loads = math.ceil(_units(g, rows, wide) / 32) * 22
        turns = math.ceil(rows * wide * _shares(g) / warps) * warps  # all warps wait for those with one tile more
        slots = turns * tile + loads + warps * (_steps(g) * columns * 4 + 40)
        shared = _shared(g, rows, wide)
        resident = _resident(shared, warps, _words(g, _shares(g)))
        rounds = math.ceil(blocks / (target.sms * resident))
        together = min(resident, math.ceil(blocks / target.sms))
        issue = rounds * together * slots / (min(4, together * warps) * _CLOCK)
        return LAUNCH + _START + max(1.3 * issue, region_bytes(region, bindings) / target.bandwidth)


@lru_cache(maxsize=256)
def _pixels(region: Region) -> Pixels | No:
    """The Region's convolution, or why it is not for this kernel."""
    op = region.ops[0]
    if op is not region.anchor or op.op != "ConvInteger" or any(op.inputs[2:]):
        return No("not a convolution of bytes without zero points")
    g = geometry(region)
    if isinstance(g, No):
        return g
    if g.transposed or g.groups != 1 or len(g.kernel) != 2 or g.dilation != (1, 1) or not set(g.stride) <= {1, 2}:
        return No("groups, other than two dimensions, dilation, or a stride above 2")
    if g.x.dtype not in _TYPES or g.w.dtype != "int8" or not g.w.constant:
        return No(f"{g.x.dtype} by {g.w.dtype}, or weights that are not constant")
    if g.in_channels not in _CHANNELS or g.out_channels not in _OUTPUTS or math.prod(g.kernel) == 1:
        return No("other than 16, 32 or 64 channels on either side, or a window of one pixel")
    if _words(g, _PARTS_OF_OUTPUTS[-1]) > _WORDS or int(g.out_channels) // _shares(g) < _OUTPUTS[0]:
        return No("weights that do not stay in registers")
    if not in_vectors(g.w, 1, _WORD):
        return No("weights whose channels are not innermost, or not aligned")
    return pixels(region, g, _PIECE)


def _columns_are_constant(o: Pixels) -> Answer:
    """Whether no tensor of one number a channel is another kernel's result: these are read before the kernel waits."""
    region = o.normal.region
    shape = region.shape(o.normal.product.outputs[0])
    for name in (n for op in o.normal.epilogue for n in op.inputs if n in region.inputs):
        tensor = region.spec_of[name]
        strides = broadcast_strides(tensor, shape)
        if not tensor.constant and all(strides[axis.axis] == 0 for axis in o.row_axes):
            return No(f"{name!r}, the same for all pixels, is not constant")
    return YES


def _read(region: Region) -> Pixels:
    found = _pixels(region)
    assert isinstance(found, Pixels), found
    return found


def _steps(g: Geometry) -> int:
    """Fragments of the depth."""
    return -(-math.prod(g.kernel) * int(g.in_channels) // (2 * _PIECE))


def _words(g: Geometry, parts: int) -> int:
    """Registers of a lane that the weights of a warp take."""
    return _steps(g) * int(g.out_channels) // parts // 4


def _shares(g: Geometry) -> int:
    """Warps that share the output channels: as few as their registers allow."""
    return next(parts for parts in _PARTS_OF_OUTPUTS if _words(g, parts) <= _WORDS or parts == _PARTS_OF_OUTPUTS[-1])


def _units(g: Geometry, rows: int, wide: int) -> int:
    """Pieces of the image that a block has."""
    height = (rows - 1) * g.stride[0] + g.kernel[0]
    return height * ((_RESULTS * wide - 1) * g.stride[1] + g.kernel[1]) * int(g.in_channels) // _PIECE


def _shared(g: Geometry, rows: int, wide: int) -> int:
    """Bytes of shared memory: two images, whose pieces change places within eight."""
    return 2 * (-(-_units(g, rows, wide) // 8) * 8 * _PIECE)


def _resident(shared: int, warps: int, words: int) -> int:
    """Blocks that an SM holds at a time: their threads have about so many registers with ``words`` of weights."""
    threads = min(_SM_REGISTERS // (45 + 3 * words // 2), _SM_THREADS)
    return max(min(_SM_SHARED // (shared + 1024), threads // (32 * warps)), 1)


def _blocks(o: Pixels, rows: int, wide: int) -> Dim:
    high, across = (ceildiv(size, step) for size, step in zip(o.output, (rows, _RESULTS * wide), strict=True))
    return mul(o.geometry.batch, high, across)


def _generate(o: Pixels, warps: int, rows: int, wide: int, target: Target) -> Source:
    g, region = o.geometry, o.normal.region
    epilogue = EpilogueText(o, o.cols, o.rows, lane=o.cols // _shares(g) // 4)
    struct, value, out = epilogue.text(), epilogue.value(), epilogue.out
    x, w = (out.input(name) for name in region.ops[0].inputs[:2])
    step = out.number(g.x.strides[0], 8)
    parts = _blocks(o, rows, wide)
    most = target.sms * _resident(_shared(g, rows, wide), warps, _words(g, _shares(g)))
    grid: Dim = min(parts, most) if isinstance(parts, int) else parts
    total, blocks = out.number(parts), out.number(grid)
    kernel = f"""
extern "C" __global__ void __launch_bounds__({32 * warps}) {ENTRY}({out.declared}) {{
  const Epilogue epilogue = {value};
  convolve({x}, {w}, epilogue, {step}, {total}, {blocks});
}}
"""
    kind, mark = _TYPES[g.x.dtype]
    types = (
        f"typedef int sum_t;\ntypedef {kind} byte_t;\n"
        "INGOT_INLINE int bits_to_sum(unsigned bits) { return (int)bits; }"
    )
    product = f"""
INGOT_INLINE void multiply(sum_t (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {{
#ifdef INGOT_HOST
  ingot_host_mma<byte_t, signed char>(d, a, b);
#else
  INGOT_MMA_BYTES("{mark}.s8");
#endif
}}"""
    texts = [
        HELPERS, types, template("tensor_core.cuh"), template("mma/instructions.cuh"), product,
        _constants(o, warps, rows, wide), struct, template("narrow/narrow.cuh"), kernel,
    ]  # fmt: skip
    return Source("\n".join(texts), grid, out.arguments)


def _constants(o: Pixels, warps: int, rows: int, wide: int) -> str:
    g = o.geometry
    height, width = int(o.output[0]), int(o.output[1])
    step, _, weight_h, weight_w = g.w.strides
    values = {
        "Warps": warps, "Rows": rows, "Wide": wide, "Pieces": int(g.in_channels) // _PIECE, "Outputs": o.cols,
        "Parts": _shares(g), "ImageBytes": _shared(g, rows, wide) // 2,
        "TapsH": g.kernel[0], "TapsW": g.kernel[1], "StrideH": g.stride[0], "StrideW": g.stride[1],
        "PadH": g.pad[0], "PadW": g.pad[1], "Height": g.input[0], "Width": g.input[1],
        "OutHeight": height, "OutWidth": width, "BlocksHigh": -(-height // rows),
        "BlocksWide": -(-width // (_RESULTS * wide)), "RowStep": g.x.strides[2], "ColumnStep": g.x.strides[3],
        "WeightStep": step, "WeightH": weight_h, "WeightW": weight_w,
    }  # fmt: skip
    return constants(values)


TACTICS: tuple[NarrowTactic, ...] = (NarrowTactic(),)
