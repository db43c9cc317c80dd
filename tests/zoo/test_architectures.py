"""Architectures with random weights: they run, vary with the input and fit float16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ingot.errors import IngotError
from ingot.zoo import architectures

TINY = [name for name in architectures.names() if name.endswith("_tiny")]
FULL = [name for name in architectures.names() if not name.endswith("_tiny")]


def _outputs(model: onnx.ModelProto, batch: int, every_value: bool) -> dict[str, np.ndarray]:
    feeds = architectures.sample_inputs(model, batch)
    declared = {output.name for output in model.graph.output}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if every_value:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for node in model.graph.node:
            model.graph.output.extend(onnx.ValueInfoProto(name=v) for v in node.output if v not in declared)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


_QUICK = ("resnet50", "mobilenet_v2", "efficientnet_b0", "bert_base", "vit_b16")
_SLOW = [pytest.param(name, marks=pytest.mark.nightly) for name in FULL if name not in _QUICK]


@pytest.mark.parametrize("name", [*TINY, *_QUICK, *_SLOW])
def test_values_fit_float16_and_outputs_vary(name: str) -> None:
    model = architectures.build(name)
    declared = [output.name for output in model.graph.output]
    outputs = _outputs(model, 2, every_value=True)
    for value, array in outputs.items():
        if array.dtype == np.float32:
            assert np.isfinite(array).all(), value
            assert np.abs(array).max() < 20000, value
    for value in declared:
        first, second = outputs[value]
        assert 0.05 < first.std() < 50
        # Far above float16 rounding, so that a comparison of outputs can see a wrong input.
        assert np.abs(first - second).max() > 0.02 * np.abs(first).max()


@pytest.mark.parametrize("name", TINY)
def test_the_batch_is_symbolic_and_rows_are_independent(name: str) -> None:
    three = _outputs(architectures.build(name), 3, every_value=False)
    assert all(array.shape[0] == 3 for array in three.values())
    assert architectures.build(name).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize("name", TINY)
def test_saving_is_reproducible_and_follows_the_seed(name: str, tmp_path: Path) -> None:
    first = architectures.save(name, tmp_path / "a.onnx").read_bytes()
    assert architectures.save(name, tmp_path / "b.onnx").read_bytes() == first
    assert architectures.save(name, tmp_path / "c.onnx", seed=1).read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "c.onnx"]


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_b0"])
def test_batch_normalisation_stays_a_node(name: str) -> None:
    kinds = [node.op_type for node in architectures.build(name).graph.node]
    assert kinds.count("BatchNormalization") >= 49


def test_parameters_replace_sizes() -> None:
    model = architectures.build("bert_tiny", seq=8, mask=0)
    assert [value.name for value in model.graph.input] == ["input_ids"]
    assert _outputs(model, 1, every_value=False)["last_hidden_state"].shape == (1, 8, 64)


@pytest.mark.parametrize(("name", "params", "hint"), [("resnet", {}, "resnet50"), ("resnet50", {"seq": 1}, "blocks")])
def test_unknown_names_are_refused(name: str, params: dict[str, int], hint: str) -> None:
    with pytest.raises(IngotError, match=hint):
        architectures.build(name, **params)
