"""BitCast: the bits of an element read as an element of another type of the same size."""

from __future__ import annotations

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.region import BodyOp
from ingot.graph.scalar_code import Code, Cuda

_BETWEEN = {
    ("float32", "int32"): "__float_as_int",
    ("float32", "uint32"): "__float_as_uint",
    ("int32", "float32"): "__int_as_float",
    ("uint32", "float32"): "__uint_as_float",
    ("float64", "int64"): "__double_as_longlong",
    ("float64", "uint64"): "(unsigned long long)__double_as_longlong",
    ("int64", "float64"): "__longlong_as_double",
    ("uint64", "float64"): "__longlong_as_double",
}


def bit_cast(code: Code, text: str, op: BodyOp) -> str | No:
    """``text``, of the compute type of ``code``, as type ``to`` of the op.

    Not for 16-bit and 8-bit floats: they are computed in float32, which has forgotten the bits of a NaN.
    """
    to = dtypes.from_onnx(int(op.attr("to", 0)))  # type: ignore[arg-type]
    if to is None or to in dtypes.WIDENED or dtypes.itemsize(to) != dtypes.itemsize(code.dtype):
        return No(f"BitCast of {code.dtype} to {to or 'a type of the host'}")
    if not code.floating and not dtypes.is_float(to):
        return No("BitCast to truth values") if to == "bool" and code.dtype != "bool" else code.convert(text, to)
    if to == code.dtype:
        return f"({text})"
    if not isinstance(code, Cuda):
        return No("BitCast between floats and integers has no form in Triton")
    return f"{_BETWEEN[code.dtype, to]}({text})"
