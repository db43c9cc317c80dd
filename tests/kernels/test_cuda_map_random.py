"""``cuda.map`` on random DAGs of scalar ops and index maps, with broadcasting, layouts and symbols."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler
from support.maps import MAP, Case, check_on_host
from support.regions import build_region

from ingot.graph import dtypes
from ingot.graph.dims import Dim, Shape
from ingot.graph.region import Attr, BodyOp, Kind, Literal
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.cuda.maps.algebra import plus, times

UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "HardSwish", "Softsign", "Identity")
BINARY = ("Add", "Sub", "Mul", "Max", "Min")
MOVES = ("Transpose", "Reshape", "Slice", "Pad", "Concat", "Tile", "Gather", "Unsqueeze")
SIZES = (1, 2, 3, 4, 5, 8)


@dataclass
class Draft:
    """A Region under construction."""

    rng: random.Random
    symbolic: bool
    inputs: dict[str, TensorSpec] = field(default_factory=dict)
    inner: dict[str, TensorSpec] = field(default_factory=dict)
    ops: list[BodyOp] = field(default_factory=list)
    literals: dict[str, Literal] = field(default_factory=dict)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    bindings: dict[str, int] = field(default_factory=dict)

    def dim(self) -> Dim:
        """A size, or a new symbol for one."""
        size = self.rng.choice(SIZES)
        if self.symbolic and self.rng.random() < 0.5:
            name = f"n{len(self.bindings)}"
            self.bindings[name] = size
            return name
        return size

    def input(self, dtype: str, shape: Shape, dims: int = -1) -> str:
        """A new input, row-major, permuted, or with gaps."""
        name = f"x{len(self.inputs)}"
        order = list(range(len(shape)))
        if dims < 0 and self.rng.random() < 0.4:
            self.rng.shuffle(order)
        made = spec(dtype, shape, tuple(order))
        if shape and not self.symbolic and self.rng.random() < 0.2:
            made = TensorSpec(dtype, shape, tuple(times(2, s) for s in made.strides), 2)
        self.inputs[name] = made
        return name

    def shape(self, name: str) -> Shape:
        """Shape of a value."""
        return (self.inputs.get(name) or self.inner[name]).shape

    def dtype(self, name: str) -> str:
        """Type of a value."""
        return (self.inputs.get(name) or self.inner[name]).dtype

    def literal(self, value: Literal) -> str:
        """A new literal."""
        name = f"c{len(self.literals)}"
        self.literals[name] = value
        return name

    def op(self, op: str, inputs: tuple[str, ...], shape: Shape, dtype: str = "", **attrs: Attr) -> str:
        """A new op; its result."""
        name = f"v{len(self.ops)}"
        self.inner[name] = spec(dtype or self.dtype(inputs[0]), shape)
        self.ops.append(BodyOp(op, inputs, (name,), tuple(sorted(attrs.items()))))
        return name

    def partner(self, name: str) -> str:
        """Something of the same type that broadcasts to the shape of ``name``: old, new, or a literal."""
        shape, pick = self.shape(name), self.rng.random()
        same = [v for v in (*self.inputs, *self.inner) if self.shape(v) == shape and self.dtype(v) == self.dtype(name)]
        if pick < 0.45:
            return self.rng.choice(same)
        if pick < 0.6:
            return self.literal(self.rng.choice((0.5, -1.25, 2.0)))
        kept = shape[self.rng.randrange(len(shape) + 1) :]
        return self.input(self.dtype(name), tuple(1 if self.rng.random() < 0.4 else d for d in kept))

    def grow(self, name: str) -> str:
        """One more op on ``name``."""
        kind = self.rng.random()
        if kind < 0.25:
            return self.op(self.rng.choice(UNARY), (name,), self.shape(name))
        if kind < 0.5:
            pair = [name, self.partner(name)]
            self.rng.shuffle(pair)
            return self.op(self.rng.choice(BINARY), (pair[0], pair[1]), self.shape(name), self.dtype(name))
        if kind < 0.6:
            test = self.op("Greater", (name, self.partner(name)), self.shape(name), "bool")
            return self.op("Where", (test, name, self.partner(name)), self.shape(name), self.dtype(name))
        if kind < 0.65:
            to = "float32" if self.dtype(name) == "float16" else "float16"
            return self.op("Cast", (name,), self.shape(name), to, to=dtypes.TABLE[to].onnx)
        return self.move(name, self.rng.choice(MOVES))

    def move(self, name: str, op: str) -> str:
        """An index map on ``name``."""
        shape, rng = self.shape(name), self.rng
        rank = len(shape)
        if op == "Unsqueeze" and rank < 4:
            axis = rng.randrange(rank + 1)
            return self.op(op, (name, self.literal((axis,))), (*shape[:axis], 1, *shape[axis:]))
        if not rank:
            return name
        axis = rng.randrange(rank)
        if op == "Transpose":
            perm = rng.sample(range(rank), rank)
            return self.op(op, (name,), tuple(shape[p] for p in perm), perm=tuple(perm))
        if op == "Reshape" and rank > 1:
            first = rng.randrange(rank - 1)
            merged = (*shape[:first], times(shape[first], shape[first + 1]), *shape[first + 2 :])
            return self.op(op, (name, self.literal(merged)), merged)
        return self._resized(name, op, shape, axis)

    def _resized(self, name: str, op: str, shape: Shape, axis: int) -> str:
        size, rng = shape[axis], self.rng

        def with_size(new: Dim) -> Shape:
            return (*shape[:axis], new, *shape[axis + 1 :])

        if op == "Slice" and isinstance(size, int) and size > 1:
            start, step = rng.randrange(size), rng.choice((1, 2, -1))
            count = len(range(size)[start::step])
            bounds = (start,), (1 << 40 if step > 0 else -(1 << 40),), (axis,), (step,)
            return self.op(op, (name, *(self.literal(b) for b in bounds)), with_size(count))
        if op == "Pad":
            before, after = rng.randrange(3), rng.randrange(3)
            amounts = [0] * (2 * len(shape))
            amounts[axis], amounts[axis + len(shape)] = before, after
            mode = rng.choice(("constant", "edge"))
            return self.op(op, (name, self.literal(tuple(amounts))), with_size(plus(size, before + after)), mode=mode)
        if op == "Concat":
            other = self.input(self.dtype(name), with_size(self.dim()))
            parts = [name, other]
            rng.shuffle(parts)
            made = with_size(plus(self.shape(parts[0])[axis], self.shape(parts[1])[axis]))
            return self.op(op, tuple(parts), made, axis=axis)
        if op == "Tile":
            repeats = [1] * len(shape)
            repeats[axis] = 2
            return self.op(op, (name, self.literal(tuple(repeats))), with_size(times(2, size)))
        if op == "Gather":
            index = self.input("int64", (3,), 1)
            most = self.bindings[size] if isinstance(size, str) and size in self.bindings else size
            most = most if isinstance(most, int) else 1
            self.feeds[index] = np.array([rng.randrange(-most, most) for _ in range(3)])
            return self.op(op, (name, index), with_size(3), axis=axis)
        return name


def draft(seed: int) -> Case:
    """A random Region: half of them with symbolic sizes; one or two outputs."""
    rng = random.Random(seed)
    made = Draft(rng, symbolic=seed % 2 == 1)
    rank = rng.randrange(1, 5)
    value = made.input(rng.choice(("float32", "float16")), tuple(made.dim() for _ in range(rank)))
    while len(made.ops) < 3 + seed % 8:
        value = made.grow(value)
    outputs = [value]
    same = [n for n in made.inner if n != value and made.shape(n) == made.shape(value)]
    if same and rng.random() < 0.5:
        outputs.insert(0, rng.choice(same))
    for name in outputs:
        order = rng.sample(range(len(made.shape(name))), len(made.shape(name)))
        if rng.random() < 0.3:
            made.inner[name] = spec(made.dtype(name), made.shape(name), tuple(order))
    region = build_region(Kind.MAP, made.inputs, made.ops, made.inner, outputs, made.literals)
    return Case(f"{seed}: {' '.join(op.op for op in made.ops)}", region, made.bindings, made.feeds, depth=32)


CASES = [draft(seed) for seed in range(32)]


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    check_on_host(case)


@pytest.mark.nightly
@needs_compiler
@pytest.mark.parametrize("first", range(32, 1032, 50))
def test_many_more_on_host(first: int) -> None:
    for seed in range(first, first + 50):
        check_on_host(draft(seed))


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    inputs = case.inputs()
    for variant in MAP.variants(case.region, target, case.bindings)[:3]:
        program = MAP.compile(case.region, variant, target)
        case.check(run_program(case.region, program, inputs, case.bindings), inputs)
