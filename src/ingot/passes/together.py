"""Nodes that read one value become one node, of which each takes its part: what holds for all that are joined so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Editor, constant_of, operand, shape_of
from ingot.passes.lazy import NO_SIDE, Side, side_of_nodes
from ingot.passes.tails import Tail


def readers_of_one(model: ir.Model, wanted: Callable[[ir.Node], bool]) -> list[list[ir.Node]]:
    """Those ``wanted`` nodes, two or more each, whose first operand is one computed value.

    All of them run, or none does.
    """
    found: dict[tuple[ir.Value, Side], list[ir.Node]] = defaultdict(list)
    side = side_of_nodes(model)
    for node in model.graph:
        source = operand(node, 0)
        if wanted(node) and source is not None and constant_of(source) is None:
            found[source, side.get(node, NO_SIDE)].append(node)
    return [nodes for nodes in found.values() if len(nodes) > 1]


def hand_out(
    editor: Editor, whole: ir.Value, tails: Sequence[Tail], sizes: Sequence[int], axis: int, before: ir.Node
) -> None:
    """Splits ``whole`` along ``axis`` into parts of ``sizes``: each takes the place of what one of ``tails`` makes."""
    name = f"{before.outputs[0].name}/joined/sizes"
    split = editor.constant(np.asarray(sizes, np.int64), name)
    shape = shape_of(whole)
    parts = [
        editor.value(
            f"{tail.end.name}/part", whole.dtype, None if shape is None else (*shape[:axis], size, *shape[axis + 1 :])
        )
        for tail, size in zip(tails, sizes, strict=True)
    ]
    editor.ops("Split", [whole, split], {"axis": axis}, parts, before=before)
    for tail, part in zip(tails, parts, strict=True):
        node = tail.end.producer()
        assert node is not None
        editor.substitute(node, part)
