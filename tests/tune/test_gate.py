from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.regions import build_region, gemm_region
from support.tuning import doubling

from ingot.errors import No
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.tune import gate
from ingot.tune.gate import Fetch, OutputGate, compare, outliers, tolerance
from ingot.tune.oracle import chosen_rows
from ingot.tune.storage import Array, Stored

RANDOM = np.random.default_rng(1)


def fetch_from(memory: Array) -> Fetch:
    raw = memory.view(np.uint8)
    return lambda offset, size: raw[offset : offset + size].copy()


def stored(tensor: TensorSpec) -> Stored:
    return Stored.of(tensor, {})


def poisoned(layout: Stored, poison: int = 0xFF) -> Array:
    return np.full(layout.nbytes, poison, np.uint8).view(layout.numpy)


def written(layout: Stored, values: Array, poison: int = 0xFF) -> Array:
    memory = poisoned(layout, poison)
    layout.window(memory)[...] = values
    return memory


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_rounding_passes_and_ten_times_the_tolerance_does_not(dtype: str) -> None:
    layout = stored(spec(dtype, (8, 33)))
    exact = RANDOM.standard_normal((8, 33))
    allowed = gate.TOLERANCE[dtype]
    checker = OutputGate(layout, exact, allowed)
    assert checker.check(fetch_from(written(layout, exact.astype(layout.numpy))), 0xFF)
    worse = exact * (1 + 10 * allowed * np.sign(RANDOM.standard_normal(exact.shape)))
    if dtype != "float64":
        answer = checker.check(fetch_from(written(layout, worse.astype(layout.numpy))), 0xFF)
        assert isinstance(answer, No) and "relative error" in answer.reason


def _nan(values: Array) -> Array:
    values[3, 4] = np.nan
    return values


def _one_element(values: Array) -> Array:
    values[0, 0] += 1
    return values


def _shifted(values: Array) -> Array:
    return np.roll(values, 1, axis=1)


def _infinite(values: Array) -> Array:
    values[7, 32] = np.inf
    return values


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_nan, "1 of 264 elements are NaN"),
        (_infinite, "NaN, infinite"),
        (_one_element, "1 of 264"),
        (_shifted, "are off"),
    ],
)
def test_wrong_kernels_are_refused(damage: Callable[[Array], Array], reason: str) -> None:
    layout = stored(spec("float32", (8, 33)))
    exact = RANDOM.standard_normal((8, 33)).astype(np.float32)
    answer = OutputGate(layout, exact, 1e-5).check(fetch_from(written(layout, damage(exact.copy()))), 0xFF)
    assert isinstance(answer, No) and reason in answer.reason


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "bool"])
def test_an_unwritten_element_is_refused_at_one_of_the_poisons(dtype: str) -> None:
    layout = stored(spec(dtype, (5, 7)))
    exact = (RANDOM.integers(0, 2, (5, 7)) * -1 if dtype == "int32" else RANDOM.integers(0, 2, (5, 7))).astype(
        layout.numpy
    )
    exact[2, 3] = -1 if dtype == "int32" else 1
    answers = []
    for poison in gate.POISONS:
        memory = poisoned(layout, poison)
        for index in np.ndindex(5, 7):
            if index != (2, 3):
                layout.window(memory)[index] = exact[index]
        answers.append(OutputGate(layout, exact, 1e-5).check(fetch_from(memory), poison))
    assert not all(answers)


def test_nan_and_infinity_are_right_where_the_reference_has_them() -> None:
    layout = stored(spec("float32", (4,)))
    exact = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    checker = OutputGate(layout, exact, 1e-5)
    assert checker.check(fetch_from(written(layout, exact)), 0xFF)
    assert not checker.check(fetch_from(written(layout, np.array([np.nan, -np.inf, -np.inf, 1], np.float32))), 0xFF)
    assert not checker.check(fetch_from(written(layout, np.array([0, np.inf, -np.inf, 1], np.float32))), 0xFF)


def test_strided_outputs_are_read_through_strides_and_gaps_guarded() -> None:
    layout = stored(TensorSpec("float16", (3, 4), (10, 2)))
    exact = RANDOM.standard_normal((3, 4))
    memory = written(layout, exact.astype(np.float16))
    checker = OutputGate(layout, exact, 5e-3)
    assert layout.gaps and checker.check(fetch_from(memory), 0xFF)
    memory[1] = 3
    answer = checker.check(fetch_from(memory), 0xFF)
    assert isinstance(answer, No) and "between the elements" in answer.reason


def test_integers_are_exact_but_for_the_spare_share() -> None:
    reference = RANDOM.integers(0, 100, (1000,))
    result = reference.copy()
    result[5] += 1
    assert not compare(result, reference, 0.0)
    assert compare(result, reference, 0.0, 1e-3)
    result[6] += 1
    assert not compare(result, reference, 0.0, 1e-3)


def test_wrong_shape_is_refused() -> None:
    assert not compare(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), 1e-5)


def test_tolerance_follows_the_least_precise_type() -> None:
    half, full = gemm_region((4, 8), (8, 4)), gemm_region((4, 8), (8, 4), dtype="float32")
    assert tolerance(half, tf32=False) == 5e-3
    assert tolerance(full, tf32=False) == 1e-5
    assert tolerance(full, tf32=True) == 2e-3
    assert tolerance(doubling(4), tf32=True) == 1e-5


def test_only_what_jumps_may_have_outliers() -> None:
    real, whole = spec("float32", (4,)), spec("int32", (4,))

    def share(op: str, source: TensorSpec, result: TensorSpec) -> float:
        body = [BodyOp(op, ("x",), ("y",))]
        return outliers(build_region(Kind.MAP, {"x": source}, body, {"y": result}, ("y",)))

    assert share("Relu", real, real) == share("Cast", real, spec("float16", (4,))) == 0.0
    assert share("Floor", real, real) == share("Cast", real, whole) > 0
    assert share("Sign", whole, whole) == 0.0


@pytest.fixture
def large() -> tuple[Stored, Array, list[int]]:
    layout = stored(spec("float32", (40, 512, 512)))
    return layout, RANDOM.standard_normal((40, 512, 512), np.float32), [0, 17, 39]


def test_large_outputs_are_compared_at_rows_and_with_accepted_variants(large: tuple[Stored, Array, list[int]]) -> None:
    layout, values, rows = large
    checker = OutputGate(layout, values[rows], 1e-5, rows=rows)
    fetched: list[int] = []

    def fetch(offset: int, size: int) -> np.ndarray:
        fetched.append(size)
        return fetch_from(values.reshape(-1))(offset, size)

    assert checker.check(fetch, 0xFF)
    assert sum(fetched) < layout.nbytes // 4
    checker.accept(fetch)
    wrong_row = values.copy()
    wrong_row[17, 3, 3] += 1
    assert not checker.check(fetch_from(wrong_row.reshape(-1)), 0xFF)
    elsewhere = values.copy()
    elsewhere[18:39] *= 1.5
    answer = checker.check(fetch_from(elsewhere.reshape(-1)), 0xFF)
    assert isinstance(answer, No) and "accepted variant" in answer.reason


def test_the_first_result_of_a_large_output_may_not_hold_poison(large: tuple[Stored, Array, list[int]]) -> None:
    layout, values, rows = large
    holes = values.copy()
    holes[18:39] = np.nan
    answer = OutputGate(layout, values[rows], 1e-5, rows=rows).check(fetch_from(holes.reshape(-1)), 0xFF)
    assert isinstance(answer, No) and "NaN" in answer.reason


def test_rows_without_a_reference_are_compared_with_an_accepted_variant() -> None:
    layout = stored(spec("float32", (16, 5)))
    values = RANDOM.standard_normal((16, 5)).astype(np.float32)
    checker = OutputGate(layout, values[[0, 15]], 1e-5, rows=[0, 15])
    holes, other = values.copy(), values.copy()
    holes[8, 2], other[8, 2] = np.nan, 7
    assert not checker.check(fetch_from(holes.reshape(-1)), 0xFF)
    assert checker.check(fetch_from(values.reshape(-1)), 0xFF)
    checker.accept(fetch_from(values.reshape(-1)))
    answer = checker.check(fetch_from(other.reshape(-1)), 0xFF)
    assert isinstance(answer, No) and "accepted variant" in answer.reason


def test_rows_to_check_come_in_few_runs() -> None:
    """Each run costs a copy from the device: a long vector must not be fetched element by element."""
    value = spec("float32", (1 << 26,))
    op = BodyOp("Neg", ("x",), ("y",))
    region = Region(Kind.MAP, "long", ("x",), ("y",), (op,), (("x", value), ("y", value)))
    rows = chosen_rows(region, {})
    assert rows is not None and rows[0] == 0 and rows[-1] == (1 << 26) - 1
    assert 1 <= np.count_nonzero(np.diff(rows) != 1) < 32 and len(rows) > 100_000
