"""Where numbers become 8-bit: at the inputs of layers, of residual adds, and before what moves them there.

The rules follow what kernels fuse. A layer's own result is never quantized between its product and what is
computed behind it in the same kernel (bias, activation, residual add): it is rounded once, where it leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ingot.errors import No
from ingot.graph.edit import constant_of, is_op, readers
from ingot.precision.layers import (
    UNARY,
    Layer,
    averaging_move,
    exact_move,
    layer_behind,
    layers_of,
    moved_inputs,
    plain_add,
)

Edge = tuple[str, int]
"""Name of a node and position of one of its inputs."""
_APART = 4.0
"""Thresholds of a concat's inputs further apart than this keep their own scales: the concat is not 8-bit then."""


@dataclass
class Placement:
    """Which inputs of which nodes read 8-bit numbers."""

    layers: list[Layer]
    refused: dict[str, No]
    """Products that cannot be layers."""
    edges: dict[Edge, str] = field(default_factory=dict)
    """Quantized inputs: the name of the value they read."""
    adds: dict[Edge, str] = field(default_factory=dict)
    """Those of ``edges`` that are residual branches."""
    moves: set[Edge] = field(default_factory=set)
    """Those of ``edges`` that belong to moves."""
    notes: list[str] = field(default_factory=list)
    _parent: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> tuple[str, ...]:
        """Values that are quantized, each once."""
        return tuple(dict.fromkeys(self.edges.values()))

    def group(self, value: str) -> str:
        """The value whose name stands for all that share a scale with ``value``."""
        while self._parent.get(value, value) != value:
            value = self._parent[value]
        return value

    def groups(self) -> dict[str, list[str]]:
        """Values by the scale that they share."""
        found: dict[str, list[str]] = {}
        for value in self.values:
            found.setdefault(self.group(value), []).append(value)
        return found

    def join(self, a: str, b: str) -> None:
        """Gives two values one scale."""
        first, second = self.group(a), self.group(b)
        if first != second:
            self._parent[second] = first


def place(
    model: ir.Model,
    keep: Collection[str] = (),
    thresholds: Mapping[str, float] | None = None,
    *,
    both_branches: bool = False,
) -> Placement:
    """The placement for ``model``, whose nodes have unique names.

    ``keep``: layers and residual adds that stay as they are. ``thresholds``: of values alone, which decide whether a
    concat can be 8-bit. ``both_branches`` quantizes both inputs of residual adds: for kernels that add 8-bit numbers.
    """
    layers, refused = layers_of(model.graph)
    made = Placement([layer for layer in layers if layer.name not in keep], refused)
    for layer in made.layers:
        made.edges[layer.name, 0] = str(layer.x.name)
    _place_adds(model, made, {layer.node: layer.name for layer in layers}, keep, both_branches)
    _place_moves(model, made, thresholds)
    return made


def _place_adds(model: ir.Model, made: Placement, nodes: dict[ir.Node, str], keep: Collection[str], both: bool) -> None:
    """Residual branches of adds whose result is quantized anyway, from the last add to the first.

    ``nodes``: all layers. Which branch a kernel reads from memory does not depend on the precision of its layer.
    """
    order = {node: index for index, node in enumerate(model.graph)}
    for node in reversed([n for n in model.graph if plain_add(n)]):
        makers = [layer_behind(value, nodes) for value in node.inputs]
        eight = any(maker is not None and nodes[maker] not in keep for maker in makers)
        if node.name in keep or not eight or not _read_quantized(node.outputs[0], made):
            continue
        # The kernel of the later layer adds the other branch.
        fused = max((m for m in makers if m is not None), key=lambda m: order[m])
        for position, value in enumerate(node.inputs):
            assert value is not None
            if both or makers[position] is not fused or makers[0] is makers[1]:
                made.edges[str(node.name), position] = made.adds[str(node.name), position] = str(value.name)


def _read_quantized(value: ir.Value, made: Placement) -> bool:
    """Whether a quantized input reads ``value``, moved or behind activations at most."""
    for reader in readers(value):
        if any((str(reader.name), i) in made.edges for i, v in enumerate(reader.inputs) if v is value):
            return True
        through = is_op(reader, *UNARY) or exact_move(reader) or averaging_move(reader)
        if through and any(_read_quantized(out, made) for out in reader.outputs):
            return True
    return False


def _place_moves(model: ir.Model, made: Placement, thresholds: Mapping[str, float] | None) -> None:
    """Draws quantization back to before the nodes that only move numbers, with one scale on both sides."""
    for node in reversed(list(model.graph)):
        if not (exact_move(node) or averaging_move(node)):
            continue
        outputs = [v for v in node.outputs if v.name in made.values]
        positions = moved_inputs(node)
        inputs = [node.inputs[i] for i in positions]
        if not outputs or any(v is None or v.dtype != ir.DataType.FLOAT for v in inputs):
            continue
        names = [str(v.name) for v in inputs if v is not None and constant_of(v) is None]
        if len(names) != len(positions) or any(v is not None and _from_product(v, made) for v in inputs):
            continue
        if thresholds is not None and not _alike(names, thresholds):
            made.notes.append(f"{node.name}: its inputs differ too much in range to share a scale")
            continue
        for position, name in zip(positions, names, strict=True):
            made.edges[str(node.name), position] = name
            made.moves.add((str(node.name), position))
            for value in outputs:
                made.join(str(value.name), name)


def _from_product(value: ir.Value, made: Placement) -> bool:
    """Whether ``value`` is the moved result of a product that is no layer, such as attention's.

    What stands between such a product and its layer is fused with it, and stays as it was written.
    """
    node = value.producer()
    while node is not None and exact_move(node) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.name in made.refused


def _alike(names: list[str], thresholds: Mapping[str, float]) -> bool:
    known = [thresholds[name] for name in names if thresholds.get(name)]
    return not known or max(known) <= _APART * min(known)
