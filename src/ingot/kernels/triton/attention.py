"""Scaled dot-product attention in one pass over keys and values (flash attention 2), in Triton.

Softmax and accumulation are in float32 with a running maximum, so the score matrix never reaches
memory. Tensors are read through their strides: head splits and transposes before and after
are free as views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, ceildiv, divisible, evaluate, mul
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.scalar_code import compute_dtype
from ingot.graph.scalar_ops import expression
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Program, Target, Variant
from ingot.kernels.cost import LAUNCH, without_tensor_cores
from ingot.kernels.triton.builder import KernelBuilder
from ingot.kernels.triton.epilogue import triton_name
from ingot.kernels.triton.gemm import FLOAT8

_LOG2_E = math.log2(math.e)
_SMALL_SHARED = {75: 64512, 86: 101376, 89: 101376, 120: 101376, 80: 166912, 87: 166912}
"""Most shared memory of one block, bytes, where it is below Hopper's."""
_WIDEST_HEAD = 256
_HELPERS = """@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def plus(a, b):
    return a + b
"""


@dataclass(frozen=True)
class Operand:
    """A tensor as (batch, head, position, feature): strides in elements, 0 where it is broadcast."""

    name: str
    strides: tuple[Dim, Dim, Dim, Dim]


@dataclass(frozen=True)
class AttentionPlan:
    """What the kernel computes. Dimensions are those of the ONNX operator."""

    q: Operand
    k: Operand
    v: Operand
    y: Operand
    mask: Operand | None
    batch: Dim
    heads: int
    group: int
    """Query heads for each key head."""
    queries: Dim
    keys: Dim
    features: int
    value_features: int
    scale: float
    causal: bool
    dtype: str
    quantize: BodyOp | None
    """QuantizeLinear of the result, by numbers."""


@lru_cache(maxsize=256)
def plan_attention(region: Region) -> AttentionPlan | No:
    """The Region as one attention, or why it is not one that the kernel runs."""
    if region.kind is not Kind.ATTENTION or region.ops[0].op != "Attention" or len(region.ops) > 2:
        return No("not exactly one Attention")
    op, specs, quantize = region.ops[0], region.spec_of, _quantization(region)
    if isinstance(quantize, No):
        return quantize
    if any(op.inputs[3 + i : 4 + i] not in ((), ("",)) for i in (1, 2)) or any(op.outputs[1:]):
        return No("attention with a cache or with its scores as an output")
    if op.attr("softcap", 0.0):
        return No("softcap has no kernel")
    if any(int(op.attr(f"{side}_window_size", -1)) >= 0 for side in ("left", "right")):  # type: ignore[arg-type]
        return No("windows have no kernel")
    q, k, v, y = (specs[n] for n in (*op.inputs[:3], op.outputs[0]))
    if q.dtype not in ("float16", "bfloat16", "float32") or {k.dtype, v.dtype, y.dtype} != {q.dtype}:
        return No(f"attention of {q.dtype}, {k.dtype} and {v.dtype}")
    heads, kv_heads = int(op.attr("q_num_heads", 0) or 0), int(op.attr("kv_num_heads", 0) or 0)  # type: ignore[arg-type]
    result = specs[region.outputs[0]]  # where it lies: of what is quantized only the type is known
    views = [_four(t, h) for t, h in ((q, heads), (k, kv_heads), (v, kv_heads), (result, heads))]
    shapes = [view[0] for view in views if not isinstance(view, No)]
    if len(shapes) < 4:
        return No("queries, keys and values must be of rank 4, or of rank 3 with a number of heads")
    (batch, h, queries, features), (_, kv, keys, _), (_, _, _, values), _ = shapes
    if not all(isinstance(n, int) for n in (h, kv, features, values)):
        return No("numbers of heads and features must be fixed")
    assert isinstance(h, int) and isinstance(kv, int) and isinstance(features, int) and isinstance(values, int)
    if h % kv or max(features, values) > _WIDEST_HEAD:
        return No(f"{h} query heads on {kv} key heads of {features} features")
    mask = _mask(region, (batch, h, queries, keys))
    if isinstance(mask, No):
        return mask
    names = (*op.inputs[:3], region.outputs[0])
    operands = [Operand(n, view[1]) for n, view in zip(names, views, strict=True) if not isinstance(view, No)]
    scale = op.attr("scale")
    factor = 1.0 / math.sqrt(features) if scale is None else float(scale)  # type: ignore[arg-type]
    causal = bool(op.attr("is_causal", 0))
    q_, k_, v_, y_ = operands
    return AttentionPlan(
        q_, k_, v_, y_, mask, batch, h, h // kv, queries, keys, features, values, factor, causal, q.dtype, quantize
    )


def _quantization(region: Region) -> BodyOp | No | None:
    """What quantizes the result, None where nothing does, or why there is no kernel for it."""
    if len(region.ops) == 1:
        return None
    op = region.ops[1]
    alone = op.inputs[:1] == region.ops[0].outputs[:1] and region.outputs == op.outputs
    known = all(name in region.literal_of for name in op.inputs[1:] if name)
    if op.op != "QuantizeLinear" or not alone or not known:
        return No("more than a quantization behind the attention")
    code = _quantized(region, op)
    return code if isinstance(code, No) else op


def _quantized(region: Region, op: BodyOp) -> str | No:
    """Code of the quantized result out of ``acc``, in its own type."""
    dtype = region.spec_of[op.outputs[0]].dtype
    values = [region.literal_of.get(name, 0) for name in op.inputs[1:]]
    if not all(isinstance(value, int | float) for value in values):
        return No("a quantization by more than numbers")
    numbers = [repr(kind(value)) for kind, value in zip((float, int), values, strict=False)]
    code = expression(op, ["acc", *numbers], "triton", "float32", compute_dtype(dtype), narrow=False)
    return code if isinstance(code, No) else f"{code}.to(tl.{triton_name(dtype)})"


def _four(spec: TensorSpec, heads: int) -> tuple[tuple[Dim, ...], tuple[Dim, Dim, Dim, Dim]] | No:
    """Shape and strides as (batch, head, position, feature)."""
    if spec.rank == 4:
        a, b, c, d = spec.strides
        return spec.shape, (a, b, c, d)
    width = spec.shape[-1]
    if spec.rank != 3 or not heads or not isinstance(width, int) or width % heads:
        return No("not four axes")
    size = width // heads
    return (spec.shape[0], heads, spec.shape[1], size), (
        spec.strides[0],
        mul(spec.strides[2], size),
        spec.strides[1],
        spec.strides[2],
    )


def _mask(region: Region, space: tuple[Dim, Dim, Dim, Dim]) -> Operand | No | None:
    op = region.ops[0]
    name = op.inputs[3] if len(op.inputs) > 3 else ""
    if not name:
        return None
    if name not in region.inputs:
        return No("the mask must be a tensor")
    spec = region.spec_of[name]
    if spec.rank > 4 or (spec.dtype != "bool" and not dtypes.is_float(spec.dtype)):
        return No(f"a mask of type {spec.dtype} and rank {spec.rank}")
    missing = 4 - spec.rank
    strides: list[Dim] = [0] * missing
    for size, stride, want in zip(spec.shape, spec.strides, space[missing:], strict=True):
        if size not in (1, want):
            return No(f"a mask of shape {spec.shape} does not broadcast to {space}")
        strides.append(0 if size == 1 else stride)
    return Operand(name, (strides[0], strides[1], strides[2], strides[3]))


def _padded(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


class _Writer:
    """Writes the kernel of one plan for one tile."""

    def __init__(self, region: Region, plan: AttentionPlan, m: int, n: int, target: Target) -> None:
        self.plan, self.m, self.n, self.target = plan, m, n, target
        self.k = KernelBuilder(region, target, pdl=target.pdl, helpers=_HELPERS)
        self.whole_keys = divisible(plan.keys, n)
        self.whole_queries = divisible(plan.queries, m)

    def write(self) -> KernelBuilder:
        """The finished builder."""
        k, plan = self.k, self.plan
        k.line("head = tl.program_id(0)")
        k.line(f"batch = (head // {plan.heads}).to(tl.int64)")
        k.line(f"head = head % {plan.heads}")
        k.line(f"group = head // {plan.group}" if plan.group > 1 else "group = head")
        k.line(f"first = tl.program_id(1) * {self.m}")
        k.line(f"rows = first + tl.arange(0, {self.m})")
        k.line(f"features = tl.arange(0, {_padded(plan.features)})")
        k.line(f"values = tl.arange(0, {_padded(plan.value_features)})")
        if k.pdl:
            k.line("gdc_wait()")
        inside = self._inside(rows=True, feature="features[None, :]", size=plan.features)
        q = self._base(plan.q, k.input(plan.q.name), "head")
        k.line(f"q = tl.load({self._at(q, plan.q, 'rows[:, None]', 'features[None, :]')}{inside})")
        k.line(f"k_base = {self._base(plan.k, k.input(plan.k.name), 'group')}")
        k.line(f"v_base = {self._base(plan.v, k.input(plan.v.name), 'group')}")
        if plan.mask is not None:
            k.line(f"mask_base = {self._base(plan.mask, k.input(plan.mask.name), 'head')}")
        k.line(f'top = tl.full(({self.m},), float("-inf"), tl.float32)')
        k.line(f"total = tl.full(({self.m},), 0.0, tl.float32)")
        k.line(f"acc = tl.full(({self.m}, {_padded(plan.value_features)}), 0.0, tl.float32)")
        self._loop()
        if k.pdl:
            k.line("gdc_launch_dependents()")
        k.line("acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]")
        y = self._at(self._base(plan.y, k.output(plan.y.name), "head"), plan.y, "rows[:, None]", "values[None, :]")
        code: str | No = f"acc.to(tl.{plan.dtype})"
        if plan.quantize is not None:
            code = _quantized(k.region, plan.quantize)
            assert isinstance(code, str), code
        outside = self._inside(rows=True, feature="values[None, :]", size=plan.value_features, load=False)
        k.line(f"tl.store({y}, {code}{outside})")
        return k

    def _loop(self) -> None:
        k, plan = self.k, self.plan
        keys = k.dim(plan.keys)
        k.line(f"for start in range(0, {f'tl.minimum({keys}, first + {self.m})' if plan.causal else keys}, {self.n}):")
        k.indent += 1
        k.line(f"columns = start + tl.arange(0, {self.n})")
        inside = self._inside(rows=False, feature="features[:, None]", size=plan.features, column="columns[None, :]")
        k.line(f"k = tl.load({self._at('k_base', plan.k, 'columns[None, :]', 'features[:, None]')}{inside})")
        precision = "" if plan.dtype != "float32" else f', input_precision="{"tf32" if self.target.tf32 else "ieee"}"'
        k.line(f"scores = tl.dot(q, k{precision}) * {plan.scale * _LOG2_E!r}")
        self._masking(keys)
        k.line("higher = tl.maximum(top, tl.reduce(scores, 1, larger))")
        # A row that may attend to nothing so far has no maximum; 0 keeps infinity minus infinity out.
        k.line('safe = tl.where(higher == float("-inf"), 0.0, higher)')
        k.line("weights = tl.exp2(scores - safe[:, None])")
        k.line("shrink = tl.exp2(top - safe)")
        k.line("total = total * shrink + tl.reduce(weights, 1, plus)")
        k.line("acc = acc * shrink[:, None]")
        inside = self._inside(
            rows=False, feature="values[None, :]", size=plan.value_features, column="columns[:, None]"
        )
        k.line(f"v = tl.load({self._at('v_base', plan.v, 'columns[:, None]', 'values[None, :]')}{inside})")
        k.line(f"acc = tl.dot(weights.to(v.dtype), v, acc{precision})")
        k.line("top = higher")
        k.indent -= 1

    def _masking(self, keys: str) -> None:
        k, plan = self.k, self.plan
        allowed = [] if self.whole_keys else [f"(columns < {keys})[None, :]"]
        if plan.causal:
            allowed.append("(columns[None, :] <= rows[:, None])")
        if plan.mask is not None:
            tests = [f"(columns[None, :] < {keys})"] if not self.whole_keys and plan.mask.strides[3] != 0 else []
            if not self.whole_queries and plan.mask.strides[2] != 0:
                tests.append(f"(rows[:, None] < {k.dim(plan.queries)})")
            address = self._at("mask_base", plan.mask, "rows[:, None]", "columns[None, :]")
            guard = f", mask={' & '.join(tests)}, other=0" if tests else ""
            k.line(f"mask = tl.load({address}{guard})")
            if k.region.spec_of[plan.mask.name].dtype == "bool":
                allowed.append("(mask != 0)")
            else:
                k.line(f"scores += mask.to(tl.float32) * {_LOG2_E!r}")
        if allowed:
            k.line(f"scores = tl.where({' & '.join(allowed)}, scores, float('-inf'))")

    def _base(self, operand: Operand, pointer: str, head: str) -> str:
        terms = [pointer]
        for index, stride in (("batch", operand.strides[0]), (head, operand.strides[1])):
            if stride != 0:
                terms.append(f"{index} * {self.k.dim(stride)}")
        return " + ".join(terms)

    def _at(self, base: str, operand: Operand, position: str, feature: str) -> str:
        terms = [base]
        for index, stride in ((position, operand.strides[2]), (feature, operand.strides[3])):
            if stride != 0:
                terms.append(index if stride == 1 else f"{index} * {self.k.dim(stride)}")
        return " + ".join(terms)

    def _inside(self, *, rows: bool, feature: str, size: int, column: str = "", load: bool = True) -> str:
        """The mask of a load or store, with the comma before it; empty when everything is inside."""
        tests = []
        if rows and not self.whole_queries:
            tests.append(f"(rows[:, None] < {self.k.dim(self.plan.queries)})")
        if not rows and not self.whole_keys:
            tests.append(f"({column} < {self.k.dim(self.plan.keys)})")
        if _padded(size) != size:
            tests.append(f"({feature} < {size})")
        return f", mask={' & '.join(tests)}{', other=0.0' if load else ''}" if tests else ""


@dataclass(frozen=True)
class AttentionTactic:
    """Flash attention: one block per tile of queries of one head."""

    name: str = "triton.attention"
    kinds: frozenset[Kind] = frozenset({Kind.ATTENTION})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes for one Attention without cache, in float16, bfloat16 or float32, and a quantization behind it."""
        plan = plan_attention(region)
        if isinstance(plan, No):
            return No(plan.reason, node=region.name)
        if target.cc < 75:
            return No(f"{target.name} is older than sm_75", node=region.name)
        if region.output_specs[0].dtype == FLOAT8 and target.cc < 89:
            return No(f"{target.name} has no FP8", node=region.name)
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles, warps and pipeline depths that fit, the likeliest first."""
        plan = _planned(region)
        queries, keys = evaluate(plan.queries, bindings), evaluate(plan.keys, bindings)
        found = []
        # Before sm_80 Triton uses no tensor cores: it writes out every multiply-add, and has no deep pipelines.
        scalar = target.cc < 80
        for m in (16, 32) if scalar else (16, 32, 64, 128):
            for n in (32,) if scalar else (32, 64, 128):
                if (m > 16 and m >= 2 * queries) or (n > 32 and n >= 2 * keys):
                    continue
                for warps in (4, 8) if m == 128 else (4,):
                    for stages in (2, 3, 4) if keys > n and not scalar else (2,):
                        if self._fits(plan, m, n, stages, target):
                            found.append(_variant(self.name, m, n, warps, stages))
        return sorted(found, key=lambda v: self.estimate(region, v, target, bindings))

    def _fits(self, plan: AttentionPlan, m: int, n: int, stages: int, target: Target) -> bool:
        size, head = dtypes.itemsize(plan.dtype), _padded(plan.features) + _padded(plan.value_features)
        shared = (m * _padded(plan.features) + m * n + stages * n * head) * size
        limit = min(target.shared_per_block, _SMALL_SHARED.get(target.cc, target.shared_per_block))
        registers = m * (_padded(plan.value_features) + n) // 128
        return shared <= limit and registers <= 256

    def builder(self, region: Region, variant: Variant, target: Target) -> KernelBuilder:
        """The kernel of a variant, not compiled."""
        return _Writer(region, _planned(region), variant["m"], variant["n"], target).write()

    def grid(self, region: Region, variant: Variant) -> tuple[Dim, Dim, Dim]:
        """Heads, then tiles of queries."""
        plan = _planned(region)
        return mul(plan.batch, plan.heads), ceildiv(plan.queries, variant["m"]), 1

    def source(self, region: Region, variant: Variant, target: Target) -> str:
        """Triton source of a variant."""
        return self.builder(region, variant, target).source()

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant. Raises IngotError when Triton refuses it."""
        k = self.builder(region, variant, target)
        grid = self.grid(region, variant)
        return Program((k.kernel(grid, num_warps=variant["warps"], num_stages=variant["stages"]),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Waves of blocks, each a chain of two products and a softmax per tile of keys."""
        plan = _planned(region)
        m, n, stages = variant["m"], variant["n"], variant["stages"]
        queries, keys = evaluate(plan.queries, bindings), evaluate(plan.keys, bindings)
        blocks = -(-queries // m) * evaluate(plan.batch, bindings) * plan.heads
        head = _padded(plan.features) + _padded(plan.value_features)
        together = min(-(-blocks // target.sms), 2 if m == 128 else 4)
        peak = (without_tensor_cores(target).flops if plan.dtype != "float32" else target.flops_fp32 * 0.6) / target.sms
        rate = peak * {16: 0.12, 32: 0.25, 64: 0.45, 128: 0.6}[m] * {32: 0.6, 64: 0.85, 128: 1.0}[n]
        step = max(2.0 * m * n * head / rate * together, 0.35e-6 + 0.25e-6 / stages)
        steps = -(-keys // n) * (0.55 if plan.causal and keys > n else 1.0)
        waves = -(-blocks // (target.sms * together))
        return LAUNCH + waves * (1.6e-6 + steps * step)


def _planned(region: Region) -> AttentionPlan:
    plan = plan_attention(region)
    assert isinstance(plan, AttentionPlan), plan
    return plan


def _variant(name: str, m: int, n: int, warps: int, stages: int) -> Variant:
    return Variant(name, (("m", m), ("n", n), ("warps", warps), ("stages", stages)))


TACTICS: tuple[AttentionTactic, ...] = (AttentionTactic(),)
