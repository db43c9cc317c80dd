"""``cuda.transpose``: numerics on the CPU and the device, what is staged, refusals, machine code."""

from __future__ import annotations

import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler, run_on_host
from support.maps import Case, strided
from support.regions import build_region

from ingot.graph import dtypes
from ingot.graph.dims import Shape
from ingot.graph.region import BodyOp, Kind
from ingot.graph.tensor import Order, TensorSpec, channels_last, row_major, spec
from ingot.kernels.api import Pdl, Target
from ingot.kernels.cuda.map import TACTICS

TRANSPOSE = TACTICS[1]
NHWC, NCHW = channels_last(4), row_major(4)


def copied(shape: Shape, source: Order, target: Order, dtype: str = "float16", to: str = "", **bindings: int) -> Case:
    """A copy into another layout, with a cast when ``to`` is given."""
    to = to or dtype
    op = BodyOp("Cast", ("x",), ("y",), (("to", dtypes.TABLE[to].onnx),))
    inputs, results = {"x": spec(dtype, shape, source)}, {"y": spec(to, shape, target)}
    region = build_region(Kind.MAP, inputs, [op], results, ["y"])
    return Case(f"{dtype}{shape} {source}->{target} {to}".replace("'", ""), region, bindings)


def fused(x: TensorSpec, other: TensorSpec, y: TensorSpec, **bindings: int) -> Case:
    """Scale, residual, activation between layouts; two outputs."""
    ops = [
        BodyOp("Mul", ("x", "scale"), ("m",)),
        BodyOp("Add", ("m", "other"), ("s",)),
        BodyOp("Relu", ("s",), ("y",)),
    ]
    inputs = {"x": x, "scale": spec(x.dtype, (x.shape[1], 1, 1)), "other": other}
    region = build_region(Kind.MAP, inputs, ops, {"m": y, "s": y, "y": y}, ["m", "y"])
    return Case(f"fused {x.shape} {x.strides} {other.strides}->{y.strides}".replace("'", ""), region, bindings)


SHAPE = (2, 24, 10, 12)
CASES = [
    copied(SHAPE, NHWC, NCHW),
    copied(SHAPE, NCHW, NHWC),
    copied((1, 70, 9, 11), NCHW, NHWC),
    copied((1, 70, 9, 11), NHWC, NCHW, "float32", "float16"),
    copied((2, 16, 8, 16), NCHW, NHWC, "uint8", "float32"),
    copied((2, 16, 8, 16), NCHW, NHWC, "float64"),
    copied((3, 40, 33), (0, 2, 1), (0, 1, 2)),
    copied((13, 9, 8), (2, 1, 0), (0, 1, 2), "int32"),
    copied(("n", 32, "h", "w"), NCHW, NHWC, n=2, h=5, w=7),
    copied(("n", 32, "h", "w"), NHWC, NCHW, "bfloat16", n=0, h=5, w=7),
    copied(("h", "w"), (1, 0), (0, 1), "float32", h=65, w=1),
    fused(spec("float16", SHAPE, NCHW), spec("float16", SHAPE, NHWC), spec("float16", SHAPE, NHWC)),
    fused(spec("float16", SHAPE, NCHW), spec("float16", SHAPE, NCHW), spec("float16", SHAPE, NHWC)),
    fused(
        spec("float32", SHAPE, NHWC),
        strided(spec("float32", SHAPE), (4096, 1, 24 * 16, 24), 4),
        strided(spec("float32", SHAPE), (4096, 128, 12, 1), 16),
    ),
]


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    target = Target(80)
    assert TRANSPOSE.accepts(case.region, target), str(TRANSPOSE.accepts(case.region, target))
    inputs = case.inputs()
    variants = TRANSPOSE.variants(case.region, target, case.bindings)
    for variant in (variants[0], variants[-1]):
        program = TRANSPOSE.compile(case.region, variant, target)
        source = TRANSPOSE.source(case.region, variant, target)
        case.check(run_on_host(source, program, case.region, inputs, case.bindings), inputs)


@pytest.mark.parametrize("cc", [75, 80, 90, 100, 120])
def test_compiles_for_every_target(cc: int) -> None:
    case = copied(("n", 64, "h", "w"), NCHW, NHWC, "float32", "float16")
    target = Target(cc)
    variants = TRANSPOSE.variants(case.region, target, {"n": 1, "h": 56, "w": 56})
    kernel = TRANSPOSE.compile(case.region, variants[0], target).kernels[0]
    assert kernel.pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE)
    assert kernel.cubin[:4] == b"\x7fELF"


def test_spatial_axes_are_one_and_vectors_are_wide() -> None:
    case = copied((8, 64, 28, 28), NCHW, NHWC)
    best = TRANSPOSE.variants(case.region, Target(90), {})[0]
    assert (best["load"], best["store"]) == (8, 8)
    assert TRANSPOSE.compile(case.region, best, Target(90)).kernels[0].grid[0] == 8 * 13


def test_only_what_runs_along_another_axis_is_staged() -> None:
    case = fused(spec("float16", SHAPE, NCHW), spec("float16", SHAPE, NHWC), spec("float16", SHAPE, NHWC))
    text = TRANSPOSE.source(case.region, TRANSPOSE.variants(case.region, Target(90), {})[0], Target(90))
    assert text.count("__shared__") == 1


def test_refusals_say_why() -> None:
    def answer(case: Case) -> str:
        return str(TRANSPOSE.accepts(case.region, Target(90)))

    assert "no input runs along one other axis" in answer(copied(SHAPE, NHWC, NHWC))
    assert "fewer than 8 elements" in answer(copied((1, 3, 224, 224), NCHW, NHWC))
    assert "fewer than two axes" in answer(copied((7,), (0,), (0,)))


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    inputs = case.inputs()
    for variant in TRANSPOSE.variants(case.region, target, case.bindings):
        program = TRANSPOSE.compile(case.region, variant, target)
        case.check(run_program(case.region, program, inputs, case.bindings), inputs)
