"""``cuda.topk``: numerics on the CPU and the device against NumPy, refusals, machine code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler, run_on_host
from support.regions import build_region

from ingot.builder.targets import TARGETS
from ingot.graph.dtypes import numpy_dtype
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Target
from ingot.kernels.cuda.topk import TACTICS

TOPK = TACTICS[0]


@dataclass(frozen=True)
class Case:
    name: str
    region: Region
    axis: int
    largest: int


def topk(
    shape: tuple[int, ...],
    k: int,
    axis: int = -1,
    dtype: str = "float32",
    largest: int = 1,
    outputs: tuple[str, ...] = ("v", "i"),
    order: tuple[int, ...] | None = None,
) -> Case:
    axis %= len(shape)
    made = tuple(k if i == axis else size for i, size in enumerate(shape))
    body = BodyOp("TopK", ("x", "k"), ("v", "i"), (("axis", axis), ("largest", largest)))
    inner = {"v": spec(dtype, made), "i": spec("int64", made)}
    region = build_region(Kind.SORT, {"x": spec(dtype, shape, order)}, [body], inner, outputs, {"k": (k,)})
    return Case(f"{dtype}{shape} k={k} axis={axis} {'largest' if largest else 'smallest'}", region, axis, largest)


CASES = [
    topk((3, 10), 4),
    topk((3, 10), 10, largest=0),
    topk((5, 7, 3), 2, axis=1, dtype="float16"),
    topk((2, 9, 2, 3), 3, axis=1, order=(0, 2, 3, 1)),
    topk((4, 33), 5, dtype="int32", largest=0),
    topk((4, 33), 5, dtype="int8"),
    topk((4, 300), 9, dtype="uint8"),
    topk((2, 2, 17), 1, dtype="bfloat16"),
    topk((3, 40), 6, outputs=("i",)),
    topk((1, 1), 1),
    topk((2, 9001), 7),
    topk((1, 70000), 300, largest=0),
]


def sample(case: Case) -> np.ndarray:
    """Numbers with repetitions, zeros of both signs and infinities."""
    source = case.region.input_specs[0]
    random = np.random.default_rng(3).standard_normal(source.shape) * 20
    x = np.round(random) if source.dtype.startswith(("int", "uint")) else np.round(random, 1)
    x = np.abs(x) if source.dtype.startswith("uint") else x
    flat = x.reshape(-1)
    if source.dtype.startswith(("float", "bfloat")) and flat.size > 8:
        flat[:5] = [0.0, -0.0, np.inf, -np.inf, 0.0]
    return x.astype(numpy_dtype(source.dtype))


def check(case: Case, x: np.ndarray, made: list[np.ndarray]) -> None:
    k = case.region.output_specs[0].shape[case.axis]
    wide = x.astype(np.float64)
    order = np.argsort(-wide if case.largest else wide, axis=case.axis, kind="stable")
    places = np.take(order, range(int(k)), case.axis)
    wanted = {"v": np.take_along_axis(wide, places, case.axis), "i": places}
    for name, array in zip(case.region.outputs, made, strict=True):
        np.testing.assert_array_equal(array.astype(np.float64), wanted[name].astype(np.float64), err_msg=name)


@needs_compiler
@pytest.mark.parametrize("case", CASES[:-1], ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    target, x = Target(90), sample(case)
    assert TOPK.accepts(case.region, target)
    variant = next(v for v in TOPK.variants(case.region, target, {}) if v["block"] == 128)
    program = TOPK.compile(case.region, variant, target)
    check(case, x, run_on_host(TOPK.source(case.region, variant), program, case.region, [x]))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_machine_code_for_every_target(target: Target) -> None:
    for case in (CASES[2], CASES[4], CASES[-1]):
        variant = TOPK.variants(case.region, target, {})[0]
        program = TOPK.compile(case.region, variant, target)
        assert all(kernel.cubin and kernel.shared <= 48 << 10 for kernel in program.kernels)


def test_what_is_refused() -> None:
    target = Target(90)
    assert "TopK of int64" in str(TOPK.accepts(topk((3, 4), 2, dtype="int64").region, target))
    assert "up to 2048 would do" in str(TOPK.accepts(topk((1, 9000), 3000).region, target))
    assert TOPK.accepts(topk((1, 4096), 3000).region, target)


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    x = sample(case)
    for variant in TOPK.variants(case.region, target, {}):
        program = TOPK.compile(case.region, variant, target)
        check(case, x, run_program(case.region, program, [x], {}))
