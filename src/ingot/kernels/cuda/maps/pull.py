"""Pull-style generation: the code of one value at one index, from the values it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Dim, Shape
from ingot.graph.region import BodyOp, Literal, Region, Scalar
from ingot.graph.scalar_code import compute_dtype
from ingot.graph.scalar_ops import expression, is_scalar_op
from ingot.graph.scalar_quantize import parameter_dtype
from ingot.graph.tensor import TensorSpec
from ingot.kernels.cuda.maps.emit import Emitter, Placed, Refused, Val, Varying
from ingot.kernels.cuda.maps.index import ZERO, Coord, Digit, Index, Name, coord, linear
from ingot.kernels.cuda.rows.text import c_type, literal

Move = Callable[["Puller", BodyOp, str, Index], Val]
Branch = tuple[str, Callable[[], Val]]
_VECTOR_BYTES = 16


@dataclass(frozen=True)
class Access:
    """One load or store that was written."""

    name: str
    lanes: int
    """Elements that a thread moves."""
    width: int
    """Elements moved by one instruction."""
    offset: Coord
    """In elements."""

    @property
    def near(self) -> Dim:
        """Elements between those of neighbouring places of the walk; 0: both find the same one."""
        steps = (f for term, f in self.offset.terms if isinstance(term, Digit) and term.stride == 1)
        return next(steps, 0)


class Puller:
    """Generates values of ``region``; ``moves`` writes the ops that are no scalar ops."""

    def __init__(self, region: Region, emitter: Emitter, moves: Mapping[str, Move]) -> None:
        self.region, self.em, self.moves = region, emitter, moves
        self.staged: dict[tuple[str, Coord], str] = {}
        """Loads whose result is at hand in shared memory: code of the element, ``[]`` in the place of the lane."""
        self.accesses: list[Access] = []
        self._moved: dict[str, bool] = {}

    def spec(self, name: str) -> TensorSpec:
        """Spec of a value. Raises Refused for one without."""
        spec = self.region.spec_of.get(name)
        if spec is None:
            raise Refused(f"the shape of {name!r} is not known")
        return spec

    def shape(self, name: str) -> Shape:
        """Logical shape of a value; a literal's follows from its form."""
        value = self.region.literal(name)
        if value is None or name in self.region.producer:
            return self.spec(name).shape
        return (len(value),) if isinstance(value, tuple) else ()

    def is_literal(self, name: str) -> bool:
        """Whether ``name`` is a constant folded into the region."""
        return name in self.region.literal_of and name not in self.region.producer and name not in self.region.inputs

    # -- values

    def pull(self, name: str, index: Index) -> Val:
        """The value ``name`` at ``index`` (one coordinate for each of its dimensions)."""
        key = (name, index)
        known = self.em.recall(key)
        if known is None:
            known = self._make(name, index)
            self.em.remember(key, known)
        assert isinstance(known, Val)
        return known

    def settle(self, names: Sequence[str], index: Index) -> None:
        """Pulls ``names`` and, before them in order, the scalar ops they need at the same index: chains are long."""
        shape, wanted = self.shape(names[0]), set(names)
        for op in reversed(self.region.ops):
            if is_scalar_op(op.op) and not wanted.isdisjoint(op.outputs):
                wanted.update(n for n in op.inputs if n in self.region.producer and self.shape(n) == shape)
        for op in self.region.ops:
            for name in op.outputs:
                if name in wanted:
                    self.pull(name, index)

    def _make(self, name: str, index: Index) -> Val:
        if self.is_literal(name):
            spec = self.region.spec_of.get(name)
            return self.literal(name, spec.dtype if spec else "float32")
        if name in self.region.inputs:
            return self._either(name, index, lambda: self.load(name, linear(index, self.spec(name).strides)))
        op = self.region.producer.get(name)
        if op is None:
            raise Refused(f"{name!r} is neither an input nor made in the region")
        if is_scalar_op(op.op):
            return self._either(name, index, lambda: self._scalar(op, name, index))
        move = self.moves.get(op.op)
        if move is None or op.domain not in ("", "ai.onnx"):
            raise Refused(f"{op.domain + '.' if op.domain else ''}{op.op} has no generated kernel")
        return self._either(name, index, lambda: move(self, op, name, index))

    def _either(self, name: str, index: Index, make: Callable[[], Val]) -> Val:
        """``make()``, or a loop over lanes around it where lanes part ways."""
        em = self.em
        try:
            return em.attempt(make)
        except Varying:
            assert em.vector > 1, f"lanes part ways in one lane of {name}"
        lanes, raw, dtype = em.vector, self.keeps_storage(name), self.spec(name).dtype
        result = em.fresh("v")
        kind = dtypes.TABLE[dtype if raw else compute_dtype(dtype)].cuda
        em.line(f"{kind} {result}[{lanes}];")
        with em.each(lanes):
            value = self.pull(name, index)
            em.line(f"{result}[j] = {value.stored('') if raw else value.computed('')};")
        return Val(f"{result}[{{}}]", dtype, lanes=True, raw=raw)

    def keeps_storage(self, name: str) -> bool:
        """Whether elements of the value are elements of inputs, never computed with."""
        if name not in self.region.producer:
            return True
        if name not in self._moved:
            op = self.region.producer[name]
            pure = not is_scalar_op(op.op) and op.op != "Resize"
            self._moved[name] = pure and all(self.keeps_storage(n) for n in op.inputs if n)
        return self._moved[name]

    def literal(self, name: str, dtype: str) -> Val:
        """A one-element literal, in compute type."""
        value = self.region.literal(name)
        if isinstance(value, tuple):
            if len(value) != 1:
                raise Refused(f"literal {name!r} of {len(value)} elements is used as data")
            value = value[0]
        return self.constant(value, dtype)

    def constant(self, value: Scalar | str | None, dtype: str) -> Val:
        """A number (a str is a dimension expression) in the compute type of ``dtype``."""
        assert value is not None
        if isinstance(value, str):
            return Val(f"({c_type(compute_dtype(dtype))}){self.em.text.parameter(value)}", dtype)
        return Val(literal(value, compute_dtype(dtype)), dtype)

    def select(self, name: str, branches: list[Branch]) -> Val:
        """The first branch whose condition (the same in every lane) holds; the last one's is empty."""
        em, dtype, raw = self.em, self.spec(name).dtype, self.keeps_storage(name)
        kind, result, lanes = dtypes.TABLE[dtype if raw else compute_dtype(dtype)].cuda, em.fresh("v"), em.vector
        em.line(f"{kind} {result}" + (f"[{lanes}];" if lanes > 1 else ";"))
        for position, (condition, make) in enumerate(branches):
            head = "else " if position else ""
            with em.block(f"{head}if ({condition})" if condition else head.strip()):
                value = make()
                if lanes > 1:
                    em.line("#pragma unroll")
                    code = value.stored("j") if raw else value.computed("j")
                    em.line(f"for (int j = 0; j < {lanes}; ++j) {result}[j] = {code};")
                else:
                    em.line(f"{result} = {value.stored('') if raw else value.computed('')};")
        return Val(f"{result}[{{}}]" if lanes > 1 else result, dtype, lanes=lanes > 1, raw=raw)

    # -- scalar ops

    def broadcast(self, name: str, shape: Shape, index: Index) -> Index:
        """Index into ``name`` of an element of a result of ``shape`` at ``index``."""
        have = self.shape(name)
        lead = len(shape) - len(have)
        if lead < 0:
            raise Refused(f"{name!r} of rank {len(have)} does not broadcast to {shape}")
        return tuple(
            self._stretched(size, out, c) for size, out, c in zip(have, shape[lead:], index[lead:], strict=True)
        )

    def _stretched(self, size: Dim, out: Dim, c: Coord) -> Coord:
        if size == out:
            return c
        if size == 1:
            return ZERO
        if isinstance(size, int):
            # The result has this size too, or it is empty.
            return c
        code = f"{self.em.text.number(size)} == 1 ? 0 : {self.em.scalar(c)}"
        return coord(Name(self.em.let(code), size))

    def _scalar(self, op: BodyOp, name: str, index: Index) -> Val:
        if op.outputs[0] != name:
            raise Refused(f"output {op.outputs.index(name)} of {op.op}")
        shape, dtype = self.shape(name), self.spec(name).dtype
        operands = self._operands(op, shape, index)
        return self.apply(op, operands, dtype)

    def _operands(self, op: BodyOp, shape: Shape, index: Index) -> list[Val | None]:
        tensors = [n for n in op.inputs if n and not self.is_literal(n)]
        about = tensors[1:] if op.op == "Where" and op.inputs[0] in tensors else tensors
        kind = self.spec(about[0]).dtype if about else self.spec(op.outputs[0]).dtype
        found: list[Val | None] = []
        for position, name in enumerate(op.inputs):
            if not name:
                found.append(None)
            elif op.op == "CastLike" and position:
                found.append(Val("", self.spec(op.outputs[0]).dtype))
            elif not self.is_literal(name):
                found.append(self.pull(name, self.broadcast(name, shape, index)))
            else:
                found.append(self.literal(name, self._literal_type(op, position, name, kind)))
        return found

    def _literal_type(self, op: BodyOp, position: int, name: str, kind: str) -> str:
        if op.op in ("Where", "Dropout") and position == (0 if op.op == "Where" else 2):
            return "bool"
        if own := parameter_dtype(op, position):
            return own
        value = self.region.literal(name)
        number = value[0] if isinstance(value, tuple) and value else value
        exponent = op.op == "Pow" and position == 1 and isinstance(number, float) and not dtypes.is_float(kind)
        return "float32" if exponent or (op.op == "Dropout" and position == 1) else kind

    def apply(self, op: BodyOp, operands: list[Val | None], dtype: str) -> Val:
        """A scalar op on values in registers."""
        present = [v for v in operands if v is not None]
        about = present[1] if op.op == "Where" else present[0]
        lanes = any(v.lanes for v in present)
        codes = [_closed(v.computed("j")) if v is not None else "" for v in operands]
        if op.op == "CastLike":
            codes[1] = "0"
        to = present[1].dtype if op.op == "CastLike" else dtype if op.op == "QuantizeLinear" else ""
        code = expression(op, codes, "cuda", about.dtype, to)
        if isinstance(code, No):
            raise Refused(code.reason)
        kind = c_type(compute_dtype(dtype))
        if not lanes:
            return Val(self.em.let(code, kind, "v"), dtype)
        result = self.em.fresh("v")
        self.em.line(f"{kind} {result}[{self.em.vector}];")
        self.em.each_lane(lambda j: f"{result}[{j}] = {code};")
        return Val(f"{result}[{{}}]", dtype, lanes=True)

    # -- memory

    def load(self, name: str, offset: Coord) -> Val:
        """Elements of an input at an element offset, as they are stored. Raises Varying."""
        known = self.em.recall(("load", name, offset))
        if isinstance(known, Val):
            return known
        value = self._loaded(name, offset)
        self.em.remember(("load", name, offset), value)
        return value

    def _loaded(self, name: str, offset: Coord) -> Val:
        em, spec = self.em, self.spec(name)
        if (name, offset) in self.staged:
            code = self.staged[name, offset]
            lane = " + {}" if em.vector > 1 else " + j" if em.lane_scope else ""
            return Val(code.replace("[]", lane), spec.dtype, lanes=em.vector > 1, raw=True)
        kind, pointer, place = dtypes.TABLE[spec.dtype].cuda, em.text.input(name), em.place(offset)
        result, lanes = em.fresh("x"), em.vector if place.step != 0 else 1
        width = self._width(spec, place) if lanes > 1 else 1
        self.accesses.append(Access(name, em.lanes if em.lane_scope else lanes, width, offset))
        if lanes == 1:
            em.line(f"const {kind} {result} = {pointer}[{place.base}];")
            return Val(result, spec.dtype, raw=True)
        if width > 1:
            em.line(f"const vec_t<{kind}, {lanes}> {result} = ingot_load<{lanes}, {width}>({pointer} + {place.base});")
            return Val(f"{result}.v[{{}}]", spec.dtype, lanes=True, raw=True)
        em.line(f"{kind} {result}[{lanes}];")
        em.each_lane(lambda j: f"{result}[{j}] = {pointer}[{place.base} + {self._spread(place.step, j)}];")
        return Val(f"{result}[{{}}]", spec.dtype, lanes=True, raw=True)

    def write(self, name: str, index: Index) -> None:
        """Computes an output and writes it."""
        em = self.em
        value = self.pull(name, index)
        try:
            em.attempt(lambda: self.store(name, index, value))
        except Varying:
            with em.each(em.vector):
                self.store(name, index, self.pull(name, index))

    def store(self, name: str, index: Index, value: Val) -> None:
        """Writes ``value`` to an output. Raises Varying."""
        em, spec = self.em, self.spec(name)
        kind, pointer, offset = dtypes.TABLE[spec.dtype].cuda, em.text.output(name), linear(index, spec.strides)
        place = em.place(offset)
        width = self._width(spec, place) if em.vector > 1 else 1
        self.accesses.append(Access(name, em.lanes, width, offset))
        if em.vector == 1:
            em.line(f"{pointer}[{place.base}] = {value.stored('0')};")
        elif width > 1:
            result = em.fresh("y")
            em.line(f"vec_t<{kind}, {em.vector}> {result};")
            em.each_lane(lambda j: f"{result}.v[{j}] = {value.stored(j)};")
            em.line(f"ingot_store<{em.vector}, {width}>({pointer} + {place.base}, {result});")
        else:
            em.each_lane(lambda j: f"{pointer}[{place.base} + {self._spread(place.step, j)}] = {value.stored(j)};")

    def _width(self, spec: TensorSpec, place: Placed) -> int:
        """Elements that one aligned access may cover."""
        if place.step != 1:
            return 1
        size, width = dtypes.itemsize(spec.dtype), self.em.vector
        while width > 1 and (width * size > _VECTOR_BYTES or spec.align % (width * size) or place.multiple % width):
            width //= 2
        return width

    def _spread(self, step: Dim, lane: str) -> str:
        return lane if step == 1 else f"{lane} * {self.em.text.number(step)}"

    # -- parameters

    def parameter(self, op: BodyOp, position: int) -> tuple[Scalar | str, ...] | None:
        """A parameter input as a tuple; None when it is absent. Raises Refused when it is no literal."""
        if position >= len(op.inputs) or not op.inputs[position]:
            return None
        value: Literal | None = self.region.literal(op.inputs[position])
        if value is None:
            raise Refused(f"input {position} of {op.op} is not known at build time")
        return value if isinstance(value, tuple) else (value,)

    def dims(self, op: BodyOp, position: int) -> tuple[Dim, ...] | None:
        """A parameter input as dimensions."""
        found = self.parameter(op, position)
        return None if found is None else tuple(v if isinstance(v, str) else int(v) for v in found)


def _closed(code: str) -> str:
    """Parenthesised where a cast stands before it (operators around it bind tighter)."""
    return f"({code})" if code.startswith("(") else code
