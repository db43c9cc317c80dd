"""``cuda.dwconv``: depthwise convolutions of floats, several pixels of a vector of channels in a thread's registers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, ceildiv, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.depthwise.pixels import Pixels, pixels
from ingot.kernels.cuda.epilogue import EpilogueText
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import check_epilogue
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.source import Source, constants, template

ENTRY = "ingot_dwconv"
_FLOATS = ("float16", "bfloat16", "float32")
_ACCESS = 16
"""Bytes of one access."""
_TAPS = 7
_ROWS = (1, 2, 4)
_WIDE = (1, 2, 4)
_BLOCKS = (64, 128, 256)
_LIMIT = 8
_HELD_TAPS = 25
"""Taps up to which a thread keeps all of them in registers."""
_REGISTERS = 160
"""Of sums, pixels of one row, and taps: more would spill."""
_CLOCK = 1.7e9
_SETUP = 0.3e-6
_WAY = 0.6e-6
"""Seconds from the first load to the last store of one thread, beside its instructions."""
_BESIDE = 0.15
"""Share of the shorter of work and traffic that nothing hides."""
_MEMORY = 0.85
"""Share of the memory's bandwidth that is reached."""
_EACH_LOAD = 6
"""Instructions beside one access: its address, whether it is inside, its share of waiting."""
_EACH_RESULT = 6
"""Instructions of the epilogue for a result."""


class FloatTactic:
    """Multiply-adds in float32 out of registers."""

    name = "cuda.dwconv"
    kinds = frozenset({Kind.CONV})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Floats, channels innermost in vectors of 16 bytes, up to 7 x 7 taps, strides of 1 or 2."""
        found = _pixels(region)
        return found if isinstance(found, No) else check_epilogue(found)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Rows and columns of a thread by threads of a block, likeliest first."""
        o = _read(region)
        shapes = [(rows, wide) for rows, wide in itertools.product(_ROWS, _WIDE) if _fits(o, rows, wide)]
        found = [
            Variant(self.name, (("rows", rows), ("wide", wide), ("block", block)))
            for (rows, wide), block in itertools.product(shapes, _BLOCKS)
        ]
        return sorted(found, key=lambda v: (self.estimate(region, v, target, bindings), str(v)))[:_LIMIT]

    def source(self, region: Region, variant: Variant) -> Source:
        """CUDA C++ of a variant."""
        return _generate(_read(region), variant["rows"], variant["wide"], variant["block"])

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = self.source(region, variant)
        cubin = compile_cuda(source.text, ENTRY, target, options=("--prec-div=false",)).cubin
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((Kernel(ENTRY, cubin, (source.grid, 1, 1), variant["block"], 0, source.arguments, pdl),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds: the slower of memory and issue, and the way of a thread."""
        o, rows, wide = _read(region), variant["rows"], variant["wide"]
        g, vector = o.geometry, vector_of(o)
        blocks = -(-evaluate(o.threads(rows, wide, vector), bindings) // variant["block"])
        lines, span = _seen(o, rows, wide)
        loads = lines * span + (g.taps if g.taps <= _HELD_TAPS else g.taps * rows)
        products = rows * wide * vector * g.taps
        slots = loads * (vector + _EACH_LOAD) + products + rows * wide * vector * _EACH_RESULT + 100
        share = -(-blocks // target.sms)
        issue = share * variant["block"] / 32 * slots / (4 * _CLOCK)
        alone = slots * 2 / _CLOCK  # a thread's own instructions do not wait for each other perfectly
        traffic = region_bytes(region, bindings) / (target.bandwidth * _MEMORY)
        work = max(1.2 * issue, alone) + _WAY
        return LAUNCH + _SETUP + max(work, traffic) + _BESIDE * min(work, traffic)


def vector_of(o: Pixels) -> int:
    """Channels of a thread."""
    return _ACCESS // dtypes.itemsize(o.geometry.x.dtype)


def _seen(o: Pixels, rows: int, wide: int) -> tuple[int, int]:
    """Rows and columns of the image that a thread's results see."""
    g = o.geometry
    return (rows - 1) * g.stride[0] + g.kernel[0], (wide - 1) * g.stride[1] + g.kernel[1]


def _fits(o: Pixels, rows: int, wide: int) -> bool:
    """Whether the result is not smaller and registers are enough."""
    g, vector = o.geometry, vector_of(o)
    taps = g.taps * _ACCESS // 4 if g.taps <= _HELD_TAPS else 0
    registers = rows * wide * vector + taps + _seen(o, rows, wide)[1] * _ACCESS // 4
    small = all(step <= 1 or step <= int(size) for step, size in zip((rows, wide), o.output, strict=True))
    return small and registers <= _REGISTERS


@lru_cache(maxsize=256)
def _pixels(region: Region) -> Pixels | No:
    """The Region's convolution, or why it is not for this kernel."""
    op = region.ops[0]
    if op is not region.anchor or op.op != "Conv":
        return No("not a convolution of floats")
    x, w = (region.spec_of[name].dtype if name in region.spec_of else "" for name in op.inputs[:2])
    if x not in _FLOATS or w != x:
        return No(f"{x} by {w}")
    bias = op.inputs[2] if len(op.inputs) > 2 else ""
    if bias and any(bias in other.inputs for other in region.ops[1:]):
        return No("the bias is read again by the epilogue")
    return pixels(region, _ACCESS // dtypes.itemsize(x), _TAPS)


def _read(region: Region) -> Pixels:
    found = _pixels(region)
    assert isinstance(found, Pixels), found
    return found


def _generate(o: Pixels, rows: int, wide: int, block: int) -> Source:
    g, region, vector = o.geometry, o.normal.region, vector_of(o)
    epilogue = EpilogueText(o, vector, o.rows, lane=vector)
    struct, value, out = epilogue.text(), epilogue.value(), epilogue.out
    x, w = (out.input(name) for name in region.ops[0].inputs[:2])
    threads = o.threads(rows, wide, vector)
    step, total = out.number(g.x.strides[0], 8), out.number(threads)
    kernel = f"""
extern "C" __global__ void __launch_bounds__({block}) {ENTRY}({out.declared}) {{
  const Epilogue epilogue = {value};
  depthwise({x}, {w}, epilogue, {step}, {total});
}}
"""
    kinds = f"typedef float sum_t;\ntypedef {dtypes.TABLE[g.x.dtype].cuda} element_t;"
    parts = [HELPERS, kinds, _constants(o, rows, wide, block), struct, template("depthwise/floats.cuh"), kernel]
    return Source("\n".join(parts), ceildiv(threads, block), out.arguments)


def _constants(o: Pixels, rows: int, wide: int, block: int) -> str:
    g, vector = o.geometry, vector_of(o)
    height, width = int(o.output[0]), int(o.output[1])
    values = {
        "Rows": rows, "Wide": wide, "Block": block, "Vector": vector, "TapsH": g.kernel[0], "TapsW": g.kernel[1],
        "StrideH": g.stride[0], "StrideW": g.stride[1], "PadH": g.pad[0], "PadW": g.pad[1], "Height": g.input[0],
        "Width": g.input[1], "OutHeight": height, "OutWidth": width, "Groups": o.cols // vector,
        "Lines": -(-height // rows), "Parts": -(-width // wide), "RowStep": g.x.strides[2],
        "ColumnStep": g.x.strides[3], "WeightH": g.w.strides[2], "WeightW": g.w.strides[3],
    }  # fmt: skip
    return constants(values, {"Hold": g.taps <= _HELD_TAPS})
