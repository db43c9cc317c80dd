"""``cuda.depthwise``: depthwise convolutions of bytes, whose taps are multiplied four at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings, Dim, ceildiv, divisible, evaluate, mul
from ingot.graph.region import Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.epilogue import WIDTH, EpilogueText
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import check_epilogue
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.source import Source, constants, template
from ingot.kernels.triton.geometry import Geometry, geometry
from ingot.kernels.triton.indexing import Axis
from ingot.kernels.triton.normal import Normal, normal_conv

ENTRY = "ingot_depthwise"
_BYTES = ("int8", "uint8")
_TAPS = 3
_WIDE = 2
"""Pixels along the width that a thread makes."""
_ROWS = (1, 2, 4)
_BLOCKS = (64, 128, 256)
_MOST_ELEMENTS = 1 << 30
"""Pixels, and elements of one image, above which offsets would not fit an int."""
_CLOCK = 1.7e9
_START = 2.2e-6
"""Seconds from the first load to the last store of one thread."""


@dataclass(frozen=True)
class Pixels:
    """The convolution as a product whose rows are pixels and whose columns are channels: see ``Product``."""

    normal: Normal
    geometry: Geometry
    row_axes: tuple[Axis, ...]
    col_axis: int | None = 1
    batch_axes: tuple[Axis, ...] = ()

    @property
    def cols(self) -> int:
        """Channels of the result."""
        return self.geometry.groups * self.geometry.out_channels

    @property
    def output(self) -> tuple[Dim, Dim]:
        """Height and width of the result."""
        return self.geometry.output[0], self.geometry.output[1]

    @property
    def rows(self) -> Dim:
        """Pixels of the result."""
        return mul(self.geometry.batch, *self.geometry.output)


class DepthwiseTactic:
    """One multiply-add for the taps of a row, out of registers."""

    name = "cuda.depthwise"
    kinds = frozenset({Kind.CONV})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Bytes, channels innermost in multiples of eight, up to 3 x 3 taps, strides of 1 or 2."""
        found = _pixels(region)
        return found if isinstance(found, No) else check_epilogue(found)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Rows of a thread by threads of a block, likeliest first."""
        found = [Variant(self.name, (("rows", rows), ("block", block))) for rows in _ROWS for block in _BLOCKS]
        return sorted(found, key=lambda v: (self.estimate(region, v, target, bindings), str(v)))

    def source(self, region: Region, variant: Variant) -> Source:
        """CUDA C++ of a variant."""
        return _generate(_read(region), variant["rows"], variant["block"])

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = self.source(region, variant)
        cubin = compile_cuda(source.text, ENTRY, target).cubin
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((Kernel(ENTRY, cubin, (source.grid, 1, 1), variant["block"], 0, source.arguments, pdl),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds: the slower of memory and issue."""
        o, rows = _read(region), variant["rows"]
        g = o.geometry
        threads = evaluate(_threads(o, rows), bindings)
        lines = (rows - 1) * g.stride[0] + g.kernel[0]
        turned = 16 if g.stride[1] == 1 else 32
        products = 16 * rows * g.kernel[0]
        # Of these the hardware takes two clocks each; the epilogue has some five instructions for each result.
        slots = 2 * (lines * (turned + 8) + products) + lines * 20 + 16 * rows * 6 + 120
        issue = threads / 32 * slots / (target.sms * 4 * _CLOCK)
        return LAUNCH + _START + max(1.2 * issue, region_bytes(region, bindings) / target.bandwidth)


@lru_cache(maxsize=256)
def _pixels(region: Region) -> Pixels | No:
    """The Region's convolution, or why it is not for this kernel."""
    op = region.ops[0]
    if op is not region.anchor or op.op != "ConvInteger" or any(op.inputs[2:]):
        return No("not a convolution of bytes without zero points")
    g = geometry(region)
    if isinstance(g, No):
        return g
    if not g.depthwise or g.out_channels != 1 or len(g.kernel) != 2 or g.dilation != (1, 1):
        return No("not depthwise in two dimensions, without dilation")
    if max(g.kernel) > _TAPS or not set(g.stride) <= {1, 2}:
        return No(f"a kernel above {_TAPS} x {_TAPS}, or a stride above 2")
    if g.x.dtype not in _BYTES or g.w.dtype != "int8" or not g.w.constant:
        return No(f"{g.x.dtype} by {g.w.dtype}, or weights that are not constant")
    if not all(isinstance(d, int) for d in (*g.input, *g.output)):
        return No("symbolic image size")
    if not _in_eights(g.x, 1, g.groups) or not _in_eights(g.w, 0, g.groups):
        return No("channels that are not innermost in multiples of eight")
    if any(int(size) * int(step) > _MOST_ELEMENTS for size, step in zip(g.input, g.x.strides[2:], strict=True)):
        return No("too large an image")
    axes = tuple(Axis(axis, size) for axis, size in ((0, g.batch), (2, g.output[0]), (3, g.output[1])))
    return Pixels(normal_conv(region), g, axes)


def _in_eights(tensor: TensorSpec, axis: int, channels: int) -> bool:
    """Whether eight channels lie in one aligned piece everywhere."""
    others = [step for i, step in enumerate(tensor.strides) if i != axis and tensor.shape[i] != 1]
    aligned = channels % WIDTH == 0 and tensor.strides[axis] == 1 and tensor.align % WIDTH == 0
    return aligned and all(divisible(step, WIDTH) for step in others) and all(isinstance(s, int) for s in others[-2:])


def _read(region: Region) -> Pixels:
    found = _pixels(region)
    assert isinstance(found, Pixels), found
    return found


def _threads(o: Pixels, rows: int) -> Dim:
    lines, pairs = (ceildiv(size, step) for size, step in zip(o.output, (rows, _WIDE), strict=True))
    return mul(o.geometry.batch, lines, pairs, o.cols // WIDTH)


def _generate(o: Pixels, rows: int, block: int) -> Source:
    g, region = o.geometry, o.normal.region
    epilogue = EpilogueText(o, WIDTH, o.rows)
    struct, value, out = epilogue.text(), epilogue.value(), epilogue.out
    x, w = (out.input(name) for name in region.ops[0].inputs[:2])
    step, threads = out.number(g.x.strides[0], 8), out.number(_threads(o, rows))
    kernel = f"""
extern "C" __global__ void __launch_bounds__({block}) {ENTRY}({out.declared}) {{
  const Epilogue epilogue = {value};
  depthwise({x}, {w}, epilogue, {step}, {threads});
}}
"""
    kind = "signed char" if g.x.dtype == "int8" else "unsigned char"
    kinds = f"typedef int sum_t;\ntypedef {kind} byte_t;\nconstexpr bool kSigned = {str(g.x.dtype == 'int8').lower()};"
    parts = [HELPERS, kinds, _constants(o, rows, block), struct, template("depthwise/depthwise.cuh"), kernel]
    return Source("\n".join(parts), ceildiv(_threads(o, rows), block), out.arguments)


def _constants(o: Pixels, rows: int, block: int) -> str:
    g = o.geometry
    height, width = int(o.output[0]), int(o.output[1])
    values = {
        "Rows": rows, "Block": block, "TapsH": g.kernel[0], "TapsW": g.kernel[1], "StrideH": g.stride[0],
        "StrideW": g.stride[1], "PadH": g.pad[0], "PadW": g.pad[1], "Height": g.input[0], "Width": g.input[1],
        "OutHeight": height, "OutWidth": width, "Groups": o.cols // WIDTH, "Lines": -(-height // rows),
        "Pairs": -(-width // _WIDE), "RowStep": g.x.strides[2], "ColumnStep": g.x.strides[3],
        "WeightH": g.w.strides[2], "WeightW": g.w.strides[3],
    }  # fmt: skip
    return constants(values)


TACTICS: tuple[DepthwiseTactic, ...] = (DepthwiseTactic(),)
