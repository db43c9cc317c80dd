"""Element types, under one name each, with what NumPy, ONNX, Triton and CUDA call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DTypeInfo:
    """One row of the table. ``triton`` or ``cuda`` is empty where there is no such element type."""

    onnx: int
    """``onnx.TensorProto.DataType``."""
    bytes: int
    triton: str
    cuda: str
    """Storage type in generated CUDA C++ (see ``kernels/cuda/prelude``)."""
    floating: bool = False


TABLE: dict[str, DTypeInfo] = {
    "float32": DTypeInfo(1, 4, "fp32", "float", True),
    "uint8": DTypeInfo(2, 1, "u8", "unsigned char"),
    "int8": DTypeInfo(3, 1, "i8", "signed char"),
    "uint16": DTypeInfo(4, 2, "u16", "unsigned short"),
    "int16": DTypeInfo(5, 2, "i16", "short"),
    "int32": DTypeInfo(6, 4, "i32", "int"),
    "int64": DTypeInfo(7, 8, "i64", "long long"),
    "bool": DTypeInfo(9, 1, "u8", "bool"),
    "float16": DTypeInfo(10, 2, "fp16", "half_t", True),
    "float64": DTypeInfo(11, 8, "fp64", "double", True),
    "uint32": DTypeInfo(12, 4, "u32", "unsigned int"),
    "uint64": DTypeInfo(13, 8, "u64", "unsigned long long"),
    "bfloat16": DTypeInfo(16, 2, "bf16", "bf16_t", True),
    "float8_e4m3fn": DTypeInfo(17, 1, "fp8e4nv", "e4m3_t", True),
}
WIDENED = frozenset({"float16", "bfloat16", "float8_e4m3fn"})
"""Floating-point types that values are stored in and never computed in: arithmetic is in float32."""
_BY_ONNX = {info.onnx: name for name, info in TABLE.items()}


def from_onnx(code: int) -> str | None:
    """Name of an ONNX element type, or None where Ingot has no device type for it (strings, 4-bit ...)."""
    return _BY_ONNX.get(code)


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return TABLE[dtype].bytes


def is_float(dtype: str) -> bool:
    """Whether ``dtype`` is a floating-point type."""
    return TABLE[dtype].floating


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """NumPy's type; those that NumPy lacks come from ml_dtypes, under the same names."""
    if dtype in ("bfloat16", "float8_e4m3fn"):
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype))
        return found
    return np.dtype(dtype)
