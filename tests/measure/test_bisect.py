"""``bisect`` finds the stage that was broken on purpose, and the Value in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from ingot.builder import api
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.graph.lowered import Lowered
from ingot.measure import bisect as subject
from ingot.measure.bisect import Bisection, bisect
from ingot.options import BuildOptions
from ingot.passes import pipeline
from ingot.zoo import architectures

OPTIONS = BuildOptions(target="sm_90")


def found(name: str = "resnet_tiny", options: BuildOptions = OPTIONS, tolerance: float | None = None) -> Bisection:
    network = architectures.build(name)
    return bisect(network, options, lambda plan: architectures.sample_inputs(network), tolerance=tolerance)


def break_pass(monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[[ir.Model], None]) -> None:
    """Lets the pass ``name`` also do ``damage``."""

    def broken(step: pipeline.Pass) -> pipeline.Pass:
        def run(model: ir.Model) -> list[str]:
            notes = step.run(model)
            damage(model)
            return notes

        return pipeline.Pass(name, run)

    steps = tuple(broken(step) if step.name == name else step for step in pipeline.PASSES)
    assert steps != pipeline.PASSES
    monkeypatch.setattr(pipeline, "PASSES", steps)


@pytest.mark.parametrize("name", ["resnet_tiny", "bert_tiny"])
@pytest.mark.parametrize("fp16", [False, True])
def test_a_right_build_has_no_first_stage(name: str, fp16: bool) -> None:
    result = found(name, replace(OPTIONS, fp16=fp16))
    assert result.first == "" and result.value is None and all(stage.right for stage in result.stages)
    names = [stage.name for stage in result.stages]
    extra = ["autocast"] if fp16 else []
    assert names == ["import", *(step.name for step in pipeline.PASSES), *extra, "simulator"]
    ran = {stage.name for stage in result.stages if stage.worst is not None}
    assert {"import", "fold", "simulator", *extra} <= ran and not any(stage.problem for stage in result.stages)


def test_a_broken_pass_and_the_value_that_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt: list[str] = []

    def third_relu_becomes_tanh(model: ir.Model) -> None:
        node = [node for node in model.graph if node.op_type == "Relu"][2]
        node.op_type = "Tanh"
        spoilt.append(str(node.outputs[0].name))

    break_pass(monkeypatch, "sink", third_relu_becomes_tanh)
    result = found()
    assert result.first == "sink" and result.stages[-1].name == "sink" and not result.stages[-1].right
    assert result.value is not None and result.value.difference.name == spoilt[0]
    assert result.value.layer.startswith("Tanh ")
    assert msgspec.json.decode(msgspec.json.encode(result))["first"] == "sink"


def test_a_broken_autocast_with_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(model: ir.Model) -> list[str]:
        notes = pipeline.autocast(model)
        next(node for node in model.graph if node.op_type == "Softmax").op_type = "LogSoftmax"
        return notes

    monkeypatch.setattr(pipeline, "FP16", pipeline.Pass("autocast", run))
    monkeypatch.setattr(pipeline, "PASSES", tuple(s for s in pipeline.PASSES if s.name != "attention"))
    assert found("vit_tiny", replace(OPTIONS, fp16=True)).first == "autocast"


def test_a_pass_after_which_nothing_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(content: bytes, feeds: object, names: object = ()) -> dict[str, np.ndarray]:
        raise IngotError("no host reference")

    monkeypatch.setattr(subject, "stage_values", refused)
    result = found()
    assert result.first == "" and result.stages[0].problem == "no host reference"
    assert result.stages[-1].name == "simulator" and result.stages[-1].right


def test_a_broken_lowering_and_its_first_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    lower = api.lower

    def broken(*arguments: object) -> Lowered | No:
        lowered = lower(*arguments)  # type: ignore[arg-type]
        assert isinstance(lowered, Lowered)
        name = next(n for r in lowered.regions[3:] for n in r.inputs if n in lowered.constants)
        return replace(lowered, constants={**lowered.constants, name: lowered.constants[name] * 3})

    monkeypatch.setattr(api, "lower", broken)
    result = found()
    assert result.first == "simulator" and result.value is not None
    engine = api.build_hollow(architectures.build("resnet_tiny"), OPTIONS)
    names = [region.name for region in engine.plan.regions]
    assert names.index(result.value.layer) >= 3


def test_a_plan_with_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unordered(model: object, options: BuildOptions) -> EngineFile:
        engine = api.build_hollow(model, options)  # type: ignore[arg-type]
        steps = [msgspec.structs.replace(step, after=[], programmatic=[]) for step in engine.plan.steps]
        return replace(engine, plan=msgspec.structs.replace(engine.plan, steps=steps))

    monkeypatch.setattr(subject, "build_hollow", unordered)
    result = found()
    assert result.first == "simulator" and result.stages[-1].problem


def test_the_tolerance_decides() -> None:
    assert found(tolerance=0.0).first == "import"


def test_the_cpu_has_no_stages() -> None:
    with pytest.raises(IngotError, match="ONNX Runtime runs the whole model"):
        found(options=BuildOptions(target="cpu"))
