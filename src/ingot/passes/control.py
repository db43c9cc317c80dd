"""Control flow whose course is known when building, opened: what stands in its bodies becomes ordinary nodes."""

from __future__ import annotations

from collections import Counter
from functools import partial

import onnx_ir as ir

from ingot.errors import No
from ingot.graph.control import is_control, keep, kept_because
from ingot.graph.edit import Editor, is_op
from ingot.passes.branches import BRANCHES, both_branches
from ingot.passes.fold import fold, tidy
from ingot.passes.inline import Inliner, discard
from ingot.passes.known import Known
from ingot.passes.sequences import resolve_sequences
from ingot.passes.unroll import UNROLL, Budget, unroll

_ROUNDS = 32
"""Deepest nesting that is opened."""
_DEEPEST = 8
"""Deepest nesting of branches whose condition is data: each doubles the work."""


def open_control_flow(model: ir.Model, limit: int = UNROLL) -> list[str]:
    """Opens what it can in ``model``; gives how many of each op, and writes at the others why they stay.

    ``limit``: how many nodes unrolling may make in all.
    """
    if not any(is_control(node) for node in model.graph):
        return []
    opened, notes = _open(model, Budget(limit), _DEEPEST)
    return [f"{count} {op_type} written out" for op_type, count in sorted(opened.items())] + notes


def _open(model: ir.Model, budget: Budget, deeper: int) -> tuple[Counter[str], list[str]]:
    """Opens what can be opened, until nothing is left of it; ``deeper``: how often branches may be nested."""
    opened: Counter[str] = Counter()
    notes: list[str] = []
    for _ in range(_ROUNDS):
        fold(model)
        notes += resolve_sequences(model)
        tidy(model)
        found = _round(model, budget, deeper)
        opened += found
        if not found:
            break
    tidy(model)
    return opened, notes


def _round(model: ir.Model, budget: Budget, deeper: int) -> Counter[str]:
    """Opens nodes of the main graph; those inside them come next time."""
    editor, known = Editor(model), Known(model.opset_imports.get("", 1))
    opened: Counter[str] = Counter()
    for node in list(model.graph):
        if not is_control(node):
            continue
        if is_op(node, "If"):
            answer = _choose(editor, node, known, budget, deeper)
        else:
            answer = unroll(editor, node, known, budget, partial(_both, editor, budget, deeper))
        if answer is None:
            opened[node.op_type] += 1
        else:
            keep(node, answer)
    return opened


def _choose(editor: Editor, node: ir.Node, known: Known, budget: Budget, deeper: int) -> No | None:
    """The branch of an If whose condition is known takes its place; else both do, where that is possible."""
    condition = known(node.inputs[0])
    if condition is None:
        before = kept_because(node, "")
        if before is not None:
            return before  # to try both branches once is enough
        return _both(editor, budget, deeper, node)
    branch = node.attributes[BRANCHES[0 if condition.reshape(()) else 1]].as_graph()
    made = Inliner(editor, branch, str(node.name)).copy([], node)
    for old, new in zip(node.outputs, made, strict=True):
        editor.replace(old, new)
    discard(node)
    return None


def _both(editor: Editor, budget: Budget, deeper: int, node: ir.Node) -> No | None:
    if not deeper:
        return No("branches are nested too deep")

    def simplify(branch: ir.Model) -> None:
        _open(branch, budget, deeper - 1)

    return both_branches(editor, node, simplify)
