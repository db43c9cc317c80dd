"""``cuda.pool``: numerics on the CPU and the device, refusals, machine code for every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import helper, shape_inference
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler, run_on_host
from support.regions import assert_close, build_region, random_inputs, reference

from ingot.graph.dims import Bindings, Dim
from ingot.graph.region import Attr, BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, row_major, spec
from ingot.kernels.api import Pdl, Target
from ingot.kernels.cuda.pool import TACTICS

POOL = TACTICS[0]


@dataclass(frozen=True)
class Case:
    name: str
    region: Region
    bindings: Bindings = field(default_factory=dict)


def result_shape(op: str, shape: tuple[int, ...], attrs: dict[str, Attr]) -> tuple[int, ...]:
    """ONNX's own shape inference decides the output's shape."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = helper.make_node(op, ["x"], ["y"], **attrs)
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 21)])
    dims = shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims)


def pool(
    op: str,
    shape: tuple[int, ...],
    *,
    dtype: str = "float16",
    nhwc: bool = True,
    epilogue: bool = False,
    prologue: bool = False,
    symbolic_batch: bool = False,
    **attrs: Attr,
) -> Case:
    order = channels_last(len(shape)) if nhwc else row_major(len(shape))
    out = result_shape(op, shape, attrs)
    batch: tuple[Dim, ...] = ("n",) if symbolic_batch else (shape[0],)
    x, y = spec(dtype, (*batch, *shape[1:]), order), spec(dtype, (*batch, *out[1:]), order)
    inputs: dict[str, TensorSpec] = {"x": x}
    inner, ops, read = {"r": y}, [], "x"
    if prologue:
        inputs["scale"], inner["p"], read = spec(dtype, (shape[1], 1, 1), constant=True), x, "p"
        ops.append(BodyOp("Mul", ("x", "scale"), ("p",)))
    ops.append(BodyOp(op, (read,), ("r",), tuple(sorted(attrs.items()))))
    outputs = ["r"]
    if epilogue:
        inputs["other"], inner["s"], inner["y"] = y, y, y
        ops += [BodyOp("Add", ("r", "other"), ("s",)), BodyOp("Clip", ("s", "low", "high"), ("y",))]
        outputs = ["r", "y"]
    literals = {"low": -0.5, "high": 1.5} if epilogue else {}
    region = build_region(Kind.POOL, inputs, ops, inner, outputs, literals)
    name = f"{op} {dtype}{shape}{' nhwc' * nhwc}{' epilogue' * epilogue}{' prologue' * prologue} {attrs}"
    return Case(name, region, {"n": shape[0]} if symbolic_batch else {})


K3: dict[str, Attr] = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
CEIL: dict[str, Attr] = {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}
CASES = [
    pool("MaxPool", (2, 16, 11, 12), **K3),
    pool("MaxPool", (2, 5, 11, 12), nhwc=False, **K3),
    pool("MaxPool", (1, 6, 9, 9), dtype="float32", kernel_shape=(2, 2), dilations=(2, 3), strides=(1, 2)),
    pool("MaxPool", (1, 16, 10, 10), epilogue=True, **CEIL),
    pool("MaxPool", (1, 16, 7, 7), dtype="int8", **K3),
    pool("MaxPool", (1, 3, 7, 7), dtype="uint8", nhwc=False, **K3),
    pool("MaxPool", (1, 32, 7, 8), dtype="uint8", kernel_shape=(5, 5), pads=(2, 2, 2, 2)),
    pool("MaxPool", (2, 12, 6, 9), dtype="int8", kernel_shape=(5, 5), pads=(2, 2, 2, 2)),
    pool("MaxPool", (1, 8, 13, 13), kernel_shape=(5, 5), strides=(1, 1), pads=(2, 2, 2, 2)),
    pool("MaxPool", (1, 8, 10, 11), kernel_shape=(3, 2), strides=(2, 3), auto_pad="SAME_UPPER"),
    pool("MaxPool", (1, 8, 10, 11), kernel_shape=(3, 2), strides=(2, 3), auto_pad="SAME_LOWER"),
    pool("MaxPool", (1, 8, 10, 11), kernel_shape=(3, 2), strides=(2, 3), auto_pad="VALID"),
    pool("MaxPool", (2, 4, 20), nhwc=False, kernel_shape=(3,), strides=(2,)),
    pool("MaxPool", (1, 4, 5, 6, 7), kernel_shape=(2, 3, 2), strides=(1, 2, 2), pads=(0, 1, 1, 1, 0, 1)),
    pool("MaxPool", (3, 8, 9, 9), symbolic_batch=True, **K3),
    pool("AveragePool", (2, 16, 11, 12), **K3),
    pool("AveragePool", (2, 16, 11, 12), dtype="bfloat16", prologue=True, **K3),
    pool("AveragePool", (2, 5, 11, 12), count_include_pad=1, **K3),
    pool("AveragePool", (1, 8, 10, 10), dtype="float32", epilogue=True, **CEIL),
    pool("AveragePool", (1, 8, 10, 10), dtype="float32", count_include_pad=1, pads=(1, 1, 1, 1), **CEIL),
    pool("AveragePool", (1, 2, 12, 12), dtype="float32", kernel_shape=(3, 3), dilations=(2, 2), pads=(1, 2, 2, 1)),
    pool("AveragePool", (1, 2, 12, 12), dtype="float32", kernel_shape=(2, 2), auto_pad="SAME_UPPER"),
    pool("AveragePool", (1, 2, 12, 12), dtype="float32", kernel_shape=(7, 7), nhwc=False),
    pool("LpPool", (1, 8, 10, 10), dtype="float32", p=2, **K3),
    pool("LpPool", (1, 8, 10, 10), dtype="float32", p=1, **K3),
    pool("LpPool", (1, 3, 10, 10), dtype="float32", p=3, nhwc=False, **K3),
]


def check(case: Case, actual: Sequence[np.ndarray], inputs: Sequence[np.ndarray]) -> None:
    for name, have, want in zip(
        case.region.outputs, actual, reference(case.region, inputs, case.bindings), strict=True
    ):
        assert_close(have, want, dtype=case.region.spec_of[name].dtype, depth=16)


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    target = Target(80)
    assert POOL.accepts(case.region, target), str(POOL.accepts(case.region, target))
    inputs = random_inputs(case.region, case.bindings)
    variants = POOL.variants(case.region, target, case.bindings)
    for vector in {v["vector"]: v for v in variants}.values():
        program = POOL.compile(case.region, vector, target)
        check(
            case,
            run_on_host(POOL.source(case.region, vector, target), program, case.region, inputs, case.bindings),
            inputs,
        )


def test_maxima_of_bytes_are_taken_in_words() -> None:
    region = pool("MaxPool", (1, 64, 20, 20), dtype="int8", kernel_shape=(5, 5), pads=(2, 2, 2, 2)).region
    for variant in POOL.variants(region, Target(90), {}):
        declared = f"largest_bytes<true> a[{variant['vector'] // 4}];"
        assert variant["vector"] >= 4 and declared in POOL.source(region, variant, Target(90))
    average = pool("AveragePool", (1, 64, 20, 20), **K3).region
    source = POOL.source(average, POOL.variants(average, Target(90), {})[0], Target(90))
    assert "largest_bytes<true> a[" not in source and "largest_bytes<false> a[" not in source


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8"])
@pytest.mark.parametrize("cc", [75, 80, 86, 87, 89, 90, 100, 110, 120])
def test_compiles_for_every_target(cc: int, dtype: str) -> None:
    region, target = pool("MaxPool", (1, 64, 20, 20), dtype=dtype, **K3).region, Target(cc)
    program = POOL.compile(region, POOL.variants(region, target, {})[0], target)
    assert program.kernels[0].pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE)
    assert program.kernels[0].cubin[:4] == b"\x7fELF"


def test_channels_last_half_is_read_eight_channels_at_a_time() -> None:
    region = pool("MaxPool", (1, 64, 112, 112), **K3).region
    best = POOL.variants(region, Target(90), {})[0]
    assert best["vector"] == 8
    assert "reinterpret_cast<const vec_t<half_t, 8>*>" in POOL.source(region, best, Target(90))


def test_refusals_say_why() -> None:
    x, y = spec("float32", (1, 2, 4, 4)), spec("float32", (1, 2, 3, 3))
    op = BodyOp("MaxPool", ("x",), ("y", "where"), (("kernel_shape", (2, 2)),))
    inner = {"y": y, "where": spec("int64", (1, 2, 3, 3))}
    assert "Indices" in str(POOL.accepts(build_region(Kind.POOL, {"x": x}, [op], inner, ["y", "where"]), Target(90)))
    average = BodyOp("AveragePool", ("x",), ("y",), (("kernel_shape", (2, 2)),))
    bytes_in, bytes_out = spec("uint8", x.shape), spec("uint8", y.shape)
    refused = POOL.accepts(build_region(Kind.POOL, {"x": bytes_in}, [average], {"y": bytes_out}, ["y"]), Target(90))
    assert "uint8" in str(refused)


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    inputs = random_inputs(case.region, case.bindings)
    for variant in POOL.variants(case.region, target, case.bindings):
        program = POOL.compile(case.region, variant, target)
        check(case, run_program(case.region, program, inputs, case.bindings), inputs)
