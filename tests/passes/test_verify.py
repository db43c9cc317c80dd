"""The verifier finds what a broken pass leaves."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest
from support.rewrites import Net

from ingot.graph.verify import signature_of, verify
from ingot.passes import pipeline
from ingot.passes.fold import tidy


def _model() -> ir.Model:
    net = Net()
    x = net.input("x", ["N", 3])
    net.output(net.op("Add", net.op("Relu", x), net.normal(3)))
    model = net.model()
    tidy(model)
    return model


def _twice_the_name(model: ir.Model) -> None:
    model.graph[0].outputs[0].name = "v1_0"


def _twice_the_node(model: ir.Model) -> None:
    model.graph[0].name = model.graph[1].name


def _before_it_is_made(model: ir.Model) -> None:
    first = model.graph[0]
    model.graph.remove(first)
    model.graph.append(first)


def _from_nowhere(model: ir.Model) -> None:
    model.graph[0].replace_input_with(0, ir.Value(name="ghost"))


def _other_output(model: ir.Model) -> None:
    model.graph.outputs[0] = model.graph[0].outputs[0]


def _other_type(model: ir.Model) -> None:
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


def _other_shape(model: ir.Model) -> None:
    model.graph.outputs[0].shape = ir.Shape(["N", 4])


def _empty_weight(model: ir.Model) -> None:
    next(iter(model.graph.initializers.values())).const_value = None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_twice_the_name, "two values are called 'v1_0'"),
        (_twice_the_node, "two nodes are called 'n1'"),
        (_before_it_is_made, "'n1' reads 'v0_0' before it is made"),
        (_from_nowhere, "'n0' reads 'ghost' before it is made"),
        (_other_output, "output 'v1_0' is now 'v0_0'"),
        (_other_type, "output 'v1_0' was FLOAT and is FLOAT16"),
        (_other_shape, "output 'v1_0' had shape"),
        (_empty_weight, "initializer 'w0' holds nothing"),
    ],
)
def test_damage_is_found(damage: Callable[[ir.Model], None], message: str) -> None:
    model = _model()
    signature = signature_of(model)
    verify(model, signature)
    damage(model)
    with pytest.raises(AssertionError, match=message):
        verify(model, signature)


def test_the_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: ir.Model) -> list[str]:
        _twice_the_node(model)
        return []

    monkeypatch.setattr(pipeline, "PASSES", (pipeline.Pass("breaker", broken),))
    with pytest.raises(AssertionError, match="after pass breaker: two nodes are called 'n1'"):
        pipeline.canonicalise(_model(), fp16=False)
