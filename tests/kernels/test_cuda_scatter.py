"""``cuda.scatter``: numerics on the CPU and the device against ONNX Runtime, refusals, machine code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler, run_on_host
from support.regions import build_region

from ingot.builder.targets import TARGETS
from ingot.graph.dtypes import numpy_dtype
from ingot.graph.reference import run_region
from ingot.graph.region import Attr, BodyOp, Kind, Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Target
from ingot.kernels.cuda.scatter import TACTICS

SCATTER = TACTICS[0]
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    name: str
    region: Region
    inputs: tuple[np.ndarray, ...]


def scatter(
    op: str,
    data: tuple[int, ...],
    indices: np.ndarray,
    updates: tuple[int, ...],
    dtype: str = "float32",
    order: tuple[int, ...] | None = None,
    **attrs: Attr,
) -> Case:
    specs = {"x": spec(dtype, data, order), "i": spec(str(indices.dtype), indices.shape), "u": spec(dtype, updates)}
    body = BodyOp(op, ("x", "i", "u"), ("y",), tuple(sorted(attrs.items())))
    region = build_region(Kind.SCATTER, specs, [body], {"y": spec(dtype, data)}, ["y"])
    random = np.random.default_rng(5)
    x, u = (
        (random.standard_normal(shape) * 9).astype(numpy_dtype(dtype))
        if dtype != "bool"
        else random.random(shape) < 0.5
        for shape in (data, updates)
    )
    return Case(f"{op} {dtype}{data} {attrs}", region, (x, indices, u))


def distinct(shape: tuple[int, ...], axis: int, size: int, dtype: type = np.int64) -> np.ndarray:
    """Indices along ``axis`` without repetition, some of them counted from the end."""
    random = np.random.default_rng(1)
    found = np.argsort(random.random([size if i == axis else n for i, n in enumerate(shape)]), axis)
    found = np.take(found, range(shape[axis]), axis)
    return np.where(random.random(shape) < 0.3, found - size, found).astype(dtype)


POINTS = np.array([[0, 1], [2, -1], [-3, 0], [1, 1]])
REPEATED = np.random.default_rng(2).integers(0, 3, (6, 4))
CASES = [
    scatter("ScatterElements", (5, 7), distinct((3, 7), 0, 5), (3, 7)),
    scatter("ScatterElements", (5, 7, 2), distinct((5, 4, 2), 1, 7, np.int32), (5, 4, 2), "float16", axis=1),
    scatter("ScatterElements", (5, 7), distinct((5, 3), 1, 7), (5, 3), "int64", axis=-1),
    scatter("ScatterElements", (4, 6), distinct((2, 5), 0, 4), (2, 5), "bool"),
    scatter("ScatterElements", (4, 3, 2, 5), distinct((4, 2, 2, 5), 1, 3), (4, 2, 2, 5), order=(0, 2, 3, 1), axis=1),
    scatter("ScatterElements", (3, 4), REPEATED, (6, 4), "int32", reduction="add"),
    scatter("ScatterElements", (3, 4), REPEATED, (6, 4), reduction="max"),
    scatter("ScatterElements", (3, 4), REPEATED, (6, 4), "int64", reduction="min"),
    scatter("ScatterElements", (3, 4), REPEATED, (6, 4), "float64", reduction="mul"),
    scatter("ScatterND", (3, 2, 4), POINTS, (4, 4)),
    scatter("ScatterND", (3, 2), POINTS.reshape(2, 2, 2), (2, 2), "int8"),
    scatter("ScatterND", (3, 2, 4), np.array([[1], [1], [2]]), (3, 2, 4), "int64", reduction="add"),
]


def check(case: Case, made: Arrays) -> None:
    wanted = run_region(case.region, dict(zip(case.region.inputs, case.inputs, strict=True)), {})["y"]
    np.testing.assert_allclose(made[0].astype(np.float64), wanted.astype(np.float64), rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    target = Target(90)
    assert SCATTER.accepts(case.region, target)
    variant = SCATTER.variants(case.region, target, {})[0]
    program = SCATTER.compile(case.region, variant, target)
    check(case, run_on_host(SCATTER.source(case.region, variant), program, case.region, list(case.inputs)))


@needs_compiler
def test_an_index_out_of_bounds_writes_nothing() -> None:
    case = scatter("ScatterElements", (3, 2), np.array([[7, 1], [-9, 0]]), (2, 2))
    variant = SCATTER.variants(case.region, Target(90), {})[0]
    program = SCATTER.compile(case.region, variant, Target(90))
    (made,) = run_on_host(SCATTER.source(case.region, variant), program, case.region, list(case.inputs))
    wanted = case.inputs[0].copy()
    wanted[1, 1], wanted[0, 1] = case.inputs[2][0, 1], case.inputs[2][1, 1]
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize("cc", TARGETS, ids=lambda t: t.name)
def test_machine_code_for_every_target(cc: Target) -> None:
    for case in (CASES[0], CASES[6], CASES[8]):
        variant = SCATTER.variants(case.region, cc, {})[0]
        assert all(kernel.cubin for kernel in SCATTER.compile(case.region, variant, cc).kernels)


def test_what_is_refused() -> None:
    half = scatter("ScatterElements", (3, 4), REPEATED, (6, 4), "float16", reduction="add")
    assert "reduction add of float16" in str(SCATTER.accepts(half.region, Target(90)))
    narrow = scatter("ScatterElements", (3, 4), REPEATED.astype(np.int16), (6, 4))
    assert "indices of type int16" in str(SCATTER.accepts(narrow.region, Target(90)))


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    for variant in SCATTER.variants(case.region, target, {}):
        program = SCATTER.compile(case.region, variant, target)
        check(case, run_program(case.region, program, list(case.inputs), {}))
