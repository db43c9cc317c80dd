"""``cuda.excite``: squeeze-and-excitation in one kernel, a cluster of blocks for each image (sm_90 and later)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import Answer
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cuda.excite.apart import FourTactic
from ingot.kernels.cuda.excite.forms import fits, forms, seconds
from ingot.kernels.cuda.excite.plan import ExcitePlan, plan_excite
from ingot.kernels.cuda.excite.source import ENTRY, Form, generate
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.source import Source

_PER_CLUSTER = 4
"""Most variants of one number of blocks."""
_LIMIT = 8


@dataclass(frozen=True)
class ExciteTactic:
    """The mean, both products and the gate's product in one launch; the image is read once."""

    name: str = "cuda.excite"
    kinds: frozenset[Kind] = frozenset({Kind.EXCITE})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Channels-last floats of constant weights, an image that fits in the registers of a cluster."""
        return fits(region, target)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Cluster sizes and thread counts by predicted time."""
        found = forms(_planned(region), target)
        batch = evaluate(_planned(region).batch, bindings)
        found.sort(key=lambda form: (seconds(form, target, batch), form.cluster, form.parts, form.threads))
        seen: Counter[int] = Counter()
        head = []
        for form in found:
            seen[form.cluster] += 1
            if seen[form.cluster] <= _PER_CLUSTER:
                head.append(form.variant(self.name))
        return head[:_LIMIT]

    def source(self, region: Region, variant: Variant) -> Source:
        """CUDA C++ of a variant."""
        return generate(_form(region, variant))

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        form, source = _form(region, variant), self.source(region, variant)
        cubin = compile_cuda(source.text, ENTRY, target).cubin
        grid = (source.grid, 1, 1)
        return Program((
            Kernel(ENTRY, cubin, grid, form.threads, form.shared, source.arguments, Pdl.TRIGGERS, form.cluster),
        ))  # fmt: skip

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        return seconds(_form(region, variant), target, evaluate(_planned(region).batch, bindings))


def _planned(region: Region) -> ExcitePlan:
    plan = plan_excite(region)
    assert isinstance(plan, ExcitePlan), plan
    return plan


def _form(region: Region, variant: Variant) -> Form:
    return Form(_planned(region), variant["cluster"], variant["parts"], variant["threads"])


TACTICS: tuple[ExciteTactic | FourTactic, ...] = (ExciteTactic(), FourTactic())
