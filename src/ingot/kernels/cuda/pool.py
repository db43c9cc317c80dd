"""Max, average and Lp pooling with pointwise prologue and epilogue, as generated CUDA C++.

A thread makes one vector of results along the innermost axis of the output: eight half-precision channels
of a channels-last tensor. Small windows are loaded whole before they are combined, so that all
loads are in flight together. The largest of bytes is taken two at a time, as halves of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, ceildiv, divisible, evaluate, floordiv
from ingot.graph.region import BodyOp, Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.rows.axes import Loop, Placement, vector_load
from ingot.kernels.cuda.rows.source import TRIGGER, WAIT
from ingot.kernels.cuda.rows.text import (
    HELPERS,
    CudaText,
    c_type,
    literal,
    literal_type,
    load_pack,
    loaded,
    lowest,
    scalar_op,
    store_pack,
    stored,
)
from ingot.kernels.cuda.window import PoolPlan, plan_pool

_WHOLE = 16
"""Largest window that is loaded before it is combined."""
_WHOLE_WORDS = 40
"""Most words of one, where bytes are combined as they are loaded."""
_LAUNCH = 2.0e-6
_BYTES = """
// The larger of two halves each; their upper bytes decide.
template <bool kSigned> INGOT_INLINE unsigned ingot_larger_halves(unsigned a, unsigned b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned c;
  if constexpr (kSigned)
    asm("max.s16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  else
    asm("max.u16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
#else
  const unsigned flip = kSigned ? 0x80008000u : 0u, x = a ^ flip, y = b ^ flip;
  const unsigned high = (x >> 16) > (y >> 16) ? x & 0xffff0000u : y & 0xffff0000u;
  const unsigned low = (x & 0xffffu) > (y & 0xffffu) ? x & 0xffffu : y & 0xffffu;
  return (high | low) ^ flip;
#endif
}
// The largest of each of four bytes, in the upper bytes of halves.
template <bool kSigned> struct largest_bytes {
  unsigned even = kSigned ? 0x80008000u : 0u, odd = kSigned ? 0x80008000u : 0u;
  INGOT_MEMBER void take(unsigned word) {
    even = ingot_larger_halves<kSigned>(even, word << 8);
    odd = ingot_larger_halves<kSigned>(odd, word);
  }
  INGOT_MEMBER int byte(int k) const { return (int)((k % 2 ? odd : even) >> (8 + 16 * (k / 2)) & 0xffu); }
};
"""


class PoolSource:
    """Emits one kernel for a PoolPlan; ``vector`` results per thread."""

    def __init__(self, plan: PoolPlan, vector: int, block: int, target: Target) -> None:
        self.plan, self.vector, self.block, self.target = plan, vector, block, target
        self.out = CudaText(plan.region)
        self.source_id = {name: i for i, name in enumerate(plan.source)}
        self.result_id = {name: i for i, name in enumerate(plan.result)}
        self.value = {op.outputs[0]: i for i, op in enumerate((*plan.prologue, plan.anchor, *plan.epilogue))}
        self.inner_axis = plan.loops[-1][0]
        self.rank = len(plan.loops)
        self.kind = c_type(plan.dtypes[plan.anchor.inputs[0]])
        self.bytes = _in_words(plan, vector)
        self.whole = plan.window_size <= (_WHOLE_WORDS * 4 // vector if self.bytes else _WHOLE)

    def text(self, entry: str) -> str:
        """The kernel's CUDA C++."""
        out, plan = self.out, self.plan
        out.line(f"const int thread = blockIdx.x * {self.block} + threadIdx.x;")
        out.line(WAIT)
        units = floordiv(plan.elements, self.vector)
        out.line(f"if (thread >= {out.number(units)}) return;")
        sizes = [loop.size for _, loop in plan.loops]
        sizes[-1] = floordiv(sizes[-1], self.vector)
        for name, (axis, _) in zip(out.split("thread", "k", sizes), plan.loops, strict=True):
            last = axis == self.inner_axis and self.vector > 1
            out.line(f"const int i{axis} = {name}{f' * {self.vector}' if last else ''};")
        self._window_starts()
        self._nothing_yet()
        if self.whole:
            self._whole_window()
        else:
            self._looped_window()
        out.line(TRIGGER)
        self._finish()
        self._epilogue()
        return out.kernel(entry, self.block)

    def _nothing_yet(self) -> None:
        """The accumulators."""
        out, anchor = self.out, self.plan.anchor
        if self.bytes:
            out.line(f"largest_bytes<{self._signed()}> a[{self.vector // 4}];")
            return
        out.line(f"{self.kind} a[{self.vector}];")
        out.line("#pragma unroll")
        start = lowest(self.plan.dtypes[anchor.inputs[0]]) if anchor.op == "MaxPool" else "0"
        out.line(f"for (int j = 0; j < {self.vector}; ++j) a[j] = {start};")

    def _signed(self) -> str:
        return str(self.plan.dtypes[self.plan.anchor.inputs[0]] == "int8").lower()

    def _window_starts(self) -> None:
        for i, window in enumerate(self.plan.windows):
            self.out.line(f"const int s{i} = i{i + 2} * {window.stride} - ({self.out.number(window.head)});")

    # -- reading the window

    def _inside(self) -> str:
        tests = [f"h{i} >= 0 && h{i} < {self.out.number(w.size)}" for i, w in enumerate(self.plan.windows)]
        return " && ".join(tests)

    def _position(self, i: int) -> None:
        self.out.line(f"const int h{i} = s{i} + w{i} * {self.plan.windows[i].dilation};")

    def _whole_window(self) -> None:
        out, count = self.out, self.plan.window_size
        for name, number in self.source_id.items():
            out.line(f"{self._pack_type(name, self.plan.source)} x{number}[{count}];")
        out.line(f"bool inside[{count}];")
        with out.unrolled("w", count):
            rest = "w"
            for i in range(len(self.plan.windows) - 1, -1, -1):
                size = self.plan.windows[i].kernel
                out.line(f"const int w{i} = {rest} % {size};")
                rest = f"({rest} / {size})"
                self._position(i)
            out.line(f"inside[w] = {self._inside()};")
            with out.block("if (inside[w])"):
                for name, number in self.source_id.items():
                    self._load(f"x{number}[w]", name, self.plan.source, source=True)
        with out.unrolled("w", count), out.block("if (inside[w])"):
            self._accumulate("[w]")

    def _looped_window(self) -> None:
        out = self.out
        for i, window in enumerate(self.plan.windows):
            out.line(f"for (int w{i} = 0; w{i} < {window.kernel}; ++w{i}) {{")
            out.indent += 1
            self._position(i)
        with out.block(f"if ({self._inside()})"):
            for name, number in self.source_id.items():
                out.line(f"{self._pack_type(name, self.plan.source)} x{number};")
                self._load(f"x{number}", name, self.plan.source, source=True)
            self._accumulate("")
        for _ in self.plan.windows:
            out.indent -= 1
            out.line("}")

    def _accumulate(self, element: str) -> None:
        """Prologue and accumulation of one window element."""
        plan, out = self.plan, self.out
        if self.bytes:
            words = f"reinterpret_cast<const unsigned*>(x{self.source_id[plan.anchor.inputs[0]]}{element}.v)"
            with out.unrolled("j", self.vector // 4):
                out.line(f"a[j].take({words}[j]);")
            return
        with out.unrolled("j", self.vector):
            for op in plan.prologue:
                self._scalar(op, plan.source, f"x{{}}{element}", self.source_id)
            code = self._read(plan.anchor.inputs[0], plan.source, f"x{{}}{element}", self.source_id)
            out.line(f"const {self.kind} v = {code};")
            if plan.anchor.op == "MaxPool":
                out.line("a[j] = ingot_larger(a[j], v);")
            elif plan.anchor.op == "AveragePool":
                out.line("a[j] += v;")
            else:
                power = int(plan.anchor.attr("p", 2))  # type: ignore[arg-type]
                size = "v < 0 ? -v : v"
                out.line(
                    f"a[j] += {'v * v' if power == 2 else size if power == 1 else self._power(f'({size})', power)};"
                )

    def _power(self, base: str, exponent: int | float) -> str:
        return f"pow({base}, ({self.kind}){float(exponent)!r})"

    # -- after the window

    def _finish(self) -> None:
        out, plan, name = self.out, self.plan, f"t{self.value[self.plan.anchor.outputs[0]]}"
        out.line(f"{self.kind} {name}[{self.vector}];")
        result = f"({self.kind})a[j / 4].byte(j % 4)" if self.bytes else "a[j]"
        if plan.anchor.op == "AveragePool":
            include = bool(plan.anchor.attr("count_include_pad", 0))
            counts = [self._count(i, include) for i in range(len(plan.windows))]
            out.line(f"const {self.kind} divisor = ({self.kind})({' * '.join(counts)});")
            result = "a[j] / divisor"
        elif plan.anchor.op == "LpPool":
            power = int(plan.anchor.attr("p", 2))  # type: ignore[arg-type]
            result = "a[j]" if power == 1 else "sqrt(a[j])" if power == 2 else self._power("a[j]", 1.0 / power)
        out.line("#pragma unroll")
        out.line(f"for (int j = 0; j < {self.vector}; ++j) {name}[j] = {result};")

    def _count(self, i: int, include: bool) -> str:
        """Declares and names the number of window elements along axis ``i`` that a mean divides by."""
        out, window = self.out, self.plan.windows[i]
        reach, size = window.kernel * window.dilation, out.number(window.size)
        limit = f"{size} + {out.number(window.tail)}" if include else size
        out.line(f"const int last{i} = s{i} + {reach} < {limit} ? s{i} + {reach} : {limit};")
        first = f"s{i}"
        if not include:
            # The first element at or after 0 that the dilated window touches.
            skipped = f"(-s{i} + {window.dilation - 1}) / {window.dilation} * {window.dilation}"
            out.line(f"const int first{i} = s{i} < 0 ? s{i} + {skipped} : s{i};")
            first = f"first{i}"
        return f"(last{i} > {first} ? 1 + (last{i} - {first} - 1) / {window.dilation} : 1)"

    def _epilogue(self) -> None:
        out, plan = self.out, self.plan
        for name, number in self.result_id.items():
            out.line(f"{self._pack_type(name, plan.result)} y{number};")
            if name not in plan.region.outputs:
                self._load(f"y{number}", name, plan.result, source=False)
        with out.unrolled("j", self.vector):
            for op in plan.epilogue:
                self._scalar(op, plan.result, "y{}", self.result_id)
            for name in plan.region.outputs:
                read = self._read(name, plan.result, "y{}", {})
                value = stored(read, plan.dtypes[name], plan.result[name].spec.dtype)
                out.line(f"y{self.result_id[name]}.v[{'j' if self.vector > 1 else 0}] = {value};")
        for name in plan.region.outputs:
            dtype, width, stride, vector = self._access(name, plan.result)
            address = self._address(name, plan.result, source=False)
            store_pack(out, f"y{self.result_id[name]}", address, dtype, width, stride, vector=vector)

    # -- values and addresses

    def _scalar(self, op: BodyOp, placed: dict[str, Placement], packs: str, ids: dict[str, int]) -> None:
        name = op.outputs[0]
        arguments = [self._argument(op, n, placed, packs, ids) for n in op.inputs]
        code = scalar_op(op, arguments, self.plan.dtypes, self.plan.literals)
        assert isinstance(code, str), code
        self.out.line(f"const {c_type(self.plan.dtypes[name])} t{self.value[name]} = {code};")

    def _argument(self, op: BodyOp, name: str, placed: dict[str, Placement], packs: str, ids: dict[str, int]) -> str:
        literals = self.plan.literals
        if name in literals:
            return literal(literals[name], literal_type(op, name, self.plan.dtypes, literals))
        return self._read(name, placed, packs, ids) if name else ""

    def _read(self, name: str, placed: dict[str, Placement], packs: str, ids: dict[str, int]) -> str:
        if name in ids and name not in self.value:
            lane = "j" if self._access(name, placed)[1] > 1 else "0"
            return loaded(f"{packs.format(ids[name])}.v[{lane}]", placed[name].spec.dtype)
        code = f"t{self.value[name]}"
        return f"{code}[j]" if name == self.plan.anchor.outputs[0] else code

    def _access(self, name: str, placed: dict[str, Placement]) -> tuple[str, int, Dim, bool]:
        place = placed[name]
        stride = place.strides[self.inner_axis]
        if self.vector == 1 or stride == 0:
            return place.spec.dtype, 1, 1, False
        loops = [Loop(0, {name: s}) for a, s in enumerate(place.strides) if a != self.inner_axis]
        inner = Loop(0, {name: stride})
        vector = vector_load(name, place.spec, inner, loops, self.vector, dtypes.itemsize(place.spec.dtype))
        return place.spec.dtype, self.vector, stride, vector

    def _pack_type(self, name: str, placed: dict[str, Placement]) -> str:
        dtype, width, _, _ = self._access(name, placed)
        return f"vec_t<{dtypes.TABLE[dtype].cuda}, {width}>"

    def _address(self, name: str, placed: dict[str, Placement], *, source: bool) -> str:
        names = [f"h{a - 2}" if source and a >= 2 else f"i{a}" for a in range(self.rank)]
        pointer = self.out.output(name) if name in self.plan.region.outputs else self.out.input(name)
        offset = self.out.offset(list(zip(names, placed[name].strides, strict=True)))
        return pointer if offset == "0" else f"{pointer} + {offset}"

    def _load(self, target: str, name: str, placed: dict[str, Placement], *, source: bool) -> None:
        dtype, width, stride, vector = self._access(name, placed)
        load_pack(self.out, target, self._address(name, placed, source=source), dtype, width, stride, vector=vector)


@dataclass(frozen=True)
class PoolTactic:
    """Sliding-window pooling, one thread per vector of results."""

    name: str = "cuda.pool"
    kinds: frozenset[Kind] = frozenset({Kind.POOL})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes for max, average and Lp pooling without indices."""
        plan = plan_pool(region)
        if isinstance(plan, No):
            return No(plan.reason, node=region.name)
        if isinstance(plan.elements, int) and not 0 < plan.elements <= 1 << 30:
            return No("an empty result, or more than 2^30 results", node=region.name)
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Vector widths and block sizes, the likeliest first."""
        plan = _planned(region)
        found = [
            Variant(self.name, (("vector", vector), ("block", block)))
            for vector in _vectors(plan)
            for block in (64, 128, 256)
        ]
        return sorted(found, key=lambda v: self.estimate(region, v, target, bindings))

    def source(self, region: Region, variant: Variant, target: Target) -> str:
        """CUDA C++ of a variant."""
        emitter = PoolSource(_planned(region), variant["vector"], variant["block"], target)
        return HELPERS + _BYTES + emitter.text("ingot_pool")

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        plan = _planned(region)
        emitter = PoolSource(plan, variant["vector"], variant["block"], target)
        cubin = compile_cuda(HELPERS + _BYTES + emitter.text("ingot_pool"), "ingot_pool", target).cubin
        grid = (ceildiv(floordiv(plan.elements, variant["vector"]), variant["block"]), 1, 1)
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((Kernel("ingot_pool", cubin, grid, variant["block"], 0, emitter.out.arguments, pdl),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Launch plus traffic; windows that overlap are read from the caches at an eighth of the cost."""
        plan = _planned(region)
        size = dtypes.itemsize(next(iter(plan.source.values())).spec.dtype)
        results = evaluate(plan.elements, bindings)
        step = 1
        for window in plan.windows:
            step *= min(window.stride, window.kernel)
        fresh = results * size * (step + 1)
        cached = results * size * plan.window_size
        threads = results / variant["vector"]
        busy = min(1.0, threads * variant["vector"] * size * min(plan.window_size, _WHOLE) / (target.sms * 32768.0))
        each = 1 if _in_words(plan, variant["vector"]) else 3
        issued = threads * plan.window_size * (8 + each * variant["vector"]) / (target.sms * 128 * 1.7e9)
        partial = 1.0 + variant["block"] / 4096  # smaller blocks end sooner
        return _LAUNCH + partial * (max(fresh, cached / 8) / (target.bandwidth * busy) + issued + 1.0e-6)


def _planned(region: Region) -> PoolPlan:
    plan = plan_pool(region)
    assert isinstance(plan, PoolPlan), plan
    return plan


def _in_words(plan: PoolPlan, vector: int) -> bool:
    """Whether maxima are taken of bytes as they are loaded, four a word."""
    name = plan.anchor.inputs[0]
    if plan.anchor.op != "MaxPool" or plan.prologue or plan.dtypes[name] not in ("int8", "uint8") or vector % 4:
        return False
    place, inner = plan.source[name], plan.loops[-1][0]
    loops = [Loop(0, {name: stride}) for axis, stride in enumerate(place.strides) if axis != inner]
    return vector_load(name, place.spec, Loop(0, {name: place.strides[inner]}), loops, vector, 1)


def _vectors(plan: PoolPlan) -> list[int]:
    """Vector widths along the innermost axis of the output: above 1 only along the channels."""
    axis, inner = plan.loops[-1]
    x = plan.source[next(iter(plan.source))]
    if axis != 1 or x.strides[1] not in (0, 1):
        return [1]
    widest = 16 // min(dtypes.itemsize(p.spec.dtype) for p in (*plan.source.values(), *plan.result.values()))
    return [v for v in (16, 8, 4, 2, 1) if v <= widest and divisible(inner.size, v)][:3]


TACTICS: tuple[PoolTactic, ...] = (PoolTactic(),)
