"""Simplification that libraries already do: constants, dead code, identities, common subexpressions.

Shapes are inferred first, with symbolic dimensions, so the shape arithmetic of old exporters folds
wherever it is static.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_shape_inference import infer_symbolic_shapes
from onnxscript.optimizer import _constant_folding as folding
from onnxscript.rewriter import RewritePass, RewriteRule
from onnxscript.rewriter.rules.common import (
    _basic_rules,
    _cast_constant_of_shape,
    _collapse_slices,
    _fuse_relus_clips,
    _materialize_reshape_shape,
    _min_max_to_clip,
    _remove_optional_bias,
)

from ingot.graph.edit import Editor, bodies, constant_of, fixed_shape, is_op, is_read, operand, scalar_of, shape_of
from ingot.graph.op_table import RANDOM
from ingot.importer.infer import infer_noting_outputs, without_shape
from ingot.importer.messages import quiet

_log = logging.getLogger(__name__)
_ROUNDS = 4
_PIN = "ingot.pin"
"""Domain of the nodes that hold graph outputs while library passes run."""
_UNKNOWN = "ingot.unknown"
"""Where a model keeps which values have no shape although it was looked for."""
_FREE = 4096
"""Elements that a folded constant may always have."""
_KEPT = RANDOM | {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}
"""Ops that are not folded: their form says more than their value, or it has no fixed value."""

_RULES: tuple[tuple[frozenset[str], tuple[RewriteRule, ...]], ...] = (
    (
        frozenset({"Cast"}),
        (_basic_rules.cast_cast_rule, _basic_rules.no_op_cast_rule, *_cast_constant_of_shape.rules),
    ),
    (frozenset({"Expand"}), (_basic_rules.no_op_expand_rule,)),
    (frozenset({"Reshape"}), (_basic_rules.reshape_reshape_rule, *_materialize_reshape_shape.rules)),
    (frozenset({"Transpose"}), (_basic_rules.no_op_transpose_rule, _basic_rules.transpose_transpose_rule)),
    (frozenset({"Unsqueeze"}), (_basic_rules.unsqueeze_unsqueeze_rule,)),
    (frozenset({"Slice"}), tuple(_collapse_slices.rules)),
    (frozenset({"Min", "Max"}), tuple(_min_max_to_clip.rules)),
    (frozenset({"Relu", "Clip"}), tuple(_fuse_relus_clips.rules)),
    (frozenset({"Conv"}), (_remove_optional_bias.remove_optional_bias_from_conv_rule,)),
    (frozenset({"ConvTranspose"}), (_remove_optional_bias.remove_optional_bias_from_conv_transpose_rule,)),
    (frozenset({"QLinearConv"}), (_remove_optional_bias.remove_optional_bias_from_qlinear_conv_rule,)),
    (frozenset({"Gemm"}), (_remove_optional_bias.remove_optional_bias_from_gemm_rule,)),
)
"""Rules by the ops that they rewrite: a rule is tried on every node, which is wasted where its ops do not occur.

Left out on purpose: the library's no-op rules, which drop ``x + 1e-12`` too, and its batch-norm rule."""


def fold(model: ir.Model) -> list[str]:
    """Simplifies ``model`` in place until nothing changes; gives what is worth reporting."""
    before = _count(model)
    quiet = logging.getLogger("onnxscript.optimizer")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        _infer_missing(model)
        for _ in range(_ROUNDS):
            if not _round(model):
                break
            _infer_missing(model)
    finally:
        quiet.setLevel(level)
    after = _count(model)
    return (
        [f"{before - after} of {before} nodes were constant, dead, repeated or did nothing"] if after < before else []
    )


def tidy(model: ir.Model) -> None:
    """Removes what nobody reads and infers the shapes of new values: after a pass that made nodes."""
    if _has_unused(model):
        common.RemoveUnusedNodesPass()(model)
    _infer_missing(model)


def _has_unused(model: ir.Model) -> bool:
    """Whether something is not read: to look is quicker than the library's pass, and most passes leave nothing.

    Graphs inside nodes are left to that pass.
    """
    if any(bodies(attr) for node in model.graph for attr in node.attributes.values()):
        return True
    made = (v for node in model.graph for v in node.outputs)
    values = (*made, *model.graph.initializers.values())
    return not all(is_read(value) for value in values)


def _infer_missing(model: ir.Model) -> None:
    """Infers shapes where some value has none, but not again for values that stay without."""
    tried = model.meta.get(_UNKNOWN, frozenset())
    if not without_shape(model) <= tried:
        # Names for anonymous sizes were settled by the importer; to do so again costs more than all the rest.
        try:
            infer_symbolic_shapes(model, warn_on_missing=False, adopt_declared_symbols=False)
        except Exception:  # a branch that is never taken need not fit the sizes at hand, and rules trip over damage
            infer_noting_outputs(model)
        model.meta[_UNKNOWN] = without_shape(model)


def _count(model: ir.Model) -> int:
    return sum(not is_op(node, "Constant") for node in model.graph.all_nodes())


def _round(model: ir.Model) -> bool:
    nodes = list(model.graph.all_nodes())
    _fold_known(model)
    _settle_casts(model)
    with _pinned_outputs(model):
        modified = _fold_constants(model)
        rules = _rules_for({node.op_type for node in model.graph.all_nodes()})
        modified |= _rewrite(model, rules)
        modified |= _no_ops(model)
        modified |= _settle_reshapes(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        with quiet("onnx_ir"):  # which warns of each constant that a body makes as it is
            common.DeduplicateInitializersPass()(model)
        if not _has_types(model):
            common.CommonSubexpressionEliminationPass()(model)
        common.RemoveUnusedNodesPass()(model)
        common.NameFixPass()(model)
    return modified or nodes != list(model.graph.all_nodes())


def _has_types(model: ir.Model) -> bool:
    """Whether an attribute is a type: the library's search for common subexpressions cannot compare such."""
    kinds = (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS)
    return any(attr.type in kinds for node in model.graph.all_nodes() for attr in node.attributes.values())


def _rules_for(present: set[str]) -> tuple[RewriteRule, ...]:
    """The rules that have something to rewrite in a graph with these ops."""
    return tuple(rule for ops, rules in _RULES if ops & present for rule in rules)


def _fold_constants(model: ir.Model) -> bool:
    step = folding.FoldConstantsPass(
        shape_inference=False, input_size_limit=_FREE, output_size_limit=1 << 62, should_fold=_worth_folding
    )
    try:
        return bool(step(model).modified)
    except Exception as error:
        # It works node by node, so what it did before it met a node that it cannot fold stands.
        _log.info("constant folding stopped: %s", error)
        return False


def _rewrite(model: ir.Model, rules: tuple[RewriteRule, ...]) -> bool:
    """Applies rules of the library; whether one did something."""
    try:
        return bool(rules and RewritePass(rules)(model).modified)
    except Exception as error:  # a rule looks at a damaged node before it changes anything
        _log.info("rewriting stopped: %s", error)
        return False


@contextmanager
def _pinned_outputs(model: ir.Model) -> Iterator[None]:
    """Keeps the library's passes from merging or renaming graph outputs: each is read by a node of its own."""
    graph = model.graph
    wanted = [(str(v.name), v.type, v.shape) for v in graph.outputs]
    pins = []
    for position, value in enumerate(graph.outputs):
        out = ir.Value(name=f"{_PIN}/{position}", type=value.type, shape=value.shape)
        attrs = [ir.AttrInt64("position", position)]
        pins.append(ir.Node(_PIN, "Output", [value], attrs, outputs=[out], name=f"{_PIN}/{position}/node"))
        graph.append(pins[-1])
        graph.outputs[position] = out
    yield
    held = {v.name: v for v in (*graph.initializers.values(), *(v for n in graph.all_nodes() for v in n.outputs))}
    for position, (pin, (name, kind, shape)) in enumerate(zip(pins, wanted, strict=True)):
        source = pin.inputs[0]
        assert source is not None
        if source.is_graph_output() or source.is_graph_input() or source.producer() is None:
            copy = ir.Node("", "Identity", [source], name=f"{name}/output")
            graph.insert_before(pin, copy)
            source = copy.outputs[0]
        other = held.get(name)
        if other is not None and other is not source and other.name == name:
            other.name = next(n for n in (f"{name}/inner{i}" for i in count()) if n not in held)
            held[other.name] = other
        source.name, source.type, source.shape = name, kind, shape
        graph.outputs[position] = source
        graph.remove(pin, safe=True)


def _fold_known(model: ir.Model) -> None:
    """Replaces shape arithmetic whose value the shape inference has found by constants."""
    editor = Editor(model)
    for value in model.graph.inputs:
        shape = shape_of(value)
        if shape is not None and 0 in shape and None not in shape and value.dtype is not None and value.uses():
            _empty(editor, value)
            model.meta.pop(_UNKNOWN, None)  # axes may have become known
    for node in list(model.graph):
        known = [v for v in node.outputs if v.const_value is not None]
        if len(known) != len(node.outputs) or is_op(node, "Constant") or any(v.is_graph_output() for v in known):
            continue
        for value in known:
            array = constant_of(value)
            if array is not None:
                editor.replace(value, editor.constant(np.asarray(array), f"{value.name}/value"))
        editor.sweep([node])


def _empty(editor: Editor, value: ir.Value) -> None:
    """An input without elements is a constant."""
    sizes, kind = fixed_shape(value), value.dtype
    if sizes is None or kind is None or kind == ir.DataType.STRING:
        return
    constant = editor.constant(np.empty(sizes, kind.numpy()), f"{value.name}/empty")
    value.replace_all_uses_with(constant)


def _worth_folding(node: ir.Node) -> bool:
    """Whether a node on constants alone becomes a constant: never when the weights would grow much."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT or len(node.outputs) != 1:
        return False
    shape = fixed_shape(node.outputs[0])
    inputs = [v for v in node.inputs if v is not None]
    if shape is None:
        return all(v.const_value is not None and v.const_value.size <= _FREE for v in inputs)
    freed = sum(_elements(v) for v in inputs if len(v.uses()) == 1)
    return math.prod(shape) <= max(_FREE, freed)


def _elements(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.size


def _settle_casts(model: ir.Model) -> None:
    """CastLike as Cast, with all of its attributes: the library's constant folding would forget them."""
    for node in model.graph.all_nodes():
        like = operand(node, 1) if is_op(node, "CastLike") else None
        if like is not None and like.dtype is not None:
            node.op_type = "Cast"
            node.attributes.add(ir.AttrInt64("to", int(like.dtype)))
            node.replace_input_with(1, None)
            node.resize_inputs(1)
            if not like.dtype.name.startswith("FLOAT8"):
                node.attributes.pop("saturate", None)


def _no_ops(model: ir.Model) -> bool:
    """Takes out what changes nothing: exact neutral elements, inference-time dropout, transposes of nothing."""
    editor = Editor(model)
    changed = False
    for node in list(model.graph):
        same = _unchanged(node) if node.graph is model.graph else None
        if same is not None:
            editor.substitute(node, same)
            changed = True
    return changed


def _settle_reshapes(model: ir.Model) -> bool:
    """Gives reshapes constant shapes: sizes that stay are 0, and one that is left over is -1."""
    editor = Editor(model)
    changed = False
    for node in list(model.graph):
        if not is_op(node, "Reshape") or constant_of(operand(node, 1)) is not None:
            continue
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        if before is None or after is None or None in after or 0 in (*before, *after):
            continue
        kept = [i < len(before) and dim == before[i] for i, dim in enumerate(after)]
        numbers = [dim if isinstance(dim, int) else 0 if same else -1 for dim, same in zip(after, kept, strict=True)]
        if numbers.count(-1) > 1:
            continue
        node.replace_input_with(1, editor.constant(np.asarray(numbers, np.int64), f"{node.name}/shape"))
        node.attributes.pop("allowzero", None)
        changed = True
    return changed


def _unchanged(node: ir.Node) -> ir.Value | None:
    """The input that the first output equals, as far as is certain."""
    source = operand(node, 0)
    if source is None or not node.outputs or any(is_read(v) for v in node.outputs[1:]):
        return None
    if is_op(node, "Identity"):
        return source
    if is_op(node, "Dropout"):
        training = operand(node, 2)
        if training is None or scalar_of(training) == 0:
            return source
    if is_op(node, "CastLike") and (like := operand(node, 1)) is not None and source.dtype == like.dtype is not None:
        return source
    if is_op(node, "Concat", "Sum", "Max", "Min", "Mean") and len(node.inputs) == 1:
        return source
    if is_op(node, "Add", "Sub", "Mul", "Div", "Pow"):
        return _neutral(node)
    if is_op(node, "Where"):
        return _chosen(node)
    if is_op(node, "Transpose", "Reshape", "Expand", "Tile", "Pad", "Slice"):
        return _identical(node, source)
    return None


def _neutral(node: ir.Node) -> ir.Value | None:
    """x of x + 0, x - 0, x * 1, x / 1, x ^ 1, where the shape stays."""
    neutral = 0.0 if is_op(node, "Add", "Sub") else 1.0
    pairs = [(0, 1), (1, 0)] if is_op(node, "Add", "Mul") else [(0, 1)]
    for position, other in pairs:
        source, number = node.inputs[position], node.inputs[other]
        array = constant_of(number)
        if source is None or number is None or array is None or array.dtype.kind not in "fiu":
            continue
        if not 0 < array.size <= _FREE or source.dtype != number.dtype:
            continue
        # -0.0 + 0.0 is 0.0, a difference that no later op of a network sees.
        if bool(np.all(array == neutral)) and _keeps_shape(source, array.shape):
            return source
    return None


def _chosen(node: ir.Node) -> ir.Value | None:
    """The operand that a constant condition always chooses, where it has the shape of the result."""
    condition, result = constant_of(node.inputs[0]), shape_of(node.outputs[0])
    if condition is None or not condition.size or condition.min() != condition.max():
        return None
    value = node.inputs[1 if condition.flat[0] else 2]
    same = value is not None and result is not None and None not in result and shape_of(value) == result
    return value if same else None


def _keeps_shape(value: ir.Value, other: Iterable[int]) -> bool:
    """Whether broadcasting ``value`` with ``other`` leaves its shape."""
    sizes, shape = list(other), shape_of(value)
    if not sizes:
        return True
    if shape is None or len(sizes) > len(shape):
        return False
    tail = shape[len(shape) - len(sizes) :]
    return all(size in (1, dim) for size, dim in zip(sizes, tail, strict=True))


def _identical(node: ir.Node, source: ir.Value) -> ir.Value | None:
    """The input of an index map that leaves every element where it is."""
    shape, result = shape_of(source), shape_of(node.outputs[0])
    if shape is None or None in shape or shape != result:
        return None
    if is_op(node, "Reshape", "Expand", "Tile"):
        return source
    if is_op(node, "Transpose"):
        perm = [int(p) for p in node.attributes.get_ints("perm", range(len(shape) - 1, -1, -1))]
        moved = [axis for axis in perm if shape[axis] != 1]
        return source if moved == sorted(moved) else None
    if is_op(node, "Pad"):
        pads = constant_of(operand(node, 1))
        return source if pads is not None and not np.any(pads) else None
    steps = operand(node, 4)
    values = constant_of(steps)
    return source if steps is None or (values is not None and bool(np.all(values == 1))) else None
