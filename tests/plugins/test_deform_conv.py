"""ONNX's DeformConv by a plugin: against ONNX's own evaluator, in NumPy, in CUDA C++ on the CPU, on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler
from support.plugin_models import TACTIC, model_of, on_host, plugin_region, variants

import ingot
from ingot.builder.api import build_hollow
from ingot.options import BuildOptions, parse_shapes
from ingot.plugins.examples.deform_conv import DEFORM_CONV
from ingot.plugins.record import run_reference
from ingot.plugins.registry import using
from ingot.simulate.simulator import Simulator

CASES: dict[str, dict[str, Any]] = {
    "plain": dict(x=(1, 4, 6, 7), w=(5, 4, 3, 3), pads=[1, 1, 1, 1]),
    "mask and bias": dict(x=(2, 6, 8, 5), w=(4, 6, 3, 2), bias=True, mask=True, pads=[1, 0, 1, 1], strides=[2, 1]),
    "groups": dict(x=(2, 8, 7, 7), w=(6, 4, 2, 2), group=2, offset_group=4, dilations=[2, 1], bias=True),
    "many channels": dict(x=(1, 6, 3, 3), w=(70, 6, 1, 1), offset_group=3, mask=True),
}


def built(case: dict[str, Any], dtype: int = TensorProto.FLOAT) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node, and inputs that reach outside of the image."""
    random = np.random.default_rng(1)
    case = dict(case)
    x, w, bias, mask = case.pop("x"), case.pop("w"), case.pop("bias", False), case.pop("mask", False)
    pads, strides = case.get("pads", [0] * 4), case.get("strides", [1, 1])
    dilations, split = case.get("dilations", [1, 1]), case.get("offset_group", 1)
    size = [(x[2 + i] + pads[i] + pads[2 + i] - dilations[i] * (w[2 + i] - 1) - 1) // strides[i] + 1 for i in (0, 1)]
    taps = split * w[2] * w[3]
    feeds = {
        "x": random.standard_normal(x),
        "w": random.standard_normal(w),
        "offset": random.normal(0, 2, (x[0], 2 * taps, *size)),
    }
    if bias:
        feeds["b"] = random.standard_normal(w[0])
    if mask:
        feeds["m"] = random.uniform(0, 1, (x[0], taps, *size))
    names = ["x", "w", "offset", "b" if bias else "", "m" if mask else ""]
    while not names[-1]:
        names.pop()
    node = helper.make_node("DeformConv", names, ["y"], name="deform", **case)
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    arrays = {name: array.astype(kind) for name, array in feeds.items()}
    return model_of([node], {n: a.shape for n, a in arrays.items()}, ["y"], dtype=dtype), arrays


def evaluated(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output[0].type.tensor_type.elem_type = model.graph.input[0].type.tensor_type.elem_type
    return np.asarray(ReferenceEvaluator(copy).run(None, feeds)[0])


@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_that_of_onnx(name: str) -> None:
    model, feeds = built(CASES[name])
    attrs = DEFORM_CONV.filled({a.name: _plain(a) for a in model.graph.node[0].attribute}, "")
    operands = [feeds[n] if n else None for n in model.graph.node[0].input]
    (made,) = run_reference(DEFORM_CONV, attrs, operands)
    np.testing.assert_allclose(made, evaluated(model, feeds), rtol=1e-4, atol=1e-4)


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return tuple(value) if isinstance(value, list) else value


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_cuda_on_the_host(name: str) -> None:
    model, feeds = built(CASES[name])
    with using([DEFORM_CONV]):
        region, bindings = plugin_region(model)
        found = {v.tactic: v for v in reversed(variants(region, bindings))}
        assert set(found) == {"plugin.columns", "plugin.direct"}
        for variant in found.values():
            (made,) = on_host(region, variant, [feeds[n] for n in region.inputs], bindings)
            np.testing.assert_allclose(made, evaluated(model, feeds), rtol=1e-4, atol=1e-4)


def test_simulator_and_cpu_run_it_in_a_network() -> None:
    """Weights constant, sizes symbolic, between a convolution that makes the offsets and one that reads the result."""
    random = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["x", "wo"], ["offset"], pads=[1, 1, 1, 1]),
        helper.make_node("DeformConv", ["x", "w", "offset"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["y"]),
    ]
    sizes = {"wo": (18, 4, 3, 3), "w": (6, 4, 3, 3), "w1": (3, 6, 1, 1)}
    weights = {n: (0.3 * random.standard_normal(s)).astype(np.float32) for n, s in sizes.items()}
    model = model_of(nodes, {"x": ["N", 4, "H", "W"]}, ["y"], weights)
    shapes = "x=1x4x4x4:2x4x8x6:3x4x9x9"
    x = random.standard_normal((3, 4, 7, 5)).astype(np.float32)
    wanted = evaluated(model, {"x": x})
    on_cpu = ingot.build(model, target="cpu", shapes={"x": shapes.partition("=")[2]}, plugins=[DEFORM_CONV])
    assert [step.backend for step in on_cpu.plan.steps] == ["onnxruntime", "plugin", "onnxruntime"]
    np.testing.assert_allclose(on_cpu.context().run({"x": x})["y"], wanted, rtol=1e-4, atol=1e-4)
    with using([DEFORM_CONV]):
        engine = build_hollow(model, BuildOptions("sm_90", shapes=parse_shapes([shapes])))
        assert all(step.kind == "kernel" for step in engine.plan.steps)
        np.testing.assert_allclose(Simulator(engine).run({"x": x})["y"], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no GPU")
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("name", CASES)
def test_on_the_device(name: str, dtype: int) -> None:
    target = device_target()
    assert target is not None
    model, feeds = built(CASES[name], dtype)
    wide_model, _ = built(CASES[name])
    wanted = evaluated(wide_model, {n: a.astype(np.float32) for n, a in feeds.items()})
    tolerance = 1e-4 if dtype == TensorProto.FLOAT else 2e-2
    with using([DEFORM_CONV]):
        region, bindings = plugin_region(model)
        for variant in TACTIC.variants(region, target, bindings):
            program = TACTIC.compile(region, variant, target)
            (made,) = run_program(region, program, [feeds[n] for n in region.inputs], bindings)
            np.testing.assert_allclose(made.astype(np.float32), wanted, rtol=tolerance, atol=tolerance * 4)
