"""The one table of scalar ops: ONNX ops that compute each output element from one element of each input.

A row gives the number of operands and how the op is written in CUDA C++ and in Triton. Pointwise regions,
prologues and epilogues are all generated from it.
NaN goes through Max, Min, Relu and Clip, as in ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.region import BodyOp
from ingot.graph.scalar_bits import bit_cast
from ingot.graph.scalar_code import Code, Cuda, Triton, compute_dtype, constant, infinite
from ingot.graph.scalar_quantize import dequantize, quantize

Language = Literal["triton", "cuda"]
_Args = Sequence[str]
_Writer = Callable[[Code, _Args, BodyOp], "str | No"]
_MANY = 1 << 16


@dataclass(frozen=True)
class ScalarOp:
    """One row: fewest and most operands, writer, and whether it needs floating-point operands."""

    least: int
    most: int
    write: _Writer
    floating: bool = False


def is_scalar_op(op_type: str) -> bool:
    """Whether an ONNX op of the default domain is in the table."""
    return op_type in TABLE


def expression(
    op: BodyOp, args: list[str], language: Language, dtype: str = "float32", to: str = "", *, narrow: bool = True
) -> str | No:
    """Code of the op's first result, in its compute type.

    ``args``: code of the operands in compute type ("" for an absent optional one), names or literals.
    ``dtype``: type of the first operand (for Where: of the second); 16-bit floats mean float32.
    ``to``: type of CastLike's second operand, of QuantizeLinear's result. Unless ``narrow``, what QuantizeLinear gives
    is right only once it is stored: see :func:`ingot.graph.scalar_quantize.quantize`.
    """
    row = TABLE.get(op.op)
    if row is None or op.domain not in ("", "ai.onnx"):
        return No(f"{op.op} is no scalar op")
    if not row.least <= len(args) <= row.most:
        return No(f"{op.op} with {len(args)} operands")
    if any(not arg for arg in args[: row.least]):
        return No(f"{op.op} without a required operand")
    dtype = compute_dtype(dtype)
    if dtype not in dtypes.TABLE:
        return No(f"{op.op} on {dtype}")
    if row.floating and not dtypes.is_float(dtype):
        return No(f"{op.op} on {dtype}")
    if len([name for name in op.outputs if name]) > 1:
        return No(f"{op.op} with more than one output")
    code: Code = Cuda(dtype) if language == "cuda" else Triton(dtype)
    if op.op == "CastLike":
        return code.convert(args[0], compute_dtype(to)) if to else No("CastLike to an unknown type")
    if op.op == "QuantizeLinear":
        return quantize(code, args, op, to, narrow=narrow)
    return row.write(code, args, op)


NEEDS_RESULT_TYPE = frozenset({"CastLike", "QuantizeLinear"})
"""Ops whose code depends on the type of their result beside that of their operands (``to`` of :func:`expression`)."""


def _number(op: BodyOp, name: str, default: float) -> float:
    return float(op.attr(name, default))  # type: ignore[arg-type]


def _infix(symbol: str) -> _Writer:
    return lambda code, args, _: code.wrap(f"{args[0]} {symbol} {args[1]}")


def _compare(symbol: str) -> _Writer:
    return lambda code, args, _: f"({args[0]} {symbol} {args[1]})"


def _logic(symbol: str) -> _Writer:
    return lambda code, args, _: code.logic(symbol, args[0], args[1])


def _call(name: str) -> _Writer:
    return lambda code, args, _: code.call(name, args[0])


def _integral(name: str) -> _Writer:
    return lambda code, args, _: code.call(name, args[0]) if code.floating else f"({args[0]})"


def _fold(combine: Callable[[Code, str, str], str]) -> _Writer:
    return lambda code, args, _: reduce(lambda a, b: combine(code, a, b), args)


def _shift(code: Code, args: _Args, op: BodyOp) -> str | No:
    if code.floating:
        return No("BitShift on floats")
    return code.wrap(f"{args[0]} {'<<' if op.attr('direction') == 'LEFT' else '>>'} {args[1]}")


def _bitwise_not(code: Code, args: _Args, op: BodyOp) -> str | No:
    return No("BitwiseNot on floats") if code.floating else code.wrap(f"~{args[0]}")


def _pow(code: Code, args: _Args, op: BodyOp) -> str | No:
    return code.power(args[0], args[1], constant(args[1]))


def _mod(code: Code, args: _Args, op: BodyOp) -> str:
    a, b = args
    rest = code.remainder(a, b)
    if int(op.attr("fmod", 0)) or code.unsigned:  # type: ignore[arg-type]
        return rest
    # The result takes the sign of the divisor.
    signs_differ = code.logic("^", f"({rest} < 0)", f"({b} < 0)")
    return code.where(code.logic("&", f"({rest} != 0)", signs_differ), code.wrap(f"{rest} + {b}"), rest)


def _sign(code: Code, args: _Args, op: BodyOp) -> str:
    x, one, zero = args[0], code.number(1), code.number(0)
    if code.unsigned:
        return code.where(f"{x} > 0", one, zero)
    inner = code.where(f"{x} < {zero}", code.number(-1), x if code.floating else zero)
    return code.where(f"{x} > {zero}", one, inner)


def _not_a_number(code: Code, args: _Args, op: BodyOp) -> str:
    return f"({args[0]} != {args[0]})"


def _is_inf(code: Code, args: _Args, op: BodyOp) -> str:
    return infinite(
        code, args[0], negative=bool(op.attr("detect_negative", 1)), positive=bool(op.attr("detect_positive", 1))
    )


def _cast(code: Code, args: _Args, op: BodyOp) -> str | No:
    target = dtypes.from_onnx(int(op.attr("to", 0)))  # type: ignore[arg-type]
    if target is not None and target.startswith("float8") and not op.attr("saturate", 1):
        return No("Cast that makes infinities of what is too large")
    return No(f"Cast to ONNX type {op.attr('to')}") if target is None else code.convert(args[0], compute_dtype(target))


def _dropout(code: Code, args: _Args, op: BodyOp) -> str | No:
    if len(args) > 2 and args[2] and args[2].strip("()").lower() not in ("false", "0"):
        return No("Dropout in training mode")
    return f"({args[0]})"


def _clip(code: Code, args: _Args, op: BodyOp) -> str:
    text = args[0]
    low, high = args[1] if len(args) > 1 else "", args[2] if len(args) > 2 else ""
    if low:
        text = code.maximum(text, low)
    return code.minimum(text, high) if high else f"({text})"


def _relu(code: Code, args: _Args, op: BodyOp) -> str:
    x, zero = args[0], code.number(0)
    return code.maximum(x, zero)


def _leaky(code: Code, args: _Args, op: BodyOp) -> str:
    x = args[0]
    return code.where(f"{x} < 0", f"{x} * {code.number(_number(op, 'alpha', 0.01))}", x)


def _prelu(code: Code, args: _Args, op: BodyOp) -> str:
    x, slope = args
    return code.where(f"{x} < 0", code.wrap(f"{x} * {slope}"), x)


def _elu(code: Code, args: _Args, op: BodyOp) -> str:
    x = args[0]
    return code.where(f"{x} < 0", f"{code.number(_number(op, 'alpha', 1.0))} * {code.expm1(x)}", x)


def _selu(code: Code, args: _Args, op: BodyOp) -> str:
    x = args[0]
    alpha, gamma = _number(op, "alpha", 1.67326319217681884765625), _number(op, "gamma", 1.05070102214813232421875)
    low = f"{code.number(alpha * gamma)} * {code.expm1(x)}"
    return code.where(f"{x} > 0", f"{code.number(gamma)} * {x}", low)


def _celu(code: Code, args: _Args, op: BodyOp) -> str:
    x, alpha = args[0], _number(op, "alpha", 1.0)
    return code.where(f"{x} < 0", f"{code.number(alpha)} * {code.expm1(f'({x} / {code.number(alpha)})')}", x)


def _thresholded(code: Code, args: _Args, op: BodyOp) -> str:
    return code.where(f"{args[0]} > {code.number(_number(op, 'alpha', 1.0))}", args[0], code.number(0))


def _shrink(code: Code, args: _Args, op: BodyOp) -> str:
    x = args[0]
    limit, bias = _number(op, "lambd", 0.5), code.number(_number(op, "bias", 0.0))
    high = code.where(f"{x} > {code.number(limit)}", code.wrap(f"{x} - {bias}"), code.number(0))
    return code.where(f"{x} < {code.number(-limit)}", code.wrap(f"{x} + {bias}"), high)


def _between(code: Code, x: str, low: float, high: float) -> str:
    return code.minimum(code.maximum(x, code.number(low)), code.number(high))


def _sigmoid(code: Code, args: _Args, op: BodyOp) -> str:
    return code.logistic(args[0])


def _hard_sigmoid(code: Code, args: _Args, op: BodyOp) -> str:
    alpha, beta = code.number(_number(op, "alpha", 0.2)), code.number(_number(op, "beta", 0.5))
    return _between(code, f"({alpha} * {args[0]} + {beta})", 0, 1)


def _hard_swish(code: Code, args: _Args, op: BodyOp) -> str:
    x = args[0]
    return f"({x} * {_between(code, f'({code.number(1 / 6)} * {x} + {code.number(0.5)})', 0, 1)})"


def _swish(code: Code, args: _Args, op: BodyOp) -> str:
    x, alpha = args[0], _number(op, "alpha", 1.0)
    return f"({x} * {code.logistic(x if alpha == 1 else f'{code.number(alpha)} * {x}')})"


def _softplus_of(code: Code, x: str) -> str:
    return f"({code.maximum(x, code.number(0))} + {code.log1p(code.call('exp', f'-{code.magnitude(x)}'))})"


def _softplus(code: Code, args: _Args, op: BodyOp) -> str:
    return _softplus_of(code, args[0])


def _mish(code: Code, args: _Args, op: BodyOp) -> str:
    # tanh(softplus(x)) = n / (n + 2) with n = e^x (e^x + 2): no cancellation; e^x is bounded where the ratio is 1.
    x = args[0]
    power = code.call("exp", code.minimum(x, code.number(20)))
    n = f"({power} * ({power} + {code.number(2)}))"
    return f"({x} * ({n} / ({n} + {code.number(2)})))"


def _softsign(code: Code, args: _Args, op: BodyOp) -> str:
    return f"({args[0]} / ({code.number(1)} + {code.magnitude(args[0])}))"


def _gelu(code: Code, args: _Args, op: BodyOp) -> str:
    x = args[0]
    if op.attr("approximate", "none") == "tanh":
        # 0.5 (1 + tanh(u)) is sigmoid(2u), which does not cancel.
        a, b = code.number(2 * math.sqrt(2 / math.pi)), code.number(0.044715)
        return f"({x} * {code.logistic(f'{a} * ({x} + {b} * {x} * {x} * {x})')})"
    return code.gelu(x)


def _mean(code: Code, args: _Args, op: BodyOp) -> str:
    return f"(({' + '.join(args)}) / {code.number(len(args))})"


def _unary(write: _Writer, *, floating: bool = True) -> ScalarOp:
    return ScalarOp(1, 1, write, floating)


def _binary(write: _Writer) -> ScalarOp:
    return ScalarOp(2, 2, write)


def _same(code: Code, args: _Args, op: BodyOp) -> str:
    return f"({args[0]})"


TABLE: dict[str, ScalarOp] = {
    "Add": _binary(_infix("+")),
    "Sub": _binary(_infix("-")),
    "Mul": _binary(_infix("*")),
    "Div": _binary(lambda code, args, _: code.quotient(args[0], args[1])),
    "Pow": _binary(_pow),
    "Mod": _binary(_mod),
    "Neg": _unary(lambda code, args, _: code.wrap(f"-{args[0]}"), floating=False),
    "Abs": _unary(lambda code, args, _: code.magnitude(args[0]), floating=False),
    "Sign": _unary(_sign, floating=False),
    "Sqrt": _unary(_call("sqrt")),
    "Reciprocal": _unary(lambda code, args, _: f"({code.number(1)} / {args[0]})"),
    "Exp": _unary(_call("exp")),
    "Log": _unary(_call("log")),
    "Erf": _unary(_call("erf")),
    "Floor": _unary(_integral("floor"), floating=False),
    "Ceil": _unary(_integral("ceil"), floating=False),
    "Round": _unary(lambda code, args, _: code.nearest(args[0])),
    **{name: _unary(_call(name.lower())) for name in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh")},
    **{name: _unary(_call(name.lower())) for name in ("Asinh", "Acosh", "Atanh")},
    "Tanh": _unary(lambda code, args, _: code.tanh(args[0])),
    "Relu": _unary(_relu, floating=False),
    "LeakyRelu": _unary(_leaky),
    "PRelu": _binary(_prelu),
    "Elu": _unary(_elu),
    "Selu": _unary(_selu),
    "Celu": _unary(_celu),
    "ThresholdedRelu": _unary(_thresholded),
    "Shrink": _unary(_shrink, floating=False),
    "Sigmoid": _unary(_sigmoid),
    "HardSigmoid": _unary(_hard_sigmoid),
    "HardSwish": _unary(_hard_swish),
    "Swish": _unary(_swish),
    "Softplus": _unary(_softplus),
    "Softsign": _unary(_softsign),
    "Mish": _unary(_mish),
    "Gelu": _unary(_gelu),
    "Clip": ScalarOp(1, 3, _clip),
    "Min": ScalarOp(1, _MANY, _fold(lambda code, a, b: code.minimum(a, b))),
    "Max": ScalarOp(1, _MANY, _fold(lambda code, a, b: code.maximum(a, b))),
    "Sum": ScalarOp(1, _MANY, _fold(lambda code, a, b: code.wrap(f"{a} + {b}"))),
    "Mean": ScalarOp(1, _MANY, _mean, floating=True),
    "Where": ScalarOp(3, 3, lambda code, args, _: code.where(args[0], args[1], args[2])),
    "And": _binary(_logic("&")),
    "Or": _binary(_logic("|")),
    "Xor": _binary(_logic("^")),
    "Not": _unary(lambda code, args, _: code.inverse(args[0]), floating=False),
    "Equal": _binary(_compare("==")),
    "Less": _binary(_compare("<")),
    "LessOrEqual": _binary(_compare("<=")),
    "Greater": _binary(_compare(">")),
    "GreaterOrEqual": _binary(_compare(">=")),
    "IsNaN": _unary(_not_a_number),
    "IsInf": _unary(_is_inf),
    "BitShift": _binary(_shift),
    "BitwiseAnd": _binary(_infix("&")),
    "BitwiseOr": _binary(_infix("|")),
    "BitwiseXor": _binary(_infix("^")),
    "BitwiseNot": _unary(_bitwise_not, floating=False),
    "Cast": _unary(_cast, floating=False),
    "CastLike": _binary(_same),
    "BitCast": _unary(lambda code, args, op: bit_cast(code, args[0], op), floating=False),
    "QuantizeLinear": ScalarOp(2, 3, lambda code, args, op: quantize(code, args, op, ""), floating=True),
    "DequantizeLinear": ScalarOp(2, 3, dequantize),
    "Identity": _unary(_same, floating=False),
    "Dropout": ScalarOp(1, 3, _dropout),
}
