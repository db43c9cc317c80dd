"""Fourier transforms as matrix products in float64: as exact as a fast transform, and for short ones as quick."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Editor, constant_of, fixed_shape, operand, scalar_of
from ingot.passes.writer import Writer, float_type

_LARGEST = 1 << 22
"""Most numbers in the matrix of a transform: 32 MiB."""
_MOST_PLACES = 1 << 24
"""Most places in an STFT's frames, which are a constant: 128 MiB."""
_PARTS = "its last axis is neither a number nor a real and an imaginary part"


def dft(editor: Editor, node: ir.Node) -> Answer:
    """DFT along one axis: the signal, real and imaginary parts side by side, times one real matrix."""
    x, name = node.inputs[0], node.name or ""
    shape, inverse = fixed_shape(x), bool(node.attributes.get_int("inverse", 0))
    onesided = bool(node.attributes.get_int("onesided", 0))
    axis_value = operand(node, 2)
    axis = scalar_of(axis_value) if axis_value is not None else node.attributes.get_int("axis", _default_axis(editor))
    length_value = operand(node, 1)
    length = scalar_of(length_value) if length_value is not None else -1
    if shape is None or axis is None or length is None or float_type(x) is None or x is None or x.dtype is None:
        return No("its shape, axis or length is not known", node=name)
    rank = len(shape)
    place = int(axis) % rank
    given, parts = shape[place], shape[-1]
    n = int(length) if length > 0 else (2 * (given - 1) if inverse and onesided else given)
    size = _size(given, n, parts, inverse=inverse, onesided=onesided)
    if parts not in (1, 2):
        return No(_PARTS, node=name)
    if size > _LARGEST or 0 in shape:
        return No(f"a transform of {n} numbers is a matrix of {size}", node=name)
    matrix = _matrix(given, n, parts, inverse=inverse, onesided=onesided)
    w = Writer(editor, node)
    perm = [i for i in range(rank - 1) if i != place] + [place, rank - 1]
    lead = [shape[i] for i in perm[:-2]]
    rows = w("Reshape", w("Transpose", x, perm=perm), w.ints(-1, given * parts))
    results = 1 if inverse and onesided else 2
    flat = _product(w, rows, matrix, x.dtype)
    made = w("Reshape", flat, w.ints(*lead, matrix.shape[1] // results, results))
    w.done(w("Transpose", made, perm=[int(i) for i in np.argsort(perm)]))
    return YES


def _default_axis(editor: Editor) -> int:
    return -2 if editor.model.opset_imports.get("", 20) >= 20 else 1


def stft(editor: Editor, node: ir.Node) -> Answer:
    """STFT: frames, times the window, times the matrix of the transform."""
    x, name = node.inputs[0], node.name or ""
    shape, step = fixed_shape(x), scalar_of(operand(node, 1))
    window, length_value = operand(node, 2), operand(node, 3)
    size = fixed_shape(window) if window is not None else None
    length = scalar_of(length_value) if length_value is not None else (size[0] if size else None)
    if shape is None or step is None or length is None or float_type(x) is None or x is None or x.dtype is None:
        return No("its shape, step or frame length is not known", node=name)
    parts = shape[2] if len(shape) == 3 else 1
    n, onesided = int(length), bool(node.attributes.get_int("onesided", 1))
    numbers = _size(n, n, parts, inverse=False, onesided=onesided)
    if parts not in (1, 2):
        return No(_PARTS, node=name)
    if step < 1:
        return No(f"a step of {int(step)}", node=name)
    frames = (shape[1] - n) // int(step) + 1
    if numbers > _LARGEST or frames < 1:
        return No(f"a transform of {n} numbers is a matrix of {numbers}, with {frames} frames", node=name)
    if frames * n > _MOST_PLACES:
        return No(f"{frames} frames of {n} numbers are more places than a constant holds", node=name)
    matrix = _matrix(n, n, parts, inverse=False, onesided=onesided)
    w = Writer(editor, node)
    places = np.arange(frames)[:, None] * int(step) + np.arange(n)[None]
    signal = w("Reshape", x, w.ints(shape[0], shape[1], parts))
    cut = w("Gather", signal, w.const(places, np.int64), axis=1)
    known = constant_of(window)
    if known is not None:
        matrix = matrix * np.repeat(known.astype(np.float64), parts)[:, None]
    elif window is not None:
        cut = w("Mul", cut, w("Reshape", window, w.ints(n, 1)))
    flat = _product(w, w("Reshape", cut, w.ints(-1, n * parts)), matrix, x.dtype)
    w.done(w("Reshape", flat, w.ints(shape[0], frames, matrix.shape[1] // 2, 2)))
    return YES


def _product(w: Writer, rows: ir.Value, matrix: np.ndarray[Any, Any], dtype: ir.DataType) -> ir.Value:
    """``rows @ matrix`` in float64. There is no such product on the device, but there are such sums."""
    wide = w("Unsqueeze", w("Cast", rows, to=ir.DataType.DOUBLE), w.ints(1))
    terms = w("Mul", wide, w.const(np.ascontiguousarray(matrix.T), np.float64))
    return w("Cast", w("ReduceSum", terms, w.ints(-1), keepdims=0), to=dtype)


def _outputs(n: int, *, inverse: bool, onesided: bool) -> int:
    return n // 2 + 1 if onesided and not inverse else n


def _size(given: int, n: int, parts: int, *, inverse: bool, onesided: bool) -> int:
    """How many numbers :func:`_matrix` has: to be asked first, as lengths in files may be of any size."""
    results = 1 if inverse and onesided else 2
    return given * parts * _outputs(n, inverse=inverse, onesided=onesided) * results


def _matrix(given: int, n: int, parts: int, *, inverse: bool, onesided: bool) -> np.ndarray[Any, Any]:
    """Row (j, part), column (k, part): what part of input j adds to which part of output k.

    Inputs beyond ``n`` are cut off, missing ones are zero. Of a one-sided inverse the inputs are the first half of
    a spectrum whose other half is their conjugate, and the outputs have no imaginary part.
    """
    out = _outputs(n, inverse=inverse, onesided=onesided)
    used = min(given, n // 2 + 1 if onesided and inverse else n)
    # The angle is reduced in integers: sine and cosine of large numbers would lose digits.
    turns = (np.arange(used)[:, None] * np.arange(out)[None]) % n
    angle = 2 * np.pi * turns / n
    cos, sin = np.cos(angle), np.sin(angle) * (1 if inverse else -1)
    if inverse:
        cos, sin = cos / n, sin / n
    if inverse and onesided:
        twice = np.where((np.arange(used) == 0) | (2 * np.arange(used) == n), 1.0, 2.0)[:, None]
        found = np.stack([cos * twice, -sin * twice][:parts], axis=1)[..., None]
    else:
        found = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)][:parts], axis=1)
    results = found.shape[-1]
    whole = np.zeros((given, parts, out, results))
    whole[:used] = found
    return whole.reshape(given * parts, out * results)
