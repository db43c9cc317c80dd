"""Which library runs a host step: ONNX Runtime where it can, ONNX's reference evaluator where it cannot.

A model that ONNX Runtime refuses is first tried as of an older operator set, in which its nodes mean the same. What
is refused still is cut into parts, each for one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from ingot.builder import host_nodes
from ingot.builder.host_nodes import Runner
from ingot.errors import IngotError
from ingot.graph.host_parts import HostPart, HostParts, encode
from ingot.graph.lowered import Lowered
from ingot.graph.ort_faults import distrust
from ingot.importer.maps import show_maps
from ingot.importer.walk import fed
from ingot.plan.spec import ModelDecl
from ingot.plugins.record import is_record
from ingot.runtime.hostmodel import HostFunction, load_host_model

EVALUATOR = "ONNX's evaluator"
"""In every note about a node that ONNX Runtime does not run."""


@dataclass(frozen=True)
class Hosted:
    """A host step's content as an engine keeps it, and what runs it."""

    content: bytes
    backend: str
    """``onnxruntime``, ``reference`` or ``parts``."""
    notes: tuple[str, ...] = ()
    """Which nodes ONNX Runtime does not run, and why."""


def host(model: onnx.ModelProto, name: str, *, loosen: bool = False) -> tuple[Hosted, HostFunction]:
    """``model`` with the library that runs it, and ready to run.

    With ``loosen``, a model that ONNX Runtime refuses at its sizes is given to it without sizes. Raises IngotError when
    neither ONNX Runtime nor the evaluator takes it.
    """
    show_maps(model)
    decl = _declared(model)
    content = model.SerializeToString(deterministic=True)
    suspects = [f"{_place(node)}: {why}" for node in model.graph.node if (why := distrust(node, model))]
    if not suspects and not host_nodes.unfit_edges(model):
        try:
            return Hosted(content, "onnxruntime"), load_host_model(content, decl, "onnxruntime", name)
        except IngotError as error:
            refusal = error
        if loosen and (loose := _without_sizes(model, decl, name)) is not None:
            return loose
        if (older := host_nodes.at_older_set(model, decl, name)) is not None:
            return Hosted(older.content, "onnxruntime"), older.function
    else:
        refusal = IngotError("; ".join(suspects) or "ONNX Runtime has no arrays of its inputs' or outputs' types")
    try:
        return _divided(model, name)
    except IngotError as error:
        reason = f"{refusal.reason}; {EVALUATOR}: {error.reason}"
        raise IngotError(reason, node=refusal.node or name, fix=error.fix) from None


def host_islands(lowered: Lowered) -> Lowered:
    """``lowered`` with every island's content and library settled. Raises what :func:`host` raises."""
    bodies, backends, notes = dict(lowered.host_bodies), dict[str, str](), list[str]()
    for region, content in lowered.host_bodies.items():
        if is_record(content):
            backends[region] = "plugin"
            continue
        found, _ = host(onnx.load_model_from_string(content), region)
        bodies[region] = found.content
        if found.backend != "onnxruntime":
            backends[region] = found.backend
        notes += found.notes
    return replace(lowered, host_bodies=bodies, host_backends=backends, reasons=(*lowered.reasons, *notes))


def _declared(model: onnx.ModelProto) -> ModelDecl:
    return ModelDecl(0, 0, [value.name for value in fed(model.graph)], [value.name for value in model.graph.output])


def _place(node: onnx.NodeProto) -> str:
    return f"{node.domain + '.' if node.domain else ''}{node.op_type} {node.name!r}"


def _without_sizes(model: onnx.ModelProto, decl: ModelDecl, name: str) -> tuple[Hosted, HostFunction] | None:
    """With input sizes fixed, shape inference looks into branches that never run and refuses what it finds there."""
    loose = onnx.ModelProto()
    loose.CopyFrom(model)
    del loose.graph.value_info[:]
    for value in (*loose.graph.input, *loose.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{axis}"
    content = loose.SerializeToString(deterministic=True)
    try:
        function = load_host_model(content, decl, "onnxruntime", name)
    except IngotError:
        return None
    note = "ONNX Runtime refuses the model at these input sizes: it is given no sizes"
    return Hosted(content, "onnxruntime", (note,)), function


def _divided(model: onnx.ModelProto, name: str) -> tuple[Hosted, HostFunction]:
    """Cut along the nodes that ONNX Runtime refuses."""
    types = host_nodes.types_of(model)
    runners, reasons = host_nodes.runners(model, types)
    notes = tuple(
        f"{_place(node)} runs on the host in {EVALUATOR}: {reasons[i]}"
        for i, node in enumerate(model.graph.node)
        if i in reasons
    )
    found: Hosted | None = None
    if any(runner != host_nodes.EVALUATOR for runner in runners):
        parts = _parts(model, runners, types)
        if parts is not None:
            found = Hosted(encode(parts), "parts", notes)
    if found is None:
        found = Hosted(model.SerializeToString(deterministic=True), "reference", notes)
    return found, load_host_model(found.content, _declared(model), found.backend, name)


def _parts(model: onnx.ModelProto, runners: Sequence[Runner], types: Mapping[str, onnx.TypeProto]) -> HostParts | None:
    """One part for each run of nodes with one runner; None where that cannot be expressed."""
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    decl = _declared(model)
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    if any(name not in maker for name in decl.outputs):
        return None
    groups = _grouped(graph, runners, maker)
    group_of = {i: number for number, (_, members) in enumerate(groups) for i in members}
    wanted: dict[int, dict[str, None]] = {number: {} for number in range(len(groups))}
    reads: dict[int, dict[str, None]] = {number: {} for number in range(len(groups))}
    for i, node in enumerate(graph.node):
        for name in host_nodes.read_by(node):
            made_in = group_of[maker[name]] if name in maker else None
            if made_in != group_of[i]:
                reads[group_of[i]].setdefault(name)
                if made_in is not None:
                    wanted[made_in].setdefault(name)
    for name in decl.outputs:
        wanted[group_of[maker[name]]].setdefault(name)
    parts = []
    for number, (runner, members) in enumerate(groups):
        inputs = [name for name in reads[number] if name not in known]
        weights = [known[name] for name in reads[number] if name in known]
        content = host_nodes.piece(model, members, inputs, weights, list(wanted[number]), types, runner)
        parts.append(HostPart(runner.backend, inputs, list(wanted[number]), content))
    return HostParts(decl.inputs, decl.outputs, parts)


def _grouped(
    graph: onnx.GraphProto, runners: Sequence[Runner], maker: Mapping[str, int]
) -> list[tuple[Runner, list[int]]]:
    """Nodes by level and runner: the level grows where the runner changes, so groups depend on each other one way."""
    levels: list[int] = []
    for i, node in enumerate(graph.node):
        before = [maker[name] for name in host_nodes.read_by(node) if name in maker]
        levels.append(max((levels[j] + (runners[j] != runners[i]) for j in before), default=0))
    members: dict[tuple[int, Runner], list[int]] = {}
    for i, level in enumerate(levels):
        members.setdefault((level, runners[i]), []).append(i)
    # Within a level the order is that of the first node.
    return [(runner, found) for (_, runner), found in sorted(members.items(), key=lambda item: (item[0][0], item[1]))]
