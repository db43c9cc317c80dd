"""Many dimension expressions as one function: what a Context evaluates when it binds shapes.

The expressions of a Plan have most of their parts in common. Each distinct part becomes one line of a Python function
over integers; a rational is a pair of numerator and denominator. The text of the function is made here from the parsed
expressions: names are numbered, numbers are written out, and nothing else of the engine file gets into it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from math import gcd

from ingot.graph.dims import Bindings, evaluate, parsed

_Atom = int | str
"""A number, or the name of a local variable."""
_Ratio = tuple[_Atom, _Atom]
_FLOOR, _CEIL = frozenset({"floor"}), frozenset({"ceil", "ceiling"})
_PICKS = {"max": ">=", "Max": ">=", "min": "<=", "Min": "<="}
_MODS = frozenset({"mod", "Mod"})


class _Hard(Exception):
    """An expression that is left to ``evaluate``."""


def compile_all(texts: Sequence[str], symbols: Sequence[str]) -> Callable[[Bindings], list[int]]:
    """A function from the values of ``symbols`` to those of the expressions ``texts``, in order.

    Raises what :func:`ingot.graph.dims.evaluate` raises, here for malformed text, in the function for the rest.
    """
    writer = _Writer(symbols)
    results: list[str] = []
    hard: list[tuple[int, str]] = []
    for position, text in enumerate(texts):
        try:
            results.append(writer.whole(parsed(text)))
        except (_Hard, ValueError, RecursionError):  # the latter for numbers and nesting without sense
            hard.append((position, text))
            results.append("0")
    compute = writer.function(results)

    def values(bindings: Bindings) -> list[int]:
        try:
            found = compute(*[bindings[symbol] for symbol in symbols])
        except (KeyError, ValueError, ZeroDivisionError):
            return [evaluate(text, bindings) for text in texts]  # raises with the expression's name
        for position, text in hard:
            found[position] = evaluate(text, bindings)
        return found

    return values


def _exact(number: int, by: int) -> int:
    """The quotient. Raises ValueError where it is not whole."""
    quotient, rest = divmod(number, by)
    if rest:
        raise ValueError
    return quotient


class _Writer:
    """The lines of the function so far; equal ones are written once."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._names = {symbol: f"s{i}" for i, symbol in enumerate(symbols)}
        self._lines: dict[str, str] = {}

    def whole(self, tree: ast.expr) -> str:
        """What stands for the value of an expression, which must be whole."""
        number, by = self._ratio(tree)
        return str(number) if by == 1 else self._line(f"exact({number}, {by})")

    def function(self, results: Sequence[str]) -> Callable[..., list[int]]:
        """The function that returns ``results``."""
        lines = [f"def compute({', '.join(self._names.values())}):"]
        lines += [f"    {name} = {text}" for text, name in self._lines.items()]
        lines.append(f"    return [{', '.join(results)}]")
        space: dict[str, object] = {"__builtins__": {}, "exact": _exact}
        exec(compile("\n".join(lines), "<dimensions>", "exec"), space)
        found = space["compute"]
        assert callable(found)
        return found

    def _line(self, text: str) -> str:
        return self._lines.setdefault(text, f"t{len(self._lines)}")

    def _ratio(self, node: ast.expr) -> _Ratio:
        match node:
            case ast.Constant(value=int() as value) if not isinstance(value, bool):
                return value, 1
            case ast.Name(id=name) if name in self._names:
                return self._names[name], 1
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                number, by = self._ratio(inner)
                return self._times(number, -1), by
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(op, self._ratio(left), self._ratio(right))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if args:
                return self._call(name, [self._ratio(arg) for arg in args])
        raise _Hard

    def _binary(self, op: ast.operator, a: _Ratio, b: _Ratio) -> _Ratio:
        match op:
            case ast.Add():
                return self._sum(a, b)
            case ast.Sub():
                return self._sum(a, (self._times(b[0], -1), b[1]))
            case ast.Mult():
                return self._reduced(self._times(a[0], b[0]), self._times(a[1], b[1]))
            case ast.Div():
                return self._reduced(self._times(a[0], b[1]), self._times(a[1], b[0]))
            case ast.FloorDiv():
                return self._floor(self._binary(ast.Div(), a, b)), 1
            case ast.Mod():
                return self._call("mod", [a, b])
        raise _Hard

    def _call(self, name: str, args: list[_Ratio]) -> _Ratio:
        if name in _FLOOR and len(args) == 1:
            return self._floor(args[0]), 1
        if name in _CEIL and len(args) == 1:
            number, by = args[0]
            return self._times(self._floor((self._times(number, -1), by)), -1), 1
        if name in _MODS and len(args) == 2:
            down = self._floor(self._binary(ast.Div(), *args))
            return self._sum(args[0], self._binary(ast.Mult(), args[1], (self._times(down, -1), 1)))
        if name in _PICKS and len(args) > 1 and all(by == 1 for _, by in args):
            found = args[0][0]
            for other, _ in args[1:]:
                found = self._line(f"{found} if {found} {_PICKS[name]} {other} else {other}")
            return found, 1
        raise _Hard

    def _sum(self, a: _Ratio, b: _Ratio) -> _Ratio:
        if a[1] != b[1]:
            a, b = (self._times(a[0], b[1]), self._times(a[1], b[1])), (self._times(b[0], a[1]), b[1])
        return self._reduced(self._plus(a[0], b[0]), a[1])

    def _reduced(self, number: _Atom, by: _Atom) -> _Ratio:
        if by == 0:
            raise _Hard
        if isinstance(number, int) and isinstance(by, int):
            shared = gcd(number, by) * (1 if by > 0 else -1)
            return number // shared, by // shared
        return number, by

    def _floor(self, ratio: _Ratio) -> _Atom:
        number, by = ratio
        if by == 1:
            return number
        if isinstance(number, int) and isinstance(by, int):
            return number // by
        return self._line(f"{number} // {by}")

    def _times(self, a: _Atom, b: _Atom) -> _Atom:
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if a == 1 or b == 1:
            return b if a == 1 else a
        return self._line(f"{a} * {b}")

    def _plus(self, a: _Atom, b: _Atom) -> _Atom:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if a == 0 or b == 0:
            return b if a == 0 else a
        return self._line(f"{a} + {b}")
