"""Going over the nodes of a model: tables with a rule for each op, and rewrites repeated until nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ingot.errors import Answer, No
from ingot.graph.edit import Editor
from ingot.plugins.registry import active

Rule = Callable[[Editor, ir.Node], Answer]


def apply_rules(model: ir.Model, rule_of: Callable[[ir.Node], Rule | None], how: str) -> list[str]:
    """Rewrites the nodes that have a rule; gives how many of each op, in the words of ``how``, and why others stay.

    An op of a plugin stays as it is. A refusal without a reason is not worth a line.
    """
    editor = Editor(model)
    counts: dict[str, int] = {}
    for node in list(model.graph):
        rule = rule_of(node) if node.graph is model.graph else None
        if rule is None or active().find(node.domain, node.op_type) is not None:
            continue
        answer = rule(editor, node)
        if not isinstance(answer, No):
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        elif answer.reason:
            editor.note(f"{node.op_type} stays: {answer}")
    return [f"{count} {op_type} {how}" for op_type, count in sorted(counts.items())] + editor.notes


def repeat(editor: Editor, rewrites: Sequence[Callable[[Editor, ir.Node], bool]], rounds: int) -> list[int]:
    """Tries ``rewrites`` on every node, up to the first that does something, until none does; how often each did.

    At most ``rounds`` times over the graph.
    """
    counts = [0] * len(rewrites)
    for _ in range(rounds):
        before = sum(counts)
        for node in list(editor.graph):
            if node.graph is editor.graph:
                done = next((i for i, rewrite in enumerate(rewrites) if rewrite(editor, node)), None)
                if done is not None:
                    counts[done] += 1
        if sum(counts) == before:
            break
    return counts
