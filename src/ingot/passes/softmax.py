"""Softmax in other words: behind a flattening to two axes, or as exponentials divided by their sum."""

from __future__ import annotations

import onnx_ir as ir

from ingot.graph.edit import Editor, ints_of, is_op, maker, operand, rank_of, same_shape, sole_reader

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def simplify_softmax(model: ir.Model) -> list[str]:
    """Rewrites both forms to one Softmax over an axis of the original tensor; gives how many."""
    editor = Editor(model)
    count = 0
    for node in list(model.graph):
        if node.graph is model.graph and (_unflatten(editor, node) or _from_quotient(editor, node)):
            count += 1
    return [f"{count} softmax simplified"] if count else []


def _unflatten(editor: Editor, node: ir.Node) -> bool:
    """Flatten or Reshape, Softmax over the last axis, and the way back."""
    if not is_op(node, "Softmax", "LogSoftmax"):
        return False
    before, after = maker(node.inputs[0], "Flatten", "Reshape"), sole_reader(node.outputs[0])
    source = None if before is None else operand(before, 0)
    rank, flat = rank_of(source), rank_of(node.inputs[0])
    if source is None or not rank or not flat or after is None or not is_op(after, "Reshape"):
        return False
    if node.attributes.get_int("axis", -1) not in (-1, flat - 1) or not same_shape(source, after.outputs[0]):
        return False
    last, flat_last = (None if v is None or v.shape is None else v.shape[-1] for v in (source, node.inputs[0]))
    if last is None or last != flat_last:
        return False
    result = editor.op(node.op_type, [source], {"axis": rank - 1}, before=node, like=after.outputs[0])
    editor.substitute(after, result)
    return True


def _from_quotient(editor: Editor, node: ir.Node) -> bool:
    """exp(x) / sum(exp(x)), where x may be less its maximum, or less anything."""
    if not is_op(node, "Div"):
        return False
    power, total = maker(node.inputs[0], "Exp"), maker(_kept(node.inputs[1]), "ReduceSum")
    if power is None or total is None or operand(total, 0) is not node.inputs[0]:
        return False
    rank, axes = rank_of(node.inputs[0]), _axes(total)
    if rank is None or axes is None or len(axes) != 1 or rank_of(node.inputs[1]) != rank:
        return False
    axis = axes[0] % rank
    kept = bool(total.attributes.get_int("keepdims", 1))
    # Without the reduced axis, what puts it back must put it in the same place.
    if not kept and (node.inputs[1] is total.outputs[0] or not _one_at(node.inputs[1], axis, node.inputs[0])):
        return False
    source = operand(power, 0)
    less = maker(source, "Sub")
    if less is not None and _is_one_at(operand(less, 1), axis, rank):
        source = operand(less, 0)  # a softmax does not change when all it compares is shifted
    if source is None or not same_shape(source, node.outputs[0]):
        return False
    editor.substitute(node, editor.op("Softmax", [source], {"axis": axis}, before=node, like=node.outputs[0]))
    return True


def _is_one_at(value: ir.Value | None, axis: int, rank: int) -> bool:
    """Whether ``value`` is the same along ``axis``."""
    return value is not None and value.shape is not None and len(value.shape) == rank and value.shape[axis] == 1


def _kept(value: ir.Value | None) -> ir.Value | None:
    """``value`` before reshapes, which may only have put axes of one back."""
    for _ in range(3):
        view = maker(value, *_VIEWS)
        if view is None:
            break
        value = operand(view, 0)
    return value


def _one_at(value: ir.Value | None, axis: int, whole: ir.Value | None) -> bool:
    """Whether ``value`` has the shape of ``whole`` with one at ``axis``."""
    if value is None or whole is None or value.shape is None or whole.shape is None:
        return False
    wanted = [1 if i == axis else dim for i, dim in enumerate(whole.shape)]
    return list(value.shape) == wanted


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    if operand(node, 1) is not None:
        return ints_of(operand(node, 1))
    return tuple(node.attributes.get_ints("axes", ())) or None
