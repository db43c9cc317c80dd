"""Control flow whose course is known when building, opened: what stands in its bodies becomes ordinary nodes."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from ingot.errors import No
from ingot.graph.control import is_control, keep
from ingot.graph.edit import Editor, is_op
from ingot.passes.fold import fold, tidy
from ingot.passes.inline import Inliner, discard
from ingot.passes.known import Known
from ingot.passes.sequences import resolve_sequences
from ingot.passes.unroll import UNROLL, Budget, unroll

_ROUNDS = 32
"""Deepest nesting that is opened."""


def open_control_flow(model: ir.Model, limit: int = UNROLL) -> list[str]:
    """Opens what it can in ``model``; gives how many of each op, and writes at the others why they stay.

    ``limit``: how many nodes unrolling may make in all.
    """
    if not any(is_control(node) for node in model.graph):
        return []
    budget = Budget(limit)
    opened: Counter[str] = Counter()
    notes: list[str] = []
    for _ in range(_ROUNDS):
        fold(model)
        notes += resolve_sequences(model)
        tidy(model)
        found = _round(model, budget)
        opened += found
        if not found:
            break
    return [f"{count} {op_type} written out" for op_type, count in sorted(opened.items())] + notes


def _round(model: ir.Model, budget: Budget) -> Counter[str]:
    """Opens nodes of the main graph; those inside them come next time."""
    editor, known = Editor(model), Known(model.opset_imports.get("", 1))
    opened: Counter[str] = Counter()
    for node in list(model.graph):
        if not is_control(node):
            continue
        answer = _choose(editor, node, known) if is_op(node, "If") else unroll(editor, node, known, budget)
        if answer is None:
            opened[node.op_type] += 1
        else:
            keep(node, answer)
    return opened


def _choose(editor: Editor, node: ir.Node, known: Known) -> No | None:
    """The branch of an If whose condition is known takes its place."""
    condition = known(node.inputs[0])
    if condition is None:
        return No("its condition is computed from data")
    branch = node.attributes["then_branch" if condition.reshape(()) else "else_branch"].as_graph()
    made = Inliner(editor, branch, str(node.name)).copy([], node)
    for old, new in zip(node.outputs, made, strict=True):
        editor.replace(old, new)
    discard(node)
    return None
