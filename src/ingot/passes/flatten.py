"""From the canonical ONNX graph to a flat list of ops over typed, shaped values.

This is the last place that sees ONNX objects: what follows (partition, layout, kernels) works on
:class:`FlatGraph`. Parameters of ops (axes, pads, slice bounds ...) become literals here, symbolic
where the shape inference knows them only as expressions.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.control import kept_because
from ingot.graph.dims import symbols
from ingot.graph.edit import bodies, plain_attribute, shape_of
from ingot.graph.lowered import Guard
from ingot.graph.op_table import PARAMETERS, WEIGHTS, kind_of
from ingot.graph.region import Attr, BodyOp, Kind, Literal, Scalar
from ingot.graph.scalar_ops import is_scalar_op
from ingot.graph.tensor import Order, TensorSpec, channels_last, row_major, spec
from ingot.importer.maps import hidden_type
from ingot.plugins.api import Layout, Plugin
from ingot.plugins.registry import active

_MAX_PARAMETER = 256
"""Longest integer vector that is still a parameter rather than data."""


@dataclass(frozen=True)
class FlatOp:
    """One node: its op over value names, its kind, and why it is on the host if it is."""

    name: str
    body: BodyOp
    kind: Kind
    captures: tuple[str, ...] = ()
    """Outer values that the node's subgraphs use."""
    reason: No | None = None
    origin: str = ""
    """The node that this op was made from, where it is not that node itself."""
    plugin: Plugin | None = None
    """Whose op it is: of kind PLUGIN on the device, of kind HOST where the reference runs."""

    @property
    def layout(self) -> Layout | None:
        """How a plugin's op on the device wants its tensors to lie; None for all else."""
        return self.plugin.layout if self.plugin is not None and self.kind is Kind.PLUGIN else None

    def order(self, rank: int) -> Order | None:
        """The only order in which the op reads and writes dense tensors of ``rank``: a plugin's and the host's."""
        if self.kind is Kind.HOST or self.layout is Layout.ROW_MAJOR:
            return row_major(rank)
        return channels_last(rank) if self.layout is Layout.CHANNELS_LAST else None


@dataclass(frozen=True)
class FlatGraph:
    """The canonical graph without ONNX objects. Values are row-major until layout is assigned."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[FlatOp, ...]
    values: Mapping[str, TensorSpec]
    constants: Mapping[str, np.ndarray]
    literals: Mapping[str, Literal]
    opset: int
    plugin_ops: frozenset[tuple[str, str]] = frozenset()
    """Domain and name of the ops that plugins run."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """By the name of an op: what is worth reporting of its layer."""
    guards: Mapping[str, Guard] = field(default_factory=dict)
    """By the name of an op that runs only under conditions: these. Ops of different guards are not fused."""

    def is_literal(self, op: BodyOp, position: int) -> bool:
        """Whether input ``position`` of ``op`` is folded into a Region instead of being read.

        Parameters always are; operands only when they are one known number. Plugins read all of their inputs.
        """
        if (op.domain, op.op) in self.plugin_ops:
            return False
        literal = self.literals.get(op.inputs[position])
        if literal is None or position in PARAMETERS.get(op.op, ()):
            return literal is not None
        if position in WEIGHTS.get(op.op, ()) or not (is_scalar_op(op.op) or (op.op, position) == ("Gather", 1)):
            return False
        known = self.constants.get(op.inputs[position])
        if op.op == "Gather" and known is not None and known.ndim > 1:  # its rank is a part of the result's
            return False
        number = literal[0] if isinstance(literal, tuple) and len(literal) == 1 else literal
        return isinstance(number, bool | int | float)

    def tensor_inputs(self, op: FlatOp) -> tuple[str, ...]:
        """Names of the values the op reads at run time, captures included, without literals."""
        if op.kind is Kind.HOST:
            return tuple(dict.fromkeys(n for n in (*op.body.inputs, *op.captures) if n))
        names = (n for i, n in enumerate(op.body.inputs) if n and not self.is_literal(op.body, i))
        return tuple(dict.fromkeys(names))

    def guard(self, op: FlatOp) -> Guard:
        """The conditions under which the op runs."""
        return self.guards.get(op.name, ())

    def readers(self) -> dict[str, list[int]]:
        """The ops that read each value; none for any other name. What decides whether an op runs counts as read."""
        found: dict[str, list[int]] = defaultdict(list)
        for index, op in enumerate(self.ops):
            for name in (*self.tensor_inputs(op), *(name for name, _ in self.guard(op))):
                found[name].append(index)
        return found


def flatten(model: ir.Model, known_symbols: frozenset[str], force_host: Mapping[str, No]) -> FlatGraph | No:
    """The flat form of ``model``, whose shapes have been inferred.

    ``known_symbols`` are the symbolic dimensions of the inputs; a shape that depends on any other
    is data-dependent. ``force_host`` names nodes that no device kernel accepts, with the reason.
    Returns No when the graph cannot be expressed as device Regions and islands at all.
    """
    graph = model.graph
    constants = _constants(graph)
    values: dict[str, TensorSpec] = {}
    loose: set[str] = set()
    literals: dict[str, Literal] = {}
    for value in _all_values(graph):
        name = str(value.name)
        described = value_spec(value, known_symbols, constant=name in constants)
        if described is not None:
            values[name] = described
            if not dtypes.on_device(described.dtype) or any(symbols(dim) - known_symbols for dim in described.shape):
                loose.add(name)
        literal = _literal(value, constants.get(name))
        if literal is not None:
            literals[name] = literal
    fixed = {name: value for name, value in values.items() if name not in loose}
    ops = [_flat_op(node, i, fixed, constants, literals, force_host) for i, node in enumerate(graph)]
    inputs = tuple(str(v.name) for v in graph.inputs)
    outputs = tuple(str(v.name) for v in graph.outputs)
    for name in (*inputs, *outputs):
        if name not in values:
            fixes = (op.reason.fix for op in ops if op.reason is not None and op.reason.fix)
            return No("its type or its rank is not known", node=name, fix=next(fixes, ""))
    if len(set(outputs)) != len(outputs) or any(o in constants or o in inputs for o in outputs):
        return No("an output is an input, a constant, or another output", node=str(graph.name))
    foreign = [name for name in (*inputs, *outputs) if not dtypes.on_device(values[name].dtype)]
    if foreign and all(op.kind is Kind.HOST for op in ops):
        return No(f"it is of type {values[foreign[0]].dtype}, and no op of the model has a device kernel", foreign[0])
    opset = model.opset_imports.get("", 21)
    plugin_ops = frozenset((op.body.domain, op.body.op) for op in ops if op.plugin is not None)
    return without_dead_ops(FlatGraph(inputs, outputs, tuple(ops), values, constants, literals, opset, plugin_ops))


def _all_values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        values.extend(v for v in node.outputs if v.name)
    return values


def _constants(graph: ir.Graph) -> dict[str, np.ndarray]:
    found = {str(v.name): v.const_value.numpy() for v in graph.initializers.values() if v.const_value is not None}
    for node in graph:
        for value in node.outputs:
            # Shape inference leaves the value of fully known shape arithmetic here.
            if value.const_value is not None and value.name and not value.is_graph_output():
                found[value.name] = value.const_value.numpy()
    return found


def value_spec(value: ir.Value, known: frozenset[str], *, constant: bool = False) -> TensorSpec | None:
    """TensorSpec of a value; None for one whose type, or whose rank, is not known.

    A dimension that depends on data gets a symbol of its own: such a value lives on the host. So do strings and other
    types that the device lacks, and sequences and optionals, which have no dimensions here.
    """
    dtype = type_name(value.type) or hidden_type(value)
    if dtype is None:
        return None
    if dtypes.nested(dtype) is not None:
        return spec(dtype, ())
    shape = shape_of(value)
    if shape is None:
        return None
    own = f"data_{zlib.crc32(str(value.name).encode())}"
    dims = (d if d is not None and not symbols(d) - known else f"{own}_{i}" for i, d in enumerate(shape))
    return spec(dtype, tuple(dims), constant=constant)


def type_name(declared: ir.TypeProtocol | None) -> str | None:
    """The type as a Plan writes it: ``float32``, ``string``, ``sequence(float32)``; None where there is none."""
    if isinstance(declared, ir.SequenceType | ir.OptionalType):
        inner = type_name(declared.elem_type)
        outer = "sequence" if isinstance(declared, ir.SequenceType) else "optional"
        return f"{outer}({inner})" if inner is not None else None
    if not isinstance(declared, ir.TensorType):
        return None
    return dtypes.any_from_onnx(int(declared.dtype))


def _literal(value: ir.Value, array: np.ndarray | None) -> Literal | None:
    if array is not None:
        if array.dtype.kind not in "biuf" and array.dtype.name not in dtypes.WIDENED:
            return None
        if array.size == 1:
            scalar: Scalar = (
                array.reshape(()).astype(np.float64).item() if array.dtype.kind not in "biu" else array.item()
            )
            return scalar if array.ndim == 0 else (scalar,)
        if array.ndim == 1 and array.size <= _MAX_PARAMETER:
            return tuple(array.astype(np.float64).tolist() if array.dtype.kind not in "biu" else array.tolist())
        return () if array.size == 0 else None
    data = value.metadata_props.get(SYM_DATA_KEY)
    if data is None:
        return None
    entries = tuple(json.loads(data))
    if any(entry is None or "None" in str(entry) for entry in entries):
        return None
    return entries if value.shape is not None and len(value.shape) else entries[0]


def _flat_op(
    node: ir.Node,
    index: int,
    values: Mapping[str, TensorSpec],
    constants: Mapping[str, np.ndarray],
    literals: dict[str, Literal],
    force_host: Mapping[str, No],
) -> FlatOp:
    name = node.name or f"{node.op_type}_{index}"
    inputs = tuple((v.name or "") if v is not None else "" for v in node.inputs)
    outputs = tuple(v.name or "" for v in node.outputs)
    attrs, unknown = _attrs(node)
    captures = _captures(node)
    kind = kind_of(node.op_type, node.domain)
    plugin = active().find(node.domain, node.op_type)
    if plugin is not None:
        kind, attrs = Kind.PLUGIN, tuple(sorted(plugin.filled(dict(attrs), name).items()))
    body = BodyOp(node.op_type, inputs, outputs, attrs, node.domain)
    reason = force_host.get(name)
    if reason is None and kind is Kind.HOST:
        kept = kept_because(node, name)
        reason = _no_kernel(node, name) if kept is None else kept
    if reason is None and unknown:
        reason = No(f"attribute {unknown} of {node.op_type} has no device form", node=name)
    if reason is None:
        reason = _refusal(body, name, values, constants, literals if plugin is None else {})
    if reason is not None:
        return FlatOp(name, body, Kind.HOST, captures, reason, plugin=plugin)
    return FlatOp(name, body, kind, plugin=plugin)


def _no_kernel(node: ir.Node, name: str) -> No:
    if node.domain in ("", "ai.onnx"):
        return No(f"{node.op_type} has no device kernel", node=name)
    return No(
        f"{node.domain}.{node.op_type} has no device kernel",
        node=name,
        fix=f"give a plugin for {node.domain}.{node.op_type}",
    )


def _refusal(
    op: BodyOp,
    name: str,
    values: Mapping[str, TensorSpec],
    constants: Mapping[str, np.ndarray],
    literals: dict[str, Literal],
) -> No | None:
    """Why an op with a device kind cannot be on the device; fills in symbolic shape parameters."""
    read_whole = {op.inputs[i] for i in WEIGHTS.get(op.op, ()) if i < len(op.inputs)}
    for value in (*op.inputs, *op.outputs):
        if value and value not in values and (value not in literals or value in read_whole):
            return No(f"value {value!r} has no device type, or its shape depends on data", node=name)
    if op.op in ("Conv", "ConvTranspose") and not op.domain:
        ranks = [values[value].rank for value in op.inputs[:2] if value in values]
        if len(set(ranks)) != 1:
            return No(f"its operands are of different ranks: {ranks}", node=name)
    parameters = PARAMETERS.get(op.op, ()) if kind_of(op.op, op.domain) is not Kind.HOST else ()
    for position in parameters:
        value = op.inputs[position] if position < len(op.inputs) else ""
        if not value or value in literals or (op.op in ("Shape", "Size")):
            continue
        if op.op in ("Reshape", "Expand", "ConstantOfShape") and position == len(op.inputs) - 1:
            literals[value] = values[op.outputs[0]].shape  # only the resulting shape matters
        elif value not in constants or constants[value].size > _MAX_PARAMETER:
            return No(f"input {value!r} of {op.op} is computed from data", node=name)
    return None


def _attrs(node: ir.Node) -> tuple[tuple[tuple[str, Attr], ...], str]:
    """Attributes as plain values, and the name of the first that has no plain form."""
    plain: list[tuple[str, Attr]] = []
    for name, attr in sorted(node.attributes.items()):
        value = plain_attribute(attr)
        if attr.type == ir.AttributeType.TENSOR and attr.as_tensor().size == 1:
            array = attr.as_tensor().numpy().reshape(())
            value = array.item() if array.dtype.kind in "biu" else float(array)
        if value is None:
            return tuple(plain), name
        plain.append((name, value))
    return tuple(plain), ""


def _captures(node: ir.Node) -> tuple[str, ...]:
    """Values of outer scopes used inside the node's subgraphs."""
    names: dict[str, None] = {}
    for attr in node.attributes.values():
        for graph in bodies(attr):
            inner = {id(v) for v in (*graph.inputs, *graph.initializers.values())}
            inner |= {id(v) for sub in graph.all_nodes() for v in sub.outputs}
            inner |= {id(v) for sub in graph.subgraphs() for v in (*sub.inputs, *sub.initializers.values())}
            used = [v for sub in graph.all_nodes() for v in sub.inputs] + list(graph.outputs)
            for value in used:
                if value is not None and id(value) not in inner and value.name:
                    names.setdefault(value.name)
    return tuple(names)


def without_dead_ops(flat: FlatGraph) -> FlatGraph:
    """Drops ops whose results nobody reads at run time, shape arithmetic above all."""
    live = set(flat.outputs)
    kept: list[FlatOp] = []
    for op in reversed(flat.ops):
        if any(name in live for name in op.body.outputs):
            if all(name in flat.constants or name not in live for name in op.body.outputs):
                continue  # its value is known
            kept.append(op)
            live.update(flat.tensor_inputs(op))
    kept.reverse()
    return replace(flat, ops=tuple(kept))
