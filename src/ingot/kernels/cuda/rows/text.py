"""Text of a CUDA C++ kernel under construction: parameters, lines, typed values, vector accesses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Dim, divisible
from ingot.graph.region import BodyOp, Literal, Region, Scalar
from ingot.graph.scalar_code import compute_dtype
from ingot.graph.scalar_ops import expression
from ingot.graph.scalar_quantize import parameter_dtype
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Argument, Input, Output, Scratch, Value

HELPERS = """
// The larger and the smaller number; a NaN is passed over, as ONNX Runtime's reductions and poolings do.
template <typename T> INGOT_INLINE T ingot_larger(T a, T b) { return a > b ? a : b; }
template <typename T> INGOT_INLINE T ingot_smaller(T a, T b) { return a < b ? a : b; }
template <> INGOT_LARGER float ingot_larger<float>(float a, float b) { return fmaxf(a, b); }
template <> INGOT_LARGER float ingot_smaller<float>(float a, float b) { return fminf(a, b); }
template <> INGOT_LARGER double ingot_larger<double>(double a, double b) { return fmax(a, b); }
template <> INGOT_LARGER double ingot_smaller<double>(double a, double b) { return fmin(a, b); }
""".replace("INGOT_LARGER", "__device__ __forceinline__")
_ACCESS = 16
"""Bytes of a lane's widest access."""
_INTEGER_LIMITS = {
    "int8": (-(1 << 7), (1 << 7) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint8": (0, (1 << 8) - 1),
    "uint16": (0, (1 << 16) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
}


def c_type(dtype: str) -> str:
    """C++ type that values of an arithmetic type are computed in."""
    return dtypes.TABLE[dtype].cuda


def lowest(dtype: str) -> str:
    """Code of the number below all others of an arithmetic type."""
    if dtypes.is_float(dtype):
        return f"-({c_type(dtype)})INFINITY"
    return integer(_INTEGER_LIMITS[dtype][0], dtype)


def highest(dtype: str) -> str:
    """Code of the number above all others of an arithmetic type."""
    if dtypes.is_float(dtype):
        return f"({c_type(dtype)})INFINITY"
    return integer(_INTEGER_LIMITS[dtype][1], dtype)


def integer(value: int, dtype: str) -> str:
    """Code of an integer constant (the smallest long long has no literal of its own)."""
    if value == -(1 << 63):
        return "(-9223372036854775807LL - 1)"
    return f"({c_type(dtype)}){value}{'ULL' if value >= 1 << 63 else 'LL'}"


def literal(value: Scalar, dtype: str) -> str:
    """Code of a literal of an arithmetic type."""
    if dtype == "bool":
        return "true" if value else "false"
    if not dtypes.is_float(dtype):
        return integer(int(value), dtype)
    number = float(value)
    if number != number:
        return f"({c_type(dtype)})NAN"
    if number in (float("inf"), float("-inf")):
        return highest(dtype) if number > 0 else lowest(dtype)
    return f"({number!r}{'f' if dtype == 'float32' else ''})"


@dataclass
class CudaText:
    """Collects one kernel; parameters are added by use and keep their order of first use."""

    region: Region
    lines: list[str] = field(default_factory=list)
    parameters: dict[str, tuple[str, Argument]] = field(default_factory=dict)
    """Parameter name to (C++ declaration without the name, what to pass)."""
    indent: int = 1
    _numbers: dict[tuple[Dim, int], str] = field(default_factory=dict)

    def line(self, text: str) -> None:
        """Appends one statement."""
        self.lines.append("  " * self.indent + text)

    @contextmanager
    def block(self, head: str = "") -> Iterator[None]:
        """A brace block under ``head``."""
        self.line(f"{head} {{".lstrip())
        self.indent += 1
        yield
        self.indent -= 1
        self.line("}")

    @contextmanager
    def unrolled(self, name: str, count: int) -> Iterator[None]:
        """A fully unrolled loop (no loop at all for one trip)."""
        if count == 1:
            with self.block():
                self.line(f"constexpr int {name} = 0;")
                yield
            return
        self.line("#pragma unroll")
        with self.block(f"for (int {name} = 0; {name} < {count}; ++{name})"):
            yield

    def number(self, dim: Dim, width: int = 4) -> str:
        """Code of a dimension expression: a literal, or a parameter of ``width`` bytes."""
        if isinstance(dim, int):
            return f"{dim}" if -(1 << 31) < dim < 1 << 31 else f"{dim}LL"
        name = self._numbers.get((dim, width))
        if name is None:
            name = self._numbers[dim, width] = f"d{len(self._numbers)}"
            self.parameters[name] = ("const int" if width == 4 else "const long long", Value(dim, width))
        return name

    def input(self, name: str) -> str:
        """Code of the address of a Region input."""
        index = self.region.inputs.index(name)
        kind = dtypes.TABLE[self.region.spec_of[name].dtype].cuda
        self.parameters.setdefault(f"in{index}", (f"const {kind}*", Input(index)))
        return f"in{index}"

    def output(self, name: str) -> str:
        """Code of the address of a Region output."""
        index = self.region.outputs.index(name)
        kind = dtypes.TABLE[self.region.spec_of[name].dtype].cuda
        # Only outputs are declared free of aliases: it lets loads move past stores, but does not let the compiler
        # use the read-only cache for inputs, which a kernel that is still finishing may be writing.
        self.parameters.setdefault(f"out{index}", (f"{kind}* __restrict__", Output(index)))
        return f"out{index}"

    def scratch(self, index: int, kind: str) -> str:
        """Code of the address of a workspace holding elements of C++ type ``kind``."""
        self.parameters.setdefault(f"ws{index}", (f"{kind}*", Scratch(index)))
        return f"ws{index}"

    def split(self, linear: str, prefix: str, sizes: Sequence[Dim]) -> list[str]:
        """Declares the coordinates (outermost first) of a linear index; returns their names."""
        names = [f"{prefix}{i}" for i in range(len(sizes))]
        rest = linear
        for position in range(len(sizes) - 1, 0, -1):
            size = self.number(sizes[position])
            self.line(f"const int {names[position]} = {rest} % {size};")
            self.line(f"const int {prefix}rest{position} = {rest} / {size};")
            rest = f"{prefix}rest{position}"
        if names:
            self.line(f"const int {names[0]} = {rest};")
        return names

    def offset(self, coordinates: Sequence[tuple[str, Dim]]) -> str:
        """Code of a sum of coordinates times strides, as a long long; "0" when nothing contributes."""
        parts = []
        for name, stride in coordinates:
            if stride == 0:
                continue
            parts.append(f"(long long){name}" + ("" if stride == 1 else f" * {self.number(stride, 8)}"))
        return " + ".join(parts) or "0"

    def kernel(self, entry: str, threads: int) -> str:
        """The kernel's text."""
        head = f'extern "C" __global__ void __launch_bounds__({threads}) {entry}({self.declared}) {{'
        return "\n".join([head, *self.lines, "}", ""])

    def struct(self, name: str) -> str:
        """A struct whose fields are the parameters, and whose members the lines."""
        fields = (f"  {field};" for field in self.declarations)
        return "\n".join([f"struct {name} {{", *fields, *self.lines, "};", ""])

    @property
    def declarations(self) -> list[str]:
        """The parameters as C++ declares them."""
        return [f"{kind} {name}" for name, (kind, _) in self.parameters.items()]

    @property
    def declared(self) -> str:
        """The parameters as a kernel declares them."""
        return ", ".join(self.declarations)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What to pass, in order."""
        return tuple(argument for _, argument in self.parameters.values())


def access_width(spec: TensorSpec, columns: int, steps: Sequence[Dim], most: int = 8) -> int:
    """Of ``columns`` side by side, how many one access may take, up to ``most``; ``steps`` lead from row to row."""
    item = dtypes.itemsize(spec.dtype)
    for width in (w for w in (16, 8, 4, 2) if w <= most):
        aligned = width * item <= _ACCESS and spec.align % (width * item) == 0 and columns % width == 0
        if aligned and all(divisible(step, width) for step in steps):
            return width
    return 1


def load_pack(out: CudaText, target: str, address: str, dtype: str, width: int, stride: Dim, *, vector: bool) -> None:
    """Fills ``target`` (a vec_t lvalue of ``width`` elements) from ``address``."""
    if width == 1:
        out.line(f"{target}.v[0] = *({address});")
    elif vector:
        kind = dtypes.TABLE[dtype].cuda
        out.line(f"{target} = *reinterpret_cast<const vec_t<{kind}, {width}>*>({address});")
    else:
        out.line("#pragma unroll")
        out.line(f"for (int j = 0; j < {width}; ++j) {target}.v[j] = ({address})[j * {out.number(stride, 8)}];")


def store_pack(out: CudaText, source: str, address: str, dtype: str, width: int, stride: Dim, *, vector: bool) -> None:
    """Writes ``source`` (a vec_t of ``width`` elements) to ``address``."""
    if width == 1:
        out.line(f"*({address}) = {source}.v[0];")
    elif vector:
        kind = dtypes.TABLE[dtype].cuda
        out.line(f"*reinterpret_cast<vec_t<{kind}, {width}>*>({address}) = {source};")
    else:
        out.line("#pragma unroll")
        out.line(f"for (int j = 0; j < {width}; ++j) ({address})[j * {out.number(stride, 8)}] = {source}.v[j];")


def loaded(code: str, dtype: str) -> str:
    """Code of a stored element in its arithmetic type."""
    return f"(float){code}" if dtype in dtypes.WIDENED else code


def stored(code: str, arithmetic_dtype: str, dtype: str) -> str:
    """Code of a value of an arithmetic type as an element of storage type ``dtype``."""
    if dtype in dtypes.WIDENED:
        return f"{dtypes.TABLE[dtype].cuda}({code if arithmetic_dtype == 'float32' else f'(float)({code})'})"
    return code if arithmetic_dtype == dtype else f"({dtypes.TABLE[dtype].cuda})({code})"


def arithmetic_types(region: Region) -> dict[str, str]:
    """Arithmetic type of every value."""
    return {name: compute_dtype(spec.dtype) for name, spec in region.values}


def scalar_literals(region: Region) -> dict[str, Scalar] | No:
    """The Region's literals, each a number; No where one is not."""
    found: dict[str, Scalar] = {}
    for name, value in region.literals:
        number = number_of(value)
        if number is None:
            return No(f"literal {value!r} is not a number")
        found[name] = number
    return found


def number_of(value: Literal) -> Scalar | None:
    """A literal as the number that it is, also where it is a list of one; None where it is none."""
    number = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return None if isinstance(number, str | tuple) else number


def literal_type(op: BodyOp, name: str, kinds: Mapping[str, str], literals: Mapping[str, Scalar]) -> str:
    """Arithmetic type of a literal operand: its own if it is known, else that of the tensors beside it."""
    if name in literals and (own := parameter_dtype(op, op.inputs.index(name))):
        return own
    if name in kinds:
        return kinds[name]
    beside = [kinds[n] for n in op.inputs if n in kinds and n not in literals]
    if op.op == "Where":
        beside = [kinds[n] for n in op.inputs[1:] if n in kinds and n not in literals]
    return beside[0] if beside else kinds[op.outputs[0]]


def scalar_op(
    op: BodyOp,
    arguments: Sequence[str],
    kinds: Mapping[str, str],
    literals: Mapping[str, Scalar],
    *,
    narrow: bool = True,
) -> str | No:
    """Code of a scalar op, or why it has none; ``kinds`` gives the arithmetic type of its values by name.

    ``narrow`` is that of :func:`ingot.graph.scalar_ops.expression`.
    """
    position = 1 if op.op == "Where" and len(op.inputs) > 1 else 0
    source = literal_type(op, op.inputs[position], kinds, literals)
    to = literal_type(op, op.inputs[1], kinds, literals) if op.op == "CastLike" else ""
    if op.op == "QuantizeLinear":
        to = kinds[op.outputs[0]]
    return expression(op, list(arguments), "cuda", source, to, narrow=narrow)


def scalar_steps(
    ops: Sequence[BodyOp], names: dict[str, str], kinds: Mapping[str, str], literals: Mapping[str, Scalar]
) -> list[str]:
    """Declarations of what ``ops`` make, a float each, for the body of a function.

    ``names`` has the code of the values at hand by value; those of the results are added.
    """
    lines = []
    for number, op in enumerate(ops):
        arguments = [
            literal(literals[n], literal_type(op, n, kinds, literals)) if n in literals else names[n] if n else ""
            for n in op.inputs
        ]
        code = scalar_op(op, arguments, kinds, literals)
        assert isinstance(code, str), code
        lines.append(f"  const float e{number} = {code};")
        names[op.outputs[0]] = f"e{number}"
    return lines


def refusal(ops: Sequence[BodyOp], kinds: Mapping[str, str], literals: Mapping[str, Scalar]) -> No | None:
    """Why one of ``ops`` cannot be written in CUDA C++; None when all can."""
    for op in ops:
        arguments = [
            literal(literals[n], literal_type(op, n, kinds, literals)) if n in literals else "x" if n else ""
            for n in op.inputs
        ]
        code = scalar_op(op, arguments, kinds, literals)
        if isinstance(code, No):
            return code
    return None
