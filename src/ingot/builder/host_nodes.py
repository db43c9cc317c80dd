"""Which nodes of a host model ONNX Runtime can run, and pieces of the model as models of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import onnx
from onnx import helper

from ingot.errors import IngotError
from ingot.graph.ort_faults import distrust
from ingot.importer.walk import nodes_within, subgraphs
from ingot.plan.spec import ModelDecl
from ingot.runtime.hostmodel import HostFunction, load_host_model

_T = onnx.TensorProto
_EDGES = frozenset(
    {
        _T.FLOAT, _T.UINT8, _T.INT8, _T.UINT16, _T.INT16, _T.INT32, _T.INT64, _T.STRING, _T.BOOL, _T.FLOAT16, _T.DOUBLE,
        _T.UINT32, _T.UINT64,
    }
)  # fmt: skip
"""Types of which ONNX Runtime takes and gives NumPy arrays."""
_BY_BITS = frozenset({_T.BFLOAT16, _T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ})
"""Types that pass as ONNX Runtime's own objects, which cannot stand beside sequences."""
_OLDEST = 21
"""The importer upgrades to this operator set: no model is older."""
_LONGEST = 200


@dataclass(frozen=True)
class Runner:
    """A library, and the operator set that the nodes are declared in (0: the model's own)."""

    backend: str
    opset: int = 0


EVALUATOR = Runner("reference")
"""ONNX's reference evaluator, which takes any node."""


# -- types and edges


def types_of(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Type of every value whose type is known, without shapes."""
    known = _declared_types(model)
    if any(name not in known for node in model.graph.node for name in node.output if name):
        # An op that it does not know, or a wrong declaration: what is declared must do.
        with suppress(Exception):
            known = _declared_types(onnx.shape_inference.infer_shapes(model))
    return {name: _shapeless(declared) for name, declared in known.items()}


def _declared_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    graph = model.graph
    found = {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output) if v.type.WhichOneof("value")}
    for tensor in graph.initializer:
        found[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return found


def _shapeless(declared: onnx.TypeProto) -> onnx.TypeProto:
    plain = onnx.TypeProto()
    plain.CopyFrom(declared)
    inner = plain
    while True:
        match inner.WhichOneof("value"):
            case "sequence_type":
                inner = inner.sequence_type.elem_type
            case "optional_type":
                inner = inner.optional_type.elem_type
            case "tensor_type":
                inner.tensor_type.ClearField("shape")
                return plain
            case _:
                return plain


def _is_fit(declared: onnx.TypeProto) -> bool:
    """Whether ONNX Runtime's Python interface has values of this type."""
    match declared.WhichOneof("value"):
        case "tensor_type":
            return declared.tensor_type.elem_type in _EDGES or declared.tensor_type.elem_type in _BY_BITS
        case "sequence_type":
            inner = declared.sequence_type.elem_type
            return inner.WhichOneof("value") != "tensor_type" or inner.tensor_type.elem_type in _EDGES
        case "optional_type":
            return False
    return True


def _fit_together(types: Sequence[onnx.TypeProto]) -> bool:
    if not all(_is_fit(t) for t in types):
        return False
    bits = any(t.WhichOneof("value") == "tensor_type" and t.tensor_type.elem_type in _BY_BITS for t in types)
    return not bits or all(t.WhichOneof("value") == "tensor_type" for t in types)


def unfit_edges(model: onnx.ModelProto) -> bool:
    """Whether the model's inputs or outputs have types that ONNX Runtime cannot pass."""
    inside = {tensor.name for tensor in model.graph.initializer}
    edges = [v.type for v in (*model.graph.input, *model.graph.output) if v.name not in inside]
    return not _fit_together(edges)


# -- older operator sets


@dataclass(frozen=True)
class Older:
    """A model as of an older operator set, and ready to run in ONNX Runtime."""

    opset: int
    content: bytes
    function: HostFunction


def at_older_set(model: onnx.ModelProto, decl: ModelDecl, name: str) -> Older | None:
    """As of the newest older operator set at which ONNX Runtime takes it; None where it takes it at none."""
    for older in _older_forms(model):
        content = older.SerializeToString(deterministic=True)
        with suppress(IngotError):
            return Older(_version(older), content, load_host_model(content, decl, "onnxruntime", name))
    return None


def _older_forms(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The model as of older operator sets, the newest first, as long as all of its nodes mean the same there."""
    version = _version(model)
    for target in range(version - 1, _OLDEST - 1, -1):
        if not all(_same_at(node, version, target) for node in nodes_within(model.graph)):
            return
        older = onnx.ModelProto()
        older.CopyFrom(model)
        for entry in older.opset_import:
            if not entry.domain:
                entry.version = target
        yield older


def _version(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if not entry.domain), _OLDEST)


def _same_at(node: onnx.NodeProto, version: int, target: int) -> bool:
    """Whether the op has the inputs, outputs and attributes that the node uses at ``target`` too.

    Between operator sets 21 and 28 the ops that kept their form only gained types.
    """
    if node.domain not in ("", "ai.onnx"):
        return True
    try:
        new = onnx.defs.get_schema(node.op_type, version, "")
        old = onnx.defs.get_schema(node.op_type, target, "")
    except onnx.defs.SchemaError:
        return False
    if new.since_version == old.since_version:
        return True
    used = {a.name for a in node.attribute}
    if not used <= old.attributes.keys():
        return False
    kept = [name for name in new.attributes if name in old.attributes and name not in used]
    same = all(str(new.attributes[n].default_value) == str(old.attributes[n].default_value) for n in kept)
    return same and len(node.input) <= old.max_input and len(node.output) <= old.max_output


# -- nodes one by one


def runners(model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto]) -> tuple[list[Runner], dict[int, str]]:
    """What runs each node, and for those of the evaluator (by index) why ONNX Runtime does not.

    ``types``: what :func:`types_of` finds.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    answers: dict[bytes, Runner | str] = {}
    found: list[Runner] = []
    reasons: dict[int, str] = {}
    for i in range(len(model.graph.node)):
        answer = _runner(model, i, types, weights, answers)
        if isinstance(answer, str):
            reasons[i] = answer
        found.append(EVALUATOR if isinstance(answer, str) else answer)
    return found, reasons


def _runner(
    model: onnx.ModelProto,
    index: int,
    types: Mapping[str, onnx.TypeProto],
    weights: Mapping[str, onnx.TensorProto],
    answers: dict[bytes, Runner | str],
) -> Runner | str:
    node = model.graph.node[index]
    why = distrust(node, model)
    if why:
        return why
    reads = read_by(node)
    ends = [name for name in (*reads, *node.output) if name and name not in weights]
    if any(name not in types for name in ends):
        return "the type of a value is not known"
    if not _fit_together([types[name] for name in ends]):
        return "ONNX Runtime has no arrays of these types"
    key = _key(node, types)
    if key not in answers or any(name in weights for name in reads):
        answers[key] = _tried(model, index, types, weights)
    return answers[key]


def _key(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]) -> bytes:
    """Equal for nodes that ONNX Runtime treats alike, weights aside."""
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.name = plain.doc_string = ""
    text = [types[name].SerializeToString() if name in types else b"" for name in (*node.input, *node.output)]
    del plain.input[:], plain.output[:]
    return b"|".join([plain.SerializeToString(deterministic=True), *text])


def _tried(
    model: onnx.ModelProto, index: int, types: Mapping[str, onnx.TypeProto], weights: Mapping[str, onnx.TensorProto]
) -> Runner | str:
    """The node alone in ONNX Runtime, at the model's operator set or an older one; or its refusal."""
    node = model.graph.node[index]
    reads = read_by(node)
    inputs = [name for name in reads if name not in weights]
    inner = [weights[name] for name in reads if name in weights]
    outputs = [name for name in node.output if name]
    content = piece(model, [index], inputs, inner, outputs, types, Runner("onnxruntime"))
    decl = ModelDecl(0, 0, inputs, outputs)
    try:
        load_host_model(content, decl, "onnxruntime", node.name)
        return Runner("onnxruntime")
    except IngotError as error:
        refusal = " ".join(error.reason.split())[:_LONGEST]
    older = at_older_set(onnx.load_model_from_string(content), decl, node.name)
    return refusal if older is None else Runner("onnxruntime", older.opset)


# -- pieces


def read_by(node: onnx.NodeProto) -> list[str]:
    """Values that the node reads, those that its subgraphs capture included."""
    names = dict.fromkeys(name for name in node.input if name)
    for graph in subgraphs(node):
        names.update(dict.fromkeys(_captured(graph)))
    return list(names)


def _captured(graph: onnx.GraphProto) -> list[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    used = [name for node in graph.node for name in read_by(node)] + [value.name for value in graph.output]
    return [name for name in used if name not in own]


def piece(
    model: onnx.ModelProto,
    members: Sequence[int],
    inputs: Sequence[str],
    weights: Sequence[onnx.TensorProto],
    outputs: Sequence[str],
    types: Mapping[str, onnx.TypeProto],
    runner: Runner,
) -> bytes:
    """Some nodes as a serialised model. Inputs and outputs carry their types and no shapes."""
    graph = onnx.GraphProto(name=model.graph.name or "part")
    graph.node.extend(model.graph.node[i] for i in members)
    graph.initializer.extend(weights)
    for names, ends in ((inputs, graph.input), (outputs, graph.output)):
        for name in names:
            declared = types.get(name)
            ends.append(onnx.ValueInfoProto(name=name, type=declared))
    made = onnx.ModelProto(ir_version=model.ir_version, graph=graph, opset_import=model.opset_import)
    for entry in made.opset_import:
        if not entry.domain and runner.opset:
            entry.version = runner.opset
    return bytes(made.SerializeToString(deterministic=True))
