"""Which variants of the one kernel there are, and what they cost."""

from __future__ import annotations

import itertools

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.region import Region
from ingot.kernels.api import Target
from ingot.kernels.cost import LAUNCH, shared_limit
from ingot.kernels.cuda.excite.plan import ExcitePlan, plan_excite
from ingot.kernels.cuda.excite.source import Form

_LEAST_CC = 90
_CLUSTERS = (16, 8, 4, 2, 1)
_PARTS = (1, 2, 4, 8, 16)
_THREADS = (128, 256, 512, 1024)
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


def fits(region: Region, target: Target) -> Answer:
    """Whether the target has clusters, and one of them room for an image of the Region's."""
    if target.cc < _LEAST_CC:
        return No(f"{target.name} has no clusters of blocks")
    plan = plan_excite(region)
    if isinstance(plan, No):
        return plan
    return YES if forms(plan, target) else No("the image does not fit in the registers of a cluster")


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
