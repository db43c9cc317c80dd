"""First convolutions: those that a kernel of their own may take, and the others made wide for tensor cores.

A convolution over an image of 3 channels gathers its window element by element. ``mark_stems`` gives those that
look fit the kind STEM: they take in what precedes and a pooling behind, and one kernel reads the image as it
is. Where no tactic accepts that, ``widen_stems`` makes the input channels wide, so that tensor cores read whole
vectors. Stored channels-last with the channels padded to 4, the ``kw`` pixels of one row of a window are one run
of ``4 kw`` elements, and the runs of neighbouring outputs start ``4 stride`` elements apart. So the padded image,
seen through overlapping strides as ``[N, 4 kw, H, W_out]``, is the input of a ``kh x 1`` convolution of wide rows.
The copy that pads also does what stood before the convolution (a cast, a change of layout), which had to
be done anyway. Either way an infinity or NaN in the image may also reach outputs a few pixels beside its window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ingot.graph import dtypes
from ingot.graph.op_table import WINDOW, WINDOW_DOMAIN
from ingot.graph.region import BodyOp, Kind, Literal
from ingot.graph.tensor import TensorSpec, spec
from ingot.passes.flatten import FlatGraph, FlatOp
from ingot.passes.windows import window_pads

_MARK = "/stem"
"""Behind a node's name, the origin of the op marked as a stem."""
IMAGE_CHANNELS = 4
"""Channels after padding: of three, the usual image, one quarter is waste."""
_VECTOR = 16
"""Bytes that the start of every run must be a multiple of."""
_RUN = 8
"""Elements that the length of a run must be a multiple of: 16 bytes of a 16-bit float."""


@dataclass(frozen=True)
class _Stem:
    """Sizes of one rewrite."""

    rows: int
    """Rows of the padded image."""
    width: int
    """Pixels in a row of the padded image."""
    run: int
    """Elements of one run: the new number of channels."""
    top: int
    left: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: int
    """Between the rows of a window."""


def mark_stems(flat: FlatGraph, refused: frozenset[str]) -> FlatGraph:
    """``flat`` with convolutions that a stem kernel may take marked; origins in ``refused`` are left alone."""
    ops = [_marked(op, flat) if f"{op.name}{_MARK}" not in refused else op for op in flat.ops]
    marked = replace(flat, ops=tuple(ops))
    for op in ops:
        if op.kind is Kind.STEM:
            marked = _cast_last(marked, op.body.inputs[0])
    return marked


def _cast_last(flat: FlatGraph, image: str) -> FlatGraph:
    """``flat`` with a cast that stands before the transpose of ``image`` behind it, where the stem takes it in."""
    maker = {name: op for op in flat.ops if op.plugin is None for name in op.body.outputs}
    turn = maker.get(image)
    cast = maker.get(turn.body.inputs[0]) if turn is not None and turn.body.op == "Transpose" else None
    if turn is None or cast is None or cast.body.op != "Cast":
        return flat
    middle, source = turn.body.inputs[0], cast.body.inputs[0]
    readers = [op for op in flat.ops if middle in flat.tensor_inputs(op)]
    if len(readers) != 1 or middle in flat.outputs or image in flat.outputs:
        return flat
    turned = f"{image}/source"
    values = {**flat.values, turned: spec(flat.values[source].dtype, flat.values[image].shape)}
    before = replace(turn, body=replace(turn.body, inputs=(source, *turn.body.inputs[1:]), outputs=(turned,)))
    after = replace(cast, body=replace(cast.body, inputs=(turned,), outputs=(image,)))
    ops = [new for op in flat.ops if op is not cast for new in ((before, after) if op is turn else (op,))]
    return replace(flat, ops=tuple(ops), values=values)


def _marked(op: FlatOp, flat: FlatGraph) -> FlatOp:
    body = op.body
    if op.kind is not Kind.CONV or body.op != "Conv" or body.attr("group", 1) != 1:
        return op
    x, w = flat.values[body.inputs[0]], flat.values[body.inputs[1]]
    small = x.rank == 4 and isinstance(x.shape[1], int) and x.shape[1] <= IMAGE_CHANNELS
    constant = all(name in flat.constants for name in body.inputs[1:] if name)
    if not small or not constant or x.dtype not in ("float16", "bfloat16"):
        return op
    if not all(isinstance(d, int) for d in x.shape[2:]) or w.shape[2:] == (1, 1):
        return op
    return replace(op, kind=Kind.STEM, origin=f"{op.name}{_MARK}")


def takes_pool(op: BodyOp) -> bool:
    """Whether a MaxPool is one that stem kernels take along: 2 x 2 or 3 x 3, stride 2, without indices."""
    square = op.ints("kernel_shape", ()) in ((2, 2), (3, 3)) and op.ints("strides", (1, 1)) == (2, 2)
    plain = op.ints("dilations", (1, 1)) == (1, 1) and not any(op.outputs[1:])
    return square and plain


def widen_stems(flat: FlatGraph, plain: frozenset[str]) -> FlatGraph:
    """``flat`` with its few-channel 16-bit convolutions rewritten; those named in ``plain`` are left alone."""
    ops: list[FlatOp] = []
    values, constants, literals = dict(flat.values), dict(flat.constants), dict(flat.literals)
    for op in flat.ops:
        stem = None if op.name in plain else _stem(op, flat)
        if stem is None:
            ops.append(op)
        else:
            ops.extend(_rewritten(op, stem, flat, values, constants, literals))
    if len(ops) == len(flat.ops):
        return flat
    return replace(flat, ops=tuple(ops), values=values, constants=constants, literals=literals)


def _stem(op: FlatOp, flat: FlatGraph) -> _Stem | None:
    """How to rewrite a convolution, None when it is not one that gains."""
    body = op.body
    if op.kind is not Kind.CONV or body.op != "Conv" or body.attr("group", 1) != 1:
        return None
    x, w, y = flat.values[body.inputs[0]], flat.values[body.inputs[1]], flat.values[body.outputs[0]]
    sizes = (*x.shape[1:], *y.shape[2:])
    if x.rank != 4 or x.dtype not in ("float16", "bfloat16") or body.inputs[1] not in flat.constants:
        return None
    if not all(isinstance(size, int) for size in sizes) or int(x.shape[1]) > IMAGE_CHANNELS:
        return None
    _, height, width, out_h, out_w = (int(size) for size in sizes)
    kernel = (int(w.shape[2]), int(w.shape[3]))
    stride, dilation = body.ints("strides", (1, 1)), body.ints("dilations", (1, 1))
    start = stride[1] * IMAGE_CHANNELS * dtypes.itemsize(x.dtype)
    if kernel[1] == 1 or dilation[1] != 1 or start % _VECTOR:
        return None
    pads = window_pads(body, x, y, kernel)
    assert pads is not None
    top, left = pads[:2]
    run = -(-kernel[1] * IMAGE_CHANNELS // _RUN) * _RUN
    rows = max((out_h - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1, top + height)
    needed = max(((out_w - 1) * stride[1] * IMAGE_CHANNELS + run + IMAGE_CHANNELS - 1) // IMAGE_CHANNELS, left + width)
    return _Stem(rows, needed + needed % 2, run, top, left, kernel, (stride[0], stride[1]), dilation[0])


def _rewritten(
    op: FlatOp,
    stem: _Stem,
    flat: FlatGraph,
    values: dict[str, TensorSpec],
    constants: dict[str, np.ndarray[Any, Any]],
    literals: dict[str, Literal],
) -> list[FlatOp]:
    """Pad, window and convolution in the place of ``op``; new values are added to the three tables."""
    body = op.body
    x = flat.values[body.inputs[0]]
    batch, channels, height, width = x.shape
    assert isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)
    padded, window, amount, weight = (f"{op.name}/{part}" for part in ("padded", "window", "pads", "weight"))
    out_w = flat.values[body.outputs[0]].shape[3]
    values[padded] = spec(x.dtype, (batch, IMAGE_CHANNELS, stem.rows, stem.width))
    values[window] = spec(x.dtype, (batch, stem.run, stem.rows, out_w))
    constants[weight] = _weights(flat.constants[body.inputs[1]], stem)
    values[weight] = spec(x.dtype, constants[weight].shape, constant=True)
    below, right = stem.rows - height - stem.top, stem.width - width - stem.left
    literals[amount] = (0, 0, stem.top, stem.left, 0, IMAGE_CHANNELS - channels, below, right)
    attrs: Mapping[str, Any] = {
        "dilations": (stem.dilation, 1),
        "kernel_shape": (stem.kernel[0], 1),
        "strides": (stem.stride[0], 1),
    }
    conv = BodyOp("Conv", (window, weight, *body.inputs[2:]), body.outputs, tuple(attrs.items()))
    pad = BodyOp("Pad", (body.inputs[0], amount), (padded,), (("mode", "constant"),))
    view = BodyOp(WINDOW, (padded,), (window,), (("step", stem.stride[1]),), WINDOW_DOMAIN)
    return [
        FlatOp(padded, pad, Kind.MAP, origin=op.name),
        FlatOp(window, view, Kind.VIEW, origin=op.name),
        FlatOp(op.name, conv, Kind.CONV, origin=op.name),
    ]


def _weights(weight: np.ndarray[Any, Any], stem: _Stem) -> np.ndarray[Any, Any]:
    """[K, C, kh, kw] as [K, run, kh, 1]: channel ``4 x + c`` of the new one is (c, x) of the old one."""
    outputs, channels, kh, kw = weight.shape
    wide = np.zeros((outputs, stem.run // IMAGE_CHANNELS + 1, IMAGE_CHANNELS, kh), weight.dtype)
    wide[:, :kw, :channels, :] = weight.transpose(0, 3, 1, 2)
    flat = wide.reshape(outputs, -1, kh)[:, : stem.run, :]
    return np.ascontiguousarray(flat[..., None])
