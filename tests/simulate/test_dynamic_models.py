"""Real models with every dimension symbolic: one plan, run at shapes of its profile, gives ONNX Runtime's results."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from support.plans import plan_engine
from support.real_models import real_model

from ingot.graph.lowered import Lowered
from ingot.importer.load import import_model
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.options import parse_shapes
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.simulate.simulator import Simulator
from ingot.tune.candidates import first_acceptance

CASES = {
    "yolov8n": ("images=1x3x320x320:1x3x640x640:4x3x640x640", [(2, 3, 320, 416)], ()),
    "ocr_rec": ("x=1x3x48x320:2x3x48x320:8x3x48x640", [(1, 3, 48, 320), (2, 3, 48, 400)], ()),
    "ocr_det": ("x=1x3x320x320:1x3x640x640:4x3x960x960", [(1, 3, 352, 416)], ()),
    "nsnet2_16k": ("input=1x100x161:4x100x161:8x100x161", [(3, 100, 161)], ()),
}


@pytest.mark.models
@pytest.mark.parametrize("name", CASES)
def test_any_shape_of_the_profile(name: str) -> None:
    shapes, sizes, hosts = CASES[name]
    path = real_model(name)
    imported = import_model(path, parse_shapes([shapes]))
    canonical = canonicalise(imported.model, fp16=False)
    lowered = lower(canonical.model, imported.ranges, lambda region: first_acceptance(region, Target(90), TACTICS))
    assert isinstance(lowered, Lowered), lowered
    assert all(any(op in str(reason) for op in hosts) for reason in lowered.reasons), lowered.reasons
    simulator = Simulator(plan_engine(lowered))
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in sizes:
        feeds = {lowered.inputs[0]: np.random.default_rng(0).random(size, np.float32)}
        wanted = session.run(None, feeds)
        for made, array in zip(simulator.run(feeds).values(), wanted, strict=True):
            scale = max(float(np.abs(array).max()), 1.0)
            np.testing.assert_allclose(made, array, rtol=1e-4, atol=1e-5 * scale)
