"""Straight-line code of one kernel: common subexpressions, coordinates, vector lanes.

``index_t`` and ``linear_t`` are 32 or 64 bits wide; the text is the same for both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Dim, divisible
from ingot.graph.region import Region
from ingot.graph.scalar_code import compute_dtype
from ingot.kernels.api import Value
from ingot.kernels.cuda.maps.algebra import canonical, times
from ingot.kernels.cuda.maps.index import Coord, Digit, Term
from ingot.kernels.cuda.rows.text import CudaText

T = TypeVar("T")
_NAME = re.compile(r"-?\w+")
_MOST_LINES = 6000


class Refused(Exception):
    """The region holds something that has no generated code; ``no`` says what."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.no = No(reason)


class Varying(Exception):
    """A coordinate does not stay a base plus lane times step; the caller goes lane by lane."""


@dataclass(frozen=True)
class Val:
    """A value in registers. ``code`` has ``{}`` in the place of the lane when ``lanes``.

    ``raw``: in storage type (16-bit floats not yet widened), else in compute type.
    """

    code: str
    dtype: str
    lanes: bool = False
    raw: bool = False

    def at(self, lane: str) -> str:
        """Code of one lane as it is."""
        return self.code.format(lane) if self.lanes else self.code

    def computed(self, lane: str) -> str:
        """Code of one lane in compute type."""
        code = self.at(lane)
        return f"(float){code}" if self.raw and compute_dtype(self.dtype) != self.dtype else code

    def stored(self, lane: str) -> str:
        """Code of one lane in storage type."""
        code = self.at(lane)
        if self.raw or compute_dtype(self.dtype) == self.dtype:
            return code
        return f"{dtypes.TABLE[self.dtype].cuda}({code})"


@dataclass(frozen=True)
class Walk:
    """A linear index in [0, total), and how many consecutive ones the code makes at once."""

    code: str
    total: Dim
    lanes: int = 1


@dataclass(frozen=True)
class Placed:
    """Code of a coordinate: at vector lane j it is ``base + j * step``; ``base`` is a multiple of ``multiple``."""

    base: str
    step: Dim = 0
    multiple: int = 0


class MapText(CudaText):
    """Kernel text whose symbolic numbers are 64-bit parameters, narrowed where they are used."""

    def number(self, dim: Dim, width: int = 8) -> str:
        """Code of a dimension as an ``index_t``."""
        dim = canonical(dim)
        if isinstance(dim, int):
            return super().number(dim)
        return f"(index_t){self.parameter(dim)}"

    def parameter(self, dim: Dim) -> str:
        """Name of the 64-bit parameter that holds a symbolic dimension."""
        for name, (_, argument) in self.parameters.items():
            if isinstance(argument, Value) and argument.dim == dim:
                return name
        name = f"d{sum(isinstance(a, Value) for a in self.arguments)}"
        self.parameters[name] = ("const long long", Value(dim, 8))
        return name


class Emitter:
    """Lines of one kernel; equal expressions in reach are computed once."""

    def __init__(self, region: Region) -> None:
        self.text = MapText(region)
        self.walks: Mapping[str, Walk] = {}
        self.scopes: list[dict[object, object]] = [{}]
        self.lane_scope = 0
        """Number of scopes outside the loop over lanes; 0 when there is none."""
        self.count = 0

    @property
    def vector(self) -> int:
        """Lanes that the code being written makes at once."""
        return 1 if self.lane_scope else self.lanes

    @property
    def lanes(self) -> int:
        """Lanes of the walk, whether they are written at once or one by one."""
        return max((walk.lanes for walk in self.walks.values()), default=1)

    def fresh(self, prefix: str = "t") -> str:
        """A new variable name."""
        self.count += 1
        return f"{prefix}{self.count}"

    def line(self, text: str) -> None:
        """Appends one statement. Raises Refused when the kernel gets absurdly long."""
        if len(self.text.lines) > _MOST_LINES:
            raise Refused("the generated kernel is too long")
        self.text.line(text)

    def recall(self, key: object) -> object | None:
        """What was remembered under ``key``; a vector from outside a loop over lanes becomes its lane."""
        for depth in range(len(self.scopes) - 1, -1, -1):
            if key in self.scopes[depth]:
                found = self.scopes[depth][key]
                if isinstance(found, Val) and found.lanes and depth < self.lane_scope:
                    return Val(found.at("j"), found.dtype, raw=found.raw)
                return found
        return None

    def remember(self, key: object, value: object) -> None:
        """Keeps ``value`` while the current scope lasts."""
        self.scopes[-1][key] = value

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Forgets at its end what was remembered in it."""
        self.scopes.append({})
        yield
        self.scopes.pop()

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A brace block with a scope of its own."""
        with self.text.block(head), self.scope():
            yield

    @contextmanager
    def each(self, lanes: int) -> Iterator[None]:
        """An unrolled loop over the lanes, written for one lane ``j``."""
        self.line("#pragma unroll")
        with self.text.block(f"for (int j = 0; j < {lanes}; ++j)"):
            self.lane_scope = len(self.scopes)
            with self.scope():
                yield
            self.lane_scope = 0

    @contextmanager
    def walking(self, walks: Mapping[str, Walk], known: dict[object, object] | None = None) -> Iterator[None]:
        """Code for other linear indices, in a scope of its own, which starts (and goes on) as ``known``."""
        before, self.walks = self.walks, walks
        self.scopes.append({} if known is None else known)
        yield
        self.scopes.pop()
        self.walks = before

    def attempt(self, write: Callable[[], T]) -> T:
        """What ``write`` makes; when it raises Varying, nothing of what it wrote is left."""
        lines, indent, lane_scope = len(self.text.lines), self.text.indent, self.lane_scope
        kept, walks = [dict(scope) for scope in self.scopes], self.walks
        try:
            return write()
        except Varying:
            del self.text.lines[lines:], self.scopes[len(kept) :]
            for scope, before in zip(self.scopes, kept, strict=True):
                scope.clear()
                scope.update(before)
            self.text.indent, self.lane_scope, self.walks = indent, lane_scope, walks
            raise

    def let(self, expression: str, kind: str = "index_t", prefix: str = "i") -> str:
        """Name of a variable that holds ``expression`` (or the expression, when it is a name or a number)."""
        if _NAME.fullmatch(expression):
            return expression
        key = (kind, expression)
        known = self.recall(key)
        if known is None:
            known = self.fresh(prefix)
            self.line(f"const {kind} {known} = {expression};")
            self.remember(key, known)
        return str(known)

    def each_lane(self, write: Callable[[str], str]) -> None:
        """An unrolled loop over lanes around one statement."""
        self.line("#pragma unroll")
        self.line(f"for (int j = 0; j < {self.vector}; ++j) {write('j')}")

    # -- coordinates

    def place(self, c: Coord) -> Placed:
        """Writes what ``c`` needs. Raises Varying when its lanes are not evenly spaced."""
        codes: list[str] = []
        step: Dim = 0
        multiple = 0
        for term, factor in c.terms:
            here = self._term(term)
            if here.step:
                if step != 0:
                    raise Varying
                step = times(factor, here.step)
            multiple = _gcd(multiple, here.multiple * content(factor))
            codes.append(self._product(here.base, factor))
        if c.constant != 0 or not codes:
            codes.append(self.text.number(c.constant))
            multiple = _gcd(multiple, content(c.constant))
        return Placed(self.let(" + ".join(codes)), step, multiple)

    def scalar(self, c: Coord) -> str:
        """Code of a coordinate that is the same in all lanes. Raises Varying when it is not."""
        placed = self.place(c)
        if placed.step != 0:
            raise Varying
        return placed.base

    def below(self, c: Coord, bound: Dim) -> str:
        """Code of ``c < bound``, the same in all lanes. Raises Varying when it is not."""
        placed = self.place(c)
        if placed.step != 0 and not self._uniform(placed, bound):
            raise Varying
        return f"{placed.base} < {self.text.number(bound)}"

    def least(self, c: Coord, bound: Dim) -> str:
        """Code of ``c >= bound``, the same in all lanes. Raises Varying when it is not."""
        placed = self.place(c)
        if placed.step != 0 and not self._uniform(placed, bound):
            raise Varying
        return f"{placed.base} >= {self.text.number(bound)}"

    def _uniform(self, placed: Placed, bound: Dim) -> bool:
        """Whether all lanes lie on one side of ``bound``."""
        return placed.step == 1 and placed.multiple % self.vector == 0 and divisible(bound, self.vector)

    def _product(self, code: str, factor: Dim) -> str:
        if factor == 1:
            return code
        if factor == -1:
            return f"-{code}"
        return f"{code} * {self.text.number(factor)}"

    def _term(self, term: Term) -> Placed:
        if not isinstance(term, Digit):
            return Placed(term.code, 0, 1)
        walk = self.walks[term.walk]
        top = times(term.stride, term.size) == walk.total
        step, multiple, runs = 0, 1, walk.lanes > 1
        if runs and self.vector > 1 and not divisible(term.stride, self.vector):
            if term.stride != 1 or not (top or divisible(term.size, self.vector)):
                raise Varying
            step, multiple = 1, self.vector
        code = self.let(f"{walk.code} + j", "linear_t", "t") if runs and self.lane_scope else walk.code
        if term.stride != 1:
            code = f"{code} / {self.text.number(term.stride)}"
        if not top:
            code = f"{code} % {self.text.number(term.size)}"
        return Placed(self.let(f"(index_t)({code})"), step, multiple)


def content(dim: Dim) -> int:
    """The largest power of two, up to 16, that certainly divides ``dim``; 0 for zero."""
    if dim == 0:
        return 0
    return next(n for n in (16, 8, 4, 2, 1) if divisible(dim, n))


def _gcd(a: int, b: int) -> int:
    """Greatest common divisor of powers of two (0: a multiple of everything)."""
    return min(a, b) if a and b else a or b
