"""CUDA C++ of one squeeze-and-excitation variant: constants, places in shared memory, the scalar ops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ingot.graph import dtypes
from ingot.graph.dims import Dim, mul
from ingot.graph.region import BodyOp
from ingot.kernels.api import Variant
from ingot.kernels.cuda.excite.plan import ExcitePlan
from ingot.kernels.cuda.rows.text import HELPERS, CudaText, scalar_steps
from ingot.kernels.cuda.source import Source, constants, template

ENTRY = "ingot_excite"
_ALIGN = 16


@dataclass(frozen=True)
class Form:
    """One variant of one Region."""

    plan: ExcitePlan
    cluster: int
    """Blocks that share an image."""
    parts: int
    """Parts into which they cut its pixels; the others cut its channels."""
    threads: int

    def variant(self, tactic: str) -> Variant:
        """Its parameters."""
        return Variant(tactic, (("cluster", self.cluster), ("parts", self.parts), ("threads", self.threads)))

    @property
    def slices(self) -> int:
        """Parts into which channels are cut."""
        return self.cluster // self.parts

    @property
    def slice_columns(self) -> int:
        """Vectors of a pixel that one block takes."""
        return -(-self.plan.columns // self.slices)

    @property
    def slice(self) -> int:
        """Channels of one block."""
        return self.slice_columns * self.plan.vector

    @property
    def rows(self) -> int:
        """Pixels that a block takes in at once."""
        return self.threads // self.slice_columns

    @property
    def chunk(self) -> int:
        """Pixels of one block."""
        return -(-self.plan.pixels // self.parts)

    @property
    def loads(self) -> int:
        """Pixels of one thread, which it keeps in registers."""
        return -(-self.chunk // max(self.rows, 1))

    @property
    def inner_vector(self) -> int:
        """Hidden channels of one access to the second product's weights."""
        return math.gcd(self.plan.hidden, self.plan.vector)

    @property
    def registers(self) -> int:
        """Registers of a thread's pixels and weights."""
        per = self.threads // self.lanes(self.plan.hidden), self.threads // self.lanes(self.slice)
        first = -(-self.plan.hidden // per[0]) * -(-self.slice_columns // self.lanes(self.plan.hidden))
        inner = self.plan.hidden // self.inner_vector
        second = -(-self.slice // per[1]) * -(-inner // self.lanes(self.slice))
        pack = _ALIGN // 4
        return pack * (self.loads + first) + max(1, pack * self.inner_vector // self.plan.vector) * second

    def lanes(self, count: int) -> int:
        """Threads that share a sum of which there are ``count``: as many as there are, at most a warp."""
        lanes = 1
        while lanes < 32 and 2 * lanes * count <= self.threads:
            lanes *= 2
        return lanes

    @cached_property
    def places(self) -> dict[str, int]:
        """Bytes from the start of shared memory by name; ``""`` is the end."""
        plan = self.plan
        sizes = {
            "Sums": self.rows * self.slice, "Means": self.slice, "Got": self.cluster * plan.hidden,
            "Hiddens": plan.hidden, "Gates": self.slice, "Bias1": plan.hidden, "Bias2": self.slice,
        }  # fmt: skip
        places: dict[str, int] = {}
        at = 0
        for name, size in sizes.items():
            places[name] = at
            at += -(-4 * size // _ALIGN) * _ALIGN
        return places | {"": at}

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.places[""]


def generate(form: Form) -> Source:
    """CUDA C++ of one variant."""
    plan, out = form.plan, CudaText(form.plan.region)
    weights = [out.input(op.inputs[1]) for op in (plan.first, plan.second)]
    biases = [_bias(out, op) for op in (plan.first, plan.second)]
    operands = [out.input(plan.mean.inputs[0]), weights[0], biases[0], weights[1], biases[1]]
    operands.append(out.output(plan.region.outputs[0]))
    functions = [
        _function(plan, "mean_of", plan.mean.outputs[0], plan.before, plan.first.inputs[0]),
        _function(plan, "hidden_of", plan.first.outputs[0], plan.hidden_ops, plan.second.inputs[0]),
        _function(plan, "gate_of", plan.second.outputs[0], plan.gate_ops, plan.gate),
    ]
    kernel = f"""
extern "C" __global__ void __launch_bounds__({form.threads}) {ENTRY}({out.declared}) {{
  run_excite({", ".join(operands)});
}}
"""
    element = f"typedef {dtypes.TABLE[plan.x.dtype].cuda} element_t;"
    templates = [template("cluster.cuh"), template("excite/excite.cuh")]
    text = "\n".join([HELPERS, element, _constants(form), *functions, *templates, kernel])
    return Source(text, mul(plan.batch, form.cluster), out.arguments)


def _bias(out: CudaText, op: BodyOp) -> str:
    return out.input(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] else "nullptr"


def _constants(form: Form) -> str:
    plan = form.plan
    values: dict[str, Dim] = {
        "Cluster": form.cluster, "Threads": form.threads, "Vector": plan.vector, "Rows": form.rows,
        "Columns": form.slice_columns, "Channels": plan.channels, "Hidden": plan.hidden, "Pixels": plan.pixels,
        "Chunk": form.chunk, "Slices": form.slices, "Slice": form.slice, "Parts": form.parts, "Loads": form.loads,
        "SumLanes": form.lanes(form.slice), "HiddenLanes": form.lanes(plan.hidden),
        "InnerVector": form.inner_vector,
        "Pixel": plan.x.strides[3], "PixelTo": plan.y.strides[3],
        **{name: place for name, place in form.places.items() if name},
    }  # fmt: skip
    images = [f"constexpr long long kImage{name} = {spec.strides[0]};" for name, spec in (("", plan.x), ("To", plan.y))]
    flags = {
        f"{name}Bias": len(op.inputs) > 2 and bool(op.inputs[2])
        for name, op in (("First", plan.first), ("Second", plan.second))
    }
    return "\n".join([constants(values), *images, constants({}, flags)])


def _function(plan: ExcitePlan, name: str, source: str, ops: Sequence[BodyOp], result: str) -> str:
    """``float name(float)``: ``result`` from ``source`` through ``ops``."""
    names = {source: "x"}
    steps = scalar_steps(ops, names, plan.kinds, plan.literals)
    return "\n".join([f"INGOT_INLINE float {name}(float x) {{", *steps, f"  return {names[result]};", "}"])
