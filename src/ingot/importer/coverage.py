"""Which ops a model has, how often, and which of them device kernels exist for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from ingot.errors import No
from ingot.graph.op_table import kind_of
from ingot.graph.region import Kind
from ingot.plugins.registry import active


@dataclass(frozen=True)
class OpCount:
    """One op of a model."""

    op: str
    domain: str
    """Empty for ONNX's own."""
    count: int
    """Nodes, those in nested graphs included."""
    kind: Kind
    """What it is on the device; ``Kind.HOST`` for what stays on the host."""
    reason: No | None
    """Why it has no device kernel; None where it has one."""


def coverage(model: ir.Model) -> tuple[OpCount, ...]:
    """The ops of ``model``: those without a device kernel first, then the most frequent.

    An op with a kernel may still stay on the host for its types, attributes or shapes; lowering
    reports that node by node. What control flow holds runs on the host with it, but is counted.
    """
    counts = Counter((node.domain, node.op_type) for node in model.graph.all_nodes())
    found = [_counted(op, domain, count) for (domain, op), count in counts.items() if op != "Constant" or domain]
    return tuple(sorted(found, key=lambda c: (c.reason is None, -c.count, c.domain, c.op)))


def _counted(op: str, domain: str, count: int) -> OpCount:
    kind = Kind.PLUGIN if active().find(domain, op) is not None else kind_of(op, domain)
    reason = No(f"{f'{domain}.{op}' if domain else op} has no device kernel") if kind is Kind.HOST else None
    return OpCount(op, domain, count, kind, reason)
