"""``cuda.gemv`` on the device: every variant that is offered, and random sizes against float64."""

from __future__ import annotations

import numpy as np
import pytest
from support.few_rows import CASES, exact, row_case
from support.gpu import check_case, run_program, target_from
from support.products import GELU, Case
from support.regions import assert_close, gemm_region

from ingot.kernels.api import Target
from ingot.kernels.cuda.gemv.tactic import GemvTactic

pytestmark = [pytest.mark.gpu]
GEMV = GemvTactic()


@pytest.fixture(scope="module")
def target() -> Target:
    return target_from(75)


def check(case: Case, target: Target) -> None:
    variants = GEMV.variants(case.region, target, case.bindings)
    check_case(case, ((v, GEMV.compile(case.region, v, target)) for v in variants))


@pytest.mark.parametrize("name", CASES)
def test_small_products(name: str, target: Target) -> None:
    check(CASES[name], target)


@pytest.mark.parametrize("contiguous", ["depth", "columns"])
def test_a_classifier(contiguous: str, target: Target) -> None:
    order = (1, 0) if contiguous == "depth" else None
    check(Case(gemm_region((1, 2048), (2048, 1000), b_order=order, epilogue=GELU)), target)


@pytest.mark.parametrize("seed", range(12))
def test_random_sizes_against_float64(seed: int, target: Target) -> None:
    rng = np.random.default_rng(seed)
    rows, depth, cols = seed % 8 + 1, int(rng.integers(1, 3000)), int(rng.integers(1, 700))
    dtype = ("float16", "bfloat16", "float32")[seed % 3]
    region, inputs = row_case(rows, depth, cols, dtype)
    for variant in GEMV.variants(region, target, {})[::3]:
        (got,) = run_program(region, GEMV.compile(region, variant, target), inputs)
        assert_close(got, exact(region, inputs), dtype=dtype, depth=64 if dtype == "float32" else 4)
