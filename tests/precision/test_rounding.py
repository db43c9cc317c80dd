"""Weights that are rounded for the results of their layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.eight_bit import conv, pictures, prepared, residual_net
from support.rewrites import Net, run_ort

import ingot
from ingot.errors import IngotError
from ingot.graph.edit import constant_of
from ingot.precision.formats import FP8, INT8, Format
from ingot.precision.layers import Layer, layers_of
from ingot.precision.patches import as_matrices, as_weights, has_patches, patches
from ingot.precision.placement import place
from ingot.precision.qdq import insert
from ingot.precision.ranges import Threshold
from ingot.precision.rounding import Moments, flips_of
from ingot.precision.weights import quantize_weight

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(3)


def layers(net: Net) -> list[Layer]:
    return layers_of(prepared(net).graph)[0]


def every_kind() -> Net:
    """Layers with strides, dilations, uneven pads, groups, of one and two axes, and products both ways round."""
    net = Net()
    x = net.input("x", ["N", 8, 9, 10])
    net.output(
        conv(net, x, 8, 6, strides=[2, 1]),
        conv(net, x, 8, 8, group=8),
        conv(net, x, 8, 12, group=4, dilations=[2, 1]),
        net.op("Conv", x, net.normal(5, 8, 2, 3), pads=[0, 1, 1, 2]),
        net.op("Conv", net.op("Reshape", x, net.const([0, 8, 90], "int64")), net.normal(4, 8, 5), pads=[2, 2]),
        net.op("MatMul", x, net.normal(10, 7)),
        net.op("Gemm", net.op("Flatten", x), net.normal(3, 720), net.normal(3), transB=1),
    )
    return net


def test_patches_times_weights_are_the_results() -> None:
    net = every_kind()
    found = layers(net)
    feeds = {"x": RANDOM.standard_normal((2, 8, 9, 10)).astype(np.float32)}
    results = dict(
        zip([layer.node.outputs[0].name for layer in found], run_ort(net.proto(), feeds).values(), strict=True)
    )
    for layer in found:
        x = feeds["x"]
        if layer.node.op_type == "Gemm":
            x = x.reshape(2, -1)
        elif layer.array.ndim == 3:
            x = x.reshape(2, 8, 90)
        rows = patches(layer, x, 10**6, np.random.default_rng(0))
        made = np.einsum("gpi,gri->pgr", rows, as_matrices(layer, layer.array)).reshape(rows.shape[1], -1)
        want = results[layer.node.outputs[0].name]
        if layer.node.op_type == "Conv":
            want = np.moveaxis(want, 1, -1)
        want = want.reshape(made.shape)
        off = want - made
        assert np.abs(off - off.mean(axis=0)).max() < 1e-4, layer.name  # but for the bias
        assert np.array_equal(as_weights(layer, as_matrices(layer, layer.array)), layer.array)
        assert patches(layer, x, 7, np.random.default_rng(0)).shape[1] == min(7, rows.shape[1])


def test_what_has_no_patches() -> None:
    net = Net()
    x = net.input("x", ["N", 4, 6, 6])
    net.output(net.op("ConvTranspose", x, net.normal(4, 4, 2, 2)), conv(net, x, 4, 4))
    assert [has_patches(layer) for layer in layers(net)] == [False, True]


@pytest.mark.parametrize("form", [INT8, FP8])
def test_the_other_neighbour_is_next_on_the_other_side(form: Format) -> None:
    all_points = np.unique(form.grid(np.linspace(-500, 500, 300001, dtype=np.float32)))
    scaled = np.concatenate([RANDOM.uniform(-120, 120, 400), RANDOM.uniform(-1, 1, 400) * 2.0**-6]).astype(np.float32)
    grid = form.grid(scaled)
    other = form.other(scaled, grid)
    low, high = np.minimum(grid, other), np.maximum(grid, other)
    assert np.all((low <= scaled) & (scaled <= high))
    if form is INT8:
        assert np.all((high - low == 1) | (scaled == grid))
    inside = np.abs(scaled) > 1
    below = np.searchsorted(all_points, scaled[inside], side="right") - 1
    assert np.array_equal(low[inside], all_points[below])
    exact = np.asarray([0.0, 8.0, form.largest, form.smallest], np.float32)
    assert np.array_equal(form.other(exact, form.grid(exact)), exact)


def correlated(layer: Layer, count: int, seed: int) -> Array:
    """Patches whose numbers depend on each other, as those of pictures do."""
    length = as_matrices(layer, layer.array).shape[2]
    mix = np.random.default_rng(1).standard_normal((length, length)) / 4 + 1
    drawn = np.random.default_rng(seed).standard_normal((layer.groups, count, length))
    return np.asarray(drawn @ mix, np.float32)


def moments_of(rows: Array) -> Array:
    return np.asarray(rows.transpose(0, 2, 1) @ rows)


@pytest.mark.parametrize("form", [INT8, FP8])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_results_come_out_nearer_on_other_data(form: Format, place: int) -> None:
    layer = layers(every_kind())[place]
    learnt, checked, fresh = (correlated(layer, 400, seed) for seed in range(3))
    flips = flips_of(layer, form, 0.1, Moments(moments_of(learnt), moments_of(checked)))

    def errors(rows: Array, turned: Array | None) -> Array:
        made = quantize_weight(layer, form, 0.1, turned).real
        return np.asarray(((rows @ as_matrices(layer, made - layer.array).transpose(0, 2, 1)) ** 2).sum(axis=1))

    assert flips.any() and flips.shape == layer.array.shape
    assert errors(fresh, flips).sum() < 0.7 * errors(fresh, None).sum()
    # No result is worse on what it was checked with.
    assert np.all(errors(checked, flips) <= errors(checked, None) * (1 + 1e-4))


def test_a_result_that_gets_worse_elsewhere_is_left_alone() -> None:
    layer = layers(every_kind())[0]
    rows = correlated(layer, 400, 0)
    size = rows.shape[2]
    # Independent numbers of one size: nearest is best there, so nothing that was learnt elsewhere may stay.
    none = flips_of(layer, INT8, 0.1, Moments(moments_of(rows), np.eye(size, dtype=np.float32)[None]))
    assert not none.any()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_it_is_one_more_thing_to_try(precision: str) -> None:
    samples = pictures(48)
    _, _, plain = ingot.quantize(residual_net(2).proto(), samples, precision=precision, accuracy_budget=0.2)
    model, _, report = ingot.quantize(
        residual_net(2).proto(), samples, precision=precision, accuracy_budget=0.2, rounding="adaround"
    )
    trial = next(trial for trial in report.trials if trial.what == "weights rounded adaptively")
    assert not any(trial.what == "weights rounded adaptively" for trial in plain.trials)
    assert report.output_sqnr_db is not None and plain.output_sqnr_db is not None
    if trial.taken:
        assert report.output_sqnr_db > plain.output_sqnr_db - 0.5
    (wanted,), (got,) = (list(run_ort(proto, {"x": samples}).values()) for proto in (residual_net(2).proto(), model))
    assert np.linalg.norm(got - wanted) < 0.2 * np.linalg.norm(wanted)


def test_one_weight_of_two_layers_is_rounded_for_each() -> None:
    net = Net()
    shared = net.normal(6, 6)
    net.output(net.op("MatMul", net.op("MatMul", net.input("x", ["N", 6]), shared), shared))
    model = prepared(net)
    placed = place(model)
    thresholds = {group: Threshold(3.0, "", 1.0, INT8) for group in placed.groups()}
    first, second = placed.layers
    turned = np.zeros((6, 6), np.bool_)
    turned[2, 3] = True
    made = insert(model, placed, thresholds, INT8, None, {second.name: turned})
    weights = [constant_of(n.inputs[1].producer().inputs[0]) for n in made.graph if n.op_type == "MatMul"]  # type: ignore[union-attr]
    apart = weights[0].astype(int) - weights[1].astype(int)  # type: ignore[union-attr]
    assert abs(apart[2, 3]) == 1 and np.count_nonzero(apart) == 1
    assert np.array_equal(weights[0], quantize_weight(first, INT8, 3 / 127).stored)  # type: ignore[arg-type]


def test_first_layers_of_fp8_may_be_int8() -> None:
    """Differences between neighbours of nearly one brightness: FP8's steps are coarse there, INT8's are not."""
    net = Net()
    x = net.input("x", ["N", 1, 12, 12])
    edges = RANDOM.standard_normal((8, 1, 3, 3))
    y = net.op("Relu", net.op("Conv", x, net.const(edges - edges.mean(axis=(1, 2, 3), keepdims=True)), pads=[1] * 4))
    net.output(net.op("GlobalAveragePool", conv(net, conv(net, str(y), 8, 8), 8, 8)))
    samples = (1.7 + 0.1 * pictures(32, 1)).astype(np.float32)
    _, _, report = ingot.quantize(net.proto(), samples, precision="fp8", accuracy_budget=0.5)
    trial = next(trial for trial in report.trials if trial.what == "first layers in INT8")
    plain = max(t.sqnr_db for t in report.trials if t is not trial and t.taken)
    assert trial.taken and trial.sqnr_db > plain
    assert [line.precision for line in report.layers] == ["int8", "fp8", "fp8"]
    assert report.quantized == 3 and report.given_back == 0


def test_unknown_rounding() -> None:
    with pytest.raises(IngotError, match="no rounding"):
        ingot.quantize(residual_net(1).proto(), pictures(4), rounding="stochastic")
