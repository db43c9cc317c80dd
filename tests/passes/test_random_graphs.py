"""The pipeline on random graphs: results stay, whatever stands next to whatever."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from support.rewrites import Net, assert_same, feeds_of, run_ort

from ingot.passes.pipeline import canonicalise

Shape = tuple[int, ...]
_UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Erf", "Identity", "HardSwish")


class Wild(Net):
    """A growing graph: values with their shapes, and ops that fit some of them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.values: list[tuple[str, Shape]] = [(self.input("x", (2, 4, 6, 6)), (2, 4, 6, 6))]

    def pick(self, *choices: object) -> object:
        """One of ``choices``."""
        return choices[int(self.random.integers(len(choices)))]

    def grow(self) -> None:
        """Adds one op on a value, mostly a late one."""
        back = int(min(self.random.geometric(0.4), len(self.values)))
        x, shape = self.values[-back]
        step = self.pick(*_STEPS)
        assert callable(step)
        made = step(self, x, shape)
        if made is not None and np.prod(made[1]) <= 4000:
            self.values.append(made)


Step = Callable[[Wild, str, Shape], "tuple[str, Shape] | None"]


def _unary(net: Wild, x: str, shape: Shape) -> tuple[str, Shape]:
    return str(net.op(str(net.pick(*_UNARY)), x)), shape


def _constant(net: Wild, x: str, shape: Shape) -> tuple[str, Shape]:
    keep = net.random.random(len(shape)) < 0.4
    dims = [d if k else 1 for d, k in zip(shape, keep, strict=True)]
    while dims and dims[0] == 1 and net.random.random() < 0.5:
        dims.pop(0)
    pair = [x, net.normal(*dims)]
    if net.random.random() < 0.3:
        pair.reverse()
    return str(net.op(str(net.pick("Add", "Sub", "Mul", "Max")), *pair)), shape


def _binary(net: Wild, x: str, shape: Shape) -> tuple[str, Shape]:
    others = [name for name, other in net.values if other == shape]
    return str(net.op(str(net.pick("Add", "Mul", "Sub")), x, str(net.pick(*others)))), shape


def _convolution(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if len(shape) != 4 or min(shape[2:]) < 3:
        return None
    out, size = int(net.random.integers(1, 6)), int(net.random.choice([1, 3]))
    weights = [
        net.normal(out, shape[1], size, size, scale=0.4),
        *([net.normal(out)] if net.random.random() < 0.5 else []),
    ]
    pads = [size // 2] * 4
    return str(net.op("Conv", x, *weights, pads=pads)), (shape[0], out, *shape[2:])


def _product(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if len(shape) < 2:
        return None
    columns = int(net.random.integers(1, 7))
    return str(net.op("MatMul", x, net.normal(shape[-1], columns, scale=0.4))), (*shape[:-1], columns)


def _transpose(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if not shape:
        return None
    perm = [int(p) for p in net.random.permutation(len(shape))]
    return str(net.op("Transpose", x, perm=perm)), tuple(shape[p] for p in perm)


def _reshape(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if len(shape) < 3:
        if len(shape) != 2 or shape[1] % 2:
            return None
        to: Shape = (shape[0], shape[1] // 2, 2)
    else:
        at = int(net.random.integers(len(shape) - 1))
        to = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
    return str(net.op("Reshape", x, net.const(list(to), "int64"))), to


def _axis(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    ones = [i for i, d in enumerate(shape) if d == 1]
    if ones and net.random.random() < 0.7:
        at = int(net.random.choice(ones))
        return str(net.op("Squeeze", x, net.const([at], "int64"))), (*shape[:at], *shape[at + 1 :])
    if len(shape) > 4:
        return None
    at = int(net.random.integers(len(shape) + 1))
    return str(net.op("Unsqueeze", x, net.const([at], "int64"))), (*shape[:at], 1, *shape[at:])


def _concat(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if not shape:
        return None
    axis = int(net.random.integers(len(shape)))
    others = [name for name, other in net.values if other == shape]
    whole = tuple(2 * d if i == axis else d for i, d in enumerate(shape))
    return str(net.op("Concat", x, str(net.pick(*others)), axis=axis)), whole


def _split(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    places = [i for i, d in enumerate(shape) if d >= 2]
    if not places:
        return None
    axis = int(net.random.choice(places))
    first = int(net.random.integers(1, shape[axis]))
    sizes = [first, shape[axis] - first]
    parts = net.op("Split", x, net.const(sizes, "int64"), axis=axis, outputs=2)
    shapes = [tuple(size if i == axis else d for i, d in enumerate(shape)) for size in sizes]
    net.values.append((parts[1], shapes[1]))
    return parts[0], shapes[0]


def _reduce(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if len(shape) < 2:
        return None
    axis, keep = int(net.random.integers(len(shape))), int(net.random.integers(2))
    op = str(net.pick("ReduceMean", "ReduceSum", "ReduceMax"))
    left = tuple(1 if i == axis else d for i, d in enumerate(shape) if keep or i != axis)
    return str(net.op(op, x, net.const([axis], "int64"), keepdims=keep)), left


def _normalise(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if len(shape) < 2:
        return None
    if net.random.random() < 0.5:
        return str(net.op("Softmax", x, axis=int(net.random.integers(len(shape))))), shape
    c = shape[1]
    variance = net.const(net.random.uniform(0.5, 2.0, c))
    return str(net.op("BatchNormalization", x, net.normal(c), net.normal(c), net.normal(c), variance)), shape


def _pad(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if len(shape) != 4:
        return None
    to = (*shape[:2], shape[2] + 1, shape[3] + 2)
    return str(net.op("Pad", x, net.const([0, 0, 1, 0, 0, 0, 0, 2], "int64"))), to


def _pick_one(net: Wild, x: str, shape: Shape) -> tuple[str, Shape] | None:
    if not shape:
        return None
    axis = int(net.random.integers(len(shape)))
    index = int(net.random.integers(shape[axis]))
    left = (*shape[:axis], *shape[axis + 1 :])
    return str(net.op("Gather", x, net.const(index, "int64"), axis=axis)), left


_STEPS: tuple[Step, ...] = (
    _unary, _unary, _unary, _constant, _constant, _constant, _binary, _binary, _convolution, _convolution, _product,
    _product, _transpose, _transpose, _reshape, _reshape, _axis, _concat, _concat, _split, _reduce, _normalise, _pad,
    _pick_one,
)  # fmt: skip


@pytest.mark.parametrize("seed", [*range(60), 815])
def test_results_stay(seed: int) -> None:
    net = Wild(seed)
    for _ in range(45):
        net.grow()
    used = {name for node in net.nodes for name in node.input}
    net.output(*(name for name, _ in net.values[1:] if name not in used or net.random.random() < 0.05))
    proto = net.proto()
    feeds = feeds_of(proto)
    before = run_ort(proto, feeds)
    assert_same(before, run_ort(ir.to_proto(canonicalise(net.model(), fp16=False).model), feeds), 1e-3)
    # Errors of float16 grow with whatever the graph does; that it runs shows that types meet.
    assert run_ort(ir.to_proto(canonicalise(net.model(), fp16=True).model), feeds).keys() == before.keys()
