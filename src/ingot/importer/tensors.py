"""Do the tensors of a model hold what their shape and type promise?"""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

from ingot.errors import IngotError
from ingot.importer.walk import all_tensors

_MAX_ELEMENTS = 1 << 36
"""Most elements of one tensor; more is a damaged or hostile file."""
_FIX = "export or download the model again"
_FIELDS: dict[int, tuple[str, int]] = {
    onnx.TensorProto.FLOAT: ("float_data", 1),
    onnx.TensorProto.COMPLEX64: ("float_data", 2),
    onnx.TensorProto.DOUBLE: ("double_data", 1),
    onnx.TensorProto.COMPLEX128: ("double_data", 2),
    onnx.TensorProto.INT64: ("int64_data", 1),
    onnx.TensorProto.UINT64: ("uint64_data", 1),
    onnx.TensorProto.UINT32: ("uint64_data", 1),
    onnx.TensorProto.STRING: ("string_data", 1),
}
"""Typed field and its entries per element; every other type uses ``int32_data``, sub-byte ones packed."""


def check_tensors(model: onnx.ModelProto) -> None:
    """Raises IngotError naming the first tensor with bad dimensions, an unknown type, or too little data."""
    for place, tensor in all_tensors(model):
        _check(place, tensor)
    for place, tensor in all_tensors(model):
        if place.startswith("indices") and tensor.data_type != onnx.TensorProto.INT64:
            raise IngotError("the indices are not int64", node=place, fix=_FIX)


def _check(place: str, tensor: onnx.TensorProto) -> None:
    dims = tuple(tensor.dims)
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        fix = "upgrade onnx and onnx-ir, or export with an older version"
        raise IngotError(f"has the unknown data type {tensor.data_type}", node=place, fix=fix) from None
    if dtype is ir.DataType.UNDEFINED:
        raise IngotError("has no data type", node=place, fix=_FIX)
    if any(dim < 0 for dim in dims):
        raise IngotError(f"has a negative dimension: {dims}", node=place, fix=_FIX)
    elements = math.prod(dims)
    if elements > _MAX_ELEMENTS:
        raise IngotError(f"has {elements} elements ({dims}); the most is {_MAX_ELEMENTS}", node=place, fix=_FIX)
    if tensor.HasField("segment"):
        raise IngotError("is stored in segments, which are not supported", node=place, fix=_FIX)
    if dtype is ir.DataType.STRING:
        _expect(place, "strings", elements, len(tensor.string_data))
    elif tensor.HasField("raw_data"):
        _expect(place, "bytes of data", _bytes(elements, dtype), len(tensor.raw_data))
    else:
        field, per_element = _FIELDS.get(tensor.data_type, ("int32_data", 1))
        wanted = _bytes(elements, dtype) if dtype.bitwidth < 8 else elements * per_element
        _expect(place, f"entries of {field}", wanted, len(getattr(tensor, field)))


def _bytes(elements: int, dtype: ir.DataType) -> int:
    """Sub-byte elements are packed, the last byte padded."""
    return -(-elements * dtype.bitwidth // 8)


def _expect(place: str, what: str, wanted: int, found: int) -> None:
    if wanted != found:
        raise IngotError(f"its shape and type need {wanted} {what}, but it has {found}", node=place, fix=_FIX)
