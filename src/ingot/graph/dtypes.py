"""Element types, under one name each, with what NumPy, ONNX, Triton and CUDA call them."""

from __future__ import annotations

import re
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
HOST_ONLY: dict[str, int] = {
    "string": 8, "complex64": 14, "complex128": 15, "float8_e4m3fnuz": 18, "float8_e5m2": 19,
    "float8_e5m2fnuz": 20, "uint4": 21, "int4": 22, "float4_e2m1fn": 23, "float8_e8m0fnu": 24, "uint2": 25, "int2": 26,
}  # fmt: skip
"""Element types that exist on the host alone, with their ``onnx.TensorProto.DataType``."""
_HOST_BY_ONNX = {code: name for name, code in HOST_ONLY.items()}
_NESTED = re.compile(r"(sequence|optional|map)\((.+)\)")
_MOST_NESTED = 64


def from_onnx(code: int) -> str | None:
    """Name of an ONNX element type, or None where Ingot has no device type for it (strings, 4-bit ...)."""
    return _BY_ONNX.get(code)


def any_from_onnx(code: int) -> str | None:
    """Name of an ONNX element type, those that exist on the host alone included."""
    return _BY_ONNX.get(code) or _HOST_BY_ONNX.get(code)


def onnx_code(dtype: str) -> int:
    """``onnx.TensorProto.DataType`` of an element type."""
    return TABLE[dtype].onnx if dtype in TABLE else HOST_ONLY[dtype]


def on_device(dtype: str) -> bool:
    """Whether device memory can hold values of this type."""
    return dtype in TABLE


def nested(dtype: str) -> tuple[str, str] | None:
    """``sequence``, ``optional`` or ``map`` and what is inside (of a map ``key,value``); None for a tensor's type."""
    found = _NESTED.fullmatch(dtype)
    return (found[1], found[2]) if found is not None else None


def known(dtype: str) -> bool:
    """Whether ``dtype`` is a type at all: an element type, or sequences and optionals of one."""
    for _ in range(_MOST_NESTED):
        inner = nested(dtype)
        if inner is None:
            return dtype in TABLE or dtype in HOST_ONLY
        key, _, value = inner[1].partition(",")
        if inner[0] == "map" and nested(key) is not None:
            return False
        dtype = value if inner[0] == "map" else inner[1]
    return False


def itemsize(dtype: str) -> int:
    """Bytes of one element; of a string and of what is no tensor, those of a reference to it."""
    return TABLE[dtype].bytes if dtype in TABLE else numpy_dtype(dtype).itemsize


def is_float(dtype: str) -> bool:
    """Whether ``dtype`` is a floating-point type."""
    return TABLE[dtype].floating if dtype in TABLE else dtype.startswith("float")


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """NumPy's type; those that NumPy lacks come from ml_dtypes. Strings, and what is no tensor, are objects."""
    if dtype == "string" or nested(dtype) is not None:
        return np.dtype(object)
    if dtype in ("bfloat16", "float8_e4m3fn") or (dtype in HOST_ONLY and not dtype.startswith("complex")):
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype))
        return found
    return np.dtype(dtype)
