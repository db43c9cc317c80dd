"""Will it run on the device, where, and why: the answer before any kernel is compiled.

The model goes the way of a build up to its Regions: imported, rewritten, fused, and every Region shown to the
tactics. What costs time in a build (compiling, measuring, placing memory) is left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from ingot.builder.reading import read_model
from ingot.builder.strict import fix_of
from ingot.builder.targets import gpu_target
from ingot.errors import No
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind, Region
from ingot.importer.coverage import OpCount, coverage
from ingot.importer.versions import refusal
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.options import BuildOptions
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.plan.flow import Flow
from ingot.plan.order import peak_bytes
from ingot.plan.places import Places
from ingot.tune.candidates import first_acceptance

if TYPE_CHECKING:
    import onnx

_AUTOCAST = "autocast: "
_FULL = "float32: "


@dataclass(frozen=True)
class OpRow:
    """One op of the model as it was read, and where it runs."""

    op: str
    domain: str
    """Empty for ONNX's own."""
    count: int
    """Nodes, those in nested graphs included."""
    kind: str
    """What it is on the device (``conv``, ``map`` ...); ``rewritten`` where other ops take its place there;
    ``host`` where all of its nodes stay there."""
    host: int
    """Nodes of this op that stay on the host after the rewrites."""


@dataclass(frozen=True)
class Reason:
    """Why one node stays on the host."""

    node: str
    reason: str
    fix: str
    """What would bring it to the device; empty where nothing in the model can."""


@dataclass(frozen=True)
class Island:
    """Ops that run together in ONNX Runtime on the host, between two launches."""

    name: str
    ops: tuple[str, ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Report:
    """What a build with the same options would do. Sizes are bytes, at the largest shapes of the profile."""

    target: str
    fp16: bool
    nodes: int
    """Of the model as it was read, those in nested graphs included."""
    ops: tuple[OpRow, ...]
    """Those that stay on the host first, then the most frequent."""
    whole: Reason | None
    """Why nothing of the model can run on the device; None where something does."""
    islands: tuple[Island, ...]
    layers: int
    """Fused layers on the device, each of at least one kernel; views, which do no work, left out."""
    kinds: dict[str, int]
    """Layers by kind."""
    precisions: dict[str, int]
    """Layers by the type of their first output."""
    float32: tuple[str, ...]
    """With ``fp16``: values that stay in float32, and why."""
    weights_bytes: int
    arena_bytes: int
    """Activations that are alive at once; a built engine's arena also has workspaces."""
    notes: tuple[str, ...]
    """Of the import and the rewrites."""

    @property
    def on_device(self) -> bool:
        """Whether everything runs on the device."""
        return self.whole is None and not self.islands


def check_model(model: str | os.PathLike[str] | bytes | onnx.ModelProto, options: BuildOptions) -> Report:
    """What ``ingot build`` would make of ``model`` for ``options.target``, without compiling anything.

    ``auto`` is the GPU that is there, else sm_90. Raises IngotError for a model or options that are wrong, and
    for the target ``cpu``, where all models run alike.
    """
    target = gpu_target(options.target, tf32=options.tf32)
    imported = read_model(model, options.shapes)
    ops, notes = coverage(imported.model), imported.notes
    old = refusal(imported.model)
    if old is not None:
        return _refused(target, options, ops, notes, old)
    canonical = canonicalise(imported.model, fp16=options.fp16, unroll=options.unroll, keep=False)
    nested = Counter(_nested(canonical.model.graph))
    found = lower(canonical.model, imported.ranges, lambda region: first_acceptance(region, target, TACTICS))
    kept = tuple(n.removeprefix(_AUTOCAST) for n in canonical.notes if n.startswith(_AUTOCAST))
    float32 = tuple(note.removeprefix(_FULL) for note in kept if note.startswith(_FULL))
    notes = (*notes, *(n for n in canonical.notes if n.removeprefix(_AUTOCAST).removeprefix(_FULL) not in float32))
    if isinstance(found, No):
        return _refused(target, options, ops, notes, found)
    islands = tuple(_island(region, found) for region in found.regions if region.kind is Kind.HOST)
    nested.update((op.domain, op.op) for r in found.regions if r.kind is Kind.HOST for op in r.ops)
    layers = [region for region in found.regions if region.kind not in (Kind.VIEW, Kind.HOST)]
    places = Places(found)
    return Report(
        target=target.name,
        fp16=options.fp16,
        nodes=sum(row.count for row in ops),
        ops=_rows(ops, nested),
        whole=None,
        islands=islands,
        layers=len(layers),
        kinds=_counted(region.kind.value for region in layers),
        precisions=_counted(region.spec_of[region.outputs[0]].dtype for region in layers),
        float32=float32,
        weights_bytes=sum(size for root, size in places.root_bytes.items() if places.space[root] == "weights"),
        arena_bytes=peak_bytes(Flow(found), places),
        notes=notes,
    )


def _refused(
    target: Target, options: BuildOptions, ops: tuple[OpCount, ...], notes: tuple[str, ...], why: No
) -> Report:
    rows = _rows(ops, Counter({(row.domain, row.op): row.count for row in ops}))
    whole = Reason(why.node, why.reason, why.fix)
    nodes = sum(row.count for row in ops)
    return Report(target.name, options.fp16, nodes, rows, whole, (), 0, {}, {}, (), 0, 0, notes)


def _nested(graph: ir.Graph) -> Iterable[tuple[str, str]]:
    """Domain and name of every op inside control flow: it runs where that runs."""
    outer = set(graph)
    return [(n.domain, n.op_type) for n in graph.all_nodes() if n not in outer]


def _rows(ops: tuple[OpCount, ...], host: Counter[tuple[str, str]]) -> tuple[OpRow, ...]:
    rows = [_row(op, min(op.count, host[op.domain, op.op])) for op in ops]
    return tuple(sorted(rows, key=lambda row: (not row.host, -row.count, row.domain, row.op)))


def _row(op: OpCount, host: int) -> OpRow:
    kind = op.kind.value
    if host == op.count:
        kind = Kind.HOST.value
    elif op.kind is Kind.HOST:
        kind = "rewritten"
    return OpRow(op.op, op.domain, op.count, kind, host)


def _island(region: Region, lowered: Lowered) -> Island:
    pairs = zip(region.ops, lowered.refusals[region.name], strict=True)
    reasons = tuple(Reason(no.node, no.reason, fix_of(op.op, no)) for op, no in pairs)
    return Island(region.name, tuple(op.op for op in region.ops), reasons)


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())
