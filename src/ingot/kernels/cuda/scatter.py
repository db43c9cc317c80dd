"""ScatterElements and ScatterND as generated CUDA C++: a copy of the data, then one thread for each update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, ceildiv, evaluate
from ingot.graph.region import BodyOp, Kind, Region
from ingot.kernels.api import Kernel, Program, Target, Variant
from ingot.kernels.cost import LAUNCH
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.rows.text import HELPERS, CudaText, c_type

_COPY, _PUT = "ingot_scatter_copy", "ingot_scatter_put"
_BLOCKS = (256, 128)
_MOST = 1 << 30
"""Elements that an int counts."""
_COMBINED = {
    "add": "have + value",
    "mul": "have * value",
    "max": "ingot_larger(have, value)",
    "min": "ingot_smaller(have, value)",
}
_WORDS = {4: "unsigned int", 8: "unsigned long long"}
"""What compare-and-swap works on, by bytes."""


class _Source:
    """Both kernels of one Region."""

    def __init__(self, region: Region, block: int) -> None:
        self.region, self.op, self.block = region, region.anchor, block
        self.data, self.indices, self.updates = (region.spec_of[name] for name in self.op.inputs[:3])
        self.made = region.spec_of[self.op.outputs[0]]
        self.copy, self.put = CudaText(region), CudaText(region)
        self._write_copy()
        self._write_put()

    @property
    def text(self) -> str:
        """The CUDA C++ of both."""
        kernels = self.copy.kernel(_COPY, self.block) + self.put.kernel(_PUT, self.block)
        return HELPERS + _combining(self.op, self.made.dtype) + kernels

    def grids(self) -> tuple[Dim, Dim]:
        """Blocks of both."""
        return ceildiv(self.made.elements, self.block), ceildiv(self.updates.elements, self.block)

    def _start(self, out: CudaText, elements: Dim) -> None:
        out.line(f"const int thread = blockIdx.x * {self.block} + threadIdx.x;")
        out.line(f"if (thread >= {out.number(elements)}) return;")

    def _write_copy(self) -> None:
        out, data, made = self.copy, self.data, self.made
        self._start(out, made.elements)
        to, source = out.output(self.op.outputs[0]), out.input(self.op.inputs[0])
        if made.dense() and data.dense():
            out.line(f"{to}[thread] = {source}[thread];")
            return
        names = out.split("thread", "k", made.shape)
        reads = out.offset(list(zip(names, data.strides, strict=True)))
        writes = out.offset(list(zip(names, made.strides, strict=True)))
        out.line(f"{to}[{writes}] = {source}[{reads}];")

    def _write_put(self) -> None:
        out, rank = self.put, len(self.data.shape)
        self._start(out, self.updates.elements)
        names = out.split("thread", "k", self.updates.shape)
        if self.op.op == "ScatterND":
            depth = int(self.indices.shape[-1])
            lead = names[: len(self.indices.shape) - 1]
            for axis in range(depth):
                self._place(axis, axis, [*zip(lead, self.indices.strides, strict=False)], axis)
            places = [*(f"at{axis}" for axis in range(depth)), *names[len(lead) :]]
        else:
            axis = int(self.op.attr("axis", 0)) % rank  # type: ignore[arg-type]
            self._place(0, axis, list(zip(names, self.indices.strides, strict=True)), None)
            places = ["at0" if i == axis else name for i, name in enumerate(names)]
        source = out.offset(list(zip(names, self.updates.strides, strict=True)))
        target = out.offset(list(zip(places, self.made.strides, strict=True)))
        value = f"{out.input(self.op.inputs[2])}[{source}]"
        to = out.output(self.op.outputs[0])
        if _reduction(self.op) == "none":
            out.line(f"{to}[{target}] = {value};")
        else:
            out.line(f"ingot_put({to} + ({target}), {value});")

    def _place(self, number: int, axis: int, coordinates: list[tuple[str, Dim]], element: int | None) -> None:
        """Declares ``at<number>``: the index along ``axis``, counted from the end where it is negative.

        An index that is out of bounds, which ONNX forbids, writes nothing.
        """
        out, last = self.put, self.indices.strides[-1]
        offset = out.offset(coordinates)
        if element and isinstance(last, int):
            offset = f"{offset} + {element * last}"
        elif element:
            offset = f"{offset} + {element} * {out.number(last, 8)}"
        size = out.number(self.data.shape[axis])
        out.line(f"long long at{number} = (long long){out.input(self.op.inputs[1])}[{offset}];")
        out.line(f"at{number} += at{number} < 0 ? {size} : 0;")
        out.line(f"if (at{number} < 0 || at{number} >= {size}) return;")


def _reduction(op: BodyOp) -> str:
    return str(op.attr("reduction", "none"))


def _combining(op: BodyOp, dtype: str) -> str:
    """``ingot_put``: an update combined with what lies there, whoever else does so at the same time."""
    how = _reduction(op)
    if how == "none":
        return ""
    kind, word = c_type(dtype), _WORDS[dtypes.itemsize(dtype)]
    if how == "add" and dtype in ("float32", "float64", "int32", "uint32"):
        body = "  atomicAdd(to, value);"
    else:
        body = f"""  {word}* whole = reinterpret_cast<{word}*>(to);
  {word} old = *whole, seen;
  do {{
    seen = old;
    const {kind} have = *reinterpret_cast<{kind}*>(&seen);
    const {kind} next = {_COMBINED[how]};
    old = atomicCAS(whole, seen, *reinterpret_cast<const {word}*>(&next));
  }} while (old != seen);"""
    return f"INGOT_INLINE void ingot_put({kind}* to, {kind} value) {{\n{body}\n}}\n"


@dataclass(frozen=True)
class ScatterTactic:
    """Two kernels: the copy, and the updates. Sums of floats depend on the order in which threads come."""

    name: str = "cuda.scatter"
    kinds: frozenset[Kind] = frozenset({Kind.SCATTER})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes for one op alone, with indices of 32 or 64 bits; combining needs elements of 4 or 8 bytes."""
        op = region.anchor
        if len(region.ops) != 1 or any(name not in region.spec_of for name in op.inputs[:3]):
            return No("a scatter with more than its own op, or with a literal operand", node=region.name)
        data, indices, updates = (region.spec_of[name] for name in op.inputs[:3])
        if indices.dtype not in ("int32", "int64"):
            return No(f"indices of type {indices.dtype}", node=region.name)
        how = _reduction(op)
        if how != "none" and (how not in _COMBINED or dtypes.itemsize(data.dtype) not in _WORDS):
            return No(f"reduction {how} of {data.dtype}", node=region.name)
        if op.op == "ScatterND" and not isinstance(indices.shape[-1], int):
            return No("an unknown number of index components", node=region.name)
        for tensor in (data, updates):
            if isinstance(tensor.elements, int) and not 0 < tensor.elements <= _MOST:
                return No("no elements, or more than 2^30", node=region.name)
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Block sizes."""
        return [Variant(self.name, (("block", block),)) for block in _BLOCKS]

    def source(self, region: Region, variant: Variant) -> str:
        """CUDA C++ of a variant."""
        return _Source(region, variant["block"]).text

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = _Source(region, variant["block"])
        cubin = compile_cuda(source.text, _COPY, target).cubin
        copy, put = source.grids()
        kernels = (
            Kernel(_COPY, cubin, (copy, 1, 1), source.block, 0, source.copy.arguments),
            Kernel(_PUT, cubin, (put, 1, 1), source.block, 0, source.put.arguments),
        )
        return Program(kernels, deterministic=_reduction(region.anchor) == "none")

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Two launches, the data read and written, and a sector of 32 bytes for each update."""
        data = region.spec_of[region.anchor.inputs[0]]
        updates = region.spec_of[region.anchor.inputs[2]]
        moved = 2 * evaluate(data.elements, bindings) * dtypes.itemsize(data.dtype)
        moved += evaluate(updates.elements, bindings) * 48
        return 2 * LAUNCH + moved / target.bandwidth + 1e-9 * variant["block"] / 256


TACTICS: tuple[ScatterTactic, ...] = (ScatterTactic(),)
