"""Which nodes stay in float32, and why.

Without data nothing is known about ranges, so the rules look at what an op can do: grow a value
beyond 65504, or carry whole numbers that must stay exact (positions, sizes, angles). Doubt spreads
along the graph until an op that bounds its result, or a layer with weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Array, constant_of, is_op, maker, operand, readers, scalar_of, shape_of
from ingot.graph.op_table import PARAMETERS, kind_of
from ingot.graph.region import Kind
from ingot.graph.scalar_ops import is_scalar_op
from ingot.precision.half_types import half_form
from ingot.precision.recurrent import unbounded_state

LARGEST = 65504.0
SMALLEST = 2.0**-24
"""Smallest positive float16."""
_LONG_SUM = 8192
"""Elements from which a plain sum of activations is taken to outgrow float16."""
_BIG_FACTOR = 4096.0
_PRODUCTS = frozenset({Kind.CONV, Kind.GEMM, Kind.ATTENTION, Kind.RECURRENT})
_BOUNDING = frozenset({
    "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization",
    "GroupNormalization", "LpNormalization", "Log", "Sqrt", "Erf", "HardSigmoid", "Softsign", "Sign", "Atan",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "Reciprocal", "Sin", "Cos",
})  # fmt: skip
"""Ops whose results fit float16 even when their operands do not."""
_EXACT = frozenset({"Floor", "Ceil", "Round", "Mod", "Sin", "Cos", "BitCast"})
"""Ops for which rounding the operand to 11 bits changes the result a lot."""
_CLAMPS = frozenset({"Add", "Sub", "Where", "Clip", "Min", "Max", "Pad", "Concat"})
"""Ops on which a constant beyond the range means "very much" and may be clamped."""
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Split", "Expand", "Identity"})


@dataclass
class Islands:
    """Nodes of the main graph that stay in float32."""

    reasons: dict[str, str] = field(default_factory=dict)
    """By name: why float16 would be wrong or impossible."""
    plain: set[str] = field(default_factory=set)
    """Nodes that would gain nothing, being between float32 values only."""

    def full(self, node: ir.Node) -> bool:
        """Whether ``node`` stays in float32."""
        return node.name in self.reasons or node.name in self.plain


def find_islands(model: ir.Model) -> Islands:
    """Decides for every node that reads or makes float32."""
    opset = model.opset_imports.get("", 21)
    nodes = [node for node in model.graph if _touches_float(node)]
    found = Islands()
    hot: set[ir.Value] = set()
    for node in nodes:
        _classify(node, opset, found, hot)
    _keep_exact(nodes, found)
    _keep_moves(nodes, found)
    _keep_between(nodes, found)
    return found


def _keep_moves(nodes: list[ir.Node], found: Islands) -> None:
    """Marks moves into float32 outputs: a cast in front of them is part of the kernel that makes the value."""
    for node in reversed(nodes):
        if node.op_type not in (*_VIEWS, "Concat") or node.domain or found.full(node):
            continue
        result = [v for v in node.outputs if v.dtype == ir.DataType.FLOAT]
        made = all(v is None or v.producer() is not None or v.dtype != ir.DataType.FLOAT for v in node.inputs)
        if result and made and all(all(found.full(r) for r in readers(v)) for v in result):
            found.plain.add(node.name or "")


def _touches_float(node: ir.Node) -> bool:
    values = (*node.inputs, *node.outputs)
    return _has_body(node) or any(v is not None and v.dtype == ir.DataType.FLOAT for v in values)


def _has_body(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _kind(node: ir.Node) -> Kind:
    return kind_of(node.op_type, node.domain)


def _classify(node: ir.Node, opset: int, found: Islands, hot: set[ir.Value]) -> None:
    name = node.name or ""
    label = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if _kind(node) is Kind.HOST or _has_body(node):
        found.reasons[name] = f"{label} runs on the host"
        return
    if half_form(node, opset) is None:
        if not is_op(node, "Shape", "Size"):
            found.reasons[name] = f"{label} has no float16 form"
        return
    if any(v.shape is None and v.dtype == ir.DataType.FLOAT for v in node.outputs if v.uses()):
        found.reasons[name] = "its shape is not known before it runs, so it runs on the host"
        return
    if _converts_integers(node):
        found.plain.add(name)
        return
    reason = _constant_refusal(node) or _growth(node)
    if not reason and any(v in hot for v in node.inputs) and not _cools_by_weights(node):
        reason = "its operand may exceed the range of float16"
    if reason:
        found.reasons[name] = reason
        if not _bounds(node, hot):
            hot.update(v for v in node.outputs if v.dtype == ir.DataType.FLOAT)


def _constant_refusal(node: ir.Node) -> str:
    """Why a constant operand cannot be float16."""
    for position, value in enumerate(node.inputs):
        array = constant_of(value)
        if array is None or array.dtype != np.float32 or position in PARAMETERS.get(node.op_type, ()):
            continue
        if array.size == 1 and vanishes(array) and is_op(node, "Mul", "Div", "Pow"):
            return "a factor is too small for float16"
        if beyond(array) and not is_op(node, *_CLAMPS) and not _scales_flag(node, position):
            return "a constant is beyond the range of float16"
    return ""


def vanishes(array: Array) -> bool:
    """Whether the number in a constant of one element rounds to zero in float16."""
    number = float(array.reshape(()).item())
    return number != 0.0 and abs(number) <= SMALLEST / 2


def beyond(array: Array) -> bool:
    """Whether finite numbers of a float32 array are outside float16."""
    if array.size == 0:
        return False
    with np.errstate(invalid="ignore"):
        return bool(np.any(np.isfinite(array) & (np.abs(array) > LARGEST)))


def _scales_flag(node: ir.Node, position: int) -> bool:
    """Whether the node multiplies a mask of zeros and ones by the constant at ``position``."""
    return is_op(node, "Mul") and _is_flag(operand(node, 1 - position), 4)


def _is_flag(value: ir.Value | None, depth: int) -> bool:
    """Whether a float is a truth value: cast from a boolean or an integer mask, or one minus that."""
    if value is None or depth == 0:
        return False
    if (cast := maker(value, "Cast")) is not None:
        source = operand(cast, 0)
        return source is not None and source.dtype is not None and not source.dtype.is_floating_point()
    if (sub := maker(value, "Sub")) is not None:
        return scalar_of(operand(sub, 0)) == 1.0 and _is_flag(operand(sub, 1), depth - 1)
    if (both := maker(value, "Mul")) is not None:
        return all(_is_flag(v, depth - 1) for v in both.inputs)
    view = maker(value, *_VIEWS)
    return view is not None and _is_flag(operand(view, 0), depth - 1)


def _converts_integers(node: ir.Node) -> bool:
    """A cast of whole numbers, or their scaling down right behind it: exact in float32, perhaps not in range before."""
    source = operand(node, 0)
    if is_op(node, "Cast"):
        small = (ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8)
        return (
            source is not None and source.dtype is not None and source.dtype.is_integer() and source.dtype not in small
        )
    if not is_op(node, "Mul", "Div"):
        return False
    return any((m := maker(v, "Cast")) is not None and _converts_integers(m) for v in node.inputs) and _shrinks(node)


def _shrinks(node: ir.Node) -> bool:
    """Whether a Mul or Div by a number makes its operand smaller."""
    numbers = [scalar_of(operand(node, i)) for i in ((0, 1) if is_op(node, "Mul") else (1,))]
    number = next((abs(n) for n in numbers if n is not None), None)
    return number is not None and (0.0 < number < 1.0 if is_op(node, "Mul") else number > 1.0)


def _growth(node: ir.Node) -> str:
    """How the op itself can leave the range."""
    first = operand(node, 0)
    if is_op(node, "Exp") and not _after_maximum(first):
        return "Exp can exceed the range of float16"
    if is_op(node, "Pow"):
        exponent = constant_of(operand(node, 1))
        if exponent is None or not bool(np.all((exponent >= 0) & (exponent <= 1))):
            return "powers can exceed the range of float16"
    if is_op(node, "Mul") and first is not None and first is operand(node, 1):
        return "squares can exceed the range of float16"
    if is_op(node, "ReduceSumSquare", "ReduceProd"):
        return "sums of squares and products can exceed the range of float16"
    if is_op(node, "ReduceSum", "ReduceL1") and _summed(node) >= _LONG_SUM:
        return f"a sum over {_summed(node)} elements can exceed the range of float16"
    if _kind(node) is Kind.RECURRENT:
        return unbounded_state(node)
    if is_op(node, "Mul", "Div") and _factor(node) >= _BIG_FACTOR:
        return "a large factor can exceed the range of float16"
    return ""


def _after_maximum(value: ir.Value | None) -> bool:
    """Whether ``value`` is x - max(x), as a softmax written out has it."""
    sub = maker(value, "Sub")
    return sub is not None and maker(operand(sub, 1), "ReduceMax") is not None


def _summed(node: ir.Node) -> int:
    """Elements that go into each sum, 0 where unknown."""
    source, result = shape_of(operand(node, 0)), shape_of(node.outputs[0])
    if source is None or result is None:
        return 0
    total = 1
    left = list(result)
    for dim in source:
        if dim in left:
            left.remove(dim)
        elif isinstance(dim, int):
            total *= dim
    return total


def _factor(node: ir.Node) -> float:
    """Largest factor by which a Mul or Div by constants grows its operand; 0 for masks."""
    for position in (1, 0) if is_op(node, "Mul") else (1,):
        array = constant_of(operand(node, position))
        if array is None or array.dtype.kind != "f" or array.size == 0 or _scales_flag(node, position):
            continue
        sizes = np.abs(array)
        if is_op(node, "Mul"):
            return float(sizes.max())
        return float(1.0 / sizes.min()) if np.all(sizes) else float("inf")
    return 0.0


def _bounds(node: ir.Node, hot: set[ir.Value]) -> bool:
    """Whether the result fits although an operand does not."""
    if is_op(node, *_BOUNDING):
        return True
    if is_op(node, "Clip"):
        limits = [scalar_of(operand(node, i)) for i in (1, 2)]
        return all(v is not None and abs(v) <= LARGEST for v in limits)
    if is_op(node, "Pow"):
        exponent = constant_of(operand(node, 1))
        return exponent is not None and bool(np.all((exponent >= -1) & (exponent <= 0.5)))
    return is_op(node, "Div") and operand(node, 1) in hot


def _cools_by_weights(node: ir.Node) -> bool:
    """Whether doubt ends here: a layer with weights, except a filter bank before a logarithm or root."""
    return _kind(node) in _PRODUCTS and not _leads_to(node.outputs[0], ("Log", "Sqrt", "Pow"), 6)


def _leads_to(value: ir.Value, op_types: tuple[str, ...], depth: int) -> bool:
    for node in readers(value) if depth else ():
        if is_op(node, *op_types):
            return True
        plain = is_scalar_op(node.op_type) or node.op_type in _VIEWS
        if (
            plain
            and not is_op(node, "Sigmoid", "Tanh")
            and any(_leads_to(v, op_types, depth - 1) for v in node.outputs)
        ):
            return True
    return False


def _keep_exact(nodes: list[ir.Node], found: Islands) -> None:
    """Walks back from where floats become indices, sizes or angles."""
    reason = "its result becomes an index, a size or an angle"
    pending = [v for node in nodes for v in _exact_operands(node)]
    seen: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in seen or node is None or value.dtype != ir.DataType.FLOAT:
            continue
        seen.add(value)
        passes = is_scalar_op(node.op_type) or node.op_type in (*_VIEWS, "Concat") or _is_outer_product(node)
        if not passes or node.domain:
            continue
        found.reasons.setdefault(node.name or "", reason)
        pending.extend(v for v in node.inputs if v is not None)
    for node in nodes:
        if is_op(node, *_EXACT):
            found.reasons.setdefault(node.name or "", reason)


def _exact_operands(node: ir.Node) -> Iterator[ir.Value]:
    if is_op(node, "Shape", "Size"):
        return
    parameters = PARAMETERS.get(node.op_type, ()) if not node.domain else ()
    for position, value in enumerate(node.inputs):
        if value is None or value.dtype != ir.DataType.FLOAT:
            continue
        whole = is_op(node, "Cast") and _makes_integers(node)
        if position in parameters or is_op(node, *_EXACT) or whole:
            yield value


def _makes_integers(node: ir.Node) -> bool:
    to = ir.DataType(node.attributes.get_int("to", int(ir.DataType.FLOAT)))
    return to.is_integer() and to != ir.DataType.BOOL


def _is_outer_product(node: ir.Node) -> bool:
    """A MatMul over one element: angles of rotary embeddings are written so."""
    shape = shape_of(operand(node, 0))
    return is_op(node, "MatMul") and shape is not None and bool(shape) and shape[-1] == 1


def _keep_between(nodes: list[ir.Node], found: Islands) -> None:
    """Marks connected float16 nodes without any product among them: casts would cost more than they save."""
    half = {node: node for node in nodes if not found.full(node)}

    def root(node: ir.Node) -> ir.Node:
        while half[node] is not node:
            half[node] = half[half[node]]
            node = half[node]
        return node

    for node in half:
        for value in node.inputs:
            source = None if value is None or value.dtype != ir.DataType.FLOAT else value.producer()
            if source in half:
                half[root(source)] = root(node)
    useful = {root(node) for node in half if _kind(node) in _PRODUCTS}
    found.plain.update(node.name or "" for node in half if root(node) not in useful)
