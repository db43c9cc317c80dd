"""Einsum of one or two operands as transposes, sums and one matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Editor, is_op, shape_of
from ingot.plugins.registry import active

Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class _Operand:
    """A value and the letter of each of its axes."""

    value: ir.Value
    letters: str


def expand_einsums(model: ir.Model) -> list[str]:
    """Replaces every Einsum that has such a form; gives how many, and why others stay."""
    editor = Editor(model)
    count = 0
    for node in list(model.graph):
        if node.graph is not model.graph or active().find(node.domain, node.op_type) is not None:
            continue
        if is_op(node, "Einsum"):
            answer = _expand(editor, node)
            if isinstance(answer, No):
                editor.note(f"not expanded: {answer}")
            count += bool(answer)
    if count:
        editor.notes.insert(0, f"{count} Einsums became matrix products")
    return editor.notes


def _expand(editor: Editor, node: ir.Node) -> Answer:
    equation, name = node.attributes.get_string("equation", "").replace(" ", ""), node.name or ""
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if "." in equation or not arrow:
        return No("an equation with an ellipsis or without a result", node=name)
    if len(terms) not in (1, 2) or len(terms) != len(node.inputs):
        return No(f"{len(terms)} operands", node=name)
    operands = []
    for value, letters in zip(node.inputs, terms, strict=True):
        shape = shape_of(value)
        if value is None or shape is None or len(shape) != len(letters) or len(set(letters)) != len(letters):
            return No(f"an operand {letters} with a diagonal or of unknown rank", node=name)
        operands.append(_Operand(value, letters))
    others = [term.letters for term in operands]
    reduced = [
        _without(editor, node, operand, set(out).union(*(o for j, o in enumerate(others) if j != i)))
        for i, operand in enumerate(operands)
    ]
    if len(reduced) == 1:
        editor.substitute(node, _ordered(editor, node, reduced[0], out).value)
        return YES
    return _product(editor, node, reduced[0], reduced[1], out)


def _without(editor: Editor, node: ir.Node, operand: _Operand, kept: set[str]) -> _Operand:
    """The operand summed over axes that nothing else has."""
    axes = [i for i, letter in enumerate(operand.letters) if letter not in kept]
    if not axes:
        return operand
    shape = shape_of(operand.value)
    assert shape is not None
    left = "".join(letter for letter in operand.letters if letter in kept)
    where = editor.constant(np.asarray(axes, np.int64), f"{node.name}/axes")
    result = editor.value(
        f"{operand.value.name}/sum", operand.value.dtype, [d for i, d in enumerate(shape) if i not in axes]
    )
    editor.ops("ReduceSum", [operand.value, where], {"keepdims": 0}, [result], before=node)
    return _Operand(result, left)


def _ordered(editor: Editor, node: ir.Node, operand: _Operand, letters: str) -> _Operand:
    """The operand with its axes in the order of ``letters``."""
    perm = [operand.letters.index(letter) for letter in letters]
    if perm == list(range(len(perm))):
        return operand
    shape = shape_of(operand.value)
    assert shape is not None
    result = editor.value(f"{operand.value.name}/ordered", operand.value.dtype, [shape[p] for p in perm])
    editor.ops("Transpose", [operand.value], {"perm": perm}, [result], before=node)
    return _Operand(result, letters)


def _product(editor: Editor, node: ir.Node, a: _Operand, b: _Operand, out: str) -> Answer:
    """One MatMul over (shared axes kept, rows, columns), with one contracted axis."""
    name = node.name or ""
    batch = [letter for letter in out if letter in a.letters and letter in b.letters]
    rows = [letter for letter in out if letter in a.letters and letter not in b.letters]
    columns = [letter for letter in out if letter in b.letters and letter not in a.letters]
    inner = [letter for letter in a.letters if letter in b.letters and letter not in out]
    # A second operand without axes of its own besides the contracted one takes rows of any number.
    if len(inner) != 1 or len(columns) > 1 or (len(rows) > 1 and batch):
        return No(f"a product of {a.letters} and {b.letters} over {len(inner)} axes to {out}", node=name)
    first = _ordered(editor, node, a, "".join([*batch, *rows, *inner]))
    second = _ordered(editor, node, b, "".join([*batch, *inner, *columns]))
    left, right = first.value, second.value
    missing = [] if rows else [len(batch)]
    if missing:
        left = _unsqueezed(editor, node, left, len(batch))
    if not columns:
        right = _unsqueezed(editor, node, right, len(batch) + 1)
    sizes = {
        **dict(zip(a.letters, shape_of(a.value) or (), strict=False)),
        **dict(zip(b.letters, shape_of(b.value) or (), strict=False)),
    }
    made = "".join([*batch, *rows, *columns])
    full: list[int | str | None] = (
        [sizes[c] for c in batch] + ([sizes[c] for c in rows] or [1]) + ([sizes[c] for c in columns] or [1])
    )
    result = editor.value(f"{node.outputs[0].name}/product", node.outputs[0].dtype, full)
    editor.ops("MatMul", [left, right], None, [result], before=node)
    gone = ([len(batch)] if not rows else []) + ([len(full) - 1] if not columns else [])
    if gone:
        axes = editor.constant(np.asarray(gone, np.int64), f"{node.name}/gone")
        squeezed = editor.value(
            f"{result.name}/squeezed", result.dtype, [d for i, d in enumerate(full) if i not in gone]
        )
        editor.ops("Squeeze", [result, axes], None, [squeezed], before=node)
        result = squeezed
    editor.substitute(node, _ordered(editor, node, _Operand(result, made), out).value)
    return YES


def _unsqueezed(editor: Editor, node: ir.Node, value: ir.Value, axis: int) -> ir.Value:
    shape = shape_of(value)
    assert shape is not None
    axes = editor.constant(np.asarray([axis], np.int64), f"{node.name}/axis")
    result = editor.value(f"{value.name}/axis", value.dtype, (*shape[:axis], 1, *shape[axis:]))
    editor.ops("Unsqueeze", [value, axes], None, [result], before=node)
    return result
