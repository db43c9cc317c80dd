"""LSTM, GRU and RNN by ONNX's equations in float64, and Regions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from support.regions import build_region
from support.strided import bound

from ingot.graph.dims import Bindings, Dim
from ingot.graph.dtypes import numpy_dtype
from ingot.graph.recurrent import DOMAIN, GATES
from ingot.graph.region import Attr, BodyOp, Kind, Region
from ingot.graph.tensor import spec

Array = np.ndarray
OPERANDS = ("x", "", "r", "b", "lengths", "h0", "c0", "p")
_DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


def _sigmoid(x: Array, *_: float) -> Array:
    return 1 / (1 + np.exp(-x))


FUNCTIONS: dict[str, tuple[int, Callable[..., Array]]] = {
    "Sigmoid": (0, _sigmoid),
    "Tanh": (0, np.tanh),
    "Relu": (0, lambda x: np.maximum(x, 0)),
    "Softsign": (0, lambda x: x / (1 + np.abs(x))),
    "LeakyRelu": (1, lambda x, a=0.01: np.where(x < 0, a * x, x)),
    "HardSigmoid": (2, lambda x, a=0.2, b=0.5: np.clip(a * x + b, 0, 1)),
    "Affine": (2, lambda x, a=1.0, b=0.0: a * x + b),
    "ScaledTanh": (2, lambda x, a=1.0, b=1.0: a * np.tanh(b * x)),
}
"""Number of parameters, and the function."""


@dataclass(frozen=True)
class Case:
    """One layer: ``operands`` beside X and R, ``outputs`` that are read."""

    op: str
    steps: Dim
    batch: Dim
    hidden: int
    operands: tuple[str, ...] = ("b",)
    outputs: tuple[str, ...] = ("y", "yh", "yc")
    dtype: str = "float32"
    attrs: tuple[tuple[str, Attr], ...] = ()
    swapped: bool = False
    """The product of the inputs lies with the batch outermost."""

    def attr(self, name: str, default: Attr) -> Attr:
        return dict(self.attrs).get(name, default)

    @property
    def directions(self) -> tuple[int, ...]:
        return _DIRECTIONS[str(self.attr("direction", "forward"))]

    def __str__(self) -> str:
        more = [*self.operands, *(f"{k}={v}" for k, v in self.attrs), *(["swapped"] if self.swapped else [])]
        return f"{self.op}-{self.steps}x{self.batch}x{self.hidden}-{self.dtype}-{'-'.join(more)}".replace(" ", "")

    def region(self) -> Region:
        """The layer as a Region."""
        directions, gates, first = len(self.directions), GATES[self.op], bool(self.attr("layout", 0))
        columns = directions * gates * self.hidden
        lead = (self.batch, self.steps) if first else (self.steps, self.batch)
        state = (self.batch, directions, self.hidden) if first else (directions, self.batch, self.hidden)
        whole = (*lead, directions, self.hidden) if first else (self.steps, directions, self.batch, self.hidden)
        specs = {
            "x": spec(self.dtype, (*lead, columns), (1, 0, 2) if self.swapped else None),
            "r": spec(self.dtype, (directions, gates * self.hidden, self.hidden), constant=True),
            "b": spec(self.dtype, (directions, 2 * gates * self.hidden), constant=True),
            "lengths": spec("int32", (self.batch,)),
            "h0": spec(self.dtype, state),
            "c0": spec(self.dtype, state),
            "p": spec(self.dtype, (directions, 3 * self.hidden), constant=True),
        }
        there = {"x", "r", *self.operands}
        made = ("y", "yh", "yc") if self.op == "LSTM" else ("y", "yh")
        results = {"y": spec(self.dtype, whole), "yh": spec(self.dtype, state), "yc": spec(self.dtype, state)}
        inputs = tuple(name if name in there else "" for name in OPERANDS[: 8 if self.op == "LSTM" else 6])
        body = BodyOp(self.op, inputs, made, tuple(sorted(self.attrs)), DOMAIN)
        return build_region(
            Kind.RECURRENT,
            {name: specs[name] for name in OPERANDS if name in there},
            [body],
            {name: results[name] for name in made},
            tuple(name for name in made if name in self.outputs),
        )


def inputs_of(case: Case, region: Region, bindings: Bindings | None = None, seed: int = 0) -> list[Array]:
    """Random operands: R as small as it is trained to be, lengths from 1 to all steps."""
    rng = np.random.default_rng(seed)
    arrays = []
    for name, tensor in zip(region.inputs, region.input_specs, strict=True):
        shape = bound(tensor, bindings or {}).shape
        if name == "lengths":
            x = region.input_specs[0]
            steps = bound(x, bindings or {}).shape[1 if case.attr("layout", 0) else 0]
            arrays.append(rng.integers(1, steps + 1, shape).astype(np.int32))
            continue
        scale = case.hidden**-0.5 if name == "r" else 1.0
        arrays.append((rng.standard_normal(shape) * scale).astype(numpy_dtype(tensor.dtype)))
    return arrays


def expected(case: Case, region: Region, arrays: Sequence[Array]) -> list[Array]:
    """The Region's outputs in float64."""
    given = {name: np.asarray(a, np.float64) for name, a in zip(region.inputs, arrays, strict=True)}
    first = bool(case.attr("layout", 0))
    if first:
        given |= {name: given[name].swapaxes(0, 1) for name in ("x", "h0", "c0") if name in given}
    steps, batch, _ = given["x"].shape
    size, count = case.hidden, len(case.directions)
    y = np.zeros((steps, count, batch, size))
    last = {"h": np.zeros((count, batch, size)), "c": np.zeros((count, batch, size))}
    lengths = given.get("lengths", np.full(batch, steps)).astype(int)
    width = GATES[case.op] * size
    for d, reverse in enumerate(case.directions):
        cell = _Cell(case, d, given)
        for row, length in enumerate(lengths):
            h = given["h0"][d, row] if "h0" in given else np.zeros(size)
            c = given["c0"][d, row] if "c0" in given else np.zeros(size)
            for step in range(length):
                t = length - 1 - step if reverse else step
                h, c = cell.step(given["x"][t, row, d * width : (d + 1) * width].reshape(-1, size), h, c)
                y[t, d, row] = h
            last["h"][d, row], last["c"][d, row] = h, c
    found = {"y": y, "yh": last["h"], "yc": last["c"]}
    if first:
        found = {"y": y.transpose(2, 0, 1, 3), **{k: found[k].swapaxes(0, 1) for k in ("yh", "yc")}}
    return [found[name] for name in region.outputs]


class _Cell:
    def __init__(self, case: Case, direction: int, given: dict[str, Array]) -> None:
        self.case, gates, size = case, GATES[case.op], case.hidden
        self.r = given["r"][direction].reshape(gates, size, size)
        bias = given["b"][direction] if "b" in given else np.zeros(2 * gates * size)
        self.own, self.state = bias.reshape(2, gates, size)
        self.p = given["p"][direction].reshape(3, size) if "p" in given else np.zeros((3, size))
        names = case.attr("activations", ()) or _DEFAULTS[case.op] * len(case.directions)
        alphas, betas = (list(case.attr(f"activation_{k}", ())) for k in ("alpha", "beta"))  # type: ignore[call-overload]
        functions = []
        for name in names:  # type: ignore[union-attr]
            count, function = FUNCTIONS[str(name)]
            numbers = [rest.pop(0) for rest in (alphas, betas)[:count] if rest]
            functions.append(lambda x, f=function, n=tuple(numbers): f(x, *n))
        each = len(_DEFAULTS[case.op])
        self.functions = functions[direction * each : (direction + 1) * each]

    def step(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        limit = float(self.case.attr("clip", 0.0)) or np.inf  # type: ignore[arg-type]
        f, g, k = (*self.functions, None, None)[:3]

        def bounded(value: Array) -> Array:
            return np.clip(value, -limit, limit)

        product = self.r @ h
        whole = x + product + self.own + self.state
        assert f is not None
        if self.case.op == "RNN":
            return f(bounded(whole[0])), c
        assert g is not None
        if self.case.op == "GRU":
            z, r = f(bounded(whole[0])), f(bounded(whole[1]))
            if self.case.attr("linear_before_reset", 0):
                inner = r * (product[2] + self.state[2])
            else:
                inner = self.r[2] @ (r * h) + self.state[2]
            n = g(bounded(x[2] + self.own[2] + inner))
            return (1 - z) * n + z * h, c
        assert k is not None
        i = f(bounded(whole[0] + self.p[0] * c))
        forget = 1 - i if self.case.attr("input_forget", 0) else f(bounded(whole[2] + self.p[2] * c))
        c = forget * c + i * g(bounded(whole[3]))
        o = f(bounded(whole[1] + self.p[1] * c))
        return o * k(c), c
