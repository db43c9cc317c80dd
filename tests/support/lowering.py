"""From an ONNX model through lowering and the plan to the simulator, and what ONNX Runtime says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from support.plans import plan_engine

from ingot.errors import YES, Answer
from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.region import Region
from ingot.passes.lower import lower
from ingot.simulate.simulator import Simulator

Feeds = Mapping[str, np.ndarray]


def lowered_of(
    model: onnx.ModelProto,
    ranges: tuple[SymbolRange, ...] = (),
    accepts: Callable[[Region], Answer] = lambda region: YES,
) -> Lowered:
    """The lowered graph; fails when nothing of it runs on the device."""
    found = lower(ir.from_proto(model), ranges, accepts)
    assert isinstance(found, Lowered), str(found)
    return found


def ort_outputs(model: onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """ONNX Runtime's results by output name."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in model.graph.output]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def check_lowered(model: onnx.ModelProto, lowered: Lowered, feeds: Feeds, seeds: int = 2) -> None:
    """The plan's results in the simulator are ONNX Runtime's, in every order that is tried."""
    wanted = ort_outputs(model, feeds)
    simulator = Simulator(plan_engine(lowered))
    for seed in range(seeds):
        made = simulator.run(feeds, seed=seed)
        assert made.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_allclose(made[name], array, rtol=1e-4, atol=1e-4, err_msg=name)
