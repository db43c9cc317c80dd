"""Engines for the CPU of models with plugins: ONNX Runtime for what it knows, the plugins' references between."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from ingot.builder.hosting import host_islands
from ingot.builder.provenance import provenance
from ingot.builder.targets import Chosen
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.graph.edit import reads
from ingot.graph.lowered import Lowered
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.importer.load import Imported
from ingot.importer.plugin_nodes import plain_attributes, plugin_of
from ingot.options import BuildOptions
from ingot.passes.flatten import value_spec
from ingot.passes.host import host_model
from ingot.plan.build import build_plan
from ingot.plugins.api import Plugin
from ingot.plugins.record import record
from ingot.progress import Progress
from ingot.tune.choice import Choice

_RUNTIME = "Model"


@dataclass
class _Part:
    """Nodes that one step runs: all of ONNX Runtime's between two plugins, or one of a plugin."""

    plugin: Plugin | None
    nodes: list[ir.Node] = field(default_factory=list)


def has_plugins(model: ir.Model) -> bool:
    """Whether some node's op is an active plugin's."""
    return any(plugin_of(node) is not None for node in model.graph)


def build_split_engine(
    imported: Imported,
    options: BuildOptions,
    progress: Progress,
    reasons: tuple[str, ...] = (),
) -> EngineFile:
    """The model in as few steps as its plugins allow. Nothing is measured.

    Raises IngotError where no dense tensor passes between a plugin and the rest.
    """
    lowered = host_islands(_lowered(imported, (*imported.notes, *reasons)))
    progress("plan", 0, 1)
    choices = [Choice(Kind.HOST.value, None, 0.0, False, ("not measured",)) for _ in lowered.regions]
    bundle = build_plan(lowered, choices, "cpu", bodies=options.bodies)
    made_by = provenance(imported.sha256, options, Chosen(None))
    progress("plan", 1, 1)
    return EngineFile(bundle.plan, bundle.weights, bundle.cubins, bundle.models, made_by)


def _parts(graph: ir.Graph) -> list[_Part]:
    """The fewest parts in an order that data flow allows: levels alternate between ONNX Runtime and plugins."""
    level: dict[ir.Value, int] = {}
    rows: dict[int, list[_Part]] = {}
    for node in graph:
        plugin = plugin_of(node)
        own = 0 if plugin is None else 1
        at = own
        for value in reads(node):
            if value in level:
                at = max(at, level[value] + (level[value] % 2 != own))
        level.update(dict.fromkeys(node.outputs, at))
        row = rows.setdefault(at, [])
        if plugin is not None or not row:
            row.append(_Part(plugin))
        row[-1].nodes.append(node)
    return [part for at in sorted(rows) for part in rows[at]]


def _lowered(imported: Imported, reasons: tuple[str, ...]) -> Lowered:
    graph = imported.model.graph
    known = frozenset(r.symbol for r in imported.ranges)
    constants = {str(v.name): v.const_value.numpy() for v in graph.initializers.values() if v.const_value is not None}
    parts = _parts(graph)
    maker = {value: index for index, part in enumerate(parts) for n in part.nodes for value in n.outputs}
    given = {*graph.inputs, *graph.initializers.values()}
    needed = {v for i, part in enumerate(parts) for n in part.nodes for v in reads(n) if maker.get(v, i) != i}
    needed.update(graph.outputs)
    for value in graph.outputs:
        if value not in maker:
            raise IngotError("this output is a constant", node=str(value.name), fix="put an Identity before it")
    values = {str(v.name): _spec(v, known) for v in graph.inputs}
    regions: list[Region] = []
    bodies: dict[str, bytes] = {}
    for index, part in enumerate(parts):
        outer = dict.fromkeys(v for n in part.nodes for v in reads(n) if v in given or maker.get(v, index) != index)
        made = [v for n in part.nodes for v in n.outputs if v in needed]
        if not made:
            continue
        values |= {str(v.name): _spec(v, known, constant=str(v.name) in constants) for v in (*outer, *made)}
        region = _region(part, index, [str(v.name) for v in outer], [str(v.name) for v in made], values)
        bodies[region.name] = _body(imported.model, part, region, constants)
        if part.plugin is None:  # its model carries its weights
            region = replace(region, inputs=tuple(n for n in region.inputs if n not in constants))
        regions.append(region)
    read = {n for region in regions for n in region.inputs}
    return Lowered(
        inputs=tuple(str(v.name) for v in graph.inputs),
        outputs=tuple(str(v.name) for v in graph.outputs),
        values={n: s for n, s in values.items() if n in read or n not in constants},
        regions=tuple(regions),
        constants={name: array for name, array in constants.items() if name in read},
        ranges=imported.ranges,
        host_bodies=bodies,
        reasons=reasons,
    )


def _region(part: _Part, index: int, reads: list[str], writes: list[str], values: dict[str, TensorSpec]) -> Region:
    if part.plugin is None:
        op = BodyOp(_RUNTIME, tuple(reads), tuple(writes), domain="ingot")
        name = f"model{index}"
    else:
        (node,) = part.nodes
        attrs = part.plugin.filled(plain_attributes(node), node.name or node.op_type)
        inputs = tuple("" if v is None else str(v.name) for v in node.inputs)
        outputs = tuple(v.name or "" for v in node.outputs)
        op = BodyOp(node.op_type, inputs, outputs, tuple(sorted(attrs.items())), node.domain)
        name = node.name or f"{node.op_type}_{index}"
    specs = tuple((n, values[n]) for n in (*reads, *writes))
    return Region(Kind.HOST, name, tuple(reads), tuple(writes), (op,), specs)


def _body(model: ir.Model, part: _Part, region: Region, constants: dict[str, np.ndarray]) -> bytes:
    if part.plugin is None:
        return host_model(model, part.nodes, region, constants, {})
    types = [region.spec_of[name].dtype for name in region.outputs]
    return record(part.plugin, region.ops[0], region.inputs, region.outputs, types)


def _spec(value: ir.Value, known: frozenset[str], *, constant: bool = False) -> TensorSpec:
    found = value_spec(value, known, constant=constant)
    if found is None:
        raise IngotError(
            f"its type {value.type} cannot pass between ONNX Runtime and a plugin, or its rank is not known",
            node=str(value.name),
            fix="give plugins dense tensors of numbers or booleans",
        )
    return found
