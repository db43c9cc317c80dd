"""Ops that read an image between its pixels, in terms of gathers: GridSample, RoiAlign, DeformConv.

The image becomes a table with a row of channels for each pixel, so that a sample reads memory that lies together.
Coordinates are computed in float32.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Editor, fixed_shape, operand
from ingot.passes.writer import Writer, float_type

_CUBIC = -0.75
_MOST_IMAGES = 1 << 22
"""Of one op: the place where each begins is a constant."""


def grid_sample(editor: Editor, node: ir.Node) -> Answer:
    """GridSample in one to three dimensions: a weighted sum of gathers.

    Coordinates from -1 to 1 (last of the grid's axis is the outermost) become pixels; what lies outside counts as zero,
    as the border, or as the reflection.
    """
    x, grid, name = node.inputs[0], node.inputs[1], node.name or ""
    shape, places = fixed_shape(x), fixed_shape(grid)
    if shape is None or places is None or float_type(x) is None:
        return No("its sizes are not known, or it is not of floats", node=name)
    sizes, spatial = shape[2:], len(shape) - 2
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(m := node.attributes.get_string("mode", "linear"), m)
    if mode not in ("linear", "nearest", "cubic") or spatial > (2 if mode == "cubic" else 3) or 0 in shape:
        return No(f"mode {mode} in {spatial} dimensions", node=name)
    if shape[0] > _MOST_IMAGES:
        return No(f"{shape[0]} images at a time", node=name)
    corners = bool(node.attributes.get_int("align_corners", 0))
    padding = node.attributes.get_string("padding_mode", "zeros")
    w = Writer(editor, node)
    grid32 = w("Cast", grid, to=ir.DataType.FLOAT)
    axes = []
    for axis, size in enumerate(sizes):
        last = w.const(spatial - 1 - axis, np.int64)
        c = w("Gather", grid32, last, axis=len(places) - 1)
        low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
        c = w("Add", w("Mul", c, _number(w, (high - low) / 2)), _number(w, (high + low) / 2))
        if mode == "nearest":
            c = w("Round", c)
        axes.append(_taps(w, c, size, mode, padding, (low, high)))
    table = _table(w, x, shape, 1)
    base = np.arange(shape[0]).reshape(-1, *[1] * spatial) * int(np.prod(sizes))
    sample = _weighted(w, table, axes, sizes, w.const(base, np.int64), x)
    perm = [0, spatial + 1, *range(1, spatial + 1)]
    w.done(w("Transpose", sample, perm=perm))
    return YES


def roi_align(editor: Editor, node: ir.Node) -> Answer:
    """RoiAlign with a fixed number of samples in each bin: gathers, then the mean or the largest.

    The largest is that of the four weighted corners of all samples, as in ONNX's and ONNX Runtime's implementation.
    """
    x, rois, batch, name = node.inputs[0], node.inputs[1], node.inputs[2], node.name or ""
    shape, boxes = fixed_shape(x), fixed_shape(rois)
    ratio = node.attributes.get_int("sampling_ratio", 0)
    if shape is None or boxes is None or ratio <= 0 or float_type(x) is None or 0 in (*shape, *boxes):
        return No("its sizes are not known, or the number of samples depends on the boxes", node=name)
    half = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    scale = node.attributes.get_float("spatial_scale", 1.0)
    bins = [node.attributes.get_int(f"output_{side}", 1) for side in ("height", "width")]
    w = Writer(editor, node)
    box = w("Sub", w("Mul", w("Cast", rois, to=ir.DataType.FLOAT), _number(w, scale)), _number(w, 0.5 * half))
    axes, inside = [], []
    for axis, (size, count) in enumerate(zip(shape[2:], bins, strict=True)):
        start, end = (w("Gather", box, w.ints(position), axis=1) for position in (1 - axis, 3 - axis))
        extent = w("Sub", end, start)
        extent = extent if half else w("Max", extent, _number(w, 1.0))
        steps = (np.arange(count * ratio) + 0.5) / (count * ratio)
        c = w("Add", start, w("Mul", extent, w.const(steps[None], np.float32)))
        ends = [1] * 2
        ends[axis] = count * ratio
        c = w("Reshape", c, w.ints(boxes[0], *ends))
        low, high = w("GreaterOrEqual", c, _number(w, -1.0)), w("LessOrEqual", c, _number(w, size))
        inside.append(w("And", low, high))
        c = w("Clip", c, _number(w, 0.0), _number(w, size - 1.0))
        axes.append(_taps(w, c, size, "linear", "border", (0.0, size - 1.0)))
    pixels = w.const(shape[2] * shape[3], np.int64)
    base = w("Reshape", w("Mul", w("Cast", batch, to=ir.DataType.INT64), pixels), w.ints(-1, 1, 1))
    best = node.attributes.get_string("mode", "avg") == "max"
    sample = _weighted(w, _table(w, x, shape, 1), axes, shape[2:], base, x, combine="Max" if best else "Add")
    sample = w("Mul", sample, _as(w, w("Unsqueeze", w("And", *inside), w.ints(3)), x))
    parts = w("Reshape", sample, w.ints(boxes[0], bins[0], ratio, bins[1], ratio, shape[1]))
    pooled = w("ReduceMax" if best else "ReduceMean", parts, w.ints(2, 4), keepdims=0)
    w.done(w("Transpose", pooled, perm=[0, 3, 1, 2]))
    return YES


def deform_conv(editor: Editor, node: ir.Node) -> Answer:
    """DeformConv in two dimensions: samples at shifted places, then a product over channels and places."""
    x, weight, offset, bias, mask = (operand(node, i) for i in range(5))
    shape, kernel, places, name = fixed_shape(x), fixed_shape(weight), fixed_shape(offset), node.name or ""
    if shape is None or kernel is None or places is None or len(shape) != 4 or float_type(x) is None:
        return No("its sizes are not known, or it has not two dimensions", node=name)
    groups, shifts = node.attributes.get_int("group", 1), node.attributes.get_int("offset_group", 1)
    strides, dilations = (list(node.attributes.get_ints(key, (1, 1))) for key in ("strides", "dilations"))
    pads = list(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    n, channels, (kh, kw), (oh, ow) = shape[0], shape[1], kernel[2:], places[2:]
    taps = kh * kw
    w = Writer(editor, node)
    moved = w("Reshape", w("Cast", offset, to=ir.DataType.FLOAT), w.ints(n, shifts, taps, 2, oh, ow))
    axes = []
    for axis, (size, out, k) in enumerate(zip(shape[2:], (oh, ow), (kh, kw), strict=True)):
        at = np.arange(out) * strides[axis] - pads[axis]
        tap = np.arange(k) * dilations[axis]
        whole = at.reshape([1, -1, 1] if axis == 0 else [1, 1, -1]) + (
            np.repeat(tap, kw) if axis == 0 else np.tile(tap, kh)
        ).reshape(-1, 1, 1)
        shift = w("Gather", moved, w.const(axis, np.int64), axis=3)
        c = w("Add", shift, w.const(whole[None, None], np.float32))
        axes.append(_taps(w, c, size, "linear", "zeros", (0.0, size - 1.0)))
    pixels = shape[2] * shape[3]
    base = (np.arange(n)[:, None] * shifts + np.arange(shifts)[None]).reshape(n, shifts, 1, 1, 1) * pixels
    sample = _weighted(w, _table(w, x, shape, shifts), axes, shape[2:], w.const(base, np.int64), x)
    if mask is not None:
        sample = w("Mul", sample, w("Reshape", mask, w.ints(n, shifts, taps, oh, ow, 1)))
    turned = w("Transpose", sample, perm=[0, 1, 5, 2, 3, 4])
    image = w("Reshape", turned, w.ints(n, channels * taps, oh, ow))
    flat = w("Reshape", weight, w.ints(kernel[0], kernel[1] * taps, 1, 1))
    inputs = [image, flat] if bias is None else [image, flat, bias]
    w.done(w("Conv", *inputs, group=groups))
    return YES


_Tap = tuple[ir.Value, ir.Value | None]
"""A pixel's index along an axis, and its weight (None: one)."""


def _number(w: Writer, value: float) -> ir.Value:
    return w.const(value, np.float32)


def _as(w: Writer, value: ir.Value, x: ir.Value | None) -> ir.Value:
    assert x is not None and x.dtype is not None
    return w("Cast", value, to=x.dtype)


def _table(w: Writer, x: ir.Value | None, shape: tuple[int, ...], groups: int) -> ir.Value:
    """A row for every pixel of every image and group of channels."""
    grouped = w("Reshape", x, w.ints(shape[0], groups, shape[1] // groups, int(np.prod(shape[2:]))))
    return w("Reshape", w("Transpose", grouped, perm=[0, 1, 3, 2]), w.ints(-1, shape[1] // groups))


def _taps(w: Writer, c: ir.Value, size: int, mode: str, padding: str, ends: tuple[float, float]) -> list[_Tap]:
    """The pixels that a coordinate reads, with their weights; those outside of ``padding`` zeros weigh nothing."""
    if padding == "border" and mode != "cubic":
        c = w("Clip", c, _number(w, 0.0), _number(w, size - 1.0))
    elif padding == "reflection":
        c = _reflected(w, c, ends)
    if mode == "nearest":
        return [_pixel(w, c, None, size, padding, ends)]
    floor = w("Floor", c)
    part = w("Sub", c, floor)
    if mode == "linear":
        weights = [(0, w("Sub", _number(w, 1.0), part)), (1, part)]
    else:
        weights = [(step, _cubic(w, part, step)) for step in (-1, 0, 1, 2)]
    return [
        _pixel(w, w("Add", floor, _number(w, step)) if step else floor, weight, size, padding, ends)
        for step, weight in weights
    ]


def _pixel(w: Writer, c: ir.Value, weight: ir.Value | None, size: int, padding: str, ends: tuple[float, float]) -> _Tap:
    if padding == "reflection":
        c = _reflected(w, c, ends)
    nearest = w("Clip", c, _number(w, 0.0), _number(w, size - 1.0))
    if padding == "zeros":
        inside = w("Cast", w("Equal", c, nearest), to=ir.DataType.FLOAT)
        weight = inside if weight is None else w("Mul", weight, inside)
    return w("Cast", nearest, to=ir.DataType.INT64), weight


def _reflected(w: Writer, c: ir.Value, ends: tuple[float, float]) -> ir.Value:
    """Back and forth between ``ends``."""
    low, reach = ends[0], ends[1] - ends[0]
    if reach <= 0:
        return w("Mul", c, _number(w, 0.0))
    moved = w("Sub", c, _number(w, low))
    turns = w("Floor", w("Mul", moved, _number(w, 0.5 / reach)))
    rest = w("Sub", moved, w("Mul", turns, _number(w, 2 * reach)))
    folded = w("Min", rest, w("Sub", _number(w, 2 * reach), rest))
    return w("Add", folded, _number(w, low))


def _cubic(w: Writer, part: ir.Value, step: int) -> ir.Value:
    """Keys' kernel with a = -0.75 at the distance of the pixel ``step`` from ``part``."""
    inner = step in (0, 1)
    distance = w("Sub", part, _number(w, step)) if step <= 0 else w("Sub", _number(w, step), part)
    a = _CUBIC
    factors = (a + 2, -(a + 3), 0.0, 1.0) if inner else (a, -5 * a, 8 * a, -4 * a)
    total = _number(w, factors[0])
    for factor in factors[1:]:
        total = w("Add", w("Mul", total, distance), _number(w, factor))
    return total


def _weighted(
    w: Writer,
    table: ir.Value,
    axes: list[list[_Tap]],
    sizes: tuple[int, ...],
    base: ir.Value,
    x: ir.Value | None,
    combine: str = "Add",
) -> ir.Value:
    """Sum over all combinations of taps: samples with their channels last."""
    strides = [int(np.prod(sizes[axis + 1 :])) for axis in range(len(sizes))]
    total: ir.Value | None = None
    for taps in product(*axes):
        place, factor = base, None
        for (index, weight), stride in zip(taps, strides, strict=True):
            place = w("Add", place, index if stride == 1 else w("Mul", index, w.const(stride, np.int64)))
            if weight is not None:
                factor = weight if factor is None else w("Mul", factor, weight)
        rows = w("Gather", table, place, axis=0)
        if factor is not None:
            rows = w("Mul", rows, _as(w, w("Unsqueeze", factor, w.ints(-1)), x))
        total = rows if total is None else w(combine, total, rows)
    assert total is not None
    return total
