"""``cuda.depthwise``: depthwise convolutions of bytes, whose taps are multiplied four at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings, ceildiv, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.depthwise.floats import FloatTactic
from ingot.kernels.cuda.depthwise.pixels import Pixels, depthwise_pixels
from ingot.kernels.cuda.epilogue import WIDTH, EpilogueText
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import check_epilogue
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.source import Source, constants, template

ENTRY = "ingot_depthwise"
_BYTES = ("int8", "uint8")
_TAPS = 3
_WIDE = 2
"""Pixels along the width that a thread makes."""
_ROWS = (1, 2, 4)
_BLOCKS = (64, 128, 256)
_CLOCK = 1.7e9
_START = 2.2e-6
"""Seconds from the first load to the last store of one thread."""


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
        threads = evaluate(o.threads(rows, _WIDE, WIDTH), bindings)
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
    x, w = (region.spec_of[name].dtype if name in region.spec_of else "" for name in op.inputs[:2])
    if x not in _BYTES or w != "int8":
        return No(f"{x} by {w}")
    return depthwise_pixels(region, WIDTH, _TAPS)


def _read(region: Region) -> Pixels:
    found = _pixels(region)
    assert isinstance(found, Pixels), found
    return found


def _generate(o: Pixels, rows: int, block: int) -> Source:
    g, region = o.geometry, o.normal.region
    epilogue = EpilogueText(o, WIDTH, o.rows)
    struct, value, out = epilogue.text(), epilogue.value(), epilogue.out
    x, w = (out.input(name) for name in region.ops[0].inputs[:2])
    step, threads = out.number(g.x.strides[0], 8), out.number(o.threads(rows, _WIDE, WIDTH))
    kernel = f"""
extern "C" __global__ void __launch_bounds__({block}) {ENTRY}({out.declared}) {{
  const Epilogue epilogue = {value};
  depthwise({x}, {w}, epilogue, {step}, {threads});
}}
"""
    kind = "signed char" if g.x.dtype == "int8" else "unsigned char"
    kinds = f"typedef int sum_t;\ntypedef {kind} byte_t;\nconstexpr bool kSigned = {str(g.x.dtype == 'int8').lower()};"
    parts = [HELPERS, kinds, _constants(o, rows, block), struct, template("depthwise/depthwise.cuh"), kernel]
    return Source("\n".join(parts), ceildiv(o.threads(rows, _WIDE, WIDTH), block), out.arguments)


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


TACTICS: tuple[DepthwiseTactic | FloatTactic, ...] = (DepthwiseTactic(), FloatTactic())
