"""Class probabilities are judged by the scores behind them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from support.eight_bit import data_for, pictures, prepared
from support.rewrites import Net, run_ort

import ingot
from ingot.precision.judged import JudgedRuns, Scores, levelled, scores_of
from ingot.precision.metrics import Evaluator, cosine, metric_of

SAMPLES = pictures(24)


def _only(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    (found,) = outputs.values()
    return found


def _classifier(last: str, sharpness: float = 1.0) -> Net:
    """A few layers to four probabilities in a column."""
    net = Net()
    x = net.op("Flatten", net.input("x", ["N", 3, 12, 12]))
    for size, following in ((432, 16), (16, 4)):
        weight = net.random.standard_normal((size, following)) * np.sqrt(2 / size)
        x = net.op("Relu", x) if size == 16 else x
        x = net.op("MatMul", x, net.const(weight * (sharpness if following == 4 else 1)))
    x = net.op(last, x) if last else x
    net.output(net.op("Unsqueeze", x, net.const(np.array([2]), np.int64)))
    return net


@pytest.mark.parametrize(("last", "axis"), [("Softmax", -1), ("LogSoftmax", -1), ("Sigmoid", None)])
def test_the_scores_behind_an_output_are_found(last: str, axis: int | None) -> None:
    model = prepared(_classifier(last))
    found = scores_of(model.graph.outputs[0])
    assert found is not None and found.axis == axis
    (product,) = (node for node in model.graph if node.op_type in ("MatMul", "Gemm") and node.outputs[0].shape[-1] == 4)
    assert found == Scores(str(product.outputs[0].name), axis)
    judged, made = _only(JudgedRuns(model).run({"x": SAMPLES})), _only(run_ort(ir.to_proto(model), {"x": SAMPLES}))
    again = judged[..., None].astype(np.float64)
    again = 1 / (1 + np.exp(-again)) if axis is None else np.exp(again) / np.exp(again).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.log(again) if last == "LogSoftmax" else again, made, rtol=1e-4, atol=1e-5)


def test_other_outputs_are_judged_themselves() -> None:
    model = prepared(_classifier(""))
    assert scores_of(model.graph.outputs[0]) is None
    net = Net()
    net.output(net.op("Softmax", net.input("x", ["N", 4])))
    assert scores_of(prepared(net).graph.outputs[0]) is None, "nothing can err before it"
    feeds = {"x": SAMPLES}
    np.testing.assert_array_equal(_only(JudgedRuns(model).run(feeds)), _only(run_ort(ir.to_proto(model), feeds)))


def test_masked_and_shifted_scores_count_as_their_probabilities() -> None:
    scores = np.array([[3.0, 1.0, -1e9, 2.0], [-np.inf, 5.0, 5.0, 1e3]], np.float32)
    found = levelled(scores, -1)
    assert np.isfinite(found).all() and np.abs(found).max() < 89
    np.testing.assert_allclose(levelled(scores + 700, 1)[0], found[0], atol=1e-4)
    np.testing.assert_allclose(found[0, [0, 1, 3]] - found[0, 0], [0, -2, -1], atol=1e-5)
    assert np.isfinite(levelled(np.full((2, 3), -np.inf, np.float32), -1)).all()
    np.testing.assert_array_equal(levelled(np.array([-np.inf, 2.0, 99.0]), None), [-88, 2, 88])


def test_what_sure_classes_lose_is_seen() -> None:
    """Probabilities that are all but 0 and 1 hardly move when their scores do."""
    net = _classifier("Softmax", sharpness=120.0)
    made, _, report = ingot.quantize(net.proto(), SAMPLES, accuracy_budget=0.5)
    wanted, got = (_only(run_ort(p, {"x": SAMPLES})) for p in (net.proto(), made))
    assert report.loss is not None and report.loss > 20 * (1 - cosine(wanted, got))
    left, right = (_only(JudgedRuns(ir.from_proto(p)).run({"x": SAMPLES})) for p in (net.proto(), made))
    assert report.loss == pytest.approx(1 - cosine(left, right), rel=0.05)  # the mean over batches


def test_other_metrics_see_the_outputs() -> None:
    model = prepared(_classifier("Softmax"))
    batches = list(data_for(model, SAMPLES).batches())
    seen = {name: Evaluator(model, batches, metric_of(name)).original for name in ("top1", "cosine")}
    probabilities, scores = (np.concatenate([*map(_only, found)]) for found in seen.values())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert scores.min() < 0
