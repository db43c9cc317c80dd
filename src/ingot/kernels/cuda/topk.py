"""TopK as generated CUDA C++: blocks sort pieces of a row in shared memory and keep the first k of each.

An element and its index are one 64-bit key, so that keys are all different and their order is ONNX's: by value, and
among equal values by index. Rows longer than a block sorts go through several rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, evaluate, mul
from ingot.graph.region import Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Kernel, Program, Target, Variant, Workspace
from ingot.kernels.cost import LAUNCH
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.rows.text import CudaText, number_of

_PIECE = 4096
"""Keys that one block sorts at most: 32 KiB of shared memory."""
_LONGEST = 65535 * _PIECE
_FLOATS = frozenset({"float32", "float16", "bfloat16"})
_SIGNED, _UNSIGNED = frozenset({"int8", "int16", "int32"}), frozenset({"uint8", "uint16", "uint32"})
_SORT = """
// Bitonic sort of a power of two of keys, the largest first.
INGOT_INLINE void ingot_sort(unsigned long long* keys, int count) {
  for (int size = 2; size <= count; size <<= 1) {
    for (int step = size >> 1; step > 0; step >>= 1) {
      __syncthreads();
      for (int t = threadIdx.x; t < count / 2; t += blockDim.x) {
        const int i = 2 * t - (t & (step - 1)), j = i + step;
        const unsigned long long a = keys[i], b = keys[j];
        if ((a < b) == ((i & size) == 0)) {
          keys[i] = b;
          keys[j] = a;
        }
      }
    }
  }
  __syncthreads();
}
"""


@dataclass(frozen=True)
class _Round:
    """``count`` keys of a row in ``pieces`` of ``piece``, of each of which ``kept`` remain."""

    count: int
    piece: int
    pieces: int
    kept: int

    @property
    def room(self) -> int:
        """Keys in shared memory: a power of two."""
        return 1 << max(self.piece - 1, 1).bit_length()


def _rounds(count: int, k: int) -> list[_Round]:
    """The rounds until one piece is left; each but the last at least halves the keys."""
    rounds = []
    while count > _PIECE:
        pieces = -(-count // _PIECE)
        rounds.append(_Round(count, _PIECE, pieces, k))
        count = pieces * k
    rounds.append(_Round(count, count, 1, k))
    return rounds


class _Source:
    """The kernels of one Region, a round each."""

    def __init__(self, region: Region, block: int) -> None:
        self.region, self.op, self.block = region, region.anchor, block
        self.x = region.spec_of[self.op.inputs[0]]
        self.axis = int(self.op.attr("axis", -1)) % self.x.rank  # type: ignore[arg-type]
        self.k = _k(region)
        self.others = [i for i in range(self.x.rank) if i != self.axis]
        self.rows: Dim = mul(*(self.x.shape[i] for i in self.others))
        self.rounds = _rounds(int(self.x.shape[self.axis]), self.k)

    @cached_property
    def texts(self) -> list[CudaText]:
        """The kernels under construction; times need only ``rounds`` and ``rows``."""
        return [self._round(number) for number in range(len(self.rounds))]

    @property
    def text(self) -> str:
        """The CUDA C++ of all kernels."""
        kernels = [t.kernel(_entry(i), self.block) for i, t in enumerate(self.texts)]
        return _SORT + _ordered(self.x.dtype, bool(self.op.attr("largest", 1))) + "".join(kernels)

    def workspaces(self) -> tuple[Workspace, ...]:
        """The keys that remain after each round but the last."""
        return tuple(Workspace(mul(self.rows, r.pieces * r.kept * 8)) for r in self.rounds[:-1])

    def _round(self, number: int) -> CudaText:
        out, this = CudaText(self.region), self.rounds[number]
        last = number == len(self.rounds) - 1
        out.line("INGOT_DYNAMIC_SHARED(unsigned long long, keys);")
        out.line("const int row = blockIdx.x;")
        out.line(f"const int first = blockIdx.y * {this.piece};")
        names = out.split("row", "k", [self.x.shape[i] for i in self.others])
        with out.block(f"for (int t = threadIdx.x; t < {this.room}; t += {self.block})"):
            out.line("const int at = first + t;")
            out.line("unsigned long long key = 0;  // below every key of an element")
            with out.block(f"if (t < {this.piece} && at < {this.count})"):
                if number == 0:
                    place = out.offset([*self._places(names, self.x), ("at", self.x.strides[self.axis])])
                    out.line(f"key = ingot_key({out.input(self.op.inputs[0])}[{place}], at);")
                else:
                    before = out.scratch(number - 1, "unsigned long long")
                    out.line(f"key = {before}[(long long)row * {this.count} + at];")
            out.line("keys[t] = key;")
        out.line(f"ingot_sort(keys, {this.room});")
        with out.block(f"for (int t = threadIdx.x; t < {this.kept}; t += {self.block})"):
            # The last piece may hold fewer than k elements: keys of nothing follow them.
            out.line(f"const unsigned long long key = t < {this.room} ? keys[t] : 0;")
            if last:
                self._write(out, names)
            else:
                kept = out.scratch(number, "unsigned long long")
                out.line(f"{kept}[((long long)row * {this.pieces} + blockIdx.y) * {this.kept} + t] = key;")
        return out

    def _write(self, out: CudaText, names: list[str]) -> None:
        codes = ("ingot_element(key)", "(long long)(0xffffffffu - (unsigned int)key)")
        for name, code in zip(self.op.outputs, codes, strict=False):
            if name in self.region.outputs:
                spec = self.region.spec_of[name]
                place = out.offset([*self._places(names, spec), ("t", spec.strides[self.axis])])
                out.line(f"{out.output(name)}[{place}] = {code};")

    def _places(self, names: list[str], spec: TensorSpec) -> list[tuple[str, Dim]]:
        return [(name, spec.strides[i]) for name, i in zip(names, self.others, strict=True)]


def _entry(number: int) -> str:
    return f"ingot_topk_{number}"


def _k(region: Region) -> int:
    value = region.literal(region.anchor.inputs[1])
    number = None if value is None else number_of(value)
    return 0 if number is None else int(number)


def _ordered(dtype: str, largest: bool) -> str:
    """``ingot_key`` and ``ingot_element``: elements as unsigned integers in their order, the wanted ones highest."""
    kind = dtypes.TABLE[dtype].cuda
    turn = "" if largest else "~"
    if dtype in _FLOATS:
        # Zeros have one sign, and NaN is above all numbers.
        to = """  const float x = (float)value + 0.0f;
  const unsigned int bits = __float_as_uint(x);
  const unsigned int order = x != x ? 0xffffffffu : bits >> 31 ? ~bits : bits | 0x80000000u;"""
        back = f"""  const unsigned int bits = order >> 31 ? order & 0x7fffffffu : ~order;
  return ({kind})__uint_as_float(bits);"""
    else:
        sign = " ^ 0x80000000u" if dtype in _SIGNED else ""
        to = f"  const unsigned int order = (unsigned int)value{sign};"
        back = f"  return ({kind})(order{sign});"
    return f"""
INGOT_INLINE unsigned long long ingot_key({kind} value, int index) {{
{to}
  return (unsigned long long)({turn}order) << 32 | (0xffffffffu - (unsigned int)index);
}}
INGOT_INLINE {kind} ingot_element(unsigned long long key) {{
  const unsigned int order = {turn}(unsigned int)(key >> 32);
{back}
}}
"""


@dataclass(frozen=True)
class TopKTactic:
    """The first k of each row, sorted."""

    name: str = "cuda.topk"
    kinds: frozenset[Kind] = frozenset({Kind.SORT})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes for elements of up to 32 bits, rows of known length, and a known k that fits in half a piece."""
        op, x = region.anchor, region.spec_of.get(region.anchor.inputs[0])
        if len(region.ops) != 1 or x is None or not x.rank:
            return No("a TopK with more than its own op, or of a literal", node=region.name)
        if x.dtype not in _FLOATS | _SIGNED | _UNSIGNED:
            return No(f"TopK of {x.dtype}", node=region.name)
        count = x.shape[int(op.attr("axis", -1)) % x.rank]  # type: ignore[arg-type]
        k = _k(region)
        if 0 in x.shape or not isinstance(count, int) or not 0 < k <= count <= _LONGEST:
            return No(f"the first {k} of {count}", node=region.name)
        if count > _PIECE and 2 * k > _PIECE:
            return No(f"the first {k} of rows longer than {_PIECE}; up to {_PIECE // 2} would do", node=region.name)
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Block sizes that have work for all threads, the likeliest first."""
        room = _Source(region, 128).rounds[0].room
        blocks = [block for block in (128, 256, 512, 1024) if block == 128 or 2 * block <= room]
        found = [Variant(self.name, (("block", block),)) for block in blocks]
        return sorted(found, key=lambda v: self.estimate(region, v, target, bindings))

    def source(self, region: Region, variant: Variant) -> str:
        """CUDA C++ of a variant."""
        return _Source(region, variant["block"]).text

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = _Source(region, variant["block"])
        cubin = compile_cuda(source.text, _entry(0), target).cubin
        kernels = tuple(
            Kernel(
                _entry(i), cubin, (source.rows, r.pieces, 1), source.block, r.room * 8, source.texts[i].arguments
            )
            for i, r in enumerate(source.rounds)
        )  # fmt: skip
        return Program(kernels, source.workspaces())

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Launches, and the sorts: some 40 clocks for each pass over the keys, six for each comparison of a thread."""
        source = _Source(region, variant["block"])
        rows = evaluate(source.rows, bindings)
        total = 0.0
        for r in source.rounds:
            depth = (r.room.bit_length() - 1) * r.room.bit_length() // 2
            alone = depth * (40 + 6 * (r.room / 2 / variant["block"]))
            waves = max(1.0, rows * r.pieces / (target.sms * max(1, 2048 // variant["block"])))
            total += LAUNCH + waves * alone / 1.7e9
        return total


TACTICS: tuple[TopKTactic, ...] = (TopKTactic(),)
