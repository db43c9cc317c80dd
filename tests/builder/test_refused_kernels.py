"""Regions of which every variant is refused: by the gate, say. They are cut into smaller ones, or go to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ingot.builder.api as builder
from ingot.builder.api import build_engine
from ingot.engine.describe import describe
from ingot.errors import IngotError
from ingot.graph.lowered import Lowered
from ingot.graph.reference import run_model
from ingot.graph.region import Kind, Region
from ingot.options import BuildOptions
from ingot.simulate.simulator import Simulator
from ingot.tune.api import NoKernel
from ingot.tune.choice import Choice
from ingot.tune.hollow import hollow_choices

RANDOM = np.random.default_rng(0)


def first_layers() -> onnx.ModelProto:
    """Convolution over an image, Relu, MaxPool, which are one kernel of a kind of its own; and a second convolution."""
    weights = [
        numpy_helper.from_array((RANDOM.standard_normal(shape) / 5).astype(np.float32), name)
        for name, shape in (("w", (16, 3, 3, 3)), ("v", (16, 16, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "v"], ["y"], name="second", pads=[1] * 4),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 16, 16]), ("y", [1, 16, 4, 4]))
    ]
    graph = helper.make_graph(nodes, "first", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def refusing(monkeypatch: pytest.MonkeyPatch, refused: Callable[[Region], bool]) -> list[str]:
    """Makes the tuner refuse all variants of some Regions; gives their kinds, in order."""
    seen: list[str] = []

    def choose(lowered: Lowered, *args: Any, **options: Any) -> list[Choice]:
        for region in lowered.regions:
            if region.kind not in (Kind.VIEW, Kind.HOST) and refused(region):
                seen.append(region.kind.value)
                error = NoKernel("no kernel can run it: 3 of 64 elements are off", node=region.name)
                error.signature = region.signature
                raise error
        return hollow_choices(lowered)

    monkeypatch.setattr(builder, "choose", choose)
    return seen


def check(model: onnx.ModelProto, options: BuildOptions) -> list[tuple[str, list[str]]]:
    engine = build_engine(model, options)
    x = RANDOM.standard_normal((1, 3, 16, 16)).astype(np.float32)
    (want,) = run_model(model, {"x": x}, ["y"])
    np.testing.assert_allclose(np.asarray(Simulator(engine).run({"x": x})["y"]), want, rtol=1e-2, atol=1e-2)
    return [(layer.kind, layer.ops) for layer in describe(engine).layers]


def test_a_stem_comes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    options = BuildOptions("sm_90", fp16=True, strict=True)
    refusing(monkeypatch, lambda region: False)
    assert ("stem", "MaxPool") in [(kind, op) for kind, ops in check(first_layers(), options) for op in ops]
    seen = refusing(monkeypatch, lambda region: region.kind is Kind.STEM)
    layers = check(first_layers(), options)
    assert seen == ["stem"] and {"conv", "pool"} <= {kind for kind, _ in layers} and "stem" not in dict(layers)


def test_what_no_kernel_runs_goes_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = refusing(monkeypatch, lambda region: region.kind is Kind.POOL or region.kind is Kind.STEM)
    layers = check(first_layers(), BuildOptions("sm_90", fp16=True))
    assert "pool" in seen and ("host", ["MaxPool"]) in layers
    with pytest.raises(IngotError, match="3 of 64 elements are off"):
        build_engine(first_layers(), BuildOptions("sm_90", fp16=True, strict=True))


def test_a_plugin_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(*args: Any, **options: Any) -> list[Choice]:
        raise NoKernel("no kernel can run this plugin")

    monkeypatch.setattr(builder, "choose", choose)
    with pytest.raises(NoKernel):
        build_engine(first_layers(), BuildOptions("sm_90", fp16=True))
