"""Is a Plan safe to load? Every field is checked here before anything uses it.

An engine file may come from anywhere. The digests say that it was not damaged; this says that its
indices, sizes and expressions are within bounds. (Machine code itself cannot be judged.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from ingot.engine.bounds import MAX_BYTES, check_at, corner, known_symbols, symbols_of
from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.plan.lifetimes import ancestors
from ingot.plan.spec import Argument, Binding, Plan, Step

SPACES = frozenset({"arena", "weights", "persistent", "input", "output", "host"})
PDL = frozenset({"none", "waits", "waits+triggers"})
MAX_SHARED = 232448
"""Most dynamic shared memory a block can have on any target, bytes (227 KiB, compute capability 9.0)."""
_MAX_CLUSTER = 16
_MAX_COUNT = 1 << 20
_MAX_PLANS = 256
_MAX_NAME = 4096
_MAX_RANK = 16
_MAX_ARGUMENTS = 512
"""512 eight-byte arguments are the 4 KiB that every driver accepts."""
_MAX_DIM = (1 << 31) - 1
_TARGET = re.compile(r"cpu|sm_[0-9]{2,3}")
_ENTRY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,1023}")
_FIX = "build the engine again"


def verify_all(plans: Sequence[Plan], sizes: Mapping[str, int]) -> None:
    """As :func:`verify` for each plan of an engine, and whether they can be plans of one engine."""
    first = plans[0]
    for plan in plans:
        verify(plan, sizes)
    if len(plans) == 1:
        return
    _require(len(plans) <= _MAX_PLANS, f"more than {_MAX_PLANS} profiles")
    _unique((plan.name for plan in plans), "profile")
    for plan in plans:
        _require(plan.target == first.target != "cpu", "profiles for different targets, or for the CPU", plan.name)
        _require(plan.cubins == first.cubins and plan.models == first.models, "profiles with other tables", plan.name)
        for rows, wanted in ((plan.inputs, first.inputs), (plan.outputs, first.outputs)):
            same = [(b.name, b.dtype, len(b.shape)) for b in rows] == [(b.name, b.dtype, len(b.shape)) for b in wanted]
            _require(same, "profiles with other inputs or outputs", plan.name)


def verify(plan: Plan, sizes: Mapping[str, int]) -> None:
    """Raises IngotError unless every index, size, offset and expression of ``plan`` is within bounds.

    ``sizes`` are the bytes of the segments ``weights``, ``cubins`` and ``models``. Expressions are
    evaluated at the minimum, optimum and maximum of the profile; the runtime repeats
    :func:`ingot.engine.bounds.check_at` for the shapes it binds.
    """
    _check_head(plan, sizes)
    _check_profiles(plan)
    _check_segments(plan, sizes)
    _check_values(plan)
    _check_bindings(plan)
    _check_regions(plan)
    for index, step in enumerate(plan.steps):
        _check_step(plan, index, step)
    _check_outputs_written(plan)
    known = known_symbols(plan)
    _check_data(plan)
    _check_conditions(plan)
    for bindings in {tuple(corner(plan, w).items()): corner(plan, w) for w in ("max", "opt", "min")}.values():
        check_at(plan, bindings, known)


def _refuse(what: str, where: str = "") -> IngotError:
    return IngotError(f"invalid engine: {what}", node=where[:200], fix=_FIX)


def _require(condition: bool, what: str, where: str = "") -> None:
    if not condition:
        raise _refuse(what, where)


def _check_head(plan: Plan, sizes: Mapping[str, int]) -> None:
    _require(_TARGET.fullmatch(plan.target) is not None, f"unknown target {plan.target[:40]!r}")
    lists = (plan.profiles, plan.inputs, plan.outputs, plan.values, plan.regions, plan.cubins, plan.models, plan.steps)
    _require(all(len(items) <= _MAX_COUNT for items in lists), f"more than {_MAX_COUNT} items of one kind")
    for name in ("arena_bytes", "persistent_bytes", "weights_bytes"):
        _require(0 <= getattr(plan, name) <= MAX_BYTES, f"{name} is {getattr(plan, name)}")
    _require(plan.weights_bytes == sizes["weights"], "weights_bytes is not the size of the weights segment")


def _check_profiles(plan: Plan) -> None:
    _unique((p.symbol for p in plan.profiles), "profile symbol")
    for p in plan.profiles:
        _require(p.symbol.isidentifier(), f"profile symbol {p.symbol[:40]!r} is not a name")
        _require(1 <= p.min <= p.opt <= p.max <= _MAX_DIM, f"profile range {p.min}:{p.opt}:{p.max}", p.symbol)


def _check_data(plan: Plan) -> None:
    """Sizes that data decides: each read off a host step's result, before any device step needs it."""
    if not plan.data:
        return
    _unique((*(p.symbol for p in plan.profiles), *(d.symbol for d in plan.data)), "symbol")
    before = ancestors([step.after for step in plan.steps])
    for d in plan.data:
        _require(d.symbol.isidentifier(), f"symbol {d.symbol[:40]!r} is not a name")
        _require(1 <= d.opt <= d.max <= _MAX_DIM, f"sizes up to {d.max}, best {d.opt}", d.symbol)
        _require(0 <= d.value < len(plan.values), "the size of a value that does not exist", d.symbol)
        shape = plan.values[d.value].shape
        _require(0 <= d.axis < len(shape) and shape[d.axis] == d.symbol, "not the size of its value", d.symbol)
        maker = next((i for i, s in enumerate(plan.steps) if s.kind == "host" and d.value in s.writes), None)
        if maker is None:
            raise _refuse("no host step makes the value that tells a size", d.symbol)
        for i, step in enumerate(plan.steps):
            if step.kind != "host" and d.symbol in step_symbols(plan, step):
                _require(bool(before[i] >> maker & 1), "a step needs a size before it is known", d.symbol)


def _check_conditions(plan: Plan) -> None:
    """Conditions: each a bool that a host step makes before any step that asks for it."""
    if not any(step.when for step in plan.steps):
        return
    before = ancestors([step.after for step in plan.steps])
    makers = {value: i for i, step in enumerate(plan.steps) if step.kind == "host" for value in step.writes}
    for i, step in enumerate(plan.steps):
        for when in step.when:
            maker = makers.get(when.value)
            if maker is None:
                raise _refuse("no host step makes the condition of a step", step.name)
            value = plan.values[when.value]
            _require(value.dtype == "bool" and not any(dim != 1 for dim in value.shape), "a condition of no bool")
            _require(bool(before[i] >> maker & 1), "a step needs a condition before it is known", step.name)


def step_symbols(plan: Plan, step: Step) -> frozenset[str]:
    """The symbols that the numbers of a step depend on."""
    dims: list[int | str] = [*step.grid, *(a.dim for a in step.arguments)]
    for i in (*step.reads, *step.writes):
        dims += [*plan.values[i].shape, *plan.values[i].strides, plan.values[i].memory.offset]
    return frozenset(name for dim in dims for name in symbols_of(dim, step.name))


def _check_segments(plan: Plan, sizes: Mapping[str, int]) -> None:
    places = {"cubins": [(c.offset, c.size) for c in plan.cubins], "models": [(m.offset, m.size) for m in plan.models]}
    for kind, rows in places.items():
        for index, (offset, size) in enumerate(rows):
            inside = offset >= 0 and size >= 0 and offset + size <= sizes[kind]
            _require(inside, f"{kind}[{index}] lies outside its segment")
    for index, model in enumerate(plan.models):
        _unique(model.inputs, f"input of models[{index}]")
        _unique(model.outputs, f"output of models[{index}]")


def _check_values(plan: Plan) -> None:
    _unique((v.name for v in plan.values), "value")
    inputs, outputs = ({b.name for b in rows} for rows in (plan.inputs, plan.outputs))
    for v in plan.values:
        _require(dtypes.known(v.dtype), f"unknown element type {v.dtype[:40]!r}", v.name)
        _require(len(v.shape) == len(v.strides) <= _MAX_RANK, "shape and strides do not fit together", v.name)
        _require(v.memory.space in SPACES, f"unknown memory space {v.memory.space[:40]!r}", v.name)
        known = {"input": inputs, "output": outputs}.get(v.memory.space, {""})
        _require(v.memory.binding in known, f"no binding {v.memory.binding[:80]!r} for its memory", v.name)
        _require(v.memory.space != "host" or v.memory.offset == 0, "host memory has no offsets", v.name)


def _check_bindings(plan: Plan) -> None:
    for space, bindings in (("input", plan.inputs), ("output", plan.outputs)):
        _unique((b.name for b in bindings), space)
        for b in bindings:
            _check_binding(plan, b, space)


def _check_binding(plan: Plan, b: Binding, space: str) -> None:
    _require(0 <= b.value < len(plan.values), "binding to a value that does not exist", b.name)
    value = plan.values[b.value]
    _require(value.dtype == b.dtype and value.shape == b.shape, "binding and value differ in type or shape", b.name)
    memory = value.memory
    own = memory.space == space and memory.binding == b.name and memory.offset == 0
    _require(own, "the value of a binding does not lie in it", b.name)


def _check_regions(plan: Plan) -> None:
    for region in plan.regions:
        _check_indices(plan, (*region.reads, *region.writes), region.name)
        _require(-1 <= region.body < len(plan.models), "body model does not exist", region.name)
        _require(
            math.isfinite(region.micros) and region.micros >= 0, f"time of {region.micros} microseconds", region.name
        )
        if region.body >= 0:
            model = plan.models[region.body]
            fits = len(model.inputs) == len(region.reads) and len(model.outputs) == len(region.writes)
            _require(fits, "body model and region differ in inputs or outputs", region.name)


def _check_step(plan: Plan, index: int, step: Step) -> None:
    where = f"steps[{index}] {step.name}"
    _require(0 <= step.region < len(plan.regions), "step of a region that does not exist", where)
    ordered = all(a < b for a, b in zip(step.after, step.after[1:], strict=False))
    _require(ordered and all(0 <= a < index for a in step.after), "a step can only follow earlier steps", where)
    _check_indices(plan, (*step.reads, *step.writes), where)
    _require(step.pdl in PDL, f"unknown pdl {step.pdl[:40]!r}", where)
    for value in (plan.values[i] for i in step.writes):
        _require(
            value.memory.space not in ("weights", "input"), f"writes {value.name[:80]!r}, which is read-only", where
        )
    match step.kind:
        case "kernel":
            _check_kernel(plan, step, where)
        case "host":
            _check_host(plan, step, where)
        case "call":
            _check_host(plan, step, where)
            _require(plan.target != "cpu", "an engine for the CPU has a call on a stream", where)
            spaces = {plan.values[i].memory.space for i in (*step.reads, *step.writes)}
            _require("host" not in spaces, "a call on a stream touches host memory", where)
        case "copy":
            _check_copy(plan, step, where)
        case _:
            raise _refuse(f"unknown kind of step {step.kind[:40]!r}", where)
    _require(step.kind == "kernel" or not step.arguments, "arguments of a step that is no kernel", where)
    _check_programmatic(plan, step, where)


def _check_programmatic(plan: Plan, step: Step, where: str) -> None:
    if not step.programmatic:
        return
    _require(
        step.programmatic == step.after and len(step.after) == 1, "a programmatic edge must be the only one", where
    )
    before = plan.steps[step.after[0]]
    _require(step.kind == before.kind == "kernel", "only kernels have programmatic edges", where)
    _require(step.pdl != "none", "a kernel that does not wait has a programmatic edge", where)


def _check_kernel(plan: Plan, step: Step, where: str) -> None:
    _require(plan.target != "cpu", "an engine for the CPU has a kernel", where)
    _require(0 <= step.cubin < len(plan.cubins), "machine code does not exist", where)
    _require(_ENTRY.fullmatch(step.entry) is not None, f"entry {step.entry[:80]!r} is not a kernel's name", where)
    _require(len(step.grid) == 3, "a grid has three dimensions", where)
    _require(1 <= step.block <= 1024, f"block of {step.block} threads", where)
    _require(0 <= step.shared <= MAX_SHARED, f"{step.shared} bytes of shared memory", where)
    _require(1 <= step.cluster <= _MAX_CLUSTER, f"cluster of {step.cluster} blocks", where)
    alone = not step.programmatic and step.pdl == "none" and step.cluster == 1
    _require(alone or not step.cooperative, "a cooperative kernel in a cluster or with a programmatic edge", where)
    _require(len(step.arguments) <= _MAX_ARGUMENTS, f"{len(step.arguments)} arguments", where)
    touched = {*step.reads, *step.writes}
    for i in touched:
        _require(dtypes.on_device(plan.values[i].dtype), f"type {plan.values[i].dtype[:80]} on the device", where)
        _require(plan.values[i].memory.space != "host", f"touches {plan.values[i].name[:80]!r} in host memory", where)
    for argument in step.arguments:
        _require(argument.kind == "map" or argument.map is None, "a tensor map of an argument that is none", where)
        match argument.kind:
            case "value":
                _require(argument.index in touched, "an argument is neither read nor written", where)
            case "dim":
                _require(argument.bytes in (4, 8), f"a number of {argument.bytes} bytes", where)
            case "null":
                pass
            case "map":
                _require(argument.index in touched, "a tensor map is of a value neither read nor written", where)
                _check_map(argument, where)
            case _:
                raise _refuse(f"unknown kind of argument {argument.kind[:40]!r}", where)


def _check_map(argument: Argument, where: str) -> None:
    """The form of a tensor map; its sizes are checked with the shapes, its details by the driver."""
    m = argument.map
    if m is None:
        raise _refuse("an argument lacks its tensor map", where)
    rank = len(m.dims)
    _require(m.dtype in dtypes.TABLE, f"tensor map of type {m.dtype[:40]!r}", where)
    _require(m.swizzle in (0, 32, 64, 128), f"tensor map with a swizzle of {m.swizzle} bytes", where)
    _require(1 <= rank <= 5 and len(m.strides) == rank - 1, "a tensor map has one to five axes", where)
    if not m.lower:
        _require(len(m.box) == rank and not m.upper and not m.steps, "box and axes of a tensor map differ", where)
        _require(all(1 <= size <= 256 for size in m.box), "a side of a tensor map's box is not 1 to 256", where)
        return
    _require(rank >= 3 and len(m.box) == 2, "an im2col map has three to five axes, channels and pixels", where)
    same = len(m.lower) == len(m.upper) == len(m.steps) == rank - 2
    _require(same, "corners and axes of an im2col map differ", where)
    _require(1 <= m.box[0] <= 256 and 1 <= m.box[1] <= 1024, "an im2col map loads too much at once", where)
    _require(all(-32768 <= c <= 32767 for c in (*m.lower, *m.upper)), "a corner of an im2col map is too far", where)
    _require(all(1 <= step <= 8 for step in m.steps), "a step of an im2col map is not 1 to 8", where)


def _check_host(plan: Plan, step: Step, where: str) -> None:
    _require(0 <= step.model < len(plan.models), "host model does not exist", where)
    model = plan.models[step.model]
    fits = len(step.reads) == len(model.inputs) and len(step.writes) == len(model.outputs)
    _require(fits, "host model and step differ in inputs or outputs", where)


def _check_copy(plan: Plan, step: Step, where: str) -> None:
    _require(plan.target != "cpu", "an engine for the CPU has a device copy", where)
    _require(len(step.reads) == len(step.writes) == 1, "a copy has one source and one target", where)
    source, target = plan.values[step.reads[0]], plan.values[step.writes[0]]
    same = (source.dtype, source.shape, source.strides) == (target.dtype, target.shape, target.strides)
    _require(same, "source and target of a copy differ", where)
    _require("host" not in (source.memory.space, target.memory.space), "a copy of host memory", where)


def _check_outputs_written(plan: Plan) -> None:
    written = {
        plan.values[i].memory.binding for s in plan.steps for i in s.writes if plan.values[i].memory.space == "output"
    }
    for b in plan.outputs:
        _require(b.name in written, "no step writes this output", b.name)


def _check_indices(plan: Plan, indices: Sequence[int], where: str) -> None:
    _require(all(0 <= i < len(plan.values) for i in indices), "index of a value that does not exist", where)


def _unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        _require(0 < len(name) <= _MAX_NAME, f"{what} name of {len(name)} characters")
        _require(name not in seen, f"two {what}s are called {name[:80]!r}")
        seen.add(name)
