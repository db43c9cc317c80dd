"""``cuda.map``, pointwise regions: numerics on the CPU and the device, layouts, variants, machine code."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler
from support.maps import MAP, Case, check_on_host, one_op, strided
from support.regions import build_region

from ingot.graph import dtypes
from ingot.graph.region import BodyOp, Kind, Literal, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec
from ingot.kernels.api import Pdl, Target, Variant

NHWC = channels_last(4)


def chain(
    name: str,
    inputs: dict[str, TensorSpec],
    ops: list[BodyOp],
    inner: dict[str, TensorSpec],
    outputs: list[str],
    literals: dict[str, Literal] | None = None,
    **bindings: int,
) -> Case:
    return Case(name, build_region(Kind.MAP, inputs, ops, inner, outputs, literals), bindings)


def gated(x: TensorSpec, bias: TensorSpec, y: TensorSpec | None = None, **bindings: int) -> Case:
    """Bias, sigmoid gate, residual: two outputs, one of them used by the other."""
    ops = [
        BodyOp("Add", ("x", "b"), ("a",)),
        BodyOp("Sigmoid", ("a",), ("s",)),
        BodyOp("Mul", ("a", "s"), ("m",)),
        BodyOp("Sub", ("m", "x"), ("y",)),
    ]
    y = y or x
    inner = dict.fromkeys(("a", "s", "m", "y"), y)
    name = f"gated {x.dtype}{x.shape}{x.strides} {bias.shape} {y.strides}"
    return chain(name, {"x": x, "b": bias}, ops, inner, ["m", "y"], **bindings)


def cast(source: str, target: str, x: tuple[int, ...] = (5, 13)) -> Case:
    return one_op("Cast", {"x": spec(source, x)}, shape=x, dtype=target, to=dtypes.TABLE[target].onnx)


BITS = (
    ("float32", "int32"), ("int32", "float32"), ("uint32", "float32"), ("float64", "uint64"), ("int64", "float64"),
    ("int8", "uint8"), ("bool", "uint8"),
)  # fmt: skip


def bits(source: str, target: str) -> Case:
    """Of ordinary numbers: small integers would be tiny floats."""
    feeds = {}
    if target.startswith("float"):
        feeds["x"] = np.random.default_rng(0).standard_normal((5, 13)).astype(target).view(source)
    inputs = {"x": spec(source, (5, 13))}
    return one_op("BitCast", inputs, shape=(5, 13), dtype=target, feeds=feeds, to=dtypes.TABLE[target].onnx)


def copied(name: str, x: TensorSpec, y: TensorSpec, **bindings: int) -> Case:
    return chain(name, {"x": x}, [BodyOp("Identity", ("x",), ("y",))], {"y": y}, ["y"], **bindings)


POINTWISE = [
    gated(spec("float16", (2, 16, 5, 7), NHWC), spec("float16", (16, 1, 1))),
    gated(spec("float16", (2, 16, 5, 7)), spec("float16", (16, 1, 1))),
    gated(spec("float16", (2, 16, 5, 7), NHWC), spec("float16", (16, 1, 1)), spec("float16", (2, 16, 5, 7))),
    gated(spec("bfloat16", (3, 33)), spec("bfloat16", (33,))),
    gated(spec("float32", (4, 1, 24)), spec("float32", (1, 1, 1))),
    gated(spec("float64", (3, 5)), spec("float64", ())),
    gated(spec("float16", ("n", 3, "h", "w")), spec("float16", (3, 1, 1)), n=2, h=5, w=3),
    gated(spec("float16", ("n", 64), None), spec("float16", (64,)), n=0),
    gated(spec("float32", ()), spec("float32", ())),
    gated(spec("float32", (1, 1)), spec("float32", (1,))),
    gated(spec("float32", (3, 0, 2)), spec("float32", (2,))),
    gated(strided(spec("float16", (6, 20)), (40, 1), 16), spec("float16", (20,))),
    gated(strided(spec("float16", (6, 20)), (20, 1), 4), strided(spec("float16", (20,)), (1,), 2)),
    gated(strided(spec("float32", (4, 6)), (0, 1)), strided(spec("float32", (6,)), (3,)), spec("float32", (4, 6))),
    copied("transpose", spec("float16", (2, 48, 40), (0, 2, 1)), spec("float16", (2, 48, 40))),
    copied("window", spec("float16", (5, 24)), strided(spec("float16", (5, 24)), (64, 1), 16)),
    copied("odd window", spec("int8", (5, 9)), strided(spec("int8", (5, 9)), (17, 1), 1)),
    copied("symbolic rows", spec("float32", ("n", 7)), strided(spec("float32", ("n", 7)), (8, 1)), n=4),
    chain(
        "broadcast both ways",
        {"x": spec("float32", (4, 1, 5)), "z": spec("float32", (3, 1))},
        [BodyOp("Mul", ("x", "z"), ("y",))],
        {"y": spec("float32", (4, 3, 5))},
        ["y"],
    ),
    chain(
        "symbolic broadcast",
        {"x": spec("float32", ("n", 5)), "z": spec("float32", ("m", 5))},
        [BodyOp("Add", ("x", "z"), ("y",))],
        {"y": spec("float32", ("max(n, m)", 5))},
        ["y"],
        n=1,
        m=6,
    ),
    chain(
        "literals",
        {"x": spec("float16", (7, 9))},
        [
            BodyOp("Mul", ("x", "two"), ("a",)),
            BodyOp("Clip", ("a", "low", ""), ("c",)),
            BodyOp("Pow", ("c", "three"), ("p",)),
            BodyOp("Greater", ("p", "half"), ("g",)),
            BodyOp("Where", ("g", "p", "low"), ("y",)),
        ],
        {
            **{n: spec("float16", (7, 9)) for n in ("a", "c", "p", "y")},
            "g": spec("bool", (7, 9)),
        },
        ["g", "y"],
        {"two": 2.0, "low": -0.5, "three": (3.0,), "half": 0.5},
    ),
    chain(
        "integers",
        {"x": spec("int64", (4, 11)), "z": spec("int64", (11,))},
        [
            BodyOp("Add", ("x", "z"), ("a",)),
            BodyOp("Mod", ("a", "seven"), ("m",)),
            BodyOp("Equal", ("m", "z"), ("e",)),
            BodyOp("Not", ("e",), ("n",)),
            BodyOp("Cast", ("n",), ("y",), (("to", 1),)),
        ],
        {
            "a": spec("int64", (4, 11)),
            "m": spec("int64", (4, 11)),
            "e": spec("bool", (4, 11)),
            "n": spec("bool", (4, 11)),
            "y": spec("float32", (4, 11)),
        },
        ["m", "y"],
        {"seven": 7},
    ),
    chain(
        "remainders of floats",  # with the divisor's sign, and with the dividend's
        {"x": spec("float32", (7, 9)), "z": spec("float32", (9,))},
        [
            BodyOp("Mod", ("x", "z"), ("m",)),
            BodyOp("Mod", ("x", "z"), ("f",), (("fmod", 1),)),
        ],
        {"m": spec("float32", (7, 9)), "f": spec("float32", (7, 9))},
        ["m", "f"],
        {},
    ),
    chain(
        "several shapes",
        {"x": spec("float16", (6, 40)), "z": spec("float16", (40,))},
        [BodyOp("Exp", ("z",), ("e",)), BodyOp("Add", ("x", "e"), ("y",))],
        {"e": spec("float16", (40,)), "y": spec("float16", (6, 40))},
        ["e", "y"],
    ),
]
CASTS = [
    cast("float32", "float16"),
    cast("float16", "float32"),
    cast("float32", "bfloat16"),
    cast("bfloat16", "float16"),
    cast("float32", "int32"),
    cast("int64", "float16"),
    cast("uint8", "float32"),
    cast("float32", "bool"),
    cast("bool", "int64"),
    cast("int32", "uint8"),
    cast("float64", "float32"),
    *(bits(*pair) for pair in BITS),
]


@needs_compiler
@pytest.mark.parametrize("case", [*POINTWISE, *CASTS], ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    check_on_host(case)


@needs_compiler
def test_every_variant_on_host() -> None:
    case = gated(spec("float16", (3, 8, 4, 6), NHWC), spec("float16", (8, 1, 1)))
    check_on_host(case, MAP.variants(case.region, Target(80), {}))


def source_of(region: Region, vector: int, each: int = 1) -> str:
    variant = Variant("cuda.map", (("vector", vector), ("each", each), ("block", 256)))
    return MAP.source(region, variant, Target(90)).partition("4.0f * a : 0.0f;\n}\n")[2]


def test_a_dense_region_needs_no_division() -> None:
    region = gated(spec("float16", (2, 16, 5, 7), NHWC), spec("float16", (2, 16, 5, 7), NHWC)).region
    text = source_of(region, 8)
    assert "t_0 /" not in text and "%" not in text
    assert text.count("ingot_load<8, 8>") == 2 and text.count("ingot_store<8, 8>") == 2


def test_a_symbolic_dense_region_is_still_read_in_vectors() -> None:
    text = source_of(gated(spec("float16", ("n", "s")), spec("float16", ("n", "s"))).region, 8)
    assert text.count("ingot_load<8, 8>") == 2 and "t_0 /" not in text and "%" not in text


def test_a_channel_bias_is_read_as_a_vector_in_channels_last() -> None:
    text = source_of(gated(spec("float16", (2, 64, 5, 7), NHWC), spec("float16", (64, 1, 1))).region, 8)
    assert "ingot_load<8, 8>(in1" in text and text.count("%") == 1


def test_small_counts_use_32_bits_and_large_ones_64() -> None:
    assert "typedef int index_t" in source_of(copied("", *[spec("float16", (1 << 20,))] * 2).region, 8)
    assert "typedef long long index_t" in source_of(copied("", *[spec("float16", (1 << 16, 1 << 15))] * 2).region, 8)
    both = source_of(copied("", *[spec("float16", ("n", 1 << 15))] * 2).region, 8)
    assert "ingot_map_body<int, unsigned int>" in both and "ingot_map_body<long long" in both


def test_far_apart_rows_are_addressed_with_64_bits() -> None:
    x = strided(spec("int8", (3, 4)), (1 << 30, 1))
    assert "typedef long long index_t" in source_of(copied("", x, spec("int8", (3, 4))).region, 1)


@pytest.mark.parametrize("cc", [75, 80, 86, 87, 89, 90, 100, 110, 120])
def test_compiles_for_every_target(cc: int) -> None:
    region = gated(spec("bfloat16", ("n", 16, 5, 7), NHWC), spec("bfloat16", (16, 1, 1))).region
    target = Target(cc)
    program = MAP.compile(region, MAP.variants(region, target, {"n": 2})[0], target)
    assert program.kernels[0].pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE)
    assert program.kernels[0].cubin[:4] == b"\x7fELF"


def test_large_tensors_prefer_wide_vectors() -> None:
    region = gated(spec("float16", (64, 64, 112, 112), NHWC), spec("float16", (64, 1, 1))).region
    assert MAP.variants(region, Target(90), {})[0]["vector"] >= 4


def test_estimates_grow_with_the_bytes() -> None:
    def seconds(batch: int) -> float:
        region = copied("", *[spec("float16", (batch, 1 << 16))] * 2).region
        return MAP.estimate(region, MAP.variants(region, Target(90), {})[0], Target(90), {})

    assert seconds(1) < seconds(64) < seconds(4096)
    assert 4096 * (1 << 18) / 4.3e12 <= seconds(4096) < 2.5 * 4096 * (1 << 18) / 4.3e12


def test_refusals_say_why() -> None:
    x = spec("float32", (4, 4))
    det = build_region(Kind.MAP, {"x": x}, [BodyOp("Det", ("x",), ("y",))], {"y": spec("float32", ())}, ["y"])
    assert "Det has no generated kernel" in str(MAP.accepts(det, Target(90)))
    foreign = replace(det, ops=(BodyOp("Relu6", ("x",), ("y",), (), "com.example"),))
    assert "com.example.Relu6" in str(MAP.accepts(foreign, Target(90)))
    shift = BodyOp("BitShift", ("x", "x"), ("y",), (("direction", "LEFT"),))
    assert "BitShift" in str(MAP.accepts(build_region(Kind.MAP, {"x": x}, [shift], {"y": x}, ["y"]), Target(90)))


@needs_compiler
def test_long_chains_are_one_kernel() -> None:
    x = spec("float32", (5, 9))
    names = ["x", *(f"v{i}" for i in range(400))]
    ops = [BodyOp(("Neg", "Relu", "Abs")[i % 3], (a,), (b,)) for i, (a, b) in enumerate(pairwise(names))]
    case = chain("long", {"x": x}, ops, dict.fromkeys(names[1:], x), [names[-1]])
    check_on_host(case, [Variant("cuda.map", (("vector", 4), ("each", 1), ("block", 128)))])


def test_endless_index_maps_are_refused() -> None:
    x = spec("float32", (5, 9))
    names = ["x", *(f"v{i}" for i in range(900))]
    ops = [BodyOp("Transpose", (a,), (b,)) for a, b in pairwise(names)]
    inner = {name: spec("float32", (9, 5) if i % 2 == 0 else (5, 9)) for i, name in enumerate(names[1:])}
    region = build_region(Kind.MAP, {"x": x}, ops, inner, [names[-1]])
    assert "too many index maps" in str(MAP.accepts(region, Target(90)))


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", [*POINTWISE, *CASTS], ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    inputs = case.inputs()
    for variant in MAP.variants(case.region, target, case.bindings):
        program = MAP.compile(case.region, variant, target)
        case.check(run_program(case.region, program, inputs, case.bindings), inputs)


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
def test_more_than_2_to_31_elements_on_device() -> None:
    target = device_target()
    assert target is not None
    shape = ((1 << 31) // 4096 + 1, 4096)
    x = np.random.default_rng(0).integers(0, 100, shape, dtype=np.int8)
    case = copied("", spec("int8", ("n", 4096)), spec("int8", ("n", 4096)))
    program = MAP.compile(case.region, MAP.variants(case.region, target, {"n": 64})[0], target)
    (y,) = run_program(case.region, program, [x], {"n": shape[0]}, repeats=1)
    np.testing.assert_array_equal(y, x)
