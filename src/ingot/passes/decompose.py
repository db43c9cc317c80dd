"""Ops without a device kernel in terms of ops that have one, so that they need no host island."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Attribute, Editor, ints_of, operand, scalar_of, shape_of
from ingot.passes import fourier, indexing, sampling
from ingot.passes.training import optimiser
from ingot.plugins.registry import active

_Rule = Callable[[Editor, ir.Node], Answer]
_OPSET = 21
_LONGEST_SUM = 1024
"""Elements up to which a running sum is one masked sum per element."""


def decompose(model: ir.Model) -> list[str]:
    """Applies the table; gives how many of each op, and why others stay."""
    editor = Editor(model)
    editor.needs_opset(_OPSET)  # a model of other domains alone may name none
    counts: dict[str, int] = {}
    for node in list(model.graph):
        rule = _RULES.get(node.domain, {}).get(node.op_type) if node.graph is model.graph else None
        if active().find(node.domain, node.op_type) is not None:
            continue  # a plugin takes it as it is
        if rule is None:
            continue
        answer = rule(editor, node)
        if isinstance(answer, No):
            editor.note(f"{node.op_type} stays: {answer}")
        else:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    editor.notes[:0] = [f"{count} {op_type} in terms of other ops" for op_type, count in sorted(counts.items())]
    return editor.notes


def _running_sum(editor: Editor, node: ir.Node) -> Answer:
    """CumSum: the sum over a new last axis of x times a triangle of ones."""
    name, x, axis = node.name or "", node.inputs[0], scalar_of(operand(node, 1))
    shape = shape_of(x)
    if x is None or shape is None or axis is None or x.dtype is None:
        return No("its axis or shape is not known", node=name)
    place = int(axis) % len(shape)
    size = shape[place]
    if not isinstance(size, int) or size > _LONGEST_SUM:
        return No(f"it runs over {size} elements; up to {_LONGEST_SUM} would be summed anew for each", node=name)
    exclusive, reverse = (bool(node.attributes.get_int(n, 0)) for n in ("exclusive", "reverse"))
    ones = np.tril(np.ones((size, size)), -1 if exclusive else 0)
    triangle = (ones.T if reverse else ones).astype(x.dtype.numpy())
    # y[.., i, ..] sums x[.., j, ..] over j: j is a new axis behind all others.
    perm = [i for i in range(len(shape)) if i != place] + [place]
    last = x
    if perm != list(range(len(shape))):
        last = editor.value(f"{x.name}/last", x.dtype, [shape[p] for p in perm])
        editor.ops("Transpose", [x], {"perm": perm}, [last], before=node)
    lead = [shape[p] for p in perm[:-1]]
    where = editor.constant(np.asarray([len(shape) - 1], np.int64), f"{name}/axis")
    wide = editor.value(f"{x.name}/wide", x.dtype, [*lead, 1, size])
    editor.ops("Unsqueeze", [last, where], None, [wide], before=node)
    masked = editor.value(f"{x.name}/masked", x.dtype, [*lead, size, size])
    editor.ops("Mul", [wide, editor.constant(triangle, f"{name}/triangle")], None, [masked], before=node)
    total = editor.value(f"{x.name}/total", x.dtype, [*lead, size])
    end = editor.constant(np.asarray([-1], np.int64), f"{name}/end")
    editor.ops("ReduceSum", [masked, end], {"keepdims": 0}, [total], before=node)
    if last is not x:
        back = [int(i) for i in np.argsort(perm)]
        total = editor.op("Transpose", [total], {"perm": back}, before=node, like=node.outputs[0])
    editor.substitute(node, total)
    return YES


def _top_one(editor: Editor, node: ir.Node) -> Answer:
    """TopK of one: the largest or smallest, and where it is."""
    k, shape = ints_of(operand(node, 1)), shape_of(node.inputs[0])
    if k != (1,) or shape is None:
        return No("more than the first is wanted: it keeps its own kernel", node=node.name or "")
    axis = node.attributes.get_int("axis", -1) % len(shape)
    side = "Max" if node.attributes.get_int("largest", 1) else "Min"
    where = editor.constant(np.asarray([axis], np.int64), f"{node.name}/axis")
    values, indices = node.outputs[:2]
    attributes: dict[str, Attribute] = {"keepdims": 1}
    best = editor.op(f"Reduce{side}", [node.inputs[0], where], attributes, before=node, like=values)
    place = editor.op(f"Arg{side}", [node.inputs[0]], {"axis": axis, "keepdims": 1}, before=node, like=indices)
    editor.replace(values, best)
    editor.replace(indices, place)
    editor.sweep([node, *(n for v in (best, place) if (n := v.producer()) is not None)])
    return YES


def _response_normalisation(editor: Editor, node: ir.Node) -> Answer:
    """LRN: x / (bias + alpha * mean of squares over neighbouring channels) ^ beta."""
    x, y, name = node.inputs[0], node.outputs[0], node.name or ""
    shape, size = shape_of(x), node.attributes.get_int("size", 1)
    if x is None or shape is None or len(shape) < 3 or not isinstance(shape[1], int) or x.dtype is None:
        return No("its channels are not known", node=name)
    dtype = np.dtype(x.dtype.numpy())

    def number(attribute: str, default: float) -> ir.Value:
        return editor.constant(np.asarray(node.attributes.get_float(attribute, default), dtype), f"{name}/{attribute}")

    square = editor.op("Mul", [x, x], before=node, like=y)
    flat = editor.value(f"{x.name}/planes", x.dtype, None)
    planes = editor.constant(np.asarray([0, 1, shape[1], -1], np.int64), f"{name}/planes")
    editor.ops("Reshape", [square, planes], None, [flat], before=node)
    before, after = (size - 1) // 2, size // 2
    pool: dict[str, Attribute] = {"kernel_shape": [size, 1], "pads": [before, 0, after, 0], "count_include_pad": 1}
    mean = editor.op("AveragePool", [flat], pool, before=node, like=flat)
    whole = editor.op("Shape", [x], before=node, like=planes)
    whole.type, whole.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(shape)])
    back = editor.op("Reshape", [mean, whole], before=node, like=y)
    scaled = editor.op("Mul", [back, number("alpha", 1e-4)], before=node, like=y)
    shifted = editor.op("Add", [scaled, number("bias", 1.0)], before=node, like=y)
    power = editor.op("Pow", [shifted, number("beta", 0.75)], before=node, like=y)
    editor.substitute(node, editor.op("Div", [x, power], before=node, like=y))
    return YES


_RULES: dict[str, dict[str, _Rule]] = {
    "": {
        "Col2Im": indexing.columns_to_image,
        "Compress": indexing.compress,
        "CumProd": indexing.running_product,
        "CumSum": _running_sum,
        "DFT": fourier.dft,
        "Dropout": indexing.dropout_mask,
        "DeformConv": sampling.deform_conv,
        "Det": indexing.determinant,
        "GridSample": sampling.grid_sample,
        "Hardmax": indexing.hardmax,
        "LRN": _response_normalisation,
        "MaxUnpool": indexing.max_unpool,
        "OptionalGetElement": indexing.optional_content,
        "ReverseSequence": indexing.reverse_sequence,
        "RoiAlign": sampling.roi_align,
        "STFT": fourier.stft,
        "TensorScatter": indexing.tensor_scatter,
        "TopK": _top_one,
    },
    "ai.onnx.ml": {"ArrayFeatureExtractor": indexing.array_feature, "Binarizer": indexing.binarizer},
    "ai.onnx.preview.training": dict.fromkeys(("Adagrad", "Adam", "Momentum"), optimiser),
}
"""By domain and op."""
