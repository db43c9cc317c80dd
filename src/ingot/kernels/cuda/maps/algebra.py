"""Exact arithmetic on symbolic dimensions: polynomials in one normal form, so equal ones compare equal.

What is no polynomial (``floor(n/2)``, ``max(n, 4)``) is kept as an atom under its own text.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache

from ingot.graph.dims import Dim, Shape

_Monomial = tuple[str, ...]
_Poly = Mapping[_Monomial, int]


def canonical(dim: Dim) -> Dim:
    """The normal form of a dimension."""
    return dim if isinstance(dim, int) else _written(_poly(dim))


def canonical_shape(shape: Shape) -> Shape:
    """Every dimension in normal form."""
    return tuple(canonical(dim) for dim in shape)


def plus(*dims: Dim) -> Dim:
    """Sum."""
    if all(isinstance(d, int) for d in dims):
        return sum(d for d in dims if isinstance(d, int))
    total: _Poly = {}
    for dim in dims:
        total = _added(total, _poly(dim))
    return _written(total)


def minus(a: Dim, b: Dim) -> Dim:
    """Difference."""
    return plus(a, times(-1, b))


def times(*dims: Dim) -> Dim:
    """Product."""
    total: _Poly = {(): 1}
    for dim in dims:
        total = _multiplied(total, _poly(dim))
    return _written(total)


def exact(a: Dim, b: Dim) -> Dim | None:
    """``a / b`` when it is certainly whole for every binding and its form shows it, else None."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    if a == b:
        return 1
    quotient = _quotient(_poly(a), _poly(b))
    return None if quotient is None else _written(quotient)


def certainly_positive(dim: Dim) -> bool:
    """Whether ``dim`` is at least 1 whatever the symbols (which are >= 0), as far as its form shows."""
    if isinstance(dim, int):
        return dim > 0
    poly = _poly(dim)
    plain = all(name.isidentifier() for monomial in poly for name in monomial)
    return plain and poly.get((), 0) > 0 and all(factor >= 0 for factor in poly.values())


@lru_cache(maxsize=65536)
def _poly(dim: Dim) -> _Poly:
    if isinstance(dim, int):
        return {(): dim} if dim else {}
    return _read(ast.parse(dim.strip(), mode="eval").body)


def _read(node: ast.expr) -> _Poly:
    match node:
        case ast.Constant(value=int() as value):
            return {(): value} if value else {}
        case ast.Name(id=name):
            return {(name,): 1}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _multiplied({(): -1}, _read(operand))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _added(_read(left), _read(right))
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _added(_read(left), _multiplied({(): -1}, _read(right)))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _multiplied(_read(left), _read(right))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            quotient = _quotient(_read(left), _read(right))
            if quotient is not None:
                return quotient
    return {(f"({ast.unparse(node)})",): 1}


def _added(a: _Poly, b: _Poly) -> _Poly:
    total = dict(a)
    for monomial, factor in b.items():
        total[monomial] = total.get(monomial, 0) + factor
    return {monomial: factor for monomial, factor in total.items() if factor}


def _multiplied(a: _Poly, b: _Poly) -> _Poly:
    total: dict[_Monomial, int] = {}
    for left, p in a.items():
        for right, q in b.items():
            monomial = tuple(sorted(left + right))
            total[monomial] = total.get(monomial, 0) + p * q
    return {monomial: factor for monomial, factor in total.items() if factor}


def _quotient(a: _Poly, b: _Poly) -> _Poly | None:
    """Exact quotient by a single monomial (or by ``a`` itself)."""
    if a == b and a:
        return {(): 1}
    if len(b) != 1:
        return None
    ((names, by),) = b.items()
    result: dict[_Monomial, int] = {}
    for monomial, factor in a.items():
        rest = list(monomial)
        for name in names:
            if name not in rest:
                return None
            rest.remove(name)
        if factor % by:
            return None
        result[tuple(rest)] = factor // by
    return result


def _written(poly: _Poly) -> Dim:
    if not poly:
        return 0
    if list(poly) == [()]:
        return poly[()]
    parts = []
    for monomial, factor in sorted(poly.items(), key=lambda item: (-len(item[0]), item[0])):
        names = "*".join(monomial)
        parts.append(str(factor) if not names else names if factor == 1 else f"{factor}*{names}")
    return " + ".join(parts)
