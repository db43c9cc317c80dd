"""Control flow of ONNX graphs: its ops, and why one of them stays as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx_ir as ir

from ingot.errors import No
from ingot.graph.edit import is_op

CONTROL = ("If", "Loop", "Scan", "SequenceMap")
_REASON, _FIX = "ingot.stays", "ingot.fix"
_CHOICE, _SHAPES = "ingot.choice", "ingot.shapes"
Shape = Sequence[int | str]


def choose(node: ir.Node) -> None:
    """Marks a Where that has taken the place of an If: of its second and third operand only one is needed."""
    node.metadata_props[_CHOICE] = "1"


def is_choice(node: ir.Node) -> bool:
    """Whether :func:`choose` has marked the node, and it still is what it was."""
    return is_op(node, "Where") and _CHOICE in node.metadata_props


def promise(node: ir.Node, shapes: Sequence[Shape]) -> None:
    """Writes at an If what the shapes of its results are, which nothing else can tell: dimensions that are known."""
    node.metadata_props[_SHAPES] = json.dumps([list(shape) for shape in shapes])


def keep_promise(node: ir.Node) -> bool:
    """Gives the results of a node the shapes that :func:`promise` wrote; whether it did."""
    text = node.metadata_props.get(_SHAPES)
    if text is None:
        return False
    for value, dims in zip(node.outputs, json.loads(text), strict=True):
        value.shape = ir.Shape(dims)
    return True


def copy_ranks(body: ir.Graph, copy: ir.Graph) -> None:
    """Gives what nodes in the copy of a Scan's body make the ranks of the original: ONNX Runtime asks for them."""
    for old, new in zip(body.outputs, copy.outputs, strict=True):
        if old.shape is not None and new.producer() is not None:
            new.shape = ir.Shape([None] * len(old.shape))


def is_control(node: ir.Node) -> bool:
    """Whether ``node`` runs graphs of its own."""
    return is_op(node, *CONTROL)


def keep(node: ir.Node, why: No) -> None:
    """Writes at the node why it was not opened."""
    node.metadata_props[_REASON], node.metadata_props[_FIX] = why.reason, why.fix


def kept_because(node: ir.Node, name: str) -> No | None:
    """What :func:`keep` wrote; ``name`` is what the node is called in reports."""
    reason = node.metadata_props.get(_REASON)
    return None if reason is None else No(reason, node=name, fix=node.metadata_props.get(_FIX, ""))
