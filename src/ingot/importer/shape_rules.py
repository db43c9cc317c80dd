"""Corrections to the shape-inference library, where it states more than it can know.

A shape that is wrong is worse than one that is unknown: memory is planned from it. Each correction runs
the library's own rule and then widens what it said. The cases were found by comparing inferred shapes with
those that ONNX Runtime produces over the ONNX node tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import onnx_ir as ir
import sympy  # type: ignore[import-untyped]
from onnx_shape_inference import SYM_DATA_KEY, ShapeInferenceContext, registry

from ingot.graph.control import keep_promise
from ingot.importer import constant_rules

_Rule = Callable[[ShapeInferenceContext, ir.Node], None]
_Dim = int | ir.SymbolicDim
_FAR = 1 << 31
"""Slice bounds from here on mean the end of the axis."""


@cache
def install() -> None:
    """Puts the corrections into the library's registry, once for the process."""
    registry.collect()
    _wrap("If", 1, _after_if)
    _wrap("Loop", 1, _after_loop)
    _wrap("Split", 2, _after_split)
    _wrap("Squeeze", 1, _after_squeeze)
    _wrap("Unique", 11, _after_unique)
    _wrap("Slice", 10, _after_slice)
    _wrap("ConstantOfShape", 9, _after_constant_of_shape)
    _wrap("Range", 11, _after_range)
    _wrap("Resize", 10, _after_resize)
    for pool in ("MaxPool", "AveragePool", "LpPool"):
        _wrap(pool, 1, _after_pool)
    for op_type, since in constant_rules.SINCE.items():
        _wrap(op_type, since, constant_rules.after_constants)


def _wrap(op_type: str, since: int, after: _Rule) -> None:
    """Registers the library's rule for opset ``since`` followed by ``after``, for that and later opsets."""
    for version in (v for v in registry.version_boundaries("", op_type) if v >= since):
        original = registry.get("", op_type, version)
        assert original is not None

        def both(ctx: ShapeInferenceContext, node: ir.Node, original: _Rule = original) -> None:
            original(ctx, node)
            after(ctx, node)

        registry.register("", op_type, since_version=version)(both)


def _constant(node: ir.Node, position: int) -> list[int] | None:
    """Integers of a constant input; None where it is absent or computed."""
    value = node.inputs[position] if position < len(node.inputs) else None
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else [int(x) for x in tensor.numpy().reshape(-1)]


def _known(ctx: ShapeInferenceContext, node: ir.Node, position: int) -> list[_Dim] | None:
    """Elements of an input that is constant or shape arithmetic; None where it is absent or computed."""
    constant = _constant(node, position)
    if constant is not None:
        return list(constant)
    value = node.inputs[position] if _given(node, position) else None
    symbolic = ctx.get_symbolic_value(value) if value is not None else None
    return None if symbolic is None else list(symbolic)


def _given(node: ir.Node, position: int) -> bool:
    return position < len(node.inputs) and node.inputs[position] is not None


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    attribute = node.attributes.get(name)
    return list(default) if attribute is None else list(attribute.as_ints())


def _unknown(value: ir.Value) -> None:
    """Withdraws the shape, and the elements that were propagated with it."""
    value.shape = None
    value.const_value = None
    value.metadata_props.pop(SYM_DATA_KEY, None)


def _replace(value: ir.Value, axis: int, dim: _Dim) -> None:
    assert value.shape is not None
    dims = list(value.shape)
    dims[axis] = dim
    value.shape = ir.Shape(dims)


def _after_if(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """The library takes the shape of one branch where that of the other is unknown."""
    if keep_promise(node):
        return
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    for index, output in enumerate(node.outputs):
        if any(index >= len(branch.outputs) or branch.outputs[index].shape is None for branch in branches):
            _unknown(output)


def _after_loop(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """The library infers the body for the first turn; that holds for the others only if nothing grows."""
    body = node.attributes["body"].as_graph()
    carried = len(node.inputs) - 2
    before, after = body.inputs[2:], body.outputs[1:]
    steady = len(before) == carried <= len(after) and all(
        _same(first.shape, b.shape) and _same(b.shape, a.shape)
        for first, b, a in zip(node.inputs[2:], before, after, strict=False)
        if first is not None
    )
    for index, output in enumerate(node.outputs):
        if not steady:
            _unknown(output)
        elif index >= carried and output.shape is not None:
            # The condition may end the loop before its trip count.
            _replace(output, 0, ctx.new_symbolic_dim())


def _same(a: ir.Shape | None, b: ir.Shape | None) -> bool:
    if a is None or b is None or len(a) != len(b):
        return False
    return all(x == y and (isinstance(x, int) or x.value is not None) for x, y in zip(a, b, strict=True))


def _after_split(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Sizes that are computed are not known to be equal."""
    if not _given(node, 1) or _constant(node, 1) is not None:
        return
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    for output in node.outputs:
        shape = output.shape
        _unknown(output)
        if shape is not None:
            output.shape = shape
            _replace(output, axis, ctx.new_symbolic_dim())


def _after_squeeze(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Without constant axes the rank depends on data, or on which symbolic dimensions are 1."""
    if _constant(node, 1) is not None or "axes" in node.attributes:
        return
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if _given(node, 1) or shape is None or not shape.is_static():
        _unknown(node.outputs[0])


def _after_unique(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """With an axis, the result has the rank of the input."""
    source = node.inputs[0]
    if "axis" not in node.attributes or source is None or node.outputs[0].shape is None:
        return
    if source.shape is None:
        _unknown(node.outputs[0])
        return
    length = node.outputs[1].shape[0] if len(node.outputs) > 1 and node.outputs[1].shape else ctx.new_symbolic_dim()
    node.outputs[0].shape = source.shape.copy()
    _replace(node.outputs[0], node.attributes["axis"].as_int(), length)
    if len(node.outputs) > 2:
        node.outputs[2].shape = ir.Shape([source.shape[node.attributes["axis"].as_int()]])


def _after_slice(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """The library takes constant bounds of a symbolic dimension as being inside it."""
    source, output = node.inputs[0], node.outputs[0]
    starts, ends = _known(ctx, node, 1), _known(ctx, node, 2)
    if source is None or source.shape is None or output.shape is None or starts is None or ends is None:
        return
    axes = _known(ctx, node, 3) if _given(node, 3) else list(range(len(starts)))
    steps = _known(ctx, node, 4) if _given(node, 4) else [1] * len(starts)
    if axes is None or steps is None:
        output.shape = ir.Shape([ctx.new_symbolic_dim() for _ in output.shape])
        return
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not isinstance(axis, int):
            continue
        dim = source.shape[axis]
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None and isinstance(end, int):
            extent = _extent(dim, start, end, step)
            if extent is not None:
                _replace(output, axis, extent)


def _after_constant_of_shape(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """The library reads constant shapes only, not shape arithmetic."""
    sizes = _known(ctx, node, 0)
    if node.outputs[0].shape is None and sizes is not None:
        node.outputs[0].shape = ir.Shape(sizes)


def _after_range(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """The library follows shape arithmetic only in integers; detectors count their grid cells in floats."""
    limit = _known(ctx, node, 1)
    if limit is None or not isinstance(limit[0], ir.SymbolicDim):
        return
    ends = [ir.convenience.get_const_tensor(value) for value in (node.inputs[0], node.inputs[2]) if value is not None]
    if [float(end.numpy().reshape(())) for end in ends if end is not None] == [0.0, 1.0]:
        node.outputs[0].shape = ir.Shape(limit)


def _extent(dim: ir.SymbolicDim, start: _Dim, end: int, step: _Dim) -> _Dim | None:
    """Size of a slice of ``dim`` with integer bounds; None where the library's answer stands."""
    if not isinstance(start, int) or not isinstance(step, int) or step <= 0 or end < 0:
        return None
    whole = _expression(dim)
    if start < 0 and step == 1 and end >= _FAR - 1:
        return _dim(sympy.Min(whole, -start))
    if start < 0 or end >= _FAR - 1:
        return None
    length = sympy.ceiling((sympy.Min(whole, end) - start) / sympy.Integer(step))
    return _dim(sympy.Max(0, length))


def _after_resize(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Sizes that keep the aspect ratio follow from all dimensions together."""
    policy = node.attributes.get("keep_aspect_ratio_policy")
    output = node.outputs[0]
    if policy is None or policy.as_string() == "stretch" or not _given(node, 3) or output.shape is None:
        return
    for axis in _ints(node, "axes", range(len(output.shape))):
        _replace(output, axis, ctx.new_symbolic_dim())


def _after_pool(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Symbolic sizes: padding that keeps the size, and no window that starts behind the input."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None or len(source.shape) < 3:
        return
    kept = len(source.shape) - 2
    strides, pads = _ints(node, "strides", [1] * kept), _ints(node, "pads", [0] * 2 * kept)
    mode = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    rounds_up = "ceil_mode" in node.attributes and node.attributes["ceil_mode"].as_int() == 1
    for axis, stride in enumerate(strides):
        dim, found = source.shape[2 + axis], output.shape[2 + axis]
        if isinstance(dim, int) or dim.value is None:
            continue
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            _replace(output, 2 + axis, _dim(sympy.ceiling(_expression(dim) / sympy.Integer(stride))))
        elif rounds_up and isinstance(found, ir.SymbolicDim):
            starts = sympy.ceiling((_expression(dim) + pads[axis]) / sympy.Integer(stride))
            _replace(output, 2 + axis, _dim(sympy.Min(_expression(found), starts)))
    for indices in node.outputs[1:]:
        indices.shape = output.shape


def _expression(dim: ir.SymbolicDim) -> sympy.Expr:
    # The inference library, too, reads this attribute: onnx_ir has no public accessor.
    expression = dim._expr
    assert expression is not None
    return expression


def _dim(expression: sympy.Expr) -> _Dim:
    """The dimension, written without a ceiling: the library's reader of expressions knows only floors."""
    plain = expression.replace(sympy.ceiling, lambda inner: -sympy.floor(-inner))
    return int(plain) if plain.is_Integer else ir.SymbolicDim(plain)
