"""Writing the ops that take a node's place, one line for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Editor


class Writer:
    """New nodes in front of ``node``. Their types and shapes are left to the shape inference after the pass."""

    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self.editor, self.node = editor, node

    def __call__(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node with one output."""
        made = self.editor.value(f"{self.node.name}/{op_type}", None, None)
        self.editor.ops(op_type, inputs, attributes, [made], before=self.node)
        return made

    def const(self, value: Any, dtype: Any) -> ir.Value:
        """A constant."""
        return self.editor.constant(np.asarray(value, dtype), f"{self.node.name}/constant")

    def ints(self, *numbers: int) -> ir.Value:
        """A vector of 64-bit integers: a shape, axes."""
        return self.const(list(numbers), np.int64)

    def typed(self, made: ir.Value) -> ir.Value:
        """``made`` with type and shape of the node's first result, where the inference may not find them."""
        made.type, made.shape = self.node.outputs[0].type, self.node.outputs[0].shape
        return made

    def done(self, *results: ir.Value | None) -> None:
        """``results`` take the places of the node's outputs; None for one that nobody reads."""
        for old, new in zip(self.node.outputs, results, strict=False):
            if new is not None:
                self.editor.replace(old, new)
        makers = [v.producer() for v in results if v is not None]
        self.editor.sweep([self.node, *(m for m in makers if m is not None)])


def float_type(value: ir.Value | None) -> np.dtype[Any] | None:
    """The element type of a floating-point value."""
    if value is None or value.dtype is None or not value.dtype.is_floating_point():
        return None
    return np.dtype(value.dtype.numpy())
