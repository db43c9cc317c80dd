"""Do the nodes fit the definitions of their ops? The native converter crashes on those that do not."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from ingot.errors import IngotError
from ingot.importer.messages import first_line
from ingot.importer.walk import all_graphs, node_label

_TENSOR = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[0], raw_data=b"")
_GRAPH = onnx.GraphProto(name="stand-in")
_Kind = onnx.AttributeProto
_STAND_INS: dict[int, onnx.AttributeProto] = {
    _Kind.TENSOR: _Kind(type=_Kind.TENSOR, t=_TENSOR),
    _Kind.GRAPH: _Kind(type=_Kind.GRAPH, g=_GRAPH),
    _Kind.INT: _Kind(type=_Kind.INT, i=1),
    _Kind.FLOAT: _Kind(type=_Kind.FLOAT, f=1.0),
    _Kind.STRING: _Kind(type=_Kind.STRING, s=b"x"),
    _Kind.INTS: _Kind(type=_Kind.INTS, ints=[1]),
    _Kind.FLOATS: _Kind(type=_Kind.FLOATS, floats=[1.0]),
    _Kind.STRINGS: _Kind(type=_Kind.STRINGS, strings=[b"x"]),
}
"""What is checked instead of tensors and graphs, which are checked elsewhere, and of a function's parameters."""


def check_proto_nodes(model: onnx.ModelProto) -> None:
    """Checks the nodes of the graph and of its functions, whose parameters count as given."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for graph in all_graphs(model):
        _check(graph.node, versions.get("", 0))
    for function in model.functions:
        versions = {entry.domain: entry.version for entry in function.opset_import}
        _check(function.node, versions.get("", 0))


def check_nodes(model: ir.Model) -> None:
    """Checks every node: operands, attributes and their types.

    Ops of other domains, and those that exporters put into ONNX's domain though it has none, are left alone.
    Raises IngotError naming the node that does not fit the definition of its op.
    """
    nodes = (_plain(node) for node in model.graph.all_nodes())
    _check(nodes, model.opset_imports.get("", 0))


def _plain(node: ir.Node) -> onnx.NodeProto:
    """A node without the contents of its attributes that are tensors or graphs."""
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=node.name or "")
    proto.input.extend("" if value is None else value.name or "" for value in node.inputs)
    proto.output.extend(value.name or "" for value in node.outputs)
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.TENSOR, ir.AttributeType.GRAPH):
            proto.attribute.append(_stand_in(attribute.name, int(attribute.type)))
        else:
            proto.attribute.append(ir.serde.serialize_attribute(attribute))
    return proto


def _is_defined(node: onnx.NodeProto, version: int) -> bool:
    """Whether ONNX has the op; not for those it has given up, of which ONNX Runtime still runs some."""
    if node.domain or not onnx.defs.has(node.op_type, version, ""):
        return False
    return not onnx.defs.get_schema(node.op_type, version, "").deprecated


def _stand_in(name: str, kind: int) -> onnx.AttributeProto:
    attribute = onnx.AttributeProto(type=kind)  # type: ignore[arg-type]  # an enumeration's value
    attribute.CopyFrom(_STAND_INS.get(kind, attribute))
    attribute.name = name
    return attribute


def _check(nodes: Iterable[onnx.NodeProto], version: int) -> None:
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {"": version}
    for node in nodes:
        if not _is_defined(node, version):
            continue
        light = onnx.NodeProto(op_type=node.op_type, name=node.name, input=node.input, output=node.output)
        for attribute in node.attribute:
            heavy = attribute.type in (_Kind.TENSOR, _Kind.GRAPH) or attribute.ref_attr_name
            light.attribute.append(_stand_in(attribute.name, attribute.type) if heavy else attribute)
        try:
            onnx.checker.check_node(light, context)
        except Exception as error:  # the checker raises its own error, and others for what it cannot parse
            fix = "export the model again; onnx.checker.check_model shows what is wrong"
            reason = f"does not fit {node.op_type} of opset {version}: {first_line(error)}"
            raise IngotError(reason, node=node_label(node), fix=fix) from None
