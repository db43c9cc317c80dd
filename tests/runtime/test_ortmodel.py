"""ONNX Runtime sessions as functions of arrays, with the types that its Python interface does not know."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime as ort
from support.onnx_text import model

from ingot.runtime.ortmodel import ort_function

BRIEF = ml_dtypes.bfloat16


def _session(text: str) -> ort.InferenceSession:
    return ort.InferenceSession(model(text).SerializeToString(), providers=["CPUExecutionProvider"])


def test_bfloat16_goes_in_and_comes_out() -> None:
    text = """g (bfloat16[2,3] x, float[2,3] z) => (bfloat16[2,3] a, float[2,3] b, bfloat16[2,3] c)
    { a = Cast <to = 16> (z) b = Cast <to = 1> (x) c = Identity (x) }"""
    x = np.arange(6).reshape(2, 3).astype(BRIEF)
    z = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    call = ort_function(_session(text), ["z", "x"], ["c", "b", "a"])
    for _ in range(2):
        c, b, a = call([z, x])
        assert (a.dtype, b.dtype, c.dtype) == (BRIEF, np.float32, BRIEF)
        np.testing.assert_array_equal(a, z.astype(BRIEF))
        np.testing.assert_array_equal(b, x.astype(np.float32))
        np.testing.assert_array_equal(c, x)
        a[:] = 0  # belongs to the caller
    (c,) = ort_function(_session(text), ["x", "z"], ["c"])([x.T.copy().T, z])
    np.testing.assert_array_equal(c, x)


def test_scalars_and_empty_arrays_of_bfloat16() -> None:
    call = ort_function(_session("g (bfloat16 x, bfloat16[0,2] e) => (bfloat16 y, bfloat16[0,2] f)"
                                 " { y = Identity (x) f = Identity (e) }"), ["x", "e"], ["y", "f"])  # fmt: skip
    y, f = call([np.array(1.5, BRIEF), np.empty((0, 2), BRIEF)])
    assert y.shape == () and float(y) == 1.5 and f.shape == (0, 2) and f.dtype == BRIEF
