"""Random valid ONNX graphs of many ops, grown from a stream of choices: hypothesis's, or a seeded generator's.

Every shape is known as the graph grows, so every graph is valid. What jumps where its operand is off by a rounding
error (comparisons, casts to integers, ArgMax ...) is put on exact values only: inputs, and what moves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Choose = Callable[[int], int]
"""``choose(n)`` is a number from 0 to n - 1."""
Shape = tuple[int, ...]
Made = tuple[str, Shape, bool, float]
"""A result of a node: what a :class:`Value` is besides its name."""
Maker = Callable[["AnyGraph"], None]
"""Adds a node, or nothing where no value fits."""
TYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}
_MOST = 2048
"""Elements of a value at most."""
_SIZES = (1, 2, 3, 4, 8)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph."""

    name: str
    dtype: str
    shape: Shape
    exact: bool
    """Free of rounding errors."""
    bound: float
    """No element is larger: keeps numbers where float32 tells them apart."""


class AnyGraph:
    """One graph of ``steps`` ops at most, each by one of ``makers``.

    ``prefix`` sets its names apart from those of others in one model. ``around``: Values that the body of a control
    flow op may read, in place of inputs; ``depth``: how many such ops it is in.
    """

    def __init__(
        self,
        choose: Choose,
        makers: Sequence[Maker],
        steps: int = 8,
        prefix: str = "",
        around: Sequence[Value] = (),
        depth: int = 0,
    ) -> None:
        self.choose, self.prefix, self.makers, self.depth = choose, prefix, makers, depth
        self.bodies = self.made = 0
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.values: list[Value] = list(around)
        self.inputs: list[Value] = []
        self.used: set[str] = set()
        for _ in range(0 if around else 1 + choose(2)):
            self._input()
        for _ in range(steps):
            self.pick(makers)(self)

    # -- what the makers use

    def pick(self, items: Sequence):  # type: ignore[no-untyped-def,type-arg]
        return items[self.choose(len(items))]

    def value(self, *dtypes: str, rank: int | None = None, least: int = 0, exact: bool = False) -> Value | None:
        """One of the values that fit, late ones among them as likely as early ones."""
        fit = [
            v
            for v in self.values
            if v.dtype in (dtypes or ("float32",))
            and (rank is None or len(v.shape) == rank)
            and len(v.shape) >= least
            and (v.exact or not exact)
        ]
        return self.pick(fit) if fit else None

    def add(self, op: str, inputs: Sequence[Value | str], *made: Made | None, **attrs: object) -> list[Value]:
        """A node and its results, if they are not too large. Those of None are absent, attributes of None left out."""
        if any(math.prod(one[1]) > _MOST for one in made if one is not None):
            return []
        names = [v if isinstance(v, str) else v.name for v in inputs]
        outputs = ["" if one is None else self._fresh("v", self.made + i) for i, one in enumerate(made)]
        self.made += len(made)
        kept = {key: value for key, value in attrs.items() if value is not None}
        self.nodes.append(helper.make_node(op, names, outputs, name=self._fresh(op, len(self.nodes)), **kept))
        self.used.update(names)
        found = [Value(name, *one) for name, one in zip(outputs, made, strict=True) if one is not None]
        self.values += found
        return found

    def like(self, op: str, inputs: Sequence[Value | str], of: Value, shape: Shape, **attrs: object) -> list[Value]:
        """A node that only moves the elements of ``of``."""
        return self.add(op, inputs, (of.dtype, shape, of.exact, of.bound), **attrs)

    def small(self) -> list[Value]:
        """The values that a node may make anew: inputs may be larger."""
        return [v for v in self.values if math.prod(v.shape) <= _MOST]

    def body(self, own: Sequence[Value], steps: int) -> AnyGraph:
        """A graph for the body of a node of this one: it reads ``own`` and some Values of this graph."""
        self.bodies += 1
        around = [self.pick(self.small()) for _ in range(1 + self.choose(3))]
        prefix = self._fresh("b", self.bodies) + "_"
        named = [Value(prefix + v.name, v.dtype, v.shape, v.exact, v.bound) for v in own]
        return AnyGraph(self.choose, self.makers, steps, prefix, [*named, *dict.fromkeys(around)], self.depth + 1)

    def constant(self, array: np.ndarray) -> str:
        name = self._fresh("w", len(self.weights))
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def weight(self, *shape: int) -> str:
        """Multiples of an eighth, seven of them different."""
        seed = self.choose(1 << 16)
        return self.constant(np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32) / 8)

    def axis(self, v: Value) -> int:
        """A dimension of ``v``, at times counted from behind."""
        at = self.choose(len(v.shape))
        return at - len(v.shape) if self.choose(3) == 0 else at

    def _input(self) -> None:
        rank = self.pick((4, 4, 3, 2, 1))
        dtype = self.pick(("float32", "float32", "float32", "int64"))
        shape = tuple(self.pick(_SIZES) for _ in range(rank))
        v = Value(self._fresh("x", len(self.inputs)), dtype, shape, True, 4.0)
        self.inputs.append(v)
        self.values.append(v)

    def _fresh(self, stem: str, number: int) -> str:
        return f"{self.prefix}{stem}{number}"

    # -- results

    def outputs(self) -> list[Value]:
        """What nobody reads."""
        left = [v for v in self.values if v.name not in self.used and v not in self.inputs]
        return left or self.values[-1:]

    def feeds(self, seed: int) -> dict[str, np.ndarray]:
        """Quarters from -4 to 4, and small integers."""
        random = np.random.default_rng(seed)
        return {
            v.name: (random.integers(-16, 17, v.shape) / 4).astype(np.float32)
            if v.dtype == "float32"
            else random.integers(-4, 5, v.shape).astype(v.dtype)
            for v in self.inputs
        }


def model_of(graphs: Sequence[AnyGraph]) -> onnx.ModelProto:
    """All graphs, side by side, as one model."""

    def info(v: Value) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(v.name, TYPES[v.dtype], v.shape)

    graph = helper.make_graph(
        [node for g in graphs for node in g.nodes],
        "random",
        [info(v) for g in graphs for v in g.inputs if v.name in g.used],
        [info(v) for g in graphs for v in g.outputs() if v not in g.inputs],
        [w for g in graphs for w in g.weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def feeds_of(graphs: Sequence[AnyGraph], seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of :func:`model_of`."""
    return {n: a for i, g in enumerate(graphs) for n, a in g.feeds(seed + i).items() if n in g.used}


def differences(
    wanted: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], graphs: Sequence[AnyGraph]
) -> list[str]:
    """A line for each output that is not what it should be."""
    known = {v.name: v for g in graphs for v in g.values}
    wrong = []
    for name, want in wanted.items():
        have = np.asarray(made[name])
        if have.dtype != want.dtype or have.shape != want.shape:
            wrong.append(f"{name}: {have.dtype}{have.shape} instead of {want.dtype}{want.shape}")
        elif want.dtype.kind != "f":
            if not np.array_equal(have, want):
                wrong.append(f"{name}: {np.count_nonzero(have != want)} of {want.size} differ")
        elif not np.allclose(have, want, rtol=2e-4, atol=2e-5 * max(known[name].bound, 1.0), equal_nan=True):
            worst = np.nanmax(np.abs(have.astype(np.float64) - want))
            wrong.append(f"{name}: off by {worst:.3g}, of {np.nanmax(np.abs(want)):.3g}")
    return wrong
