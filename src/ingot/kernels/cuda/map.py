"""``cuda.map``: any DAG of scalar ops and index maps, as generated CUDA C++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import LAUNCH
from ingot.kernels.cuda.maps.emit import Refused
from ingot.kernels.cuda.maps.plan import MapPlan, plan_map
from ingot.kernels.cuda.maps.source import MapSource, Shape1D
from ingot.kernels.cuda.maps.weight import BLOCK_START, CLOCK, instructions, traffic_seconds
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.transpose import TransposeTactic

_ENTRY = "ingot_map"
_MOST_VARIANTS = 8


@dataclass(frozen=True)
class MapTactic:
    """Pointwise ops and index maps, a vector of results per thread."""

    name: str = "cuda.map"
    kinds: frozenset[Kind] = frozenset({Kind.MAP})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes when every op of the Region has code."""
        plan = plan_map(region)
        if isinstance(plan, No):
            return No(plan.reason, node=region.name)
        try:
            _source(region, Shape1D(1, 1, 128))
        except Refused as refused:
            return No(refused.no.reason, node=region.name)
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Vector widths, vectors per thread and block sizes, the likeliest first."""
        found = [
            Variant(self.name, (("vector", vector), ("each", each), ("block", block)))
            for vector in _vectors(region, bindings)
            for each in (1, 2, 4)
            for block in (128, 256)
        ]
        ranked = sorted(found, key=lambda v: self.estimate(region, v, target, bindings))
        return ranked[:_MOST_VARIANTS]

    def source(self, region: Region, variant: Variant, target: Target) -> str:
        """CUDA C++ of a variant."""
        return _source(region, _cut(variant)).text

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = _source(region, _cut(variant))
        cubin = compile_cuda(source.text, _ENTRY, target).cubin
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((Kernel(_ENTRY, cubin, (source.grid, 1, 1), variant["block"], 0, source.arguments, pdl),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Launch, plus the longest of memory traffic, instruction issue and block starts, plus one thread's work."""
        cut = _cut(variant)
        source = _source(region, cut)
        totals = [evaluate(space.total, bindings) for space in source.plan.spaces]
        blocks = evaluate(source.grid, bindings)
        threads = -(-sum(totals) // (cut.vector * cut.each))
        share = cut.block * cut.vector * cut.each
        plain = source.plan.region
        traffic = traffic_seconds(plain, source.accesses, share, threads, max(totals), target, bindings)
        length = instructions(source.em.text.lines)
        issue = blocks * (cut.block // 32) * length / (target.sms * 4 * CLOCK)
        alone = 0.1e-6 + length * 1.5e-9
        return LAUNCH + max(traffic, issue, blocks * BLOCK_START) + alone


@lru_cache(maxsize=512)
def _source(region: Region, cut: Shape1D) -> MapSource:
    plan = plan_map(region)
    assert isinstance(plan, MapPlan), plan
    try:
        return MapSource(plan, cut, _ENTRY)
    except RecursionError:
        raise Refused("too many index maps follow each other") from None


def _cut(variant: Variant) -> Shape1D:
    return Shape1D(variant["vector"], variant["each"], variant["block"])


def _vectors(region: Region, bindings: Bindings) -> list[int]:
    """Vector widths whose accesses are wide for some tensor."""
    plan = plan_map(region)
    assert isinstance(plan, MapPlan), plan
    sizes = [dtypes.itemsize(s.dtype) for s in (*region.input_specs, *region.output_specs)]
    total = max((evaluate(space.total, bindings) for space in plan.spaces), default=0)
    found = []
    vector = 16 // min(sizes, default=16)
    while vector > 1:
        wide = total >= vector and any(a.width > 1 for a in _source(region, Shape1D(vector, 1, 128)).accesses)
        if wide:
            found.append(vector)
        vector //= 2
    return [*found[:2], 1]


TACTICS: tuple[MapTactic, TransposeTactic] = (MapTactic(), TransposeTactic())
