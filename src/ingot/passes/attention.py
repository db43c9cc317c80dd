"""Attention written out as products and a softmax becomes one ``Attention`` op.

Where heads are split from and merged into (batch, position, head * feature), the op takes and gives
that form and the transposes go; otherwise it works on (batch, head, position, feature).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import (
    Editor,
    constant_of,
    ints_of,
    is_op,
    maker,
    operand,
    rank_of,
    scalar_of,
    shape_of,
    sole_reader,
)
from ingot.passes.scores import FORBIDDEN, Scores, addend, following, scores_before

_WIDEST_HEAD = 256
"""Most features per head that the attention kernel holds on chip."""
_SPLIT, _SPLIT_TRANSPOSED = (0, 2, 1, 3), (0, 2, 3, 1)


@dataclass(frozen=True)
class _Heads:
    """A tensor of several heads as (batch, position, head * feature)."""

    value: ir.Value
    count: int
    first: int = 0
    """First column of ``value`` that belongs to it."""
    columns: int = 0
    """Number of columns that belong to it; 0 for all."""


@dataclass(frozen=True)
class _Block:
    """One attention in the graph."""

    scores: Scores
    total: ir.Node
    """The product of weights and values."""

    @property
    def q(self) -> ir.Value:
        """Queries, without their scale."""
        return self.scores.q

    @property
    def v(self) -> ir.Value:
        """Values."""
        value = self.total.inputs[1]
        assert value is not None
        return value


def fuse_attention(model: ir.Model) -> list[str]:
    """Replaces every attention that the kernel can run; gives the number, and why others stay."""
    editor = Editor(model)
    fused = 0
    for node in list(model.graph):
        if not is_op(node, "Softmax") or node.graph is not model.graph:
            continue
        answer = _fuse(editor, node)
        if isinstance(answer, No):
            editor.note(f"not fused: {answer}")
        fused += bool(answer)
    if fused:
        editor.notes.insert(0, f"{fused} attention blocks became one op each")
    return editor.notes


def _fuse(editor: Editor, softmax: ir.Node) -> Answer | None:
    """Rewrites one block; None where there is no attention around the softmax."""
    rank = rank_of(softmax.outputs[0])
    if rank is None or softmax.attributes.get_int("axis", -1) not in (-1, rank - 1):
        return None
    total = following(softmax)
    if total is None:
        return None
    scores = scores_before(softmax)
    if isinstance(scores, No):
        return scores
    block = _Block(scores, total)
    refusal = _limits(block, rank, softmax.name or "")
    if refusal is not None:
        return refusal
    mask = _mask(editor, block, rank)
    if isinstance(mask, No):
        return mask
    attributes: dict[str, float | int] = {"scale": scores.scale}
    if mask is not None and _is_causal(mask, block):
        mask, attributes["is_causal"] = None, 1
    editor.needs_opset(23)
    if rank == 3:
        _single_head(editor, block, mask, attributes)
    elif not _merged(editor, block, mask, attributes):
        _separate(editor, block, mask, attributes)
    return YES


def _limits(block: _Block, rank: int, name: str) -> No | None:
    """Why the kernel does not run the block."""
    q, kt, v = (shape_of(value) for value in (block.q, block.scores.kt, block.v))
    if rank not in (3, 4) or q is None or kt is None or v is None or {len(q), len(kt), len(v)} != {rank}:
        return No("queries, keys and values of an attention must have rank 3 or 4", node=name)
    types = {value.dtype for value in (block.q, block.scores.kt, block.v, block.total.outputs[0])}
    if len(types) > 1:
        return No("queries, keys, values and result have different types", node=name)
    features, values = q[-1], v[-1]
    if not isinstance(features, int) or not isinstance(values, int):
        return No("the number of features per head is not fixed", node=name)
    if max(features, values) > _WIDEST_HEAD:
        return No(f"heads of {max(features, values)} features; the kernel takes {_WIDEST_HEAD}", node=name)
    if kt[-2] != features:
        return No("keys and queries have different numbers of features", node=name)
    if q[0] != kt[0] or q[0] != v[0] or None in (q[0], q[1]):
        return No(f"batches {q[0]}, {kt[0]} and {v[0]} of queries, keys and values are broadcast", node=name)
    if rank == 4 and not (isinstance(q[1], int) and q[1] == kt[1] == v[1]):
        return No(f"numbers of heads {q[1]}, {kt[1]} and {v[1]} are broadcast or not fixed", node=name)
    return None


# -- masks


def _mask(editor: Editor, block: _Block, rank: int) -> ir.Value | No | None:
    """All masks as one addend of rank 2 or 4, None where there is none."""
    scores, name = shape_of(block.scores.product.outputs[0]), block.total.name or ""
    assert scores is not None
    total: ir.Value | None = None
    for written in block.scores.masks:
        mask = addend(editor, written, block.total)
        shape = shape_of(mask)
        if shape is None or not shape or len(shape) > rank or shape[-1] in (1, None):
            return No(f"the mask {mask.name!r} of shape {shape} is not one number per key", node=name)
        tail = scores[rank - len(shape) :]
        if any(size != 1 and (size is None or size != wanted) for size, wanted in zip(shape, tail, strict=True)):
            return No(f"the mask {mask.name!r} of shape {shape} does not broadcast to {scores}", node=name)
        total = mask if total is None else _sum(editor, total, mask, block.total)
    return None if total is None else _as_rank(editor, total, rank, block.total)


def _sum(editor: Editor, a: ir.Value, b: ir.Value, before: ir.Node) -> ir.Value:
    """The sum of two masks, which broadcast with each other."""
    first, second = shape_of(a), shape_of(b)
    assert first is not None and second is not None
    rank = max(len(first), len(second))
    padded = [(1,) * (rank - len(shape)) + shape for shape in (first, second)]
    result = editor.value(f"{a.name}/masks", a.dtype, [y if x == 1 else x for x, y in zip(*padded, strict=True)])
    editor.ops("Add", [a, b], None, [result], before=before)
    return result


def _as_rank(editor: Editor, mask: ir.Value, rank: int, before: ir.Node) -> ir.Value:
    """The mask with the axes that ``Attention`` wants: at least two, and one for the head."""
    shape = shape_of(mask)
    assert shape is not None
    axis = 0 if len(shape) == 1 else 1 if len(shape) == 3 and rank == 3 else None
    if axis is None:
        return mask
    axes = editor.constant(np.asarray([axis], np.int64), f"{mask.name}/axis")
    wider = editor.value(f"{mask.name}/mask", mask.dtype, (*shape[:axis], 1, *shape[axis:]))
    editor.ops("Unsqueeze", [mask, axes], None, [wider], before=before)
    return wider


def _is_causal(mask: ir.Value, block: _Block) -> bool:
    """Whether a constant mask forbids what comes later, and nothing else."""
    array, keys = constant_of(mask), shape_of(block.scores.kt)
    if array is None or array.dtype.kind != "f" or array.ndim < 2 or array.size != int(array.shape[-1]) ** 2:
        return False
    size = int(array.shape[-1])
    if array.shape[-2] != size or size < 2 or keys is None or keys[-1] != size:
        return False
    square = array.reshape(size, size)
    later = np.triu(np.ones((size, size), np.bool_), 1)
    return bool(np.all(square[later] <= FORBIDDEN) and not np.any(square[~later]))


# -- the three forms of the op


def _single_head(editor: Editor, block: _Block, mask: ir.Value | None, attributes: dict[str, float | int]) -> None:
    """(batch, position, feature): one head."""
    attributes |= {"q_num_heads": 1, "kv_num_heads": 1}
    keys = _keys(editor, block)
    inputs = [block.q, keys, block.v, *([] if mask is None else [mask])]
    _put(editor, block.total, inputs, attributes)


def _separate(editor: Editor, block: _Block, mask: ir.Value | None, attributes: dict[str, float | int]) -> None:
    """(batch, head, position, feature)."""
    keys, values = _keys(editor, block), block.v
    few_keys, few_values = _unrepeated(keys), _unrepeated(values)
    if few_keys is not None and few_values is not None and _axis(few_keys, 1) == _axis(few_values, 1):
        keys, values = few_keys, few_values
    _put(editor, block.total, [block.q, keys, values, *([] if mask is None else [mask])], attributes)


def _put(editor: Editor, total: ir.Node, inputs: list[ir.Value], attributes: dict[str, float | int]) -> None:
    result = editor.op("Attention", inputs, attributes, before=total, like=total.outputs[0])
    editor.substitute(total, result)


def _merged(editor: Editor, block: _Block, mask: ir.Value | None, attributes: dict[str, float | int]) -> bool:
    """(batch, position, head * feature), where the graph has its operands and its result in that form."""
    parts = (_heads(block.q, _SPLIT), _heads(block.scores.kt, _SPLIT_TRANSPOSED), _heads(block.v, _SPLIT))
    swap = sole_reader(block.total.outputs[0])
    merge = None if swap is None else sole_reader(swap.outputs[0])
    if None in parts or swap is None or merge is None or not is_op(swap, "Transpose") or not is_op(merge, "Reshape"):
        return False
    if tuple(swap.attributes.get_ints("perm", ())) != _SPLIT:
        return False
    found = [part for part in parts if part is not None]
    q, _, v = found
    batch, positions = _axis(q.value, 0), _axis(q.value, 1)
    heads, width = q.count, _axis(block.v, -1)
    assert isinstance(width, int)
    columns = heads * width
    whole = shape_of(merge.outputs[0]) == (batch, positions, columns) and None not in (batch, positions)
    kept = ints_of(operand(merge, 1))
    if not whole and (kept is None or 0 in kept[2:]):
        return False
    attributes |= {"q_num_heads": heads, "kv_num_heads": v.count}
    inputs = [_columns(editor, part, block.total) for part in found]
    result = editor.value(f"{block.total.outputs[0].name}/merged", block.total.outputs[0].dtype, None)
    result.shape = ir.Shape([batch, positions, columns])
    editor.ops("Attention", [*inputs, *([] if mask is None else [mask])], attributes, [result], before=block.total)
    if whole:
        editor.substitute(merge, result)
    else:
        allow = merge.attributes.get_int("allowzero", 0)
        again = editor.op(
            "Reshape", [result, merge.inputs[1]], {"allowzero": allow}, before=merge, like=merge.outputs[0]
        )
        editor.substitute(merge, again)
    return True


def _columns(editor: Editor, part: _Heads, before: ir.Node) -> ir.Value:
    """The columns of one operand out of a tensor that holds several."""
    if not part.columns:
        return part.value
    shape = shape_of(part.value)
    assert shape is not None
    bounds = [
        editor.constant(np.asarray([n], np.int64), f"{part.value.name}/{hint}")
        for n, hint in ((part.first, "first"), (part.first + part.columns, "last"), (2, "axis"))
    ]
    result = editor.value(f"{part.value.name}/columns", part.value.dtype, (*shape[:2], part.columns))
    editor.ops("Slice", [part.value, *bounds], None, [result], before=before)
    return result


# -- how heads are split


def _axis(value: ir.Value, axis: int) -> int | str | None:
    shape = shape_of(value)
    return None if shape is None else shape[axis]


def _keys(editor: Editor, block: _Block) -> ir.Value:
    """Keys with positions before features."""
    kt, before = block.scores.kt, block.total
    transpose = maker(kt, "Transpose")
    shape = shape_of(kt)
    assert shape is not None
    order = list(range(len(shape)))
    perm = list(order) if transpose is None else list(transpose.attributes.get_ints("perm", order[::-1]))
    perm[-2], perm[-1] = perm[-1], perm[-2]
    source = kt if transpose is None else transpose.inputs[0]
    assert source is not None
    if perm == order:
        return source
    keys = editor.value(f"{kt.name}/keys", kt.dtype, (*shape[:-2], shape[-1], shape[-2]))
    editor.ops("Transpose", [source], {"perm": perm}, [keys], before=before)
    return keys


def _unrepeated(value: ir.Value) -> ir.Value | None:
    """The fewer heads that were repeated for grouped queries: Unsqueeze, Expand, Reshape."""
    reshape = maker(value, "Reshape")
    expand = maker(operand(reshape, 0), "Expand") if reshape is not None else None
    unsqueeze = maker(operand(expand, 0), "Unsqueeze") if expand is not None else None
    source = operand(unsqueeze, 0) if unsqueeze is not None else None
    if unsqueeze is None or expand is None or source is None or ints_of(operand(unsqueeze, 1)) != (2,):
        return None
    few, spread, many = shape_of(source), shape_of(expand.outputs[0]), shape_of(value)
    if few is None or spread is None or many is None or len(few) != 4 or len(spread) != 5 or len(many) != 4:
        return None
    heads, repeats = spread[1], spread[2]
    right = isinstance(heads, int) and isinstance(repeats, int) and many[1] == heads * repeats
    return source if right and (spread[0], *spread[1:2], *spread[3:]) == few and many[2:] == few[2:] else None


def _heads(value: ir.Value, perm: tuple[int, ...]) -> _Heads | None:
    """How ``value`` was made from (batch, position, head * feature)."""
    transpose = maker(value, "Transpose")
    if transpose is not None and tuple(transpose.attributes.get_ints("perm", ())) == perm:
        return _split_of(operand(transpose, 0))
    if perm == _SPLIT:
        return _stacked(value)
    swapped = transpose is not None and tuple(transpose.attributes.get_ints("perm", ())) == (0, 1, 3, 2)
    inner = operand(transpose, 0) if transpose is not None and swapped else None
    return None if inner is None else _heads(inner, _SPLIT)


def _split_of(value: ir.Value | None) -> _Heads | None:
    """(batch, position, head, feature) as a Reshape of three axes."""
    reshape = maker(value, "Reshape")
    source = None if reshape is None else operand(reshape, 0)
    wide, narrow = shape_of(value), shape_of(source)
    if source is None or wide is None or narrow is None or len(wide) != 4 or len(narrow) != 3:
        return None
    count, features = wide[2], wide[3]
    if not isinstance(count, int) or not isinstance(features, int) or None in narrow:
        return None
    return _Heads(source, count) if narrow == (*wide[:2], count * features) else None


def _stacked(value: ir.Value) -> _Heads | None:
    """One of (3, batch, head, position, feature), transposed from columns ordered (3, head, feature)."""
    index, stack = _picked(value)
    transpose = maker(stack, "Transpose")
    if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != (2, 0, 3, 1, 4):
        return None
    reshape = maker(operand(transpose, 0), "Reshape")
    source = None if reshape is None else operand(reshape, 0)
    wide, narrow = shape_of(operand(transpose, 0)), shape_of(source)
    if source is None or wide is None or narrow is None or len(wide) != 5 or len(narrow) != 3 or None in narrow:
        return None
    parts, count, features = wide[2:]
    if not isinstance(parts, int) or not isinstance(count, int) or not isinstance(features, int):
        return None
    columns = count * features
    right = narrow == (*wide[:2], parts * columns) and 0 <= index < parts
    return _Heads(source, count, index * columns, columns) if right else None


def _picked(value: ir.Value) -> tuple[int, ir.Value | None]:
    """Index and tensor of a pick along the first axis: a Gather, or a Slice of one and a Squeeze."""
    gather = maker(value, "Gather")
    if gather is not None:
        index = scalar_of(operand(gather, 1))
        scalar = rank_of(operand(gather, 1)) == 0 and gather.attributes.get_int("axis", 0) == 0
        return (int(index), operand(gather, 0)) if scalar and index is not None else (-1, None)
    squeeze = maker(value, "Squeeze")
    cut = maker(operand(squeeze, 0), "Slice") if squeeze is not None and ints_of(operand(squeeze, 1)) == (0,) else None
    if cut is None:
        return -1, None
    starts, ends, axes, steps = (ints_of(operand(cut, i)) for i in range(1, 5))
    if starts is None or ends is None or axes != (0,) or steps not in (None, (1,)) or ends[0] != starts[0] + 1:
        return -1, None
    return starts[0], operand(cut, 0)
