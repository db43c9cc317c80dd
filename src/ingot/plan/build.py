"""From chosen tactics to a Plan: order, steps, memory, edges, and the segments of the engine file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ingot.graph import dtypes
from ingot.graph.dims import Dim, mul
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind, Region
from ingot.plan import arena, edges, spec
from ingot.plan.flow import Flow
from ingot.plan.inplace import merge
from ingot.plan.lifetimes import Buffer, ancestors, bits, conflicts, in_sequence, in_time
from ingot.plan.order import order_regions
from ingot.plan.places import Places, extent_bytes
from ingot.plan.roofline import fewest_bytes, flops
from ingot.plan.segments import CubinTable, ModelTable, island_inputs
from ingot.plan.steps import Launch, Launches, argument, make_launches
from ingot.plan.weights import Weights, pack
from ingot.plugins.record import is_record
from ingot.tune.choice import Choice

_FREE_BYTES: Final = 32 << 20
"""An arena of this size stays in the L2 cache (50 MB on an H100): making it smaller gains nothing."""
_WORTH: Final = 1.25
"""A large arena gives up parallelism between branches when that saves more than this factor."""


@dataclass(frozen=True)
class PlanBundle:
    """A Plan and the segments it refers to. ``arena_bound`` is what no arena could be smaller than."""

    plan: spec.Plan
    weights: bytes | bytearray
    cubins: bytes
    models: bytes
    arena_bound: int


@dataclass(frozen=True)
class _Memory:
    """Offset of every root and workspace within its space, and the sizes of the spaces."""

    offsets: Mapping[str, int]
    arena_bytes: int
    persistent_bytes: int
    bound: int
    after: list[list[int]] = field(default_factory=list)


def build_plan(
    lowered: Lowered, choices: Sequence[Choice], target: str, *, bodies: bool = True, weights: Weights | None = None
) -> PlanBundle:
    """The Plan of ``lowered`` with the Program of each Region in ``choices`` (parallel to ``regions``).

    ``target`` is the target's name (``sm_90``, ``cpu``). ``bodies`` keeps every Region's body in the engine,
    for the simulator and for comparisons. ``weights``, where they are packed already, depend on ``lowered`` alone.
    Equal arguments give equal results, byte for byte.
    """
    assert len(choices) == len(lowered.regions), "one choice for each region"
    places, flow = Places(lowered), Flow(lowered)
    islands = {i: _island_reads(lowered, r) for i, r in enumerate(lowered.regions) if r.kind is Kind.HOST}
    launches = make_launches(lowered, choices, order_regions(flow, places), places, islands)
    micros = [choices[x.region].micros / len(launches.steps_of[x.region]) for x in launches.items]
    memory = _assign_memory(launches, flow, places, micros)
    weights = pack(places) if weights is None else weights
    values, index = _values(launches, memory, places, weights)
    cubins, models = CubinTable(), ModelTable()
    told = {d.symbol for d in lowered.data}
    regions = [
        _region(region, choices[i], lowered, index, islands.get(i), models if bodies else None)
        for i, region in enumerate(lowered.regions)
    ]
    plan = spec.Plan(
        target=target,
        profiles=[spec.Profile(r.symbol, r.min, r.opt, r.max) for r in lowered.ranges if r.symbol not in told],
        inputs=[_binding(name, lowered, index) for name in lowered.inputs],
        outputs=[_binding(name, lowered, index) for name in lowered.outputs],
        values=values,
        regions=regions,
        cubins=cubins.rows,
        models=models.rows,
        steps=_steps(launches, memory.after, lowered, index, cubins, models),
        arena_bytes=memory.arena_bytes,
        persistent_bytes=memory.persistent_bytes,
        weights_bytes=len(weights.data),
        reasons=list(lowered.reasons),
        data=_data(lowered, launches, index),
    )
    return PlanBundle(plan, weights.data, cubins.data, models.data, memory.bound)


def _island_reads(lowered: Lowered, region: Region) -> tuple[str, ...]:
    """What an island is fed: its Region's inputs without the constants that its model carries."""
    if is_record(lowered.host_bodies[region.name]):
        return region.inputs
    return island_inputs(lowered.host_bodies[region.name])


# -- memory


def _assign_memory(launches: Launches, flow: Flow, places: Places, micros: Sequence[float]) -> _Memory:
    """Offsets, and the edges that they and the data flow demand.

    As long as the arena is small, memory is reused along data flow only, which adds no edge. In a large
    one it is also reused where the predicted times of the steps allow it without delaying any of
    them; if that is not enough, in the plain order of the steps. Edges keep what was assumed.
    """
    after = edges.flow_edges(launches.items, launches.steps_of, flow.depends)
    known = ancestors(after)
    touched, written = _uses(launches, places)
    holder = merge(flow.lowered.regions, launches.steps_of, places, touched, known)
    buffers = _buffers(launches, places, holder, touched, written)
    chosen = conflicts(buffers, known)
    offsets, size = arena.assign(buffers, chosen)
    if size > _FREE_BYTES:
        chosen = conflicts(buffers, in_time(after, micros))
        offsets, size = arena.assign(buffers, chosen)
        serial = conflicts(buffers, in_sequence(len(after)))
        dense = arena.assign(buffers, serial)
        if dense[1] * _WORTH < size:
            (offsets, size), chosen = dense, serial
    bound = max(arena.lower_bound(buffers, chosen), arena.max_live(buffers, len(after)))
    where = {b.name: offset for b, offset in zip(buffers, offsets, strict=True)}
    where |= {root: where[source] for root, source in holder.items()}
    persistent, end = {}, 0
    for name, (need, zeroed) in launches.workspaces.items():
        if zeroed:
            persistent[name] = end
            end += arena.aligned(need)
    ordered = edges.reduced(edges.add_memory_edges(after, buffers, offsets))
    return _Memory(where | persistent, size, end, bound, ordered)


def _uses(launches: Launches, places: Places) -> tuple[dict[str, int], dict[str, int]]:
    """Steps that touch, and steps that write, each root of the arena and each workspace."""
    touched: dict[str, int] = {root: 0 for root, space in places.space.items() if space == "arena"}
    touched |= {name: 0 for name, (_, zeroed) in launches.workspaces.items() if not zeroed}
    written = dict(touched)
    for step, launch in enumerate(launches.items):
        made = [places.of[name].root for name in launch.writes] + list(launch.workspaces)
        for name in made:
            if name in written:
                written[name] |= bits([step])
        for name in (*made, *(places.of[name].root for name in launch.reads)):
            if name in touched:
                touched[name] |= bits([step])
    return touched, written


def _buffers(
    launches: Launches,
    places: Places,
    holder: Mapping[str, str],
    touched: Mapping[str, int],
    written: Mapping[str, int],
) -> list[Buffer]:
    """Roots of the arena (those in one another's memory as one) and workspaces."""
    joined: dict[str, Buffer] = {}
    for name in touched:
        size = launches.workspaces[name][0] if name in launches.workspaces else places.root_bytes[name]
        home = holder.get(name, name)
        old = joined.get(home, Buffer(home, 0))
        joined[home] = Buffer(home, max(old.bytes, size), old.touched | touched[name], old.written | written[name])
    for b in joined.values():
        assert b.written or not b.touched, f"{b.name} is read and never written"
    return sorted(joined.values(), key=lambda b: (b.touched & -b.touched, b.name))


# -- values


def _values(
    launches: Launches, memory: _Memory, places: Places, weights: Weights
) -> tuple[list[spec.ValueDecl], dict[str, int]]:
    """Declarations of all Values, and their indices by name."""
    lowered = places.lowered
    names = dict.fromkeys((*lowered.inputs, *lowered.outputs))
    for launch in launches.items:
        names |= dict.fromkeys((*launch.reads, *launch.writes))
    for region in lowered.regions:
        if region.kind is Kind.VIEW:
            names |= dict.fromkeys((*region.inputs, *region.outputs))
    values = [_value(name, memory, places, weights) for name in names]
    for name, (size, zeroed) in launches.workspaces.items():
        place = spec.Memory("persistent" if zeroed else "arena", memory.offsets[name], size)
        values.append(spec.ValueDecl(name, "uint8", [size], [1], place))
    return values, {value.name: i for i, value in enumerate(values)}


def _value(name: str, memory: _Memory, places: Places, weights: Weights) -> spec.ValueDecl:
    tensor, place = places.lowered.values[name], places.of[name]
    space = places.space[place.root]
    base = {"arena": memory.offsets, "weights": weights.offsets}.get(space, {}).get(place.root, 0)
    start = mul(place.offset, dtypes.itemsize(tensor.dtype))
    offset: Dim = base + start if isinstance(start, int) else (f"{start} + {base}" if base else start)
    size: Dim = 0 if places.data_dependent(name) else extent_bytes(tensor)
    binding = place.root if space in ("input", "output") else ""
    return spec.ValueDecl(
        name, tensor.dtype, list(tensor.shape), list(tensor.strides), spec.Memory(space, offset, size, binding)
    )


def _binding(name: str, lowered: Lowered, index: Mapping[str, int]) -> spec.Binding:
    tensor = lowered.values[name]
    return spec.Binding(name, tensor.dtype, list(tensor.shape), index[name])


def _data(lowered: Lowered, launches: Launches, index: Mapping[str, int]) -> list[spec.DataSize]:
    """Sizes that host steps tell, in the order of these."""
    made = {name: step for step, launch in enumerate(launches.items) for name in launch.writes}
    bounds = {r.symbol: r for r in lowered.ranges}
    rows = sorted(lowered.data, key=lambda row: (made[row.value], row.symbol))
    return [spec.DataSize(r.symbol, bounds[r.symbol].opt, bounds[r.symbol].max, index[r.value], r.axis) for r in rows]


# -- regions and steps


def _region(
    region: Region,
    choice: Choice,
    lowered: Lowered,
    index: Mapping[str, int],
    island: tuple[str, ...] | None,
    models: ModelTable | None,
) -> spec.RegionDecl:
    works = region.kind not in (Kind.VIEW, Kind.HOST)
    reason = next((r for r in lowered.reasons if r.startswith(f"{region.name}: ")), choice.variant)
    notes = [*region.notes, *choice.notes]
    if choice.program is not None and not choice.program.deterministic:
        notes.append("the last bits of its result may differ from run to run")
    first = region.spec_of.get(region.outputs[0]) or lowered.values[region.outputs[0]]
    return spec.RegionDecl(
        name=region.name,
        kind=region.kind.value,
        ops=[op.op for op in region.ops],
        signature=region.signature,
        reads=[index[name] for name in (region.inputs if island is None else island)],
        writes=[index[name] for name in region.outputs],
        tactic=reason if region.kind is Kind.HOST else choice.variant,
        micros=choice.micros,
        measured=choice.measured,
        bytes=fewest_bytes(region) if works else 0,
        flops=flops(region),
        dtype=first.dtype,
        notes=notes,
        body=models.add_body(region) if works and models is not None else -1,
    )


def _steps(
    launches: Launches,
    after: list[list[int]],
    lowered: Lowered,
    index: Mapping[str, int],
    cubins: CubinTable,
    models: ModelTable,
) -> list[spec.Step]:
    programmatic = edges.programmatic(after, launches.items)
    return [
        _step(launch, after[i], programmatic[i], lowered, index, cubins, models)
        for i, launch in enumerate(launches.items)
    ]


def _step(
    launch: Launch,
    after: list[int],
    programmatic: list[int],
    lowered: Lowered,
    index: Mapping[str, int],
    cubins: CubinTable,
    models: ModelTable,
) -> spec.Step:
    region, kernel = lowered.regions[launch.region], launch.kernel
    name = region.name if not launch.part else f"{region.name}#{launch.part}"
    scratch = [index[w] for w in launch.workspaces]
    reads = [index[n] for n in launch.reads] + scratch
    writes = [index[n] for n in launch.writes] + scratch
    when = [spec.When(index[n], wanted) for n, wanted in lowered.guards.get(region.name, ())]
    if launch.call:
        model = models.add(launch.call, launch.reads, region.outputs)
        return spec.Step("call", name, launch.region, after, reads, writes, model=model, backend="plugin", when=when)
    if kernel is None:
        body = lowered.host_bodies[region.name]
        model = models.add(body, launch.reads, region.outputs)
        backend = "plugin" if is_record(body) else lowered.host_backends.get(region.name, "onnxruntime")
        return spec.Step("host", name, launch.region, after, reads, writes, model=model, backend=backend, when=when)
    return spec.Step(
        kind="kernel",
        name=name,
        region=launch.region,
        after=after,
        reads=reads,
        writes=writes,
        programmatic=programmatic,
        cubin=cubins.add(kernel.cubin),
        entry=kernel.entry,
        grid=list(kernel.grid),
        block=kernel.block,
        shared=kernel.shared,
        cluster=kernel.cluster,
        cooperative=kernel.cooperative,
        arguments=[argument(a, launch, index) for a in kernel.arguments],
        pdl=kernel.pdl.value,
        when=when,
    )
