"""``cuda.excite``: squeeze-and-excitation in one kernel, a cluster of blocks for each image (sm_90 and later)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import LAUNCH, shared_limit
from ingot.kernels.cuda.excite.plan import ExcitePlan, plan_excite
from ingot.kernels.cuda.excite.source import ENTRY, Form, generate
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.source import Source

_LEAST_CC = 90
_CLUSTERS = (16, 8, 4, 2, 1)
_PARTS = (1, 2, 4, 8, 16)
_THREADS = (128, 256, 512, 1024)
_PER_CLUSTER = 4
"""Most variants of one number of blocks."""
_REGISTERS = 65536
_WORKING = 56
"""Registers of a thread beside its pixels."""
_PACK = 4
"""Registers of one access."""
_STEPS = 2.1e-6
"""Seconds from the wait to the last store beside the stream: five barriers, products, the way between blocks."""
_ALONE = 0.5e-6
"""Of that the way between blocks."""
_STREAM = 90e9
"""Bytes a second that one block takes in, with enough loads under way."""
_RATE = 0.1e12
"""Multiplications and additions a second of one block over operands in shared memory."""


@dataclass(frozen=True)
class ExciteTactic:
    """The mean, both products and the gate's product in one launch; the image is read once."""

    name: str = "cuda.excite"
    kinds: frozenset[Kind] = frozenset({Kind.EXCITE})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Channels-last floats of constant weights, an image that fits in the registers of a cluster."""
        if target.cc < _LEAST_CC:
            return No(f"{target.name} has no clusters of blocks")
        plan = plan_excite(region)
        if isinstance(plan, No):
            return plan
        return YES if forms(plan, target) else No("the image does not fit in the registers of a cluster")

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
        return head

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


def forms(plan: ExcitePlan, target: Target) -> list[Form]:
    """Every variant whose blocks are busy and whose pixels and weights fit."""
    found = []
    for cluster, parts, threads in itertools.product(_CLUSTERS, _PARTS, _THREADS):
        if parts > cluster or (parts > 1 and plan.before):
            continue
        form = Form(plan, cluster, parts, threads)
        busy = form.slice_columns * (form.slices // 2) < plan.columns and form.chunk * (parts - 1) < plan.pixels
        registers = threads * (_PACK * form.loads + _WORKING)
        if form.rows >= 1 and busy and registers <= _REGISTERS and form.shared <= shared_limit(target):
            found.append(form)
    return found


def seconds(form: Form, target: Target, batch: int) -> float:
    """Launch, the steps of a block, and the longer of its stream and all traffic, in as many waves as blocks need."""
    plan, item = form.plan, dtypes.itemsize(form.plan.x.dtype)
    share = form.chunk * form.slice * item
    resident = max(1, min(_REGISTERS // (form.threads * (_PACK * form.loads + _WORKING)), 227 * 1024 // form.shared))
    waves = -(-batch * form.cluster // (target.sms * resident))
    products = 4 * plan.hidden * form.slice / _RATE
    steps = _STEPS - (_ALONE if form.cluster == 1 else 0.0) + form.threads * 0.3e-9
    # Vectors side by side that are less than a sector, and few loads under way, waste bandwidth.
    whole = min(1.0, form.slice * item / 32)
    stream = 2 * share / (_STREAM * whole * min(1.0, 0.25 + form.loads * form.threads / 1024))
    traffic = 2 * batch * plan.pixels * plan.channels * item / target.bandwidth
    return LAUNCH + max(waves * (stream + products + steps), traffic + steps)


def _planned(region: Region) -> ExcitePlan:
    plan = plan_excite(region)
    assert isinstance(plan, ExcitePlan), plan
    return plan


def _form(region: Region, variant: Variant) -> Form:
    return Form(_planned(region), variant["cluster"], variant["parts"], variant["threads"])


TACTICS: tuple[ExciteTactic, ...] = (ExciteTactic(),)
