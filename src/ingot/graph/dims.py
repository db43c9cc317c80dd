"""Dimensions: integers, or expressions over the symbolic dimensions of the model's inputs.

An expression is a string such as ``"floor(height/2 - 1/2) + 1"``: the notation of
``onnx_ir.SymbolicDim``, so shapes travel from the importer to the engine file and its
reader as they are. ``+ - * /``, ``floor``, ``ceil``, ``max``, ``min`` and ``mod`` are understood;
a division is exact (rational), so rounding is always written out.
This module imports nothing but the standard library: the runtime uses it too.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache

from ingot.errors import IngotError

Dim = int | str
Shape = tuple[Dim, ...]
Bindings = Mapping[str, int]
"""Values of the symbolic dimensions."""

_Number = int | Fraction
_Node = Callable[[Bindings], _Number]
_MAX_LENGTH = 4096


def evaluate(dim: Dim, bindings: Bindings) -> int:
    """The value of ``dim``. Raises IngotError for unknown symbols or a fractional result."""
    if isinstance(dim, int):
        return dim
    try:
        value = _compiled(dim)(bindings)
    except KeyError as error:
        raise IngotError(f"dimension {error} of expression {dim!r} has no value") from None
    except ZeroDivisionError:
        raise IngotError(f"expression {dim!r} divides by zero") from None
    except (TypeError, ValueError, OverflowError):
        raise IngotError(f"expression {dim!r} calls a function with the wrong arguments") from None
    if isinstance(value, Fraction) and value.denominator != 1:
        raise IngotError(f"expression {dim!r} is not whole: {value}")
    return int(value)


def evaluate_shape(shape: Shape, bindings: Bindings) -> tuple[int, ...]:
    """Every dimension of ``shape`` evaluated."""
    return tuple(evaluate(dim, bindings) for dim in shape)


def symbols(dim: Dim) -> frozenset[str]:
    """The symbolic dimensions that ``dim`` depends on."""
    if isinstance(dim, int):
        return frozenset()
    names = {node.id for node in ast.walk(_parsed(dim)) if isinstance(node, ast.Name)}
    return frozenset(names - _FUNCTIONS.keys())


def is_static(shape: Shape) -> bool:
    """Whether every dimension is an integer."""
    return all(isinstance(dim, int) for dim in shape)


def mul(*dims: Dim) -> Dim:
    """Product; integers are folded. The empty product is 1."""
    constant, rest = 1, []
    for dim in dims:
        if isinstance(dim, int):
            constant *= dim
        else:
            rest.append(f"({dim})")
    if not rest or constant == 0:
        return constant
    return (
        "*".join(([] if constant == 1 else [str(constant)]) + rest)
        if len(rest) + (constant != 1) > 1
        else rest[0][1:-1]
    )


def add(*dims: Dim) -> Dim:
    """Sum; integers are folded. The empty sum is 0."""
    constant, rest = 0, []
    for dim in dims:
        if isinstance(dim, int):
            constant += dim
        else:
            rest.append(f"({dim})")
    if not rest:
        return constant
    if not constant and len(rest) == 1:
        return rest[0][1:-1]
    return " + ".join(rest + ([str(constant)] if constant else []))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Quotient rounded up."""
    if isinstance(a, int) and isinstance(b, int):
        return -(-a // b)
    return f"ceil(({a})/({b}))"


def floordiv(a: Dim, b: Dim) -> Dim:
    """Quotient rounded down."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return f"floor(({a})/({b}))"


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two dimensions."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return f"max({a}, {b})"


def divisible(dim: Dim, by: int) -> bool:
    """Whether ``dim`` is a multiple of ``by`` for every binding, as far as its form shows.

    Only integers and products with a divisible integer factor are recognised.
    """
    if isinstance(dim, int):
        return dim % by == 0
    return _content(_parsed(dim).body) % by == 0


def _content(node: ast.expr) -> int:
    """An integer that certainly divides the expression (1 when nothing is known)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _content(node.left) * _content(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        return math.gcd(_content(node.left), _content(node.right))
    return 1


@lru_cache(maxsize=65536)
def _parsed(text: str) -> ast.Expression:
    if len(text) > _MAX_LENGTH:
        raise IngotError(f"dimension expression of {len(text)} characters is too long")
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise IngotError(f"malformed dimension expression {text[:80]!r}") from None


def parsed(text: str) -> ast.expr:
    """The syntax tree of an expression; it may hold more than expressions may. Raises IngotError for malformed text."""
    return _parsed(text).body


@lru_cache(maxsize=65536)
def _compiled(text: str) -> _Node:
    return _build(_parsed(text).body, text)


def _ratio(a: _Number, b: _Number) -> _Number:
    value = Fraction(a) / Fraction(b)
    return int(value) if value.denominator == 1 else value


_OPERATORS: dict[type[ast.operator], Callable[[_Number, _Number], _Number]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: _ratio,
    ast.FloorDiv: lambda a, b: math.floor(Fraction(a) / Fraction(b)),
    ast.Mod: lambda a, b: a - b * math.floor(Fraction(a) / Fraction(b)),
}
_FUNCTIONS: dict[str, Callable[..., _Number]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "ceiling": math.ceil,
    "max": max,
    "min": min,
    "Max": max,
    "Min": min,
    "mod": lambda a, b: a - b * math.floor(Fraction(a) / Fraction(b)),
    "Mod": lambda a, b: a - b * math.floor(Fraction(a) / Fraction(b)),
}


def _build(node: ast.expr, text: str) -> _Node:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return lambda _: value
        case ast.Name(id=name):
            return lambda bindings: bindings[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _build(operand, text)
            return lambda bindings: -inner(bindings)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            apply, a, b = _OPERATORS[type(op)], _build(left, text), _build(right, text)
            return lambda bindings: apply(a(bindings), b(bindings))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            call, parts = _FUNCTIONS[name], [_build(arg, text) for arg in args]
            return lambda bindings: call(*(part(bindings) for part in parts))
    raise IngotError(f"dimension expression {text[:80]!r} holds something other than + - * / floor ceil max min mod")
