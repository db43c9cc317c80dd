"""The two languages scalar ops are written in: what a selection, a maximum or a conversion looks like.

Values are in their compute type: float32 for float32, float16 and bfloat16, float64, native
integers, bool. Operands are repeated freely, so they should be names or literals.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from ingot.graph import dtypes

_INFINITY = float("inf")


def compute_dtype(dtype: str) -> str:
    """The type that values of a storage type are computed in."""
    return "float32" if dtype in dtypes.WIDENED else dtype


def constant(text: str) -> float | None:
    """The number an operand's code is, or None when it is no literal."""
    bare = text.strip().strip("()").rstrip("fFlLuU") if "float(" not in text else ""
    try:
        return float(bare)
    except ValueError:
        return None


@dataclass(frozen=True)
class Code(ABC):
    """Spelling of the primitives for operands of compute type ``dtype``."""

    dtype: str

    @property
    def floating(self) -> bool:
        """Whether operands are floating-point numbers."""
        return dtypes.is_float(self.dtype)

    @property
    def unsigned(self) -> bool:
        """Whether operands are unsigned integers."""
        return self.dtype.startswith("uint")

    @abstractmethod
    def number(self, value: float) -> str:
        """A literal of the operands' type."""

    @abstractmethod
    def where(self, condition: str, a: str, b: str) -> str:
        """``a`` where ``condition`` holds, else ``b``."""

    @abstractmethod
    def call(self, name: str, *args: str) -> str:
        """A floating-point function by its C name without suffix (``exp``, ``erf`` ...)."""

    @abstractmethod
    def maximum(self, a: str, b: str) -> str:
        """The larger operand; NaN if either is NaN."""

    @abstractmethod
    def minimum(self, a: str, b: str) -> str:
        """The smaller operand; NaN if either is NaN."""

    @abstractmethod
    def logic(self, symbol: str, a: str, b: str) -> str:
        """``&``, ``|`` or ``^`` of truth values."""

    @abstractmethod
    def inverse(self, a: str) -> str:
        """The opposite truth value."""

    @abstractmethod
    def wrap(self, text: str) -> str:
        """An integer result brought back to the operands' width."""

    @abstractmethod
    def quotient(self, a: str, b: str) -> str:
        """Division; integers are rounded towards zero."""

    @abstractmethod
    def remainder(self, a: str, b: str) -> str:
        """Remainder with the sign of ``a``."""

    @abstractmethod
    def truth(self, text: str) -> str:
        """Conversion to a truth value: NaN is true."""

    @abstractmethod
    def convert(self, text: str, to: str) -> str:
        """Conversion to compute type ``to``; floats are truncated to integers, which wrap around."""

    @abstractmethod
    def narrow(self, text: str, to: str) -> str:
        """The last bits of an int32 as an integer of type ``to``."""

    @abstractmethod
    def float8(self, x: str) -> str:
        """float32 ``x`` rounded to E4M3, out of range 448, and a float32 again."""

    def magnitude(self, x: str) -> str:
        """Absolute value."""
        if self.unsigned:
            return x
        return self.call("fabs", x) if self.floating else self.wrap(self.where(f"{x} < 0", f"-{x}", x))

    @abstractmethod
    def nearest(self, x: str) -> str:
        """Nearest integral float, halves to even."""

    @abstractmethod
    def quantized(self, x: str, factor: float, bounds: tuple[float, float], zero: str) -> str:
        """float32 ``x`` within ``bounds``, times ``factor``, to the nearest integer, halves to even, plus ``zero``.

        An int32 of which only the lower half is right: :meth:`narrow` takes it.
        """

    def power(self, x: str, y: str, y_constant: float | None) -> str:
        """``x`` to the power ``y``, in the type of ``x``."""
        if y_constant == 2:
            return self.wrap(f"{x} * {x}")
        if y_constant == 3:
            return self.wrap(f"{x} * {x} * {x}")
        if y_constant == 1:
            return f"({x})"
        if self.floating and y_constant == 0.5:
            # pow(-inf, 0.5) is +inf where sqrt says NaN; models take square roots of finite numbers.
            return self.call("sqrt", x)
        if self.floating and y_constant == -1:
            return f"({self.number(1)} / {x})"
        return self.general_power(x, y)

    @abstractmethod
    def general_power(self, x: str, y: str) -> str:
        """``power`` for an exponent that is not special."""

    @abstractmethod
    def expm1(self, x: str) -> str:
        """exp(x) - 1."""

    @abstractmethod
    def log1p(self, x: str) -> str:
        """log(1 + x) for x >= 0."""

    def tanh(self, x: str) -> str:
        """Hyperbolic tangent."""
        return self.call("tanh", x)

    def logistic(self, x: str) -> str:
        """1 / (1 + exp(-x))."""
        return f"({self.number(1)} / ({self.number(1)} + {self.call('exp', f'-({x})')}))"

    def gelu(self, x: str) -> str:
        """x / 2 (1 + erf(x / sqrt 2))."""
        erf = self.call("erf", f"({x} * {self.number(math.sqrt(0.5))})")
        return f"({self.number(0.5)} * {x} * ({self.number(1)} + {erf}))"


@dataclass(frozen=True)
class Cuda(Code):
    """CUDA C++ after the text of ``kernels.cuda.prelude`` (which also makes it host C++, for tests)."""

    @property
    def kind(self) -> str:
        """C++ type of the operands."""
        return dtypes.TABLE[self.dtype].cuda

    def number(self, value: float) -> str:
        if self.dtype == "bool":
            return "true" if value else "false"
        if not self.floating:
            return f"({self.kind}){int(value)}"
        if math.isinf(value):
            return f"({'-' if value < 0 else ''}({self.kind})INFINITY)"
        return f"{float(value)!r}{'f' if self.dtype == 'float32' else ''}"

    def where(self, condition: str, a: str, b: str) -> str:
        return f"(({condition}) ? {a} : {b})"

    def call(self, name: str, *args: str) -> str:
        return f"{name}{'f' if self.dtype == 'float32' else ''}({', '.join(args)})"

    def maximum(self, a: str, b: str) -> str:
        return f"ingot_max<{self.kind}>({a}, {b})"

    def minimum(self, a: str, b: str) -> str:
        return f"ingot_min<{self.kind}>({a}, {b})"

    def logic(self, symbol: str, a: str, b: str) -> str:
        return f"({a} != {b})" if symbol == "^" else f"({a} {symbol * 2} {b})"

    def inverse(self, a: str) -> str:
        return f"(!{a})"

    def wrap(self, text: str) -> str:
        return f"({text})" if self.floating else f"({self.kind})({text})"

    def quotient(self, a: str, b: str) -> str:
        return self.wrap(f"{a} / {b}")

    def remainder(self, a: str, b: str) -> str:
        return self.call("fmod", a, b) if self.floating else self.wrap(f"{a} % {b}")

    def truth(self, text: str) -> str:
        return text if self.dtype == "bool" else f"({text} != 0)"

    def convert(self, text: str, to: str) -> str:
        if to == self.dtype:
            return f"({text})"
        if to == "bool":
            return self.truth(text)
        kind = dtypes.TABLE[to].cuda
        if self.floating and not dtypes.is_float(to) and to not in ("int32", "int64", "uint64"):
            # Narrow and unsigned targets wrap around, as on the host, instead of saturating.
            return f"({kind})(long long)({text})"
        return f"({kind})({text})"

    def nearest(self, x: str) -> str:
        return self.call("rint", x)

    def quantized(self, x: str, factor: float, bounds: tuple[float, float], zero: str) -> str:
        low, high = (self.number(bound) for bound in bounds)
        return f"ingot_quantized({x}, {self.number(factor)}, {low}, {high}, {zero or '0'})"

    def saturated(self, x: str, scale: float, zero: int, limits: tuple[int, int]) -> str:
        """As :meth:`quantized`, in two instructions: x as a share of the range, within 0 and 1, times the range.

        Off by 2e-5 of a step at most, so that halves go either way.
        """
        span = limits[1] - limits[0]
        share, first = self.number(1 / (span * scale)), self.number((zero - limits[0]) / span)
        return f"ingot_saturated({x}, {share}, {first}, {self.number(span)}, {self.number(12582912 + limits[0])})"

    def narrow(self, text: str, to: str) -> str:
        return f"({dtypes.TABLE[to].cuda})({text})"

    def float8(self, x: str) -> str:
        return f"(float)e4m3_t({x})"

    def general_power(self, x: str, y: str) -> str:
        if self.floating:
            return self.call("pow", x, f"({self.kind})({y})")
        return f"({self.kind})pow((double)({x}), (double)({y}))"

    def expm1(self, x: str) -> str:
        return self.call("expm1", x)

    def log1p(self, x: str) -> str:
        return self.call("log1p", x)

    def logistic(self, x: str) -> str:
        return f"ingot_logistic({x})" if self.dtype == "float32" else super().logistic(x)

    def gelu(self, x: str) -> str:
        return f"ingot_gelu({x})" if self.dtype == "float32" else super().gelu(x)


_TRITON_NATIVE = {"exp": "tl.exp", "log": "tl.log", "sqrt": "tl.sqrt_rn", "fabs": "tl.abs", "erf": "tl.erf"} | {
    name: f"tl.{name}" for name in ("sin", "cos", "floor", "ceil")
}
"""Functions Triton has itself: they also work in its interpreter, where libdevice does not."""


@dataclass(frozen=True)
class Triton(Code):
    """Triton's Python; ``tl`` is triton.language, ``libdevice`` triton.language.extra.libdevice."""

    @property
    def kind(self) -> str:
        """Triton type of the operands."""
        return "tl.int1" if self.dtype == "bool" else f"tl.{self.dtype}"

    def number(self, value: float) -> str:
        if self.dtype == "bool":
            return "True" if value else "False"
        if not self.floating:
            return repr(int(value))
        return f'float("{value}")' if math.isinf(value) else repr(float(value))

    def where(self, condition: str, a: str, b: str) -> str:
        return f"tl.where({condition}, {a}, {b})"

    def call(self, name: str, *args: str) -> str:
        if name == "sqrt" and self.dtype == "float64":
            return f"tl.sqrt({args[0]})"
        return f"{_TRITON_NATIVE.get(name, f'libdevice.{name}')}({', '.join(args)})"

    def maximum(self, a: str, b: str) -> str:
        return f"tl.maximum({a}, {b}, propagate_nan=tl.PropagateNan.ALL)" if self.floating else f"tl.maximum({a}, {b})"

    def minimum(self, a: str, b: str) -> str:
        return f"tl.minimum({a}, {b}, propagate_nan=tl.PropagateNan.ALL)" if self.floating else f"tl.minimum({a}, {b})"

    def logic(self, symbol: str, a: str, b: str) -> str:
        return f"({a} {symbol} {b})"

    def inverse(self, a: str) -> str:
        return f"({a} == 0)"

    def wrap(self, text: str) -> str:
        return f"({text})"

    def quotient(self, a: str, b: str) -> str:
        return f"({a} / {b})" if self.floating else f"({a} // {b})"

    def remainder(self, a: str, b: str) -> str:
        return self.call("fmod", a, b) if self.floating else f"({a} % {b})"

    def truth(self, text: str) -> str:
        return text if self.dtype == "bool" else f"({text} != 0)"

    def convert(self, text: str, to: str) -> str:
        if to == self.dtype:
            return f"({text})"
        if to == "bool":
            return self.truth(text)
        if self.floating and not dtypes.is_float(to) and to not in ("int32", "int64", "uint64"):
            return f"({text}).to(tl.int64).to(tl.{to})"
        return f"({text}).to(tl.{to})"

    def nearest(self, x: str) -> str:
        # Adding and subtracting 1.5 * 2^(mantissa bits) rounds halves to even.
        magic, limit = (2.0**52 * 1.5, 2.0**51) if self.dtype == "float64" else (2.0**23 * 1.5, 2.0**22)
        return f"tl.where(tl.abs({x}) < {limit}, ({x} + {magic}) - {magic}, {x})"

    def quantized(self, x: str, factor: float, bounds: tuple[float, float], zero: str) -> str:
        low, high = (self.number(bound) for bound in bounds)
        bounded = f"tl.minimum(tl.maximum({x}, {low}), {high})"
        # Beside 1.5 * 2^23 floats are whole, and their last bits those of the integer. Something is always added to
        # these: Triton's registers have no type, and ptxas (12.8 to 13.0) takes a store of the low byte of one that a
        # float was computed in for a conversion of that float.
        magic, more = (12582912.0, f"+ {zero}") if zero else (12583040.0, "- 128")
        shifted = f"({bounded} * {self.number(factor)} + {magic})"
        return f"({shifted}.to(tl.int32, bitcast=True) {more})"

    def narrow(self, text: str, to: str) -> str:
        return f"{text}.to(tl.{to})"

    def float8(self, x: str) -> str:
        return f"{x}.to(tl.float8e4nv).to(tl.float32)"

    def general_power(self, x: str, y: str) -> str:
        if self.floating:
            return f"libdevice.pow({x}, {y})"
        return f"libdevice.pow(({x}).to(tl.float64), {y} + tl.full((), 0, tl.float64)).to({self.kind})"

    def expm1(self, x: str) -> str:
        return f"(tl.exp({x}) - 1.0)"

    def log1p(self, x: str) -> str:
        tiny = f"1.0 + {x} == 1.0"
        return f"tl.where({tiny}, {x}, tl.log(1.0 + {x}) * ({x} / tl.where({tiny}, 1.0, (1.0 + {x}) - 1.0)))"

    def tanh(self, x: str) -> str:
        if self.dtype == "float64":
            return f"libdevice.tanh({x})"
        # 1 - exp cancels near zero, where three terms of the series are exact to float32.
        far = f"(1.0 - tl.exp(-2.0 * tl.abs({x}))) / (1.0 + tl.exp(-2.0 * tl.abs({x})))"
        near = f"{x} * (1.0 + {x} * {x} * (-0.3333333333333333 + {x} * {x} * 0.13333333333333333))"
        return f"tl.where(tl.abs({x}) < 0.1, {near}, tl.where({x} < 0, -({far}), {far}))"


def infinite(code: Code, x: str, *, negative: bool, positive: bool) -> str:
    """Whether ``x`` is one of the infinities asked for."""
    if not (negative or positive):
        return f"({x} < {x})"
    if negative and positive:
        return f"({code.magnitude(x)} == {code.number(_INFINITY)})"
    return f"({x} == {code.number(_INFINITY if positive else -_INFINITY)})"
