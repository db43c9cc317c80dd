"""Q/DQ models through the whole path: machine code for sm_90 in the simulator, and engines on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from support.gpu import device_target
from support.quantized_models import FLOAT8, encoder, mobile_block, residual_block

from ingot.builder.api import build_engine, build_hollow
from ingot.engine.describe import describe
from ingot.graph.reference import run_model
from ingot.options import BuildOptions
from ingot.runtime.engine import Engine
from ingot.simulate.simulator import Simulator

MODELS: dict[str, tuple[onnx.ModelProto, float]] = {
    "residual, int8": (residual_block(), 0.001),
    "residual, zero points": (residual_block(np.uint8(117)), 0.001),
    "mobile, uint8": (mobile_block(np.uint8(0)), 0.04),
    "encoder, int8": (encoder(), 0.05),
    "encoder, FP8": (encoder(FLOAT8, np.zeros((), FLOAT8)), 0.05),
}


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    value = model.graph.input[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return {value.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def compare(model: onnx.ModelProto, made: dict[str, Any], step: float) -> None:
    names = [output.name for output in model.graph.output]
    for name, want in zip(names, run_model(model, feeds_of(model), names), strict=True):
        off = np.abs(np.asarray(made[name]) - want)
        assert off.max() <= 1.5 * step and np.sqrt(np.mean(off**2)) <= 0.02 * want.std(), (name, off.max())


def test_machine_code_for_hopper() -> None:
    model, step = MODELS["residual, int8"]
    engine = build_engine(model, BuildOptions(target="sm_90", opt_level=1, strict=True))
    layers = [layer for layer in describe(engine).layers if layer.kind == "conv"]
    assert len(layers) == 4 and all(layer.tactic.startswith("cuda.hopper") for layer in layers)
    assert all("int8" in layer.precision for layer in layers)
    compare(model, Simulator(engine).run(feeds_of(model)), step)


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_in_the_simulator(name: str, fp16: bool) -> None:
    model, step = MODELS[name]
    engine = build_hollow(model, BuildOptions(target="sm_90", fp16=fp16, strict=True))
    compare(model, Simulator(engine).run(feeds_of(model)), step * (2 if fp16 else 1))


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fp16", [False, True])
def test_engines_on_the_device(name: str, fp16: bool) -> None:
    target = device_target()
    if target is None:
        pytest.skip("no GPU")
    if "FP8" in name and target.cc < 89:
        pytest.skip("no FP8")
    model, step = MODELS[name]
    engine = build_engine(model, BuildOptions(target="cuda", fp16=fp16, strict=True, opt_level=3))
    made = Engine(engine).context().run(feeds_of(model))
    compare(model, made, step * (2 if fp16 else 1))
