"""Ops without a device kernel as the functions that ONNX defines them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ingot.errors import No
from ingot.graph.edit import is_read
from ingot.passes.fold import tidy
from ingot.plugins.registry import active

_OPS: dict[str, frozenset[str]] = {
    "": frozenset({
        "AffineGrid", "CausalConvWithState", "CenterCropPad", "MeanVarianceNormalization", "NegativeLogLikelihoodLoss",
        "RotaryEmbedding", "SoftmaxCrossEntropyLoss", "SwiGLU",
    }),
    "ai.onnx.preview": frozenset({"FlexAttention"}),
}  # fmt: skip
"""By domain. Other ops that are functions have a kernel, or a better form in another pass."""
_DOMAIN = "ingot.functions"
_ROUNDS = 4


def expand_functions(model: ir.Model) -> list[str]:
    """Puts the bodies of the listed ops in their places; gives how many of each, and why others stay."""
    counts: dict[str, int] = {}
    notes: dict[str, None] = {}
    for turn in range(_ROUNDS):  # a body may hold such ops itself
        named = 0
        for index, node in enumerate(list(model.graph)):
            if not _is_listed(node) or active().find(node.domain, node.op_type) is not None:
                continue
            answer = _name_function(model, node, f"{node.op_type}_{turn}_{index}")
            if isinstance(answer, No):
                notes[f"{answer.node}: {answer.reason}"] = None
            else:
                counts[answer] = counts.get(answer, 0) + 1
                named += 1
        if not named:
            break
        common.InlinePass()(model)
        model.opset_imports.pop(_DOMAIN, None)
        tidy(model)
    return [f"{count} {op_type} as ONNX defines it" for op_type, count in sorted(counts.items())] + list(notes)


def _is_listed(node: ir.Node) -> bool:
    """Whether the op is in the table, or an Attention in a form that no kernel has."""
    if node.op_type != "Attention" or node.domain:
        return node.op_type in _OPS.get(node.domain, ())
    more = any(value is not None for value in node.inputs[4:]) or any(is_read(v) for v in node.outputs[1:])
    windows = any(node.attributes.get_int(f"{side}_window_size", -1) >= 0 for side in ("left", "right"))
    return more or windows or node.attributes.get_float("softcap", 0.0) != 0.0


def _name_function(model: ir.Model, node: ir.Node, name: str) -> str | No:
    """Makes ``node`` a call of a function of its own; its op's name, or No where the body is not known."""
    op_type, version = node.op_type, model.opset_imports.get(node.domain, 1)
    place = node.name or ""
    if any(v is not None and v.type is None for v in node.inputs):
        return No("the types of its inputs are not known", node=place)
    try:
        schema = onnx.defs.get_schema(op_type, version, node.domain)
        body = _body(schema, node, model.opset_imports.get("", 1))
        function = None if body is None else _function(body, name, len(node.outputs), model.opset_imports)
    except Exception as error:  # onnx raises its own, undocumented types from its C++ side, and so does the reader
        return No(f"ONNX's body of it cannot be made: {str(error)[:120]}", node=place)
    if function is None:
        return No("ONNX has no body for this form of it", node=place)
    model.functions[function.identifier()] = function
    model.opset_imports.setdefault(_DOMAIN, 1)
    for key in [key for key in node.attributes if key not in function.attributes]:
        node.attributes.pop(key)
    for key, attribute in function.attributes.items():
        default = schema.attributes[key].default_value if key in schema.attributes else None
        if attribute.value is None and key not in node.attributes and default is not None and default.name:
            node.attributes.add(ir.serde.deserialize_attribute(default))
    node.domain, node.op_type, node.overload = _DOMAIN, name, ""
    return op_type


def _function(body: onnx.FunctionProto, name: str, outputs: int, imports: Mapping[str, int]) -> ir.Function:
    """``body`` under a name of its own, with the attributes that its nodes refer to."""
    body.domain, body.name = _DOMAIN, name
    # Nodes of a body mean the same up to the version that the model is at: ONNX keeps another body where they do not.
    for entry in body.opset_import:
        if entry.domain in imports:
            entry.version = imports[entry.domain]
    used = {attribute.ref_attr_name for node in body.node for attribute in node.attribute}
    kept = [key for key in body.attribute if key in used]
    del body.attribute[:]
    body.attribute.extend(kept)
    del body.output[outputs:]  # a body lists optional outputs that it does not make
    return ir.serde.deserialize_function(body)


def _body(schema: Any, node: ir.Node, version: int) -> onnx.FunctionProto | None:
    """The function at operator set ``version`` of the default domain."""
    found = onnx.FunctionProto()
    if schema.has_context_dependent_function:
        known = max(v for v in schema.context_dependent_function_opset_versions if v <= version)
        types, text = [_type(value) for value in node.inputs], ir.to_proto(node).SerializeToString()
        content = schema.get_context_dependent_function_with_opset_version(known, text, types)
    elif schema.has_function:
        known = max(v for v in schema.function_opset_versions if v <= version)
        content = schema.get_function_with_opset_version(known)
    else:
        return None
    found.ParseFromString(content)
    return found if found.node else None


def _type(value: ir.Value | None) -> bytes:
    if value is None:
        return b""
    info = ir.to_proto(value)
    return bytes(info.type.SerializeToString())
