"""``best``: the fastest of the engines that each layer's precision can make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from support.eight_bit import pictures, prepared, residual_net
from support.gpu import device_target

import ingot
from ingot.builder import best
from ingot.builder.api import build_engine, lower_model
from ingot.builder.layer_times import Tuned, layer_times
from ingot.builder.targets import gpu_target
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.options import BuildOptions, Quantization, parse_shapes
from ingot.precision.report import Report
from ingot.runtime.engine import Engine
from ingot.tune.hollow import hollow_choices

SAMPLES = pictures(16)
OPTIONS = BuildOptions(
    target="sm_90",
    fp16=True,
    opt_level=1,
    shapes=parse_shapes(["x=2x3x12x12"]),
    quantization=Quantization("best", budget=0.05),
)


def build(options: BuildOptions) -> tuple[EngineFile, Report]:
    told: list[Report] = []
    engine = build_engine(residual_net(1).proto(), options, data=SAMPLES, told=told.append)
    return engine, told[0]


def test_without_a_gpu_sums_of_layers_decide() -> None:
    engine, report = build(OPTIONS)
    note = next(reason for reason in engine.plan.reasons if reason.startswith("best:"))
    assert "sums of the layers" in note and note in report.notes and "float 0.0" in note
    assert report.precision == "best" == engine.provenance["quantized"]
    layers = [line for line in report.layers if line.op != "Add"]
    assert all(set(line.micros) == {"float", "int8", "fp8"} and min(line.micros.values()) > 0 for line in layers)
    seconds = dict(part.split(" ")[:2] for part in note.removeprefix("best: ").split(" (")[0].split(", "))
    assert note.endswith(f"{min(seconds, key=lambda name: float(seconds[name]))} is taken")


@pytest.mark.parametrize(("float_time", "taken"), [(1.0, "float"), (9.0, "int8")])
def test_whole_engines_decide_where_they_are_measured(
    monkeypatch: pytest.MonkeyPatch, float_time: float, taken: str
) -> None:
    """On the CPU, whose engines are measured anywhere; the clock alone is made up."""
    seen: list[int] = []

    def turns(functions: Sequence[object], feeds: object) -> list[float]:
        seen.append(len(functions))
        return [2.0, float_time]

    monkeypatch.setattr(best, "take_turns", turns)
    engine, report = build(replace(OPTIONS, target="cpu", shapes=()))
    assert seen == [2] and f"{taken} is taken" in engine.plan.reasons[-1]
    assert (report.quantized == 0) == (taken == "float")
    whys = {line.why for line in report.layers}
    assert whys == ({"the engine is not faster with it in 8 bits"} if taken == "float" else {"within the budget"})
    assert report.loss is not None and (report.loss == 0) == (taken == "float")


def test_on_the_cpu_it_is_measured() -> None:
    engine = ingot.build(residual_net(1).proto(), best=True, calibration=SAMPLES, target="cpu")
    assert "measured as whole engines" in engine.plan.reasons[-1]
    (made,) = engine.context().run({"x": SAMPLES}).values()
    assert made.shape == (16, 10)


def test_layers_that_passes_joined_share_what_is_not_known() -> None:
    options = replace(OPTIONS, quantization=None)
    lowered = lower_model(residual_net(1).proto(), gpu_target("sm_90"), options)
    assert not isinstance(lowered, No)
    choices = [replace(choice, micros=10.0) for choice in hollow_choices(lowered)]
    model = prepared(residual_net(1))
    times = layer_times(model, [Tuned(lowered, choices)])
    assert len(times) == 4 and set(times.values()) == {10.0}
    node = next(node for node in model.graph if node.op_type == "Gemm")
    node.outputs[0].name = "another"
    assert layer_times(model, [Tuned(lowered, choices)] * 2)[str(node.name)] == pytest.approx(20.0)


def test_losses_take_data() -> None:
    with pytest.raises(IngotError, match="take data"):
        build_engine(residual_net(1).proto(), OPTIONS)
    with pytest.raises(IngotError, match="int8 and best are 2 ways"):
        ingot.build(residual_net(1).proto(), int8=True, best=True, calibration=SAMPLES)


@pytest.mark.gpu
def test_on_the_device_whole_engines_are_measured() -> None:
    if device_target() is None:
        pytest.skip("no GPU")
    engine, report = build(replace(OPTIONS, target="cuda", opt_level=3))
    assert "measured as whole engines" in report.notes[-1]
    original = build_engine(residual_net(1).proto(), replace(OPTIONS, target="cuda", quantization=None))
    feeds = {"x": SAMPLES[:2]}
    (wanted,), (made,) = (list(Engine(file).context().run(feeds).values()) for file in (original, engine))
    assert np.linalg.norm(made - wanted) < 0.4 * np.linalg.norm(wanted)
