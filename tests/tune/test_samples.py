from __future__ import annotations

import numpy as np
import pytest
from support.recurrent import Case
from support.regions import Op, build_region, conv_region, gemm_region
from support.tuning import doubling

from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.tune.oracle import chosen_rows, expected
from ingot.tune.samples import flops, random_inputs
from ingot.tune.slicing import restricted, sliced_names
from ingot.tune.storage import Stored


def test_floats_are_normal_never_zero_and_repeatable() -> None:
    region = doubling(1000)
    (values,) = random_inputs(region, {})
    assert (values != 0).all() and abs(float(values.std()) - 1) < 0.1
    assert np.array_equal(values, random_inputs(region, {})[0])
    assert (random_inputs(region, {}, positive=True)[0] > 0).all()


def test_weights_are_scaled_by_the_reduced_length() -> None:
    region = gemm_region((4, 256), (256, 8), dtype="float32")
    _, weights = random_inputs(region, {})
    assert float(weights.std()) == pytest.approx(1 / 16, rel=0.1)


def test_indices_stay_inside_the_axis() -> None:
    inputs = {"table": spec("float32", (5, 3)), "ids": spec("int64", (200,))}
    body = [BodyOp("Gather", ("table", "ids"), ("y",), (("axis", 0),))]
    region = build_region(Kind.MAP, inputs, body, {"y": spec("float32", (200, 3))}, ("y",))
    ids = random_inputs(region, {})[1]
    assert set(ids.tolist()) == set(range(5))


def test_recurrent_layers_have_lengths_within_their_steps_and_trained_weights() -> None:
    region = Case("GRU", 7, 200, 64, ("b", "lengths")).region()
    inputs = dict(zip(region.inputs, random_inputs(region, {}), strict=True))
    assert set(inputs["lengths"].tolist()) == set(range(1, 8))
    assert float(inputs["r"].std()) == pytest.approx(1 / 8, rel=0.1)
    assert flops(region, {}) == 2 * (7 * 200 * 3 * 64) * 64


def test_divisors_are_not_zero() -> None:
    inputs = {"a": spec("int32", (300,)), "b": spec("int32", (300,))}
    region = build_region(Kind.MAP, inputs, [BodyOp("Div", ("a", "b"), ("y",))], {"y": spec("int32", (300,))}, ("y",))
    assert (random_inputs(region, {})[1] != 0).all()


def test_storage_covers_strided_tensors() -> None:
    layout = Stored.of(TensorSpec("float32", ("n", 3), (8, 2)), {"n": 2})
    assert (layout.extent, layout.elements, layout.gaps, layout.rows()) == (13, 6, True, (8, 5))
    flat = np.arange(13, dtype=np.float32)
    assert layout.window(flat).tolist() == [[0, 2, 4], [8, 10, 12]]
    assert layout.owned().nonzero()[0].tolist() == [0, 2, 4, 8, 10, 12]
    assert Stored.of(spec("float32", (2, 0, 3)), {}).extent == 0


def test_flops() -> None:
    assert flops(gemm_region((4, 8), (8, 16)), {}) == 2 * 4 * 8 * 16
    assert flops(conv_region((2, 8, 6, 6), (16, 8, 3, 3), bias=False), {}) == 2 * 2 * 16 * 16 * 8 * 9


def residual(batch: int) -> Region:
    ops = [Op("Add", ("acc", "skip"), "sum"), Op("Relu", ("sum",), "y")]
    x = spec("float32", (batch, 4, 6, 6))
    return conv_region(
        (batch, 4, 6, 6), (4, 4, 3, 3), pads=(1, 1, 1, 1), dtype="float32", epilogue=ops, extras={"skip": x}
    )


def test_batch_is_sliced_in_activations_and_not_in_weights() -> None:
    names = sliced_names(residual(8), {})
    assert names == {"x", "skip", "acc", "sum", "y"}
    small = restricted(residual(8), {}, names, 2)
    assert small.shape("x") == (2, 4, 6, 6) and small.shape("w") == (4, 4, 3, 3)


def test_a_bias_as_long_as_the_batch_is_not_sliced() -> None:
    ops = [Op("Add", ("acc", "bias"), "y")]
    region = gemm_region((8, 4), (4, 8), dtype="float32", epilogue=ops, extras={"bias": spec("float32", (8,))})
    assert sliced_names(region, {}) == {"a", "acc", "y"}


def test_mixing_the_batch_is_not_sliceable() -> None:
    tensor = spec("float32", (8, 8))
    for op in (
        BodyOp("Softmax", ("x",), ("y",), (("axis", 0),)),
        BodyOp("Transpose", ("x",), ("y",), (("perm", (1, 0)),)),
    ):
        assert sliced_names(build_region(Kind.ROWWISE, {"x": tensor}, [op], {"y": tensor}, ("y",)), {}) is None
    rows = BodyOp("Softmax", ("x",), ("y",), (("axis", -1),))
    assert sliced_names(build_region(Kind.ROWWISE, {"x": tensor}, [rows], {"y": tensor}, ("y",)), {}) == {"x", "y"}


def test_sliced_reference_equals_the_rows_of_the_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    region = residual(8)
    assert chosen_rows(region, {}) is None
    full = expected(region, {}, tf32=False)
    monkeypatch.setattr("ingot.tune.oracle._HOST_FLOPS", flops(region, {}) / 3)
    rows = chosen_rows(region, {})
    assert rows == [0, 7]
    part = expected(region, {}, tf32=False)
    np.testing.assert_allclose(part.gates[0].reference, full.gates[0].reference[rows], rtol=1e-6, atol=1e-6)


def test_positive_inputs_where_normal_ones_leave_the_domain() -> None:
    tensor = spec("float32", (64,))
    region = build_region(Kind.MAP, {"x": tensor}, [BodyOp("Log", ("x",), ("y",))], {"y": tensor}, ("y",))
    made = expected(region, {}, tf32=False)
    assert np.isfinite(made.gates[0].reference).all()


def test_no_negative_number_is_cast_to_an_unsigned_type() -> None:
    cast = [BodyOp("Cast", ("x",), ("y",), (("to", 2),))]
    region = build_region(Kind.MAP, {"x": spec("float32", (64,))}, cast, {"y": spec("uint8", (64,))}, ("y",))
    assert (expected(region, {}, tf32=False).inputs[0] >= 0).all()


@pytest.mark.parametrize(("op", "indices"), [("ScatterElements", (3, 5)), ("ScatterND", (6, 2))])
def test_scattered_elements_are_written_once(op: str, indices: tuple[int, ...]) -> None:
    """Which of two updates stays is a matter of chance on the device, and not on the host."""
    data, updates = (4, 5), indices if op == "ScatterElements" else (6,)
    specs = {"x": spec("float32", data), "i": spec("int64", indices), "u": spec("float32", updates)}
    region = build_region(
        Kind.SCATTER, specs, [BodyOp(op, ("x", "i", "u"), ("y",))], {"y": spec("float32", data)}, ["y"]
    )
    made = random_inputs(region, {})[1].reshape(indices)
    assert len(expected(region, {}, tf32=False).gates) == 1
    if op == "ScatterElements":
        assert all(len(set(column)) == 3 for column in made.T.tolist())
        assert made.min() >= 0 and made.max() < 4
    else:
        assert len({tuple(row) for row in made.tolist()}) == 6 and (made < data).all()
