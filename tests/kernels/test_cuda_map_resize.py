"""``cuda.map``, Resize: every mode against ONNX Runtime, on the CPU and the device; refusals."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler
from support.maps import MAP, Case, check_on_host, one_op
from support.regions import build_region

from ingot.graph.dims import Shape
from ingot.graph.region import Attr, BodyOp, Kind, Literal
from ingot.graph.tensor import Order, TensorSpec, channels_last, spec
from ingot.kernels.api import Target

NHWC = channels_last(4)
MODES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
X = spec("float32", (1, 2, 5, 6))


def scaled(
    x: TensorSpec,
    scales: tuple[float, ...] = (),
    *,
    sizes: tuple[int | str, ...] = (),
    shape: Shape | None = None,
    order: Order | None = None,
    bindings: dict[str, int] | None = None,
    **attrs: Attr,
) -> Case:
    """Resize by scales or to sizes."""
    literals: dict[str, Literal] = {"s": scales} if scales else {"n": sizes}
    operands = ("x", "", "s") if scales else ("x", "", "", "n")
    return one_op(
        "Resize",
        {"x": x},
        literals=literals,
        operands=operands,
        shape=shape,
        order=order,
        bindings=bindings,
        **attrs,
    )


NEAREST = [
    *(
        scaled(X, (1.0, 1.0, 1.7, 0.6), coordinate_transformation_mode=mode, nearest_mode=rounding)
        for mode, rounding in itertools.product(MODES, ROUNDINGS)
    ),
    *(scaled(X, (1.0, 1.0, 2.0, 3.0), coordinate_transformation_mode=mode) for mode in MODES),
    scaled(X, (1.0, 1.0, 2.0, 2.0), coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    scaled(X, sizes=(1, 2, 7, 3), coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor"),
    scaled(
        spec("float16", (2, 8, 4, 4), NHWC),
        (1.0, 1.0, 2.0, 2.0),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        order=NHWC,
    ),
    scaled(
        spec("float16", ("n", 8, "h", 4), NHWC),
        (1.0, 1.0, 2.0, 2.0),
        shape=("n", 8, "2*h", 8),
        order=NHWC,
        bindings={"n": 2, "h": 3},
        coordinate_transformation_mode="half_pixel",
    ),
    scaled(spec("uint8", (1, 3, 4, 8)), (1.0, 1.0, 0.5, 0.5), coordinate_transformation_mode="asymmetric"),
    scaled(X, (2.0, 1.5), axes=(2, 3)),
    scaled(X, sizes=(9, 4), axes=(-2, -1)),
    scaled(spec("float32", (3, 4)), (3.0, 1.0)),
]
LINEAR = [
    *(scaled(X, (1.0, 1.0, 1.7, 0.6), mode="linear", coordinate_transformation_mode=m) for m in MODES),
    *(scaled(X, sizes=(1, 2, 11, 1), mode="linear", coordinate_transformation_mode=m) for m in MODES[2:4]),
    scaled(spec("float16", (2, 8, 4, 5), NHWC), (1.0, 1.0, 2.0, 2.0), mode="linear", order=NHWC),
    scaled(spec("float16", (2, 8, 4, 5)), (1.0, 1.0, 2.0, 2.0), mode="linear"),
    # Coordinates are computed in single precision, here as there.
    replace(scaled(spec("float64", (1, 1, 6)), (1.0, 1.0, 1.5), mode="linear"), precision="float32"),
    scaled(spec("float32", (1, 2, 3, 4, 5)), (1.0, 1.0, 2.0, 1.5, 0.7), mode="linear"),
    scaled(
        spec("float16", (1, 8, "h", "w")),
        sizes=(1, 8, "2*h", "w + 3"),
        shape=(1, 8, "2*h", "w + 3"),
        bindings={"h": 3, "w": 4},
        mode="linear",
    ),
]
CUBIC = [
    *(scaled(X, (1.0, 1.0, 1.7, 0.6), mode="cubic", coordinate_transformation_mode=m) for m in MODES),
    scaled(X, (1.0, 1.0, 2.0, 2.0), mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    scaled(spec("float16", (1, 8, 4, 5), NHWC), (1.0, 1.0, 2.0, 2.0), mode="cubic", order=NHWC),
]
RESIZED = [*NEAREST, *LINEAR, *(replace(case, depth=16) for case in CUBIC)]


@needs_compiler
@pytest.mark.parametrize("case", RESIZED, ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    check_on_host(case)


def test_doubling_in_channels_last_moves_whole_vectors() -> None:
    case = NEAREST[len(MODES) * (len(ROUNDINGS) + 1) + 2]
    variant = next(v for v in MAP.variants(case.region, Target(90), {}) if v["vector"] == 8)
    assert "ingot_load<8, 8>" in MAP.source(case.region, variant, Target(90))


@pytest.mark.parametrize(
    ("attrs", "dtype", "reason"),
    [
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, "float32", "tf_crop_and_resize"),
        ({"antialias": 1, "mode": "linear"}, "float32", "antialias"),
        ({"keep_aspect_ratio_policy": "not_larger"}, "float32", "aspect ratio"),
        ({"mode": "linear"}, "uint8", "linear Resize of uint8"),
        ({"mode": "area"}, "float32", "'area'"),
    ],
)
def test_refusals_say_why(attrs: dict[str, Attr], dtype: str, reason: str) -> None:
    op = BodyOp("Resize", ("x", "", "", "n"), ("y",), tuple(sorted(attrs.items())))
    x, y = spec(dtype, (1, 2, 4, 4)), spec(dtype, (1, 2, 8, 6))
    region = build_region(Kind.MAP, {"x": x}, [op], {"y": y}, ["y"], {"n": (1, 2, 8, 6)})
    assert reason in str(MAP.accepts(region, Target(90)))


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", RESIZED, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    inputs = case.inputs()
    for variant in MAP.variants(case.region, target, case.bindings):
        program = MAP.compile(case.region, variant, target)
        case.check(run_program(case.region, program, inputs, case.bindings), inputs)
