"""Builders of small Regions for kernel tests, random inputs for them, and their reference results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from support.strided import bound

from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, Shape
from ingot.graph.region import Attr, BodyOp, Kind, Region, Scalar
from ingot.graph.tensor import Order, TensorSpec, channels_last, spec
from ingot.kernels.api import Tactic, Target

ANCHOR_RESULT = "acc"
"""Name by which epilogue ops read the anchor's result."""
Literal = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class Op:
    """One op after the anchor: ``Op("Add", ("acc", "residual"), "sum")``."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: tuple[tuple[str, Attr], ...] = ()
    dtype: str = ""
    """Type of the result when it is not that of the first tensor input (Cast: taken from ``to``)."""


def build_region(
    kind: Kind,
    inputs: Mapping[str, TensorSpec],
    ops: Sequence[BodyOp],
    inner: Mapping[str, TensorSpec],
    outputs: Sequence[str],
    literals: Mapping[str, Literal] | None = None,
) -> Region:
    """A Region from its parts; ``inner`` holds the specs of every value that is no input."""
    values = {**inputs, **inner}
    return Region(
        kind=kind,
        name="test",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        ops=tuple(ops),
        values=tuple(values.items()),
        literals=tuple((literals or {}).items()),
    )


def with_epilogue(
    kind: Kind,
    inputs: dict[str, TensorSpec],
    anchor: BodyOp,
    result: TensorSpec,
    epilogue: Sequence[Op],
    extras: Mapping[str, TensorSpec] | None = None,
    literals: Mapping[str, Literal] | None = None,
    outputs: Sequence[str] = (),
) -> Region:
    """Anchor plus epilogue; values made by the epilogue have the anchor's shape and layout."""
    extras, literals = dict(extras or {}), dict(literals or {})
    inner: dict[str, TensorSpec] = {anchor.outputs[0]: result}
    known = {**inputs, **extras, **inner}
    ops = [anchor]
    for op in epilogue:
        operands = op.inputs[1:] if op.op == "Where" else op.inputs
        first = next((known[i].dtype for i in operands if i in known), result.dtype)
        to = dict(op.attrs).get("to")
        dtype = op.dtype or (dtypes.from_onnx(int(to)) if isinstance(to, int) else None) or first
        inner[op.output] = known[op.output] = replace(result, dtype=dtype)
        ops.append(BodyOp(op.op, op.inputs, (op.output,), op.attrs))
    names = tuple(outputs) or (ops[-1].outputs[0],)
    return build_region(kind, {**inputs, **extras}, ops, inner, names, literals)


def conv_output(x: Shape, w: Shape, attrs: Mapping[str, tuple[int, ...]], transpose: bool = False) -> Shape:
    """Logical output shape; symbolic dimensions are kept only for the batch."""
    rank = len(x) - 2
    strides, dilations = attrs.get("strides", (1,) * rank), attrs.get("dilations", (1,) * rank)
    pads, extra = attrs.get("pads", (0,) * (2 * rank)), attrs.get("output_padding", (0,) * rank)
    spatial: list[Dim] = []
    for i in range(rank):
        size, kernel = x[2 + i], w[2 + i]
        assert isinstance(size, int) and isinstance(kernel, int)
        reach, pad = dilations[i] * (kernel - 1) + 1, pads[i] + pads[rank + i]
        if transpose:
            spatial.append(strides[i] * (size - 1) + extra[i] + reach - pad)
        else:
            spatial.append((size + pad - reach) // strides[i] + 1)
    group = attrs.get("group", (1,))[0]
    channels = w[1] * group if transpose and isinstance(w[1], int) else w[0]
    return (x[0], channels, *spatial)


def conv_region(
    x: Shape,
    w: Shape,
    *,
    dtype: str = "float16",
    strides: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    group: int = 1,
    bias: bool = True,
    transpose: bool = False,
    x_order: Order | None = None,
    y_order: Order | None = None,
    epilogue: Sequence[Op] = (),
    extras: Mapping[str, TensorSpec] | None = None,
    literals: Mapping[str, Literal] | None = None,
    outputs: Sequence[str] = (),
) -> Region:
    """A CONV Region: inputs ``x``, ``w``, ``b`` (if any), extras; the anchor's result is ``acc``.

    Layouts are channels-last unless given; weights lie K, spatial, C (transposed: C, spatial, K).
    """
    rank = len(x)
    attrs: dict[str, tuple[int, ...]] = {
        name: value
        for name, value in (
            ("strides", strides),
            ("pads", pads),
            ("dilations", dilations),
            ("output_padding", output_padding),
        )
        if value is not None
    }
    y = conv_output(x, w, {**attrs, "group": (group,)}, transpose)
    last = channels_last(rank)
    inputs = {"x": spec(dtype, x, x_order or last), "w": spec(dtype, w, last, constant=True)}
    names = ["x", "w"]
    if bias:
        inputs["b"] = spec(dtype, (y[1],), constant=True)
        names.append("b")
    anchor = BodyOp(
        "ConvTranspose" if transpose else "Conv",
        tuple(names),
        (ANCHOR_RESULT,),
        tuple(sorted({**attrs, "group": group}.items())),
    )
    result = spec(dtype, y, y_order or last)
    return with_epilogue(Kind.CONV, inputs, anchor, result, epilogue, extras, literals, outputs)


def gemm_region(
    a: Shape,
    b: Shape,
    *,
    dtype: str = "float16",
    a_order: Order | None = None,
    b_order: Order | None = None,
    y_order: Order | None = None,
    constant_b: bool = True,
    epilogue: Sequence[Op] = (),
    extras: Mapping[str, TensorSpec] | None = None,
    literals: Mapping[str, Literal] | None = None,
    outputs: Sequence[str] = (),
) -> Region:
    """A GEMM Region of MatMul: inputs ``a``, ``b``, extras; the anchor's result is ``acc``."""
    if len(a) == 1 or len(b) == 1:
        raise ValueError("vectors are tested through build_region")
    rank = max(len(a), len(b))
    left, right = (1,) * (rank - len(a)) + a[:-2], (1,) * (rank - len(b)) + b[:-2]
    batch = tuple(q if p == 1 else p for p, q in zip(left, right, strict=True))
    inputs = {"a": spec(dtype, a, a_order), "b": spec(dtype, b, b_order, constant=constant_b)}
    result = spec(dtype, (*batch, a[-2], b[-1]), y_order)
    anchor = BodyOp("MatMul", ("a", "b"), (ANCHOR_RESULT,))
    return with_epilogue(Kind.GEMM, inputs, anchor, result, epilogue, extras, literals, outputs)


def random_inputs(
    region: Region, bindings: Bindings | None = None, seed: int = 0, scale: float = 1.0
) -> list[np.ndarray]:
    """Seeded inputs in the Region's types: normal numbers, small integers, or booleans."""
    rng = np.random.default_rng(seed)
    arrays = []
    for value in region.input_specs:
        shape = bound(value, bindings or {}).shape
        if dtypes.is_float(value.dtype):
            array = (rng.standard_normal(shape) * scale).astype(dtypes.numpy_dtype(value.dtype))
        elif value.dtype == "bool":
            array = rng.integers(0, 2, shape).astype(bool)
        else:
            array = rng.integers(0, 10, shape).astype(dtypes.numpy_dtype(value.dtype))
        arrays.append(np.asarray(array))
    return arrays


def _wide(dtype: str) -> str:
    return "float32" if dtype in dtypes.WIDENED else dtype


def reference(region: Region, inputs: Sequence[np.ndarray], bindings: Bindings | None = None) -> list[np.ndarray]:
    """The Region's body run by ONNX Runtime, every 16-bit float widened to float32 and never rounded."""
    specs, literals = region.spec_of, region.literal_of
    graph_inputs = [
        helper.make_tensor_value_info(n, dtypes.TABLE[_wide(specs[n].dtype)].onnx, a.shape)
        for n, a in zip(region.inputs, inputs, strict=True)
    ]
    narrow = {int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)}
    nodes = []
    for op in region.ops:
        attrs = {k: list(v) if isinstance(v, tuple) else v for k, v in op.attrs}
        if op.op == "Cast" and attrs["to"] in narrow:
            attrs["to"] = int(TensorProto.FLOAT)
        nodes.append(helper.make_node(op.op, list(op.inputs), list(op.outputs), domain=op.domain, **attrs))
    initializers = [_literal_tensor(region, name, value) for name, value in literals.items()]
    outputs = [helper.make_tensor_value_info(n, dtypes.TABLE[_wide(specs[n].dtype)].onnx, None) for n in region.outputs]
    graph = helper.make_graph(nodes, "body", graph_inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", region.opset)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {
        n: a.astype(np.float32) if a.dtype in (np.float16, ml_dtypes.bfloat16) else a
        for n, a in zip(region.inputs, inputs, strict=True)
    }
    results: list[np.ndarray] = session.run(list(region.outputs), feeds)
    return results


def _literal_tensor(region: Region, name: str, value: Literal) -> onnx.TensorProto:
    """A literal as an initializer; its type follows the op that reads it."""
    reader = next(op for op in region.ops if name in op.inputs)
    known = region.spec_of.get(name)
    operands = reader.inputs[1:] if reader.op == "Where" else reader.inputs
    first = next((region.spec_of[i].dtype for i in operands if i in region.spec_of and i != name), "float32")
    array = np.asarray(value)
    if known is not None:
        dtype = _wide(known.dtype)
    elif isinstance(value, tuple):
        dtype = "int64" if array.dtype.kind in "iu" else "float32"
    else:
        dtype = _wide(first)
    return onnx.numpy_helper.from_array(array.astype(dtypes.numpy_dtype(dtype)), name)


def assert_close(actual: np.ndarray, expected: np.ndarray, *, dtype: str, depth: int = 1) -> None:
    """Equal up to the rounding of ``dtype`` on a sum of ``depth`` products of unit-scale numbers."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if not dtypes.is_float(dtype):
        np.testing.assert_array_equal(actual, expected)
        return
    epsilon = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-22, "float64": 2**-50}[dtype]
    got, want = actual.astype(np.float64), expected.astype(np.float64)
    assert np.isfinite(got).all() or not np.isfinite(want).all(), "the result has NaN or infinity"
    slack = epsilon * (np.abs(want) + max(depth, 1) ** 0.5)
    if dtype == "float32":
        slack = slack + 2**-23 * max(depth, 1) ** 0.5 * 4
    worst = np.max(np.abs(got - want) - slack, initial=-1.0)
    assert worst <= 0, f"off by {np.max(np.abs(got - want)):.3g}, {worst:.3g} more than allowed"


def refused(tactic: Tactic, region: Region, target: Target) -> str:
    """Why a tactic does not take a Region, which it must not."""
    answer = tactic.accepts(region, target)
    assert not answer
    return answer.reason
