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
_BFLOAT16 = "tensor(bfloat16)"


def ort_function(session: Any, inputs: Sequence[str], outputs: Sequence[str]) -> HostFunction:
    """``session`` as a function of arrays in the given orders. What ONNX Runtime raises, it raises."""
    types = {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}
    if any(types.get(name) == _BFLOAT16 for name in (*inputs, *outputs)):
        return _with_bfloat16(session, list(inputs), list(outputs))
    # The wrapper's run() checks names that the plan has fixed already: a microsecond that small models notice.
    run, names, results = getattr(session, "_sess", session).run, list(inputs), list(outputs)

    def call(arrays: Sequence[Array]) -> list[Array]:
        made: list[Array] = run(results, dict(zip(names, arrays, strict=True)), None)
        return made

    return call


def _with_bfloat16(session: Any, inputs: list[str], outputs: list[str]) -> HostFunction:
    """Values go in and out as ONNX Runtime's own objects: it converts no bfloat16 array."""
    from onnxruntime import OrtValue

    bfloat16 = dtypes.numpy_dtype("bfloat16")
    code = dtypes.TABLE["bfloat16"].onnx

    def given(array: Array) -> Any:
        if array.dtype != bfloat16:
            return OrtValue.ortvalue_from_numpy(array)
        bits = np.ascontiguousarray(array).reshape(array.shape).view(np.uint16)
        return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, code)

    def taken(value: Any) -> Array:
        if value.data_type() != _BFLOAT16:
            return np.asarray(value.numpy())
        shape = tuple(value.shape())
        content = ctypes.string_at(value.data_ptr(), int(np.prod(shape)) * bfloat16.itemsize)
        return np.frombuffer(bytearray(content), bfloat16).reshape(shape)

    def call(arrays: Sequence[Array]) -> list[Array]:
        kept = [np.asarray(array) for array in arrays]  # the objects only point to them
        feeds = {name: given(array) for name, array in zip(inputs, kept, strict=True)}
        return [taken(value) for value in session.run_with_ort_values(outputs, feeds)]

    return call
