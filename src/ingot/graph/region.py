"""A Region: the piece of the Graph that one tactic turns into kernels.

Regions are what the kernels, the tuner and the plan see. They hold no ONNX objects, hash by
content and pickle, so they travel to compile processes and into cache keys.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from ingot.graph.coarse import coarse, smooth
from ingot.graph.dims import Shape
from ingot.graph.tensor import TensorSpec

Scalar = bool | int | float
Attr = Scalar | str | tuple[int | str, ...] | tuple[float, ...]
"""An attribute's value. A tuple of ints may hold dimension expressions where a shape is meant."""
Literal = Scalar | str | tuple[Scalar | str, ...]
"""A constant folded into a Region; a str is a dimension expression."""


class Kind(StrEnum):
    """What a Region does, which decides the tactics that are asked."""

    CONV = "conv"
    """Anchor Conv, ConvTranspose or ConvInteger, pointwise epilogue."""
    STEM = "stem"
    """A Conv over few channels with pointwise ops before and after, a MaxPool, and pointwise ops behind that."""
    CHAIN = "chain"
    """Two pointwise Convs with pointwise ops behind each; the second reads the first one's result."""
    SUM = "sum"
    """The sum of two pointwise Convs or ConvIntegers of any strides, pointwise ops behind it."""
    INVERTED = "inverted"
    """A pointwise Conv, if any, a depthwise one and a pointwise one in a row, scalar ops behind each."""
    EXCITE = "excite"
    """The mean over the pixels of each channel, two 1 x 1 convolutions of it, and the gate's product with the input."""
    GEMM = "gemm"
    """Anchor MatMul, Gemm or MatMulInteger, pointwise epilogue."""
    ATTENTION = "attention"
    """Anchor Attention (opset 23, without cache), and at most a QuantizeLinear by numbers behind it."""
    ROWWISE = "rowwise"
    """Pointwise ops and reductions over the same trailing axes: softmax, normalisations."""
    REDUCE = "reduce"
    """One reduction, with pointwise prologue and epilogue."""
    POOL = "pool"
    """One sliding-window pooling, with pointwise epilogue."""
    SCATTER = "scatter"
    """ScatterElements or ScatterND alone."""
    SORT = "sort"
    """TopK alone."""
    RECURRENT = "recurrent"
    """LSTM, GRU or RNN over products of the inputs (:mod:`ingot.graph.recurrent`), alone."""
    MAP = "map"
    """Any DAG of scalar ops and index maps (transpose, slice, pad, gather, concat, resize ...)."""
    PLUGIN = "plugin"
    """One op of a plugin: its own kernels, or its Python function on the stream."""
    VIEW = "view"
    """No work: the output is a window on the input's memory."""
    HOST = "host"
    """No device kernel: runs on the host."""


@dataclass(frozen=True)
class BodyOp:
    """One ONNX op inside a Region. Inputs and outputs are names in ``Region.values``; "" is absent."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: tuple[tuple[str, Attr], ...] = ()
    domain: str = ""

    def attr(self, name: str, default: Attr | None = None) -> Attr | None:
        """The attribute's value, or ``default``."""
        return next((value for key, value in self.attrs if key == name), default)

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """The attribute as a tuple of ints, or ``default``."""
        value = self.attr(name)
        return default if value is None else tuple(int(v) for v in value)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Region:
    """Anchor + prologue + epilogue, as ops in topological order over named values.

    ``values`` gives the TensorSpec of every name; those of ``inputs`` and ``outputs`` are where
    the kernels read and write, those of inner values say only type and logical shape.
    ``literals`` are the scalar constants (rank 0 or one element) and small integer
    vectors (axes, pads, starts ...) that were folded into the Region: they are not inputs.
    """

    kind: Kind
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[BodyOp, ...]
    values: tuple[tuple[str, TensorSpec], ...]
    literals: tuple[tuple[str, Literal], ...] = ()
    opset: int = 21
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Reasons worth reporting: why something was not fused, why it stays in FP32."""

    @cached_property
    def spec_of(self) -> dict[str, TensorSpec]:
        """TensorSpec by value name."""
        return dict(self.values)

    @cached_property
    def literal_of(self) -> dict[str, Literal]:
        """Literal by value name."""
        return dict(self.literals)

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Specs of the inputs, in order."""
        return tuple(self.spec_of[name] for name in self.inputs)

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """Specs of the outputs, in order."""
        return tuple(self.spec_of[name] for name in self.outputs)

    @cached_property
    def anchor(self) -> BodyOp:
        """The op that gives the Region its kind: the first op of ``ANCHORS[kind]``, else the first op."""
        return next((op for op in self.ops if op.op in ANCHORS.get(self.kind, ())), self.ops[0])

    @cached_property
    def producer(self) -> dict[str, BodyOp]:
        """The op that makes each inner value or output."""
        return {name: op for op in self.ops for name in op.outputs if name}

    def literal(self, name: str) -> Literal | None:
        """The literal called ``name``, or None when the value is a tensor."""
        return self.literal_of.get(name)

    def with_specs(self, specs: dict[str, TensorSpec]) -> Region:
        """The same Region with other TensorSpecs for some values (a layout decision)."""
        return replace(self, values=tuple((name, specs.get(name, old)) for name, old in self.values))

    @cached_property
    def canonical(self) -> Region:
        """The same computation under names that depend on structure alone (v0, v1, ...)."""
        order: dict[str, str] = {"": ""}
        literals = self.literal_of
        for name in self.inputs:
            order.setdefault(name, f"v{len(order) - 1}")
        for op in self.ops:
            for name in (*op.inputs, *op.outputs):
                order.setdefault(name, f"v{len(order) - 1}")
        return Region(
            kind=self.kind,
            name=self.kind.value,
            inputs=tuple(order[name] for name in self.inputs),
            outputs=tuple(order[name] for name in self.outputs),
            ops=tuple(
                BodyOp(
                    op.op, tuple(order[i] for i in op.inputs), tuple(order[o] for o in op.outputs), op.attrs, op.domain
                )
                for op in self.ops
            ),
            values=tuple(sorted((order[n], s) for n, s in self.values if n in order and n not in literals)),
            literals=tuple(sorted((order[n], v) for n, v in self.literals if n in order)),
            opset=self.opset,
        )

    @cached_property
    def signature(self) -> str:
        """Hash of the canonical form: equal for equal computations on equal shapes and layouts."""
        return _digest(self.canonical)

    @cached_property
    def likeness(self) -> str:
        """The signature with the scales of quantized values left out: Regions of one likeness take the same time."""
        c = self.canonical
        scales = {op.inputs[1] for op in c.ops if op.op in ("QuantizeLinear", "DequantizeLinear")}
        if not scales & c.literal_of.keys():
            return self.signature
        alike = 2.0 if smooth(c) and not coarse(c) else 1.0  # of the same steps in kind: kernels differ by that
        return _digest(replace(c, literals=tuple((n, alike if n in scales else v) for n, v in c.literals)))

    def shape(self, name: str) -> Shape:
        """Logical shape of a value."""
        return self.spec_of[name].shape


def _digest(c: Region) -> str:
    """Hash of a Region in canonical form."""
    text = repr((c.kind.value, c.inputs, c.outputs, c.ops, c.values, c.literals, c.opset))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


ANCHORS: dict[Kind, tuple[str, ...]] = {
    Kind.CONV: ("Conv", "ConvTranspose", "ConvInteger"),
    Kind.STEM: ("Conv",),
    Kind.CHAIN: ("Conv",),
    Kind.SUM: ("Conv", "ConvInteger"),
    Kind.INVERTED: ("Conv",),
    Kind.EXCITE: ("Conv",),
    Kind.GEMM: ("MatMul", "Gemm", "MatMulInteger"),
    Kind.ATTENTION: ("Attention",),
    Kind.ROWWISE: (
        "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "ReduceMean", "ReduceSum", "ReduceMax",
    ),
    Kind.REDUCE: (
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
        "ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin", "GlobalAveragePool", "GlobalMaxPool",
    ),
    Kind.POOL: ("MaxPool", "AveragePool", "LpPool"),
    Kind.SCATTER: ("ScatterElements", "ScatterND"),
    Kind.SORT: ("TopK",),
    Kind.RECURRENT: ("LSTM", "GRU", "RNN"),
}  # fmt: skip


def _anchored(*ops: str) -> frozenset[Kind]:
    return frozenset(kind for kind, anchors in ANCHORS.items() if not set(ops).isdisjoint(anchors))


CONVOLUTIONS = _anchored("Conv")
"""Kinds of one convolution or several."""
WEIGHTED = _anchored("Conv", "MatMul")
"""Kinds of products that may have weights."""
PRODUCTS = _anchored("Conv", "MatMul", "Attention")
"""Kinds that are products, which tensor cores compute."""
