"""Engines for sm_75: tensor cores through cuda.mma, the rest without; their plans in the simulator."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime as ort
import pytest

from ingot.builder.api import build_engine
from ingot.options import BuildOptions, parse_shapes
from ingot.simulate.simulator import Simulator
from ingot.zoo import architectures


def tactics_after_simulation(name: str, smallest: int, usual: int) -> Counter[str]:
    """How often each tactic is used, after the simulator has confirmed what the plan computes."""
    model = architectures.build(name)
    feeds, fewer = (architectures.sample_inputs(model, batch) for batch in (usual, smallest))
    texts = []
    for key, array in feeds.items():
        least, most = ("x".join(map(str, one.shape)) for one in (fewer[key], array))
        texts.append(f"{key}={least}:{most}:{most}" if least != most else f"{key}={most}")
    options = BuildOptions(target="sm_75", opt_level=1, fp16=True, shapes=parse_shapes(texts))
    engine = build_engine(model, options)
    assert engine.plan.target == "sm_75"
    assert not any(step.kind == "host" for step in engine.plan.steps)
    made = Simulator(engine).run(feeds)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for output, want in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        got = made[output.name].astype(np.float64)
        assert np.linalg.norm(got - want) <= 2e-2 * np.linalg.norm(want), output.name
    return Counter(region.tactic.partition("[")[0] for region in engine.plan.regions)


@pytest.mark.parametrize("name", ["resnet_tiny", "bert_tiny", "mobilenet_tiny"])
def test_small_engines(name: str) -> None:
    used = tactics_after_simulation(name, 1, 2)
    assert used["cuda.mma"] > 0
    assert used["triton.conv"] == 0 and used["triton.gemm"] <= 1  # a product of 32 by 10 wants no tensor cores
    assert (used["triton.depthwise"] + used["cuda.dwconv"] > 0) == (name == "mobilenet_tiny")
    assert (used["triton.attention"] > 0) == (name == "bert_tiny")


@pytest.mark.nightly
@pytest.mark.parametrize("name, products", [("resnet50", 53), ("bert_base", 49)])
def test_whole_networks(name: str, products: int) -> None:
    used = tactics_after_simulation(name, 1, 1)
    assert used["cuda.mma"] + used["cuda.gemv"] == products and used["cuda.gemv"] <= 1  # of one row: the last layer
