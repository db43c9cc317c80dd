"""The activation among the worked examples: CUDA C++ and Triton, in the layout and the type of its surroundings."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler
from support.plugin_models import TACTIC, TARGET, model_of, on_host, plugin_region, variants

from ingot.graph.dims import evaluate_shape
from ingot.plugins.examples.snake import SNAKE
from ingot.plugins.registry import using

HALF = TensorProto.FLOAT16


def snake(x: str, y: str, **attributes: float) -> object:
    return helper.make_node("Snake", [x], [y], domain="ingot.examples", **attributes)


def cases() -> dict[str, object]:
    between = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        snake("a", "b", alpha=0.3),
        helper.make_node("Conv", ["b", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    weight = {"w": np.full((16, 16, 3, 3), 0.1, np.float32)}
    crossed = [helper.make_node("Transpose", ["x"], ["a"], perm=[2, 0, 1]), snake("a", "y", alpha=2.0)]
    return {
        "float32": model_of([snake("x", "y")], {"x": [3, 5, 7]}, ["y"]),
        "float16": model_of([snake("x", "y", alpha=0.7)], {"x": [33, 65]}, ["y"], dtype=HALF),
        "channels last": model_of(between, {"x": [2, 16, 5, 6]}, ["y"], weight),
        "transposed": model_of(crossed, {"x": [4, 5, "N"]}, ["y"]),
    }


def expected(x: np.ndarray, alpha: float) -> np.ndarray:
    wide = x.astype(np.float64)
    return wide + np.sin(alpha * wide) ** 2 / alpha


@needs_compiler
@pytest.mark.parametrize("name", cases())
def test_cuda_on_the_host(name: str) -> None:
    with using([SNAKE]):
        region, bindings = plugin_region(cases()[name], ["x=4x5x2:4x5x6:4x5x9"] if name == "transposed" else ())
        spec = region.input_specs[0]
        x = np.random.default_rng(0).normal(0, 2, evaluate_shape(spec.shape, bindings)).astype(spec.dtype)
        found = [v for v in variants(region, bindings) if v.tactic == "plugin.cuda"]
        assert len(found) == 2
        for variant in found:
            (made,) = on_host(region, variant, [x], bindings)
            alpha = dict(region.ops[0].attrs)["alpha"]
            np.testing.assert_allclose(made, expected(x, alpha), rtol=2e-3 if name == "float16" else 1e-5, atol=1e-5)


def test_it_takes_the_layout_of_its_surroundings() -> None:
    with using([SNAKE]):
        region, _ = plugin_region(cases()["channels last"])
        assert region.input_specs[0].strides == region.output_specs[0].strides == (480, 1, 96, 16)


def test_triton_is_offered_only_where_the_order_does_not_matter() -> None:
    with using([SNAKE]):
        region, bindings = plugin_region(cases()["transposed"], ["x=4x5x6"])
        assert {v.tactic for v in variants(region, bindings)} == {"plugin.cuda"}
        region, bindings = plugin_region(cases()["float32"])
        triton = next(v for v in variants(region, bindings) if v.tactic == "plugin.triton")
        (kernel,) = TACTIC.compile(region, triton, TARGET).kernels
        assert kernel.cubin and kernel.block == 128


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no GPU")
@pytest.mark.parametrize("name", cases())
def test_on_the_device(name: str) -> None:
    target = device_target()
    assert target is not None
    with using([SNAKE]):
        region, bindings = plugin_region(cases()[name], ["x=4x5x2:4x5x6:4x5x9"] if name == "transposed" else ())
        spec = region.input_specs[0]
        x = np.random.default_rng(0).normal(0, 2, evaluate_shape(spec.shape, bindings)).astype(spec.dtype)
        alpha = dict(region.ops[0].attrs)["alpha"]
        for variant in TACTIC.variants(region, target, bindings):
            (made,) = run_program(region, TACTIC.compile(region, variant, target), [x], bindings)
            np.testing.assert_allclose(made, expected(x, alpha), rtol=2e-3 if name == "float16" else 1e-5, atol=1e-5)
