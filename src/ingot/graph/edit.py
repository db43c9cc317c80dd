"""Reading and rewriting ``onnx_ir`` graphs: what every rewrite needs, in one place.

Rewrites work on the main graph. Bodies of an If, Loop or Scan that was not written out run on the host and are left as
they are; a value that a body captures counts as read there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ingot.graph.region import Attr

Array = npt.NDArray[Any]
Attribute = int | float | str | Sequence[int]


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether ``node`` is one of ``op_types`` of the default domain."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types


def maker(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes ``value`` when it is one of ``op_types`` of the default domain."""
    node = None if value is None else value.producer()
    return node if is_op(node, *op_types) else None


def operand(node: ir.Node, position: int) -> ir.Value | None:
    """Input ``position``, None where it is absent."""
    return node.inputs[position] if position < len(node.inputs) else None


def constant_of(value: ir.Value | None) -> Array | None:
    """The array of a constant, None for anything computed or fed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def scalar_of(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    array = constant_of(value)
    if array is None or (array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16"):
        return None
    return float(array.reshape(()).item())


def ints_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """The numbers of an integer constant of rank 0 or 1."""
    array = constant_of(value)
    if array is None or array.dtype.kind not in "iu" or array.ndim > 1:
        return None
    return tuple(int(v) for v in array.reshape(-1))


def shape_of(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """Dimensions: integers, symbolic expressions as text, None where unknown; None for an unknown rank."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else _dim(d) for d in value.shape)


def _dim(dim: ir.SymbolicDim) -> int | str | None:
    # The inference gives some numbers as expressions without symbols.
    text = None if dim.value is None else str(dim)
    return int(text) if text is not None and text.isdecimal() else text


def fixed_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value of which every dimension is a number."""
    shape = shape_of(value)
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(int(dim) for dim in shape if isinstance(dim, int))


def rank_of(value: ir.Value | None) -> int | None:
    """Number of axes, None where unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def same_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether both shapes are known and equal."""
    first = shape_of(a)
    return first is not None and None not in first and first == shape_of(b)


def is_read(value: ir.Value) -> bool:
    """Whether a node reads ``value``, or it is a graph output."""
    return bool(value.uses()) or value.is_graph_output()


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value``, once; None when others do, or when it is a graph output."""
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1:
        return None
    return uses[0].node


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read ``value``, each once, bodies included."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def bodies(attr: ir.Attr) -> Sequence[ir.Graph]:
    """The graphs that an attribute holds."""
    if attr.type == ir.AttributeType.GRAPH:
        return [attr.as_graph()]
    return attr.as_graphs() if attr.type == ir.AttributeType.GRAPHS else []


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads, also from within its bodies, whose own values are among it."""
    found = [value for value in node.inputs if value is not None]
    for attr in node.attributes.values():
        for body in bodies(attr):
            found += [value for inner in body.all_nodes() for value in inner.inputs if value is not None]
            found.extend(body.outputs)
    return found


def kept(node: ir.Node, *dropped: str) -> dict[str, Attribute]:
    """The node's attributes, without some."""
    return {name: attr.value for name, attr in node.attributes.items() if name not in dropped}


def plain_attribute(attr: ir.Attr) -> Attr | None:
    """The attribute as a plain value; None for a tensor, a graph or another without such a form."""
    match attr.type:
        case ir.AttributeType.INT:
            return attr.as_int()
        case ir.AttributeType.FLOAT:
            return attr.as_float()
        case ir.AttributeType.STRING:
            return attr.as_string()
        case ir.AttributeType.INTS:
            return tuple(attr.as_ints())
        case ir.AttributeType.FLOATS:
            return tuple(attr.as_floats())
        case ir.AttributeType.STRINGS:
            return tuple(attr.as_strings())
    return None


class Editor:
    """Changes to one model's main graph, with names that stay unique, and notes on what was done."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self.notes: list[str] = []
        self._names: set[str] = set()
        for graph in (model.graph, *model.graph.subgraphs()):
            self._names.update(v.name for v in (*graph.inputs, *graph.initializers.values()) if v.name)
            for node in graph:
                self._names.update(v.name for v in node.outputs if v.name)
                self._names.update([node.name] if node.name else [])

    def note(self, text: str) -> None:
        """Keeps a line for the report."""
        self.notes.append(text)

    def name(self, hint: str) -> str:
        """``hint``, with a number where it is taken."""
        name, count = hint, 0
        while name in self._names:
            count += 1
            name = f"{hint}.{count}"
        self._names.add(name)
        return name

    def constant(self, array: Array, hint: str) -> ir.Value:
        """A new initializer."""
        name = self.name(hint)
        tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(list(array.shape)), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        before: ir.Node,
        like: ir.Value,
        hint: str = "",
    ) -> ir.Value:
        """A new node with one output, in front of ``before``; type and shape are those of ``like``."""
        out = ir.Value(name=self.name(hint or f"{like.name}/{op_type}"), type=like.type, shape=_copy(like.shape))
        self._node(op_type, inputs, attributes, [out], before)
        return out

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None,
        outputs: Sequence[ir.Value],
        *,
        before: ir.Node,
    ) -> None:
        """A new node with ``outputs``, made by :meth:`value`, in front of ``before``."""
        self._node(op_type, inputs, attributes, list(outputs), before)

    def value(self, hint: str, dtype: ir.DataType | None, shape: Iterable[int | str | None] | None) -> ir.Value:
        """A new value for a node's output."""
        return ir.Value(
            name=self.name(hint),
            type=None if dtype is None else ir.TensorType(dtype),
            shape=None if shape is None else ir.Shape(list(shape)),
        )

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None,
        outputs: list[ir.Value],
        before: ir.Node,
    ) -> None:
        attrs = ir.convenience.convert_attributes(dict(attributes or {}))
        name = self.name(f"{outputs[0].name}/node")
        self.graph.insert_before(before, ir.Node("", op_type, inputs, attrs, outputs=outputs, name=name))

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Readers of ``old`` read ``new`` instead, and a graph output keeps its name.

        The node that made ``old`` stays in the graph, without readers, for :meth:`sweep`.
        """
        if not old.is_graph_output():
            old.replace_all_uses_with(new)
            return
        node = old.producer()
        assert node is not None, "an input cannot be replaced"
        if new.is_graph_output() or new.is_graph_input() or new.is_initializer() or new.producer() is None:
            new = self.op("Identity", [new], before=node, like=old)
        name = old.name
        old.name = self.name(f"{name}/old")
        new.name = name
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def sweep(self, nodes: Iterable[ir.Node]) -> None:
        """Removes those of ``nodes`` whose results nobody reads, and then what only they read."""
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if node.graph is not self.graph or any(is_read(v) for v in node.outputs):
                continue
            before = [v for v in node.inputs if v is not None]
            self.graph.remove(node, safe=True)
            pending.extend(n for v in before if (n := v.producer()) is not None)
            for value in before:
                if value.is_initializer() and not is_read(value) and value.name:
                    self.graph.initializers.pop(value.name, None)

    def substitute(self, node: ir.Node, new: ir.Value) -> None:
        """The first output of ``node`` becomes ``new``; what is not read any more goes."""
        self.replace(node.outputs[0], new)
        self.sweep([node])

    def needs_opset(self, version: int) -> None:
        """Raises the default domain's version where it is lower."""
        imports = self.model.opset_imports
        imports[""] = max(imports.get("", 1), version)


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else ir.Shape(list(shape))
