"""Calls of ONNX Runtime sessions, also with types that its Python interface has no arrays for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ingot.graph import dtypes

Array = np.ndarray[Any, Any]
HostFunction = Callable[[Sequence[Array]], list[Array]]
"""Inputs in the order of the model's inputs, outputs in the order of its outputs."""
_BY_BITS = {
    "tensor(bfloat16)": "bfloat16",
    "tensor(float8e4m3fn)": "float8_e4m3fn",
    "tensor(float8e4m3fnuz)": "float8_e4m3fnuz",
    "tensor(float8e5m2)": "float8_e5m2",
    "tensor(float8e5m2fnuz)": "float8_e5m2fnuz",
}
"""Types that NumPy lacks, as ONNX Runtime and as Ingot call them."""
_INTEGERS = {1: np.uint8, 2: np.uint16}
"""Unsigned integers by size in bytes."""


def ort_function(session: Any, inputs: Sequence[str], outputs: Sequence[str]) -> HostFunction:
    """``session`` as a function of arrays in the given orders. What ONNX Runtime raises, it raises."""
    types = {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}
    if any(types.get(name) in _BY_BITS for name in (*inputs, *outputs)):
        return _by_bits(session, list(inputs), list(outputs))
    # The wrapper's run() checks names that the plan has fixed already: a microsecond that small models notice.
    run, names, results = getattr(session, "_sess", session).run, list(inputs), list(outputs)

    def call(arrays: Sequence[Array]) -> list[Array]:
        made: list[Array] = run(results, dict(zip(names, arrays, strict=True)), None)
        return made

    return call


def _by_bits(session: Any, inputs: list[str], outputs: list[str]) -> HostFunction:
    """Values go in and out as ONNX Runtime's own objects: it converts no arrays of types that NumPy lacks."""
    from onnxruntime import OrtValue

    codes = {dtypes.numpy_dtype(name): dtypes.onnx_code(name) for name in _BY_BITS.values()}

    def given(array: Array) -> Any:
        code = codes.get(array.dtype)
        if code is None:
            return OrtValue.ortvalue_from_numpy(array)
        bits = np.ascontiguousarray(array).reshape(array.shape).view(_INTEGERS[array.dtype.itemsize])
        return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, code)

    def taken(value: Any) -> Array:
        name = _BY_BITS.get(value.data_type())
        if name is None:
            return np.asarray(value.numpy())
        dtype, shape = dtypes.numpy_dtype(name), tuple(value.shape())
        content = ctypes.string_at(value.data_ptr(), int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(bytearray(content), dtype).reshape(shape)

    def call(arrays: Sequence[Array]) -> list[Array]:
        kept = [np.asarray(array) for array in arrays]  # the objects only point to them
        feeds = {name: given(array) for name, array in zip(inputs, kept, strict=True)}
        return [taken(value) for value in session.run_with_ort_values(outputs, feeds)]

    return call
