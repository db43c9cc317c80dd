"""``cuda.dwconv``: depthwise convolutions of floats, several pixels of a vector of channels in a thread's registers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, ceildiv, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import LAUNCH, region_bytes
from ingot.kernels.cuda.depthwise.pixels import Pixels, depthwise_pixels
from ingot.kernels.cuda.epilogue import EpilogueText
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import check_epilogue, quick_math
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.source import Source, constants, template

ENTRY = "ingot_dwconv"
_FLOATS = ("float16", "bfloat16", "float32")
_ACCESS = 16
"""Bytes of one access."""
_TAPS = 7
_ROWS = (1, 2, 4)
_WIDE = (1, 2, 4)
_WORDS = (4, 2, 1)
"""Words of four bytes that a thread takes at once: few where there are more threads than work."""
_BLOCKS = (64, 128)
_PER_WIDTH = 4
"""Most variants of one number of words."""
_HELD_TAPS = 25
"""Taps up to which a thread keeps all of them in registers."""
_REGISTERS = 170
"""Of sums, pixels, and taps: more would spill."""
_WORKING = 40
"""Registers beside them."""
_FILE = 65536
_CLOCK = 1.7e9
_SETUP = 0.3e-6
_WAY = 0.6e-6
"""Seconds from the first load to the last store of one thread, beside its instructions."""
_MEMORY = 0.85
"""Share of the memory's bandwidth that is reached."""
_BESIDE = 0.15
"""Share of the shorter of work and traffic that nothing hides."""
_EACH_LOAD = 5
"""Instructions beside one access: its address, whether it is inside."""
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
        """Rows, columns and channels of a thread by threads of a block, likeliest first."""
        o = _read(region)
        every = [Work(o, *sizes) for sizes in itertools.product(_ROWS, _WIDE, _WORDS)]
        found = [work.variant(self.name, block) for work in every if work.fits for block in _BLOCKS]
        found.sort(key=lambda v: (self.estimate(region, v, target, bindings), str(v)))
        likeliest = {words: [v for v in found if v["words"] == words][:_PER_WIDTH] for words in _WORDS}
        return [v for v in found if v in likeliest[v["words"]]]

    def source(self, region: Region, variant: Variant) -> Source:
        """CUDA C++ of a variant."""
        return _generate(_work(region, variant), variant["block"])

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = self.source(region, variant)
        cubin = compile_cuda(source.text, ENTRY, target, options=quick_math(region)).cubin
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((Kernel(ENTRY, cubin, (source.grid, 1, 1), variant["block"], 0, source.arguments, pdl),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds: the slower of memory and issue, and the way of the threads that follow each other."""
        work, block = _work(region, variant), variant["block"]
        warps = -(-evaluate(work.threads, bindings) // block // target.sms) * block // 32
        resident = max(1, _FILE // (32 * (work.registers + _WORKING)))
        issue = warps * work.instructions / (4 * _CLOCK)
        alone = 2 * work.instructions / _CLOCK  # a thread's own instructions wait for each other
        busy = max(1.2 * issue, alone) + _WAY * (0.5 + 0.5 * math.ceil(warps / min(resident, 64)))
        traffic = region_bytes(region, bindings) / (target.bandwidth * _MEMORY)
        return LAUNCH + _SETUP + max(busy, traffic) + _BESIDE * min(busy, traffic)


@dataclass(frozen=True)
class Work:
    """What one thread of a variant does."""

    o: Pixels
    rows: int
    wide: int
    words: int

    def variant(self, tactic: str, block: int) -> Variant:
        """Its parameters."""
        return Variant(tactic, (("rows", self.rows), ("wide", self.wide), ("words", self.words), ("block", block)))

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return dtypes.itemsize(self.o.geometry.x.dtype)

    @property
    def vector(self) -> int:
        """Channels."""
        return 4 * self.words // self.item

    @property
    def threads(self) -> Dim:
        """All of them."""
        return self.o.threads(self.rows, self.wide, self.vector)

    @property
    def seen(self) -> tuple[int, int]:
        """Rows and columns of the image that its results see."""
        g = self.o.geometry
        return (self.rows - 1) * g.stride[0] + g.kernel[0], (self.wide - 1) * g.stride[1] + g.kernel[1]

    @property
    def hold(self) -> bool:
        """Whether it keeps all taps in registers."""
        return self.o.geometry.taps <= _HELD_TAPS

    @property
    def registers(self) -> int:
        """For sums, all pixels, and taps."""
        lines, span = self.seen
        taps = self.o.geometry.taps if self.hold else 1
        return self.rows * self.wide * self.vector + (lines * span + taps) * self.words

    @property
    def instructions(self) -> int:
        """Roughly."""
        lines, span = self.seen
        taps, results = self.o.geometry.taps, self.rows * self.wide * self.vector
        loads = lines * span + taps * (1 if self.hold else self.rows)
        unpacked = (lines * span + taps * self.rows) * self.vector + lines * span * self.words
        return loads * _EACH_LOAD + unpacked + results * (taps + _EACH_RESULT) + 80

    @property
    def fits(self) -> bool:
        """Whether the result is not smaller and registers are enough."""
        small = all(n == 1 or n <= int(size) for n, size in zip((self.rows, self.wide), self.o.output, strict=True))
        return small and self.vector > 1 and self.registers <= _REGISTERS


def _work(region: Region, variant: Variant) -> Work:
    return Work(_read(region), variant["rows"], variant["wide"], variant["words"])


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
    return depthwise_pixels(region, _ACCESS // dtypes.itemsize(x), _TAPS)


def _read(region: Region) -> Pixels:
    found = _pixels(region)
    assert isinstance(found, Pixels), found
    return found


def _generate(work: Work, block: int) -> Source:
    o, vector = work.o, work.vector
    g, region = o.geometry, o.normal.region
    epilogue = EpilogueText(o, vector, o.rows, lane=vector)
    struct, value, out = epilogue.text(), epilogue.value(), epilogue.out
    x, w = (out.input(name) for name in region.ops[0].inputs[:2])
    step, total = out.number(g.x.strides[0], 8), out.number(work.threads)
    kernel = f"""
extern "C" __global__ void __launch_bounds__({block}) {ENTRY}({out.declared}) {{
  const Epilogue epilogue = {value};
  depthwise({x}, {w}, epilogue, {step}, {total});
}}
"""
    kinds = f"typedef float sum_t;\ntypedef {dtypes.TABLE[g.x.dtype].cuda} element_t;"
    parts = [HELPERS, kinds, _constants(work, block), struct, template("depthwise/floats.cuh"), kernel]
    return Source("\n".join(parts), ceildiv(work.threads, block), out.arguments)


def _constants(work: Work, block: int) -> str:
    o, g = work.o, work.o.geometry
    height, width = int(o.output[0]), int(o.output[1])
    values = {
        "Rows": work.rows, "Wide": work.wide, "Block": block, "Vector": work.vector, "Item": work.item,
        "TapsH": g.kernel[0], "TapsW": g.kernel[1], "StrideH": g.stride[0], "StrideW": g.stride[1], "PadH": g.pad[0],
        "PadW": g.pad[1], "Height": g.input[0], "Width": g.input[1], "OutHeight": height, "OutWidth": width,
        "Groups": o.cols // work.vector, "Lines": -(-height // work.rows), "Parts": -(-width // work.wide),
        "RowStep": g.x.strides[2], "ColumnStep": g.x.strides[3], "WeightH": g.w.strides[2],
        "WeightW": g.w.strides[3],
    }  # fmt: skip
    return constants(values, {"Hold": work.hold, "Half": g.x.dtype == "float16"})
