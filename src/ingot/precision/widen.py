"""A model in float16 becomes one in float32: quantization calibrates on full precision.

What is not quantized returns to float16 when the result is built for a GPU.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Editor, is_op

_HALF, _FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT


def widen(model: ir.Model) -> bool:
    """Rewrites ``model`` in place; its inputs and outputs keep their types. Tells whether there was anything to do."""
    graph = model.graph
    weights = [v for v in graph.initializers.values() if v.dtype == _HALF]
    inner = [v for node in graph.all_nodes() for v in node.outputs if v.dtype == _HALF]
    if not weights and not inner:
        return False
    editor = Editor(model)
    _widen_edges(editor, graph)
    for value in weights:
        tensor = value.const_value
        if tensor is not None and value.name is not None:
            value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(_FULL)
    outer = set(graph.outputs)
    for node in graph.all_nodes():
        if not any(v in outer for v in node.outputs):
            _widen_attributes(node)
            for value in node.outputs:
                if value.dtype == _HALF:
                    value.type = ir.TensorType(_FULL)
    return True


def _widen_edges(editor: Editor, graph: ir.Graph) -> None:
    """Casts behind inputs and before outputs that are float16."""
    first = graph[0]
    for value in list(graph.inputs):
        if value.dtype == _HALF and value.uses():
            wide = editor.value(f"{value.name}/wide", _FULL, None)
            wide.shape = value.shape
            value.replace_all_uses_with(wide)
            editor.ops("Cast", [value], {"to": int(_FULL)}, [wide], before=first)
    for position, value in enumerate(graph.outputs):
        node = value.producer()
        if value.dtype == _HALF and node is not None and value.name:
            outer = ir.Value(name=value.name, type=ir.TensorType(_HALF), shape=value.shape)
            value.name = editor.name(f"{value.name}/wide")
            attrs = [ir.AttrInt64("to", int(_HALF))]
            cast = ir.Node("", "Cast", [value], attrs, outputs=[outer], name=editor.name(f"{value.name}/cast"))
            graph.insert_after(node, cast)
            graph.outputs[position] = outer


def _widen_attributes(node: ir.Node) -> None:
    if is_op(node, "Cast") and node.attributes.get_int("to", 0) == int(_HALF):
        node.attributes["to"] = ir.AttrInt64("to", int(_FULL))
    value = node.attributes.get_tensor("value", None) if is_op(node, "Constant", "ConstantOfShape") else None
    if value is not None and value.dtype == _HALF:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(value.numpy().astype(np.float32)))
