"""Ops that pick, move or compare elements by index, in terms of gathers, comparisons and products."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Editor, constant_of, fixed_shape, ints_of, operand, scalar_of, shape_of
from ingot.passes.writer import Writer

_LONGEST = 1024
"""Elements up to which a running sum or product is a masked one for each element."""
_FARTHEST = 1 << 26
"""Most positions that a constant counts, 512 MiB; sizes in damaged files are of any magnitude."""
_LONG = No(f"an axis of it has more than {_FARTHEST} elements")


def _positions(w: Writer, shape: tuple[int, ...], axis: int) -> ir.Value:
    """Where each element is along ``axis``, with one element for all that lie beside each other."""
    along = [1] * len(shape)
    along[axis] = shape[axis]
    return w.const(np.arange(shape[axis]).reshape(along), np.int64)


def hardmax(editor: Editor, node: ir.Node) -> Answer:
    """Hardmax: one where the index is that of the first largest."""
    x, shape = node.inputs[0], fixed_shape(node.inputs[0])
    if shape is None or x is None or x.dtype is None or not shape:
        return No("its shape is not known", node=node.name or "")
    axis = node.attributes.get_int("axis", -1) % len(shape)
    w = Writer(editor, node)
    if shape[axis] > _FARTHEST:
        return _LONG
    best = w("ArgMax", x, axis=axis, keepdims=1)
    w.done(w("Cast", w("Equal", _positions(w, shape, axis), best), to=x.dtype))
    return YES


def reverse_sequence(editor: Editor, node: ir.Node) -> Answer:
    """ReverseSequence: position t of a sequence of n is read at n - 1 - t, as long as t < n."""
    x, lengths, shape = node.inputs[0], node.inputs[1], fixed_shape(node.inputs[0])
    if shape is None:
        return No("its shape is not known", node=node.name or "")
    time, batch = node.attributes.get_int("time_axis", 0), node.attributes.get_int("batch_axis", 1)
    if {time, batch} != {0, 1} or len(shape) < 2:
        return No("its axes are not the first two", node=node.name or "")
    w = Writer(editor, node)
    if shape[time] > _FARTHEST:
        return _LONG
    across = [1] * len(shape)
    across[batch] = shape[batch]
    places = _positions(w, shape, time)
    counts = w("Reshape", w("Cast", lengths, to=ir.DataType.INT64), w.ints(*across))
    turned = w("Sub", w("Sub", counts, w.const(1, np.int64)), places)
    source = w("Where", w("Less", places, counts), turned, places)
    w.done(w("GatherElements", x, w("Expand", source, w.ints(*shape)), axis=time))
    return YES


def tensor_scatter(editor: Editor, node: ir.Node) -> Answer:
    """TensorScatter: each place of the cache is read from the update where that covers it."""
    cache, update = node.inputs[0], node.inputs[1]
    shape, new = fixed_shape(cache), fixed_shape(update)
    if shape is None or new is None:
        return No("its shapes are not known", node=node.name or "")
    axis = node.attributes.get_int("axis", -2) % len(shape)
    w = Writer(editor, node)
    if shape[axis] > _FARTHEST:
        return _LONG
    places = _positions(w, shape, axis)
    starts = operand(node, 2)
    if starts is not None:
        first = [shape[0], *[1] * (len(shape) - 1)]
        places = w("Sub", places, w("Reshape", w("Cast", starts, to=ir.DataType.INT64), w.ints(*first)))
    if node.attributes.get_string("mode", "linear") == "circular":
        places = w("Mod", places, w.const(shape[axis], np.int64))
    zero, last = w.const(0, np.int64), w.const(new[axis] - 1, np.int64)
    covered = w("And", w("GreaterOrEqual", places, zero), w("LessOrEqual", places, last))
    picked = w("Max", w("Min", places, last), zero)
    index = w("Expand", picked, w.ints(*shape))
    w.done(w("Where", covered, w("GatherElements", update, index, axis=axis), cache))
    return YES


def compress(editor: Editor, node: ir.Node) -> Answer:
    """Compress by a constant condition: a gather of what it keeps."""
    x, condition = node.inputs[0], constant_of(operand(node, 1))
    if condition is None:
        return No("its condition is data", node=node.name or "")
    w = Writer(editor, node)
    kept = w.const(np.flatnonzero(condition), np.int64)
    axis = node.attributes.get("axis")
    if axis is None:
        w.done(w("Gather", w("Reshape", x, w.ints(-1)), kept, axis=0))
    else:
        w.done(w("Gather", x, kept, axis=axis.as_int()))
    return YES


def running_sum(editor: Editor, node: ir.Node) -> Answer:
    """CumSum."""
    return _running(editor, node, "ReduceSum", 0)


def running_product(editor: Editor, node: ir.Node) -> Answer:
    """CumProd."""
    return _running(editor, node, "ReduceProd", 1)


def _running(editor: Editor, node: ir.Node, reduce: str, neutral: int) -> Answer:
    """``reduce`` over a new last axis of x where a triangle is set, else of ``neutral``.

    y[.., i, ..] takes x[.., j, ..] over j, which is the new axis behind all others.
    """
    x, shape = node.inputs[0], shape_of(node.inputs[0])
    axis = 0 if shape is not None and len(shape) == 1 else scalar_of(operand(node, 1))  # a vector has but one
    if x is None or x.dtype is None or axis is None or not shape:
        return No("its axis or shape is not known", node=node.name or "")
    place = int(axis) % len(shape)
    size = shape[place]
    if not isinstance(size, int) or size > _LONGEST:
        reason = f"it runs over {size} elements; up to {_LONGEST} would be read anew for each"
        return No(reason, node=node.name or "")
    exclusive, reverse = (bool(node.attributes.get_int(key, 0)) for key in ("exclusive", "reverse"))
    triangle = np.tril(np.ones((size, size), bool), -1 if exclusive else 0)
    w = Writer(editor, node)
    perm, inner = [i for i in range(len(shape)) if i != place] + [place], place == len(shape) - 1
    last = x if inner else w("Transpose", x, perm=perm)
    wide = w("Unsqueeze", last, w.ints(len(shape) - 1))
    mask = w.const(triangle.T if reverse else triangle, bool)
    # A choice, not a product with zeros: what is left out may be infinite.
    masked = w("Where", mask, wide, w.const(neutral, x.dtype.numpy()))
    total = w(reduce, masked, w.ints(-1), keepdims=0)
    w.done(total if inner else w("Transpose", total, perm=[int(i) for i in np.argsort(perm)]))
    return YES


def determinant(editor: Editor, node: ir.Node) -> Answer:
    """Det of matrices of up to three rows, by its expansion along the first row."""
    x, shape = node.inputs[0], fixed_shape(node.inputs[0])
    if shape is None or shape[-1] > 3 or shape[-1] < 1:
        return No("more than three rows, or an unknown number", node=node.name or "")
    w, n = Writer(editor, node), shape[-1]
    flat = w("Reshape", x, w.ints(*shape[:-2], n * n))

    def cell(row: int, column: int) -> ir.Value:
        return w("Gather", flat, w.const(row * n + column, np.int64), axis=len(shape) - 2)

    def minor(columns: tuple[int, ...], row: int) -> ir.Value:
        """Determinant of the rows from ``row`` on and ``columns``."""
        if len(columns) == 1:
            return cell(row, columns[0])
        total: ir.Value | None = None
        for number, column in enumerate(columns):
            rest = tuple(c for c in columns if c != column)
            term = w("Mul", cell(row, column), minor(rest, row + 1))
            total = term if total is None else w("Sub" if number % 2 else "Add", total, term)
        assert total is not None
        return total

    found = minor(tuple(range(n)), 0)
    w.done(found if n > 1 else w("Reshape", x, w.ints(*shape[:-2])))
    return YES


def columns_to_image(editor: Editor, node: ir.Node) -> Answer:
    """Col2Im: a transposed convolution, whose kernel has one weight for each element of a block."""
    x, shape = node.inputs[0], fixed_shape(node.inputs[0])
    image, block = ints_of(operand(node, 1)), ints_of(operand(node, 2))
    if shape is None or image is None or block is None or x is None or x.dtype is None:
        return No("its shape, or that of the image or of a block, is not known", node=node.name or "")
    if x.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return No(f"type {x.dtype}", node=node.name or "")
    axes, elements = len(image), int(np.prod(block))
    strides, dilations = (list(node.attributes.get_ints(key, (1,) * axes)) for key in ("strides", "dilations"))
    pads = list(node.attributes.get_ints("pads", (0,) * 2 * axes))
    wide = [size + pads[i] + pads[axes + i] for i, size in enumerate(image)]
    counts = [(wide[i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(axes)]
    left = [wide[i] - ((counts[i] - 1) * strides[i] + dilations[i] * (block[i] - 1) + 1) for i in range(axes)]
    channels = shape[1] // elements
    w = Writer(editor, node)
    blocks = w("Reshape", x, w.ints(shape[0], channels * elements, *counts))
    kernel = np.eye(elements, dtype=x.dtype.numpy()).reshape(elements, 1, *block)
    weight = w.const(np.tile(kernel, (channels, *[1] * (axes + 1))), x.dtype.numpy())
    w.done(
        w("ConvTranspose", blocks, weight, group=channels, strides=strides, dilations=dilations, pads=pads,
          output_padding=left)
    )  # fmt: skip
    return YES


def max_unpool(editor: Editor, node: ir.Node) -> Answer:
    """MaxUnpool: a scatter into zeros of the pooled tensor's size, at the front of the wanted output."""
    x, places, shape = node.inputs[0], node.inputs[1], fixed_shape(node.inputs[0])
    wanted = ints_of(operand(node, 2))
    if shape is None or x is None or x.dtype is None or (operand(node, 2) is not None and wanted is None):
        return No("its shape, or that of its output, is not known", node=node.name or "")
    kernel = list(node.attributes.get_ints("kernel_shape", ()))
    strides = list(node.attributes.get_ints("strides", (1,) * len(kernel)))
    pads = list(node.attributes.get_ints("pads", (0,) * 2 * len(kernel)))
    sizes = [(size - 1) * strides[i] - pads[i] - pads[len(kernel) + i] + kernel[i] for i, size in enumerate(shape[2:])]
    pooled = [*shape[:2], *sizes]
    w = Writer(editor, node)
    zeros = w.const(np.zeros(int(np.prod(pooled))), x.dtype.numpy())
    flat = w("ScatterElements", zeros, w("Reshape", places, w.ints(-1)), w("Reshape", x, w.ints(-1)), axis=0)
    made = w("Reshape", flat, w.ints(*pooled))
    if wanted is not None and list(wanted) != pooled:
        behind = [want - have for want, have in zip(wanted, pooled, strict=True)]
        made = w("Pad", made, w.ints(*[0] * len(pooled), *behind))
    w.done(made)
    return YES


def dropout_mask(editor: Editor, node: ir.Node) -> Answer:
    """Dropout outside of training: what comes in, and a mask that keeps everything."""
    x, training = node.inputs[0], operand(node, 2)
    if x is None or (training is not None and scalar_of(training) != 0):
        return No("it drops at random", node=node.name or "")
    w = Writer(editor, node)
    mask = w("Expand", w.const(True, bool), w("Shape", x)) if len(node.outputs) > 1 else None
    w.done(w("Identity", x), mask)
    return YES


def optional_content(editor: Editor, node: ir.Node) -> Answer:
    """OptionalGetElement of what is no optional, or was one just now: the value itself."""
    x = node.inputs[0]
    if x is None or x.type is None:
        return No("its type is not known", node=node.name or "")
    if isinstance(x.type, ir.OptionalType):
        maker = x.producer()
        if maker is None or maker.op_type != "Optional" or maker.domain or not maker.inputs:
            return No("it is an optional", node=node.name or "")
        x = maker.inputs[0]
    assert x is not None
    editor.substitute(node, x)
    return YES


def array_feature(editor: Editor, node: ir.Node) -> Answer:
    """ai.onnx.ml's ArrayFeatureExtractor: a gather along the last axis."""
    x, places, shape = node.inputs[0], node.inputs[1], fixed_shape(node.inputs[0])
    if shape is None or not shape:
        return No("its shape is not known", node=node.name or "")
    w = Writer(editor, node)
    rows = w("Reshape", x, w.ints(1, -1)) if len(shape) == 1 else x
    w.done(w("Gather", rows, w("Reshape", places, w.ints(-1)), axis=max(len(shape), 2) - 1))
    return YES


def binarizer(editor: Editor, node: ir.Node) -> Answer:
    """ai.onnx.ml's Binarizer: one above the threshold, else zero."""
    x = node.inputs[0]
    if x is None or x.dtype is None:
        return No("its type is not known", node=node.name or "")
    w = Writer(editor, node)
    threshold = w.const(node.attributes.get_float("threshold", 0.0), x.dtype.numpy())
    w.done(w("Cast", w("Greater", x, threshold), to=x.dtype))
    return YES
