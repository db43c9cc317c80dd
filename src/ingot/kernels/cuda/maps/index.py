"""Coordinates as sums of digits of the linear index: merged, split and compared before any code is written.

A kernel walks over a linear index t (a tiled one over several). A coordinate is a digit
``t / stride % size`` of it, or a sum of such digits and of computed numbers with factors. Adjacent
digits that lie adjacent in memory melt into one, so a dense tensor is addressed without a division
however many dimensions it has, and a reshape costs nothing where it only groups or splits dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.graph.dims import Dim, Shape
from ingot.kernels.cuda.maps.algebra import certainly_positive, exact, minus, plus, times


@dataclass(frozen=True)
class Digit:
    """``t / stride % size`` of a linear index t."""

    stride: Dim
    size: Dim
    walk: str = "t"
    """Which linear index."""


@dataclass(frozen=True)
class Name:
    """A number that code has computed; ``0 <= value < size`` when a size is given."""

    code: str
    size: Dim | None = None


Term = Digit | Name


@dataclass(frozen=True)
class Coord:
    """Sum of terms with factors, plus a constant."""

    terms: tuple[tuple[Term, Dim], ...] = ()
    constant: Dim = 0


Index = tuple[Coord, ...]
ZERO = Coord()


def coord(term: Term) -> Coord:
    """A single term."""
    return ZERO if term.size == 1 else Coord(((term, 1),))


def add(*coords: Coord) -> Coord:
    """Sum of coordinates; like terms are collected."""
    factors: dict[Term, Dim] = {}
    for c in coords:
        for term, factor in c.terms:
            factors[term] = plus(factors.get(term, 0), factor)
    terms = tuple((term, factor) for term, factor in factors.items() if factor != 0)
    return Coord(terms, plus(*(c.constant for c in coords)))


def shifted(c: Coord, by: Dim) -> Coord:
    """``c + by``."""
    return Coord(c.terms, plus(c.constant, by))


def scaled(c: Coord, by: Dim) -> Coord:
    """``c * by``."""
    if by == 0:
        return ZERO
    return Coord(tuple((term, times(factor, by)) for term, factor in c.terms), times(c.constant, by))


def merged(c: Coord) -> Coord:
    """The same sum with neighbouring digits melted into one where their factors allow it."""
    terms = list(c.terms)
    again = True
    while again:
        again = False
        for high, outer in terms:
            found = next((low for low in terms if _adjacent(high, outer, *low)), None)
            if found is not None:
                low, factor = found
                assert isinstance(high, Digit) and isinstance(low, Digit)
                terms.remove((high, outer))
                terms[terms.index(found)] = (Digit(low.stride, times(high.size, low.size), low.walk), factor)
                again = True
                break
    return Coord(tuple(terms), c.constant)


def _adjacent(high: Term, outer: Dim, low: Term, inner: Dim) -> bool:
    if not isinstance(high, Digit) or not isinstance(low, Digit) or high == low or high.walk != low.walk:
        return False
    return high.stride == times(low.stride, low.size) and outer == times(inner, low.size)


def linear(index: Sequence[Coord], strides: Shape) -> Coord:
    """``sum(index[i] * strides[i])``, digits merged."""
    return merged(add(*(scaled(c, s) for c, s in zip(index, strides, strict=True))))


def split(c: Coord, by: Dim) -> tuple[Coord, Coord] | None:
    """Quotient and remainder of ``c >= 0`` by a size, without code; None when that takes a division."""
    if by == 1:
        return c, ZERO
    quotient: list[tuple[Term, Dim]] = []
    rest: list[tuple[Term, Dim]] = []
    for term, factor in merged(c).terms:
        whole = exact(factor, by)
        if whole is not None:
            quotient.append((term, whole))
            continue
        parts = _split_digit(term, factor, by)
        if parts is None:
            rest.append((term, factor))
        else:
            quotient.append((parts[0], 1))
            rest.append((parts[1], factor))
    high, left = _split_constant(c.constant, by)
    low = Coord(tuple(rest), left)
    if not _below(low, by):
        return None
    return add(Coord(tuple(quotient), high)), low


def _split_constant(constant: Dim, by: Dim) -> tuple[Dim, Dim]:
    whole = exact(constant, by)
    if whole is not None:
        return whole, 0
    if isinstance(constant, int) and isinstance(by, int):
        return divmod(constant, by)
    return 0, constant


def _split_digit(term: Term, factor: Dim, by: Dim) -> tuple[Digit, Digit] | None:
    """``factor * digit`` as ``by * high + factor * low``."""
    inner = exact(by, factor)
    if not isinstance(term, Digit) or inner is None:
        return None
    outer = exact(term.size, inner)
    if outer is None or outer == 1:
        return None
    return Digit(times(term.stride, inner), outer, term.walk), Digit(term.stride, inner, term.walk)


def _below(c: Coord, bound: Dim) -> bool:
    """Whether ``0 <= c < bound`` certainly."""
    if isinstance(c.constant, int) and c.constant < 0:
        return False
    if isinstance(c.constant, str):
        return False
    largest: Dim = c.constant
    for term, factor in c.terms:
        if term.size is None or not certainly_positive(plus(factor, 1)):
            return False
        largest = plus(largest, times(factor, minus(term.size, 1)))
    return certainly_positive(minus(bound, largest))


def row_major_strides(shape: Shape) -> Shape:
    """Strides of a dense array, in normal form."""
    strides: list[Dim] = []
    step: Dim = 1
    for size in reversed(shape):
        strides.append(step)
        step = times(step, size)
    return tuple(reversed(strides))
