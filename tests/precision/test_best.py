"""The fastest precision of each layer within the budget, with times that the tests make up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.eight_bit import conv, data_for, pictures, prepared, residual_net
from support.rewrites import Net, run_ort

from ingot.precision.best import Candidate, Step, fastest, quantize_best, steps_back
from ingot.precision.layers import layers_of
from ingot.precision.mixed import FLOAT
from ingot.precision.settings import Settings

SAMPLES = pictures(24)
Speed = Callable[[str, int], float]
"""(precision, place of the layer) to microseconds."""


def best(net: Net, speed: Speed, precisions: tuple[str, ...] = ("int8", "fp8"), **settings: object) -> list[Candidate]:
    def timed(model: ir.Model, forms: Mapping[str, ir.Model]) -> dict[str, dict[str, float]]:
        names = [layer.name for layer in layers_of(model.graph)[0]]
        assert set(forms) == set(precisions)
        return {name: {p: speed(p, i) for p in (FLOAT, *forms)} for i, name in enumerate(names)}

    model = prepared(net)
    options = Settings(**settings)  # type: ignore[arg-type]
    return quantize_best(model, "sha", data_for(model, SAMPLES), options, precisions, timed)


def precisions_of(candidate: Candidate) -> list[str]:
    return [line.precision for line in candidate.result.report.layers if line.op != "Add"]


def test_layers_give_back_what_costs_least_time_for_its_error() -> None:
    times = {"a": {"float": 10.0, "int8": 5.0}, "b": {"float": 6.0, "int8": 5.0}, "c": {"float": 9.0, "int8": 5.0}}
    errors = {"a": {"float": 0, "int8": 1e-3}, "b": {"float": 0, "int8": 1e-3}, "c": {"float": 0, "int8": 1e-2}}
    start = fastest(times, errors)
    assert start == dict.fromkeys("abc", "int8")
    assert [step.layer for step in steps_back(start, times, errors)] == ["c", "b", "a"]


def test_a_finer_format_comes_between() -> None:
    times = {"a": {"float": 10.0, "int8": 5.5, "fp8": 5.0}}
    errors = {"a": {"float": 0.0, "int8": 1e-4, "fp8": 1e-3}}
    assert steps_back(fastest(times, errors), times, errors) == [Step("a", "int8"), Step("a", "float")]
    errors["a"]["int8"] = 1e-2  # no way back leads through a coarser one
    assert steps_back(fastest(times, errors), times, errors) == [Step("a", "float")]
    times["a"]["float"] = 5.05  # as fast as 8 bits are
    assert fastest(times, errors) == {"a": "float"}


def test_each_layer_takes_its_fastest_precision() -> None:
    def speed(precision: str, place: int) -> float:
        fast = ("int8", "fp8", "int8", "float", "fp8", "int8")[place]
        return 1.0 if precision == fast else 2.0

    found = {candidate.name: candidate for candidate in best(residual_net(2), speed, budget=0.05)}
    assert list(found) == ["int8", "fp8", "mixed", "float"]
    assert precisions_of(found["mixed"]) == ["int8", "fp8", "int8", "float", "fp8", "int8"]
    assert set(precisions_of(found["fp8"])) == {"fp8"} and set(precisions_of(found["float"])) == {"float"}
    report = found["mixed"].result.report
    stays = next(line for line in report.layers if line.precision == FLOAT)
    assert stays.why == "8 bits are not faster here" and stays.micros == {"float": 1.0, "int8": 2.0, "fp8": 2.0}
    assert report.precision == "best" and report.loss is not None and report.loss <= 0.05


def test_a_mix_is_a_model_for_any_runtime() -> None:
    """A MaxPool between layers of both formats; a residual add whose branches are of both."""
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 3, 12, 12]), 3, 8))
    pooled = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    a, b = conv(net, str(pooled), 8, 8), conv(net, str(pooled), 8, 8)
    joined = net.op("Relu", net.op("Add", a, b))
    c, d = conv(net, str(joined), 8, 8), conv(net, str(joined), 8, 8)
    net.output(net.op("GlobalAveragePool", net.op("Add", c, d)))

    def speed(precision: str, place: int) -> float:
        return 1.0 if precision == ("int8", "fp8")[place % 2] else 2.0

    mixed = next(c for c in best(net, speed, budget=0.1) if c.name == "mixed")
    assert Counter(precisions_of(mixed)) == {"int8": 3, "fp8": 2}
    made = ir.to_proto(mixed.result.model)
    onnx.checker.check_model(made, full_check=True)
    kinds = {tensor.data_type for tensor in made.graph.initializer}
    assert {onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.INT8} <= kinds
    (wanted,), (got,) = (list(run_ort(proto, {"x": SAMPLES}).values()) for proto in (net.proto(), made))
    assert 0 < np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(wanted)


def test_the_budget_gives_back_the_layer_with_the_dearest_error() -> None:
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 3, 12, 12]), 3, 8))
    scale = np.ones((1, 8, 1, 1))
    scale[0, 0] = 3e4
    weights = net.random.standard_normal((8, 8, 1, 1))
    weights[:, 0] /= 1e6
    y = net.op("Conv", net.op("Mul", x, net.const(scale)), net.const(weights))
    net.output(net.op("GlobalAveragePool", conv(net, str(net.op("Relu", y)), 8, 8)))
    found = best(net, lambda precision, place: 2.0 if precision == FLOAT else 1.0, ("int8",), budget=0.005)
    assert [c.name for c in found] == ["int8 and float", "float"]
    assert precisions_of(found[0]) == ["int8", "float", "int8"]
    why = next(line.why for line in found[0].result.report.layers if line.precision == FLOAT)
    assert "makes an error of" in why and "saves 1.0 µs" in why


@pytest.mark.parametrize("budget", [0.005, None])
def test_nothing_is_in_8_bits_where_that_is_slower(budget: float | None) -> None:
    found = best(residual_net(1), lambda p, _: 1.0 if p == FLOAT else 2.0, ("int8",), budget=budget)
    names = [candidate.name for candidate in found]
    assert "mixed" not in names and names[-1] == "float"
    assert found[-1].result.report.quantized == 0
    # All in INT8 is offered for all that: whole engines may differ from the sum of their layers.
    assert names[0] == "int8"


def test_what_is_kept_stays() -> None:
    net = residual_net(1)
    model = prepared(net)
    name = layers_of(model.graph)[0][1].name
    found = best(net, lambda p, _: 2.0 if p == FLOAT else 1.0, ("int8",), budget=0.05, keep=(name,))
    assert found[0].name == "int8"
    kept = [line for line in found[0].result.report.layers if line.precision == FLOAT]
    assert [line.name for line in kept] == [name] and kept[0].why == "asked for"
