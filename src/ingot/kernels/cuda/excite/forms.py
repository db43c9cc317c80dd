"""Which variants of the one kernel there are, and what they cost."""

from __future__ import annotations

import itertools

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.region import Region
from ingot.kernels.api import Target
from ingot.kernels.cost import largest_cluster, shared_limit
from ingot.kernels.cuda.excite.plan import ExcitePlan, plan_excite
from ingot.kernels.cuda.excite.source import Form

_LEAST_CC = 90
_CLUSTERS = (16, 8, 4, 2, 1)
_PARTS = (1, 2, 4, 8, 16)
_THREADS = (128, 256, 512, 1024)
_REGISTERS = 65536
_WORKING = 56
"""Registers of a thread beside pixels and weights."""
_MOST = 240
"""Registers of a thread."""
_STEPS = 1.8e-6
"""Seconds of the launch and of a block beside stream and products: five barriers, the way between blocks."""
_ALONE = 0.4e-6
"""Of that the way between blocks."""
_LINE = 128
_EACH_LINE = 8.5e-9
"""Seconds in which one block takes in a cache line and writes another."""
_AGAIN = 1.2e-6
"""Seconds more for each wave of blocks behind the first."""
_EACH_PRODUCT = 8e-9
"""Seconds for a multiplication of each thread in both products."""


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
    clusters = [cluster for cluster in _CLUSTERS if cluster <= largest_cluster(target)]
    for cluster, parts, threads in itertools.product(clusters, _PARTS, _THREADS):
        if parts > cluster or (parts > 1 and plan.before):
            continue
        form = Form(plan, cluster, parts, threads)
        busy = form.slice_columns * (form.slices // 2) < plan.columns and form.chunk * (parts - 1) < plan.pixels
        if form.rows < 1 or not busy or form.registers + _WORKING > min(_MOST, _REGISTERS // threads):
            continue
        if form.shared <= shared_limit(target):
            found.append(form)
    return found


def seconds(form: Form, target: Target, batch: int) -> float:
    """Launch, the steps of a block, and the longer of what an SM's blocks take in and all traffic."""
    plan, item = form.plan, dtypes.itemsize(form.plan.x.dtype)
    resident = max(1, min(_REGISTERS // (form.threads * (form.registers + _WORKING)), 227 * 1024 // form.shared))
    waves = -(-batch * form.cluster // (target.sms * resident))
    # Pixels of which a block takes some channels only begin and end in the middle of lines.
    lines = form.chunk * (form.slice * item / _LINE + (0.5 if form.slices > 1 else 0.0))
    stream = -(-batch * form.cluster // target.sms) * lines * _EACH_LINE + (waves - 1) * _AGAIN
    products = plan.hidden * form.slice / form.threads * _EACH_PRODUCT
    steps = _STEPS - (_ALONE if form.cluster == 1 else 0.0) + form.threads * 0.5e-9
    traffic = 2 * batch * plan.pixels * plan.channels * item / target.bandwidth
    return max(stream, traffic) + products + steps
