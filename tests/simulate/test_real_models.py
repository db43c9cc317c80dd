"""Every real model's plan for the GPU, in the simulator, gives ONNX Runtime's results."""

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
from ingot.zoo.inputs import sample_inputs
from ingot.zoo.models import MODELS

_ONE_OF_EACH_FILE = tuple({model.sha256: model.name for model in reversed(MODELS)}.values())
_HALF = ("csmask_", "silero_vad_half")
"""Models whose own weights are 16-bit: they compute in it."""


@pytest.mark.models
@pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", sorted(_ONE_OF_EACH_FILE))
def test_plan_gives_the_results_of_onnx_runtime(name: str, fp16: bool) -> None:
    path, feeds = real_model(name), sample_inputs(name)
    if fp16 and name.startswith(_HALF):
        pytest.skip("its own types are kept")
    shapes = [f"{tensor}={'x'.join(map(str, array.shape))}" for tensor, array in feeds.items()]
    imported = import_model(path, parse_shapes(shapes))
    canonical = canonicalise(imported.model, fp16=fp16)
    lowered = lower(canonical.model, imported.ranges, lambda region: first_acceptance(region, Target(90), TACTICS))
    assert isinstance(lowered, Lowered), lowered
    made = Simulator(plan_engine(lowered)).run(feeds)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    allowed = 3e-2 if fp16 or name.startswith(_HALF) else 1e-3
    for output, wanted in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        got, want = made[output.name].astype(np.float64), np.asarray(wanted, np.float64)
        assert got.shape == want.shape
        assert np.linalg.norm(got - want) <= allowed * np.linalg.norm(want) + 1e-9, output.name
