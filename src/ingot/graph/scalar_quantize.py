"""Quantization as scalar ops: how QuantizeLinear and DequantizeLinear of one scale are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.region import BodyOp
from ingot.graph.scalar_code import Code, Cuda, constant


def parameter_dtype(op: BodyOp, position: int) -> str:
    """Arithmetic type of a literal operand where it is not that of the tensors beside it; "" where it is.

    Scales are float32 beside integers, and zero points int32 beside floats.
    """
    if op.op not in ("QuantizeLinear", "DequantizeLinear") or not position:
        return ""
    return "float32" if position == 1 else "int32"


LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(1 << 15), (1 << 15) - 1), "uint16": (0, (1 << 16) - 1)}
"""Least and largest number of the integer types that are quantized to."""


SATURATED = "ingot_saturated"
"""Attribute by which kernels ask for the fewest instructions, with the least number that the result may be."""


def _zero_point(args: Sequence[str]) -> str:
    """Code of a zero point; empty where there is none or it is 0."""
    return "" if len(args) < 3 or not args[2] or constant(args[2].replace("(int)", "")) == 0 else f"({args[2]})"


def _in_blocks(op: BodyOp) -> No | None:
    return No(f"{op.op} in blocks") if op.attr("block_size", 0) else None


def quantize(code: Code, args: Sequence[str], op: BodyOp, to: str, *, narrow: bool = True) -> str | No:
    """x / scale, rounded, plus the zero point, within the result's type.

    By a known scale it is divided through its reciprocal, which differs from a division where the
    quotient is within a rounding error of a half. Not ``narrow``: an integer of which the last bits are right,
    or what is yet to be rounded to float8, by the store.
    """
    if (refused := _in_blocks(op)) is not None:
        return refused
    if code.dtype != "float32":
        return No(f"{op.op} of {code.dtype}")
    scale = constant(args[1])
    if scale is not None and not (scale and math.isfinite(1 / scale)):
        return No(f"{op.op} by a scale of {scale}")
    if to and dtypes.is_float(to):  # float8, or the type it is computed in
        quotient = f"({args[0]} / {args[1]})" if scale is None else f"({args[0]} * {code.number(1 / scale)})"
        return code.float8(quotient) if narrow else quotient
    if to not in LIMITS:
        return No(f"{op.op} to {to or 'an unknown type'}")
    zero, step = _zero_point(args), 1.0 if scale is None else scale
    shift = constant(zero.replace("(int)", "")) if zero else 0
    if shift is None:
        return No(f"{op.op} with a zero point that is computed")
    least = op.attr(SATURATED)
    if isinstance(least, int) and scale is not None and step > 0 and to in ("int8", "uint8"):
        assert isinstance(code, Cuda)
        whole = code.saturated(args[0], step, int(shift), (least, LIMITS[to][1]))
        return code.narrow(whole, to) if narrow else whole
    bounds = tuple((limit - shift) * step for limit in LIMITS[to])
    x = f"({args[0]} / {args[1]})" if scale is None else args[0]
    whole = code.quantized(x, 1 / step, (min(bounds), max(bounds)), zero)
    return code.narrow(whole, to) if narrow else whole


def dequantize(code: Code, args: Sequence[str], op: BodyOp) -> str | No:
    """(x - zero point) * scale."""
    if (refused := _in_blocks(op)) is not None:
        return refused
    zero = "" if code.floating else _zero_point(args)
    whole = code.convert(args[0], "int32") if zero else args[0]
    wide: Code = type(code)("int32") if zero else code
    return f"({wide.convert(f'({whole} - {zero})' if zero else whole, 'float32')} * {args[1]})"
