"""``ingot compare --bisect`` as a command."""

from __future__ import annotations

import json

import onnx_ir as ir
import pytest
from typer.testing import CliRunner, Result

from ingot.cli.main import app
from ingot.passes import pipeline


def ingot(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_every_stage_of_a_right_build() -> None:
    result = ingot("compare", "--bisect", "zoo:mobilenet_tiny", "--fp16", "--shapes", "input=2x3x32x32")
    assert result.exit_code == 0, result.output
    for part in ("import", "batch_norm", "autocast", "simulator", "no stage departs"):
        assert part in result.stdout, part


def test_a_broken_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: ir.Model) -> list[str]:
        next(node for node in model.graph if node.op_type == "Add").op_type = "Sub"
        return []

    steps = tuple(pipeline.Pass(s.name, spoil) if s.name == "einsum" else s for s in pipeline.PASSES)
    monkeypatch.setattr(pipeline, "PASSES", steps)
    result = ingot("compare", "--bisect", "zoo:resnet_tiny", "--target", "sm_80")
    assert result.exit_code == 1, result.output
    assert "first to depart: einsum" in result.stdout and "made by Sub" in result.stdout
    assert json.loads(ingot("compare", "--bisect", "zoo:resnet_tiny", "--json").stdout)["first"] == "einsum"


def test_it_takes_a_model_alone() -> None:
    assert ingot("compare", "zoo:resnet_tiny").exit_code == 2
    assert ingot("compare", "--bisect", "zoo:resnet_tiny", "zoo:resnet_tiny").exit_code == 2
