"""Attention of ONNX Runtime's optimiser (domain ``com.microsoft``) as ONNX's own ops."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Editor, fixed_shape, is_read, operand, rank_of, shape_of
from ingot.passes.writer import Writer, float_type


def rotary(editor: Editor, node: ir.Node) -> Answer:
    """RotaryEmbedding(x, positions, cos, sin): ONNX's has the positions last."""
    x, positions, cos, sin = (operand(node, i) for i in range(4))
    name, shape, where = node.name or "", shape_of(x), shape_of(positions)
    width = fixed_shape(cos)
    if shape is None or where is None or width is None or node.attributes.get_int("is_packed_batching", 0) != 0:
        return No("its shapes are not known, or its batch is packed", node=name)
    if node.attributes.get_float("scale", 1.0) != 1.0:
        return No("its scale is not 1", node=name)
    w = Writer(editor, node)
    axis = 1 if len(shape) == 3 else 2
    if len(where) == 1:
        length, batch = shape[axis], shape[0]
        if not isinstance(length, int) or not isinstance(batch, int):
            return No("its positions count from an offset, and its length is not known", node=name)
        steps = w("Add", w.const(np.arange(length)[None], np.int64), positions)
        positions = w("Expand", steps, w.ints(batch, length))
    dim = node.attributes.get_int("rotary_embedding_dim", 0)
    attributes: dict[str, Any] = {"interleaved": node.attributes.get_int("interleaved", 0)}
    if dim:
        attributes["rotary_embedding_dim"] = dim
    if len(shape) == 3:
        heads, size = node.attributes.get_int("num_heads", 0), shape[2]
        if not heads and not isinstance(size, int):
            return No("its number of heads is not known", node=name)
        attributes["num_heads"] = heads or (size // (2 * width[1]) if isinstance(size, int) else 0)
    editor.needs_opset(23)
    w.done(w.typed(w("RotaryEmbedding", x, cos, sin, positions, **attributes)))
    return YES


def multi_head(editor: Editor, node: ir.Node) -> Answer:
    """MultiHeadAttention of three tensors [batch, positions, heads * width], without a cache."""
    query, key, value, bias, padding, scores = (operand(node, i) for i in range(6))
    name = node.name or ""
    if any(rank_of(v) != 3 for v in (query, key, value)) or float_type(query) is None:
        return No("its queries, keys and values are not three tensors of rank 3", node=name)
    if any(operand(node, i) is not None for i in range(6, 10)) or any(is_read(v) for v in node.outputs[1:]):
        return No("it has a cache", node=name)
    w = Writer(editor, node)
    if bias is not None:
        sizes = [s[-1] if (s := shape_of(v)) is not None else None for v in (query, key, value)]
        if not all(isinstance(size, int) for size in sizes):
            return No("its width is not known", node=name)
        ends = np.cumsum([0, *(int(size or 0) for size in sizes)])
        parts = [w("Slice", bias, w.ints(int(a)), w.ints(int(b))) for a, b in pairwise(ends)]
        query, key, value = (w("Add", v, p) for v, p in zip((query, key, value), parts, strict=True))
    mask = scores
    if padding is not None:
        if rank_of(padding) != 2:
            return No("its padding mask is not one flag for each key", node=name)
        keep = w("Unsqueeze", w("Cast", padding, to=ir.DataType.BOOL), w.ints(1, 2))
        dtype = float_type(node.inputs[0])
        assert dtype is not None
        lowest = max(node.attributes.get_float("mask_filter_value", -10000.0), float(np.finfo(dtype).min))
        added = w("Where", keep, w.const(0, dtype), w.const(lowest, dtype))
        mask = added if mask is None else w("Add", mask, added)
    heads = node.attributes.get_int("num_heads", 0)
    attributes: dict[str, Any] = {"q_num_heads": heads, "kv_num_heads": heads}
    if node.attributes.get_int("unidirectional", 0):
        attributes["is_causal"] = 1
    if (scale := node.attributes.get_float("scale", 0.0)) > 0:
        attributes["scale"] = scale
    editor.needs_opset(23)
    w.done(w.typed(w("Attention", query, key, value, *([] if mask is None else [mask]), **attributes)))
    return YES


def grouped(editor: Editor, node: ir.Node) -> Answer:
    """GroupQueryAttention of one sequence: rotated, appended to the cache, masked.

    Of a batch, ``seqlens_k`` may say that sequences end at different places of the cache; of one sequence it only
    repeats its length, so that new keys follow the old ones.
    """
    query, key, value, past_key, past_value = (operand(node, i) for i in range(5))
    name, shape, past = node.name or "", fixed_shape(query), fixed_shape(past_key)
    heads, few = (node.attributes.get_int(f"{which}num_heads", 0) for which in ("", "kv_"))
    plain = node.attributes.get_int("local_window_size", -1) <= 0 and not node.attributes.get_int("smooth_softmax", 0)
    extra = any(operand(node, i) is not None for i in range(9, len(node.inputs)))
    dtype = float_type(query)
    if (
        shape is None
        or dtype is None
        or key is None
        or value is None
        or shape[0] != 1
        or (past_key is not None and past is None)
    ):
        return No("it is not one sequence of known length, or its projections are packed", node=name)
    if not plain or extra or not heads or not few or node.attributes.get_float("softcap", 0.0) != 0:
        return No("it has a window, a soft cap, positions or a bias of its own", node=name)
    before, length, width = (past[2] if past else 0), shape[1], shape[2] // heads
    w = Writer(editor, node)
    parts = []
    for tensor, count in ((query, heads), (key, few), (value, few)):
        split = w("Reshape", tensor, w.ints(1, length, count, width))
        parts.append(w("Transpose", split, perm=[0, 2, 1, 3]))
    if node.attributes.get_int("do_rotary", 0):
        cos, sin = operand(node, 7), operand(node, 8)
        places = w.const(np.arange(before, before + length)[None], np.int64)
        kind = {"interleaved": node.attributes.get_int("rotary_interleaved", 0)}
        parts[:2] = [w("RotaryEmbedding", part, cos, sin, places, **kind) for part in parts[:2]]
    present = [
        part if old is None or not before else w("Concat", old, part, axis=2)
        for old, part in zip((past_key, past_value), parts[1:], strict=True)
    ]
    visible = np.arange(before + length)[None] <= (np.arange(length) + before)[:, None]
    mask = np.where(visible, 0, np.finfo(dtype).min).astype(dtype)
    attributes: dict[str, Any] = {"scale": s} if (s := node.attributes.get_float("scale", 0.0)) > 0 else {}
    editor.needs_opset(23)
    made = w("Attention", parts[0], *present, w.const(mask, dtype), **attributes)
    flat = w("Reshape", w("Transpose", made, perm=[0, 2, 1, 3]), w.ints(1, length, heads * width))
    w.done(w.typed(flat), *present)
    return YES
