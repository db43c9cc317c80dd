"""The material of ``ingot inspect``: what an engine holds, as one typed tree.

Sizes and operations are evaluated at one binding of the symbolic dimensions (by default the optimum).
How it looks on a screen is the command line's business; ``msgspec.json.encode`` gives ``--json``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ingot.engine.bounds import corner, data_dependent, extent, known_symbols
from ingot.engine.file import EngineFile
from ingot.engine.format import Provenance
from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate, evaluate_shape
from ingot.plan.spec import Binding, Plan, Profile, RegionDecl


class BindingView(msgspec.Struct, frozen=True):
    """An input or output. ``shape`` is as declared, ``at`` as evaluated (empty when it depends on data)."""

    name: str
    dtype: str
    shape: list[int | str]
    at: list[int]


class Layer(msgspec.Struct, frozen=True):
    """One Region: what was fused, what was chosen for it, and what it costs."""

    index: int
    name: str
    kind: str
    ops: list[str]
    tactic: str
    micros: float
    measured: bool
    bytes: int
    flops: int
    precision: str
    """Types of the inputs and outputs, such as ``float16`` or ``float16,float32 -> float32``."""
    reads: list[str]
    writes: list[str]
    steps: list[int]
    """Positions in the schedule; empty for a view."""
    pdl: str
    programmatic: bool
    """Whether it may start before its predecessor ends."""
    notes: list[str]


class ArenaRow(msgspec.Struct, frozen=True):
    """One Value in the arena: bytes from ``offset``, alive from step ``first`` to step ``last`` (included)."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int


class Summary(msgspec.Struct, frozen=True):
    """The engine in numbers. Bytes are bytes, times are microseconds at the optimum shapes."""

    target: str
    layers: int
    views: int
    kernels: int
    islands: int
    parallel: int
    """Most steps on no common path (an estimate of how many may run at once)."""
    programmatic_edges: int
    micros: float
    """Sum over the layers: what the model would take without overlap."""
    measured: bool
    """Whether every layer's time was measured."""
    bytes: int
    flops: int
    weights_bytes: int
    arena_bytes: int
    persistent_bytes: int
    code_bytes: int
    models_bytes: int


class ProfileView(msgspec.Struct, frozen=True):
    """One of several optimization profiles."""

    name: str
    ranges: list[Profile]
    inputs: dict[str, list[int | str]]
    """Shapes as declared, over the symbols of ``ranges``."""
    kernels: int
    islands: int
    arena_bytes: int
    micros: float
    """Sum over the layers, as in :class:`Summary`."""


class Description(msgspec.Struct, frozen=True):
    """Everything that ``ingot inspect`` shows."""

    summary: Summary
    profiles: list[Profile]
    inputs: list[BindingView]
    outputs: list[BindingView]
    layers: list[Layer]
    arena: list[ArenaRow]
    reasons: list[str]
    provenance: Provenance
    name: str = ""
    """Of the profile that is described, where there are several."""
    variants: list[ProfileView] = []
    """All of several."""


def describe(engine: EngineFile, bindings: Bindings | None = None, plan: Plan | None = None) -> Description:
    """The description of one ``plan`` of ``engine``, the first if None, at ``bindings`` (its optimum if None).

    Raises IngotError when a symbolic dimension has no value.
    """
    plan = engine.plan if plan is None else plan
    at = {**corner(plan, "opt"), **(bindings or {})}
    known = known_symbols(plan)
    loose = frozenset(i for i, value in enumerate(plan.values) if data_dependent(value, known))
    layers = [_layer(plan, i, region, at, loose) for i, region in enumerate(plan.regions)]
    return Description(
        summary=_summary(engine, plan, layers),
        profiles=plan.profiles,
        inputs=[_binding(b, at, loose) for b in plan.inputs],
        outputs=[_binding(b, at, loose) for b in plan.outputs],
        layers=layers,
        arena=_arena(plan, at),
        reasons=plan.reasons,
        provenance=engine.provenance,
        name=plan.name,
        variants=[_variant(p) for p in engine.plans] if engine.others else [],
    )


def _variant(plan: Plan) -> ProfileView:
    return ProfileView(
        name=plan.name,
        ranges=plan.profiles,
        inputs={b.name: b.shape for b in plan.inputs},
        kernels=sum(step.kind == "kernel" for step in plan.steps),
        islands=sum(step.kind == "host" for step in plan.steps),
        arena_bytes=plan.arena_bytes,
        micros=sum(region.micros for region in plan.regions if region.kind != "view"),
    )


def _binding(b: Binding, at: Bindings, loose: frozenset[int]) -> BindingView:
    shape = [] if b.value in loose else list(evaluate_shape(tuple(b.shape), at))
    return BindingView(b.name, b.dtype, b.shape, shape)


def _layer(plan: Plan, index: int, region: RegionDecl, at: Bindings, loose: frozenset[int]) -> Layer:
    steps = [i for i, step in enumerate(plan.steps) if step.region == index]
    known = not loose.intersection((*region.reads, *region.writes))
    return Layer(
        index=index,
        name=region.name,
        kind=region.kind,
        ops=region.ops,
        tactic=region.tactic,
        micros=region.micros,
        measured=region.measured,
        bytes=evaluate(region.bytes, at) if known else 0,
        flops=evaluate(region.flops, at) if known else 0,
        precision=_precision(plan, region),
        reads=[plan.values[i].name for i in region.reads],
        writes=[plan.values[i].name for i in region.writes],
        steps=steps,
        pdl=plan.steps[steps[0]].pdl if steps else "none",
        programmatic=bool(steps and plan.steps[steps[0]].programmatic),
        notes=region.notes,
    )


def _precision(plan: Plan, region: RegionDecl) -> str:
    reads, writes = (",".join(sorted({plan.values[i].dtype for i in side})) for side in (region.reads, region.writes))
    return writes if reads in ("", writes) else f"{reads} -> {writes}"


def _summary(engine: EngineFile, plan: Plan, layers: Sequence[Layer]) -> Summary:
    working = [layer for layer in layers if layer.kind != "view"]
    return Summary(
        target=plan.target,
        layers=len(working),
        views=len(layers) - len(working),
        kernels=sum(step.kind == "kernel" for step in plan.steps),
        islands=sum(step.kind == "host" for step in plan.steps),
        parallel=_width(plan),
        programmatic_edges=sum(len(step.programmatic) for step in plan.steps),
        micros=sum(layer.micros for layer in working),
        measured=bool(working) and all(layer.measured for layer in working),
        bytes=sum(layer.bytes for layer in working),
        flops=sum(layer.flops for layer in working),
        weights_bytes=plan.weights_bytes,
        arena_bytes=plan.arena_bytes,
        persistent_bytes=plan.persistent_bytes,
        code_bytes=len(engine.cubins),
        models_bytes=len(engine.models),
    )


def _width(plan: Plan) -> int:
    """Most steps at one depth of the graph."""
    depth: list[int] = []
    for step in plan.steps:
        depth.append(1 + max((depth[before] for before in step.after), default=-1))
    return max((depth.count(level) for level in set(depth)), default=0)


def _arena(plan: Plan, at: Bindings) -> list[ArenaRow]:
    """Values in the arena by offset; those that no step touches are left out."""
    users: dict[int, list[int]] = {}
    for index, step in enumerate(plan.steps):
        for value in {*step.reads, *step.writes}:
            users.setdefault(value, []).append(index)
    rows = []
    for value, steps in users.items():
        decl = plan.values[value]
        if decl.memory.space != "arena":
            continue
        try:
            shape, strides = evaluate_shape(tuple(decl.shape), at), evaluate_shape(tuple(decl.strides), at)
            offset = evaluate(decl.memory.offset, at)
        except IngotError as error:
            raise IngotError(error.reason, node=decl.name, fix="give a value for every symbolic dimension") from None
        size = extent(shape, strides) * dtypes.itemsize(decl.dtype)
        rows.append(ArenaRow(decl.name, offset, size, steps[0], steps[-1]))
    return sorted(rows, key=lambda row: (row.offset, row.first, row.name))
