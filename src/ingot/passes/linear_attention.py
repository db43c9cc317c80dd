"""LinearAttention as the steps that define it, for sequences of a known, small length: decoding above all.

Yang et al., "Gated Delta Networks" (2024): a state of (keys, values) per head fades, forgets what the key holds,
and takes in the outer product of key and value; the query reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Editor, is_read, operand, shape_of
from ingot.passes.writer import Writer, float_type

_LONGEST = 32
"""Steps that are written out."""


@dataclass(frozen=True)
class _Heads:
    """Sizes that the op's operands are unpacked to."""

    queries: int
    keys: int
    depth: int
    """Of queries and keys."""
    width: int
    """Of values."""
    steps: int


def linear_attention(editor: Editor, node: ir.Node) -> Answer:
    """LinearAttention(query, key, value, past_state, decay, beta): output and present_state."""
    query, key, value, past, decay, beta = (operand(node, i) for i in range(6))
    heads, kind = _heads(node), float_type(query)
    rule = node.attributes.get_string("update_rule", "gated_delta")
    gated, delta = rule.startswith("gated"), rule.endswith("delta")
    if isinstance(heads, No):
        return heads
    if kind is None or (gated and decay is None) or (delta and beta is None):
        return No("an operand that its rule needs is absent", node=node.name or "")
    w = Writer(editor, node)
    if half := kind.itemsize == 2:  # errors add up from step to step
        query, key, value, past, decay, beta = (_widened(w, v) for v in (query, key, value, past, decay, beta))
    q = _steps(w, query, heads, (heads.keys, heads.queries // heads.keys, heads.depth))
    k = _steps(w, key, heads, (heads.keys, heads.depth, 1))
    v = _steps(w, value, heads, (heads.keys, 1, heads.width))
    fades = [w("Exp", log) for log in _per_head(w, decay, heads, heads.depth)] if gated else None
    rates = _per_head(w, beta, heads, 1) if delta else None
    scale = w.const(node.attributes.get_float("scale", 0.0) or heads.depth**-0.5, np.float32 if half else kind)
    state, results = past, []
    for t in range(heads.steps):
        if state is not None and fades is not None:
            state = w("Mul", state, fades[t])
        added = v[t]
        if state is not None and delta:
            turned = w("Reshape", k[t], w.ints(0, heads.keys, 1, heads.depth))
            added = w("Sub", added, w("MatMul", turned, state))
        if rates is not None:
            added = w("Mul", added, rates[t])
        learned = w("Mul", k[t], added)
        state = learned if state is None else w("Add", state, learned)
        read = w("Mul", w("MatMul", q[t], state), scale)
        results.append(w("Reshape", read, w.ints(0, 1, heads.queries * heads.width)))
    output = results[0] if len(results) == 1 else w("Concat", *results, axis=1)
    present = state if len(node.outputs) > 1 and is_read(node.outputs[1]) else None
    stored = node.outputs[0].dtype
    if half and stored is not None:
        output, present = w("Cast", output, to=stored), None if present is None else w("Cast", present, to=stored)
    w.done(output, present)
    return YES


def _widened(w: Writer, value: ir.Value | None) -> ir.Value | None:
    """The operand in float32."""
    if value is None:
        return None
    made = w("Cast", value, to=ir.DataType.FLOAT)
    made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    return made


def _heads(node: ir.Node) -> _Heads | No:
    name = node.name or ""
    queries, keys = (node.attributes.get_int(f"{kind}_num_heads", 0) for kind in ("q", "kv"))
    shapes = [shape_of(operand(node, i)) for i in range(3)]
    widths = [shape[-1] if shape is not None and len(shape) == 3 else None for shape in shapes]
    steps = shapes[0][1] if shapes[0] is not None and len(shapes[0]) == 3 else None
    q, k, v = (width if isinstance(width, int) else 0 for width in widths)
    if not isinstance(steps, int) or not q or not k or not v:
        return No("its sizes are not known", node=name)
    if not 0 < steps <= _LONGEST:
        return No(f"it has {steps} steps; up to {_LONGEST} are written out", node=name)
    if keys < 1 or queries % keys or q % queries or k % keys or v % keys or q // queries != k // keys:
        return No("its heads do not fit its operands", node=name)
    return _Heads(queries, keys, k // keys, v // keys, steps)


def _steps(w: Writer, value: ir.Value | None, heads: _Heads, sizes: tuple[int, int, int]) -> list[ir.Value]:
    """(batch, steps, all) as ``steps`` times (batch, *sizes)."""
    parts = [value]
    if heads.steps > 1:
        parts = [w("Slice", value, w.ints(t), w.ints(t + 1), w.ints(1)) for t in range(heads.steps)]
    return [w("Reshape", part, w.ints(0, *sizes)) for part in parts]


def _per_head(w: Writer, value: ir.Value | None, heads: _Heads, depth: int) -> list[ir.Value]:
    """Decays or rates: one for all heads, one for each, or one for each element of a head's keys."""
    shape = shape_of(value)
    last = shape[-1] if shape else None
    if last == heads.keys * depth:
        return _steps(w, value, heads, (heads.keys, depth, 1))
    return _steps(w, value, heads, (heads.keys if last == heads.keys else 1, 1, 1))
