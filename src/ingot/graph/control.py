"""Control flow of ONNX graphs: its ops, and why one of them stays as it is."""

from __future__ import annotations

import onnx_ir as ir

from ingot.errors import No
from ingot.graph.edit import is_op

CONTROL = ("If", "Loop", "Scan", "SequenceMap")
_REASON, _FIX = "ingot.stays", "ingot.fix"


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
