"""The post-processing of detectors: against ONNX's NonMaxSuppression, on random heads and on a real detector."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler
from support.plugin_models import TACTIC, model_of, on_host, plugin_region, variants
from support.real_models import real_model

import ingot
from ingot.builder.api import build_engine, build_hollow
from ingot.options import BuildOptions, parse_shapes
from ingot.plugins.examples.yolo import YOLO_DETECTIONS, with_detections
from ingot.plugins.record import run_reference
from ingot.plugins.registry import using
from ingot.simulate.simulator import Simulator
from ingot.zoo.fetch import DownloadFailed
from ingot.zoo.photos import portrait

Found = tuple[np.ndarray, ...]
needs_gpu = pytest.mark.skipif(device_target() is None, reason="no GPU")


def detector(classes: int, anchors: int | str, batch: int | str = 2, **attributes: float) -> onnx.ModelProto:
    """A head that goes straight into the plugin."""
    outputs = ["boxes", "scores", "classes", "count"]
    node = helper.make_node("YoloDetections", ["x"], outputs, domain="ingot.examples", **attributes)
    return model_of([node], {"x": [batch, 4 + classes, anchors]}, outputs)


def head(classes: int, anchors: int, batch: int = 2, seed: int = 0) -> np.ndarray:
    """Crowds of overlapping boxes."""
    random = np.random.default_rng(seed)
    crowd = random.integers(0, max(anchors // 25, 1), anchors)
    centres = random.uniform(0, 300, (batch, 2, max(anchors // 25, 1)))[:, :, crowd]
    sizes = random.uniform(20, 60, (batch, 2, anchors))
    scores = random.uniform(0, 1, (batch, classes, anchors)) ** 4
    places = centres + random.normal(0, 6, (batch, 2, anchors))
    return np.concatenate([places, sizes, scores], 1).astype(np.float32)


@lru_cache
def _suppression(score: float, iou: float) -> ort.InferenceSession:
    names = ["boxes", "scores", "most", "iou", "score"]
    node = helper.make_node("NonMaxSuppression", names, ["chosen"], center_point_box=1)
    shapes = [["n", "a", 4], ["n", "c", "a"]]
    graph = helper.make_graph(
        [node],
        "nms",
        [helper.make_tensor_value_info(n, 1, s) for n, s in zip(names, shapes, strict=False)],
        [helper.make_tensor_value_info("chosen", 7, ["k", 3])],
        [
            helper.make_tensor("most", 7, [1], [1 << 20]),
            helper.make_tensor("iou", 1, [1], [iou]),
            helper.make_tensor("score", 1, [1], [score]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def by_onnx(head: np.ndarray, score: float, iou: float, most: int) -> Found:
    """What ONNX's operator selects, each anchor being of its best class alone; best first."""
    scores = head[:, 4:]
    masked = np.where(np.arange(scores.shape[1])[:, None] == scores.argmax(1)[:, None], scores, 0)
    feeds = {"boxes": np.ascontiguousarray(head[:, :4].transpose(0, 2, 1)), "scores": masked}
    chosen = _suppression(score, iou).run(None, feeds)[0]
    boxes, found = np.zeros((len(head), most, 4), np.float32), np.zeros((len(head), most), np.float32)
    kinds, counts = np.zeros((len(head), most), np.int32), np.zeros(len(head), np.int32)
    for image in range(len(head)):
        rows = chosen[chosen[:, 0] == image]
        values = masked[image][rows[:, 1], rows[:, 2]]
        order = np.lexsort((rows[:, 2], -values))[:most]
        rows, n = rows[order], len(order)
        x, y, w, h = head[image, :4][:, rows[:, 2]]
        boxes[image, :n] = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
        found[image, :n], kinds[image, :n], counts[image] = values[order], rows[:, 1], n
    return boxes, found, kinds, counts


def assert_same(made: Found, wanted: Found) -> None:
    for one, other in zip(made, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


CASES = {
    "few": dict(classes=3, anchors=100, score=0.3, iou=0.5, detections=20, candidates=64),
    "one class": dict(classes=1, anchors=333, score=0.05, iou=0.3, detections=64, candidates=512),
    "full": dict(classes=5, anchors=2100, score=0.2, iou=0.45, detections=50, candidates=1024),
    "nothing": dict(classes=2, anchors=70, score=0.9999, iou=0.5, detections=10, candidates=64),
}


def _split(name: str) -> tuple[int, int, dict[str, float]]:
    case = dict(CASES[name])
    return int(case.pop("classes")), int(case.pop("anchors")), case


@pytest.mark.parametrize("name", ["few", "one class", "nothing"])
def test_reference_is_non_max_suppression(name: str) -> None:
    """As long as no candidate is left out for their number, which the operator does not limit."""
    classes, anchors, attrs = _split(name)
    x = head(classes, anchors)
    attrs["candidates"] = anchors
    made = run_reference(YOLO_DETECTIONS, attrs, [x])
    wanted = by_onnx(x, attrs["score"], attrs["iou"], int(attrs["detections"]))
    assert (wanted[3] > 0).all() == (name != "nothing")
    assert_same(tuple(made), wanted)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_cuda_on_the_host(name: str) -> None:
    classes, anchors, attrs = _split(name)
    x = head(classes, anchors, seed=1)
    wanted = run_reference(YOLO_DETECTIONS, attrs, [x])
    with using([YOLO_DETECTIONS]):
        region, bindings = plugin_region(detector(classes, anchors, **attrs))
        made = on_host(region, variants(region, bindings)[0], [x], bindings)
    assert_same(tuple(made), tuple(wanted))


@needs_compiler
def test_equal_scores_go_by_number() -> None:
    x = head(2, 200, batch=1)
    x[:, 4:] = np.round(x[:, 4:], 1)
    attrs = dict(score=0.25, iou=0.4, detections=40, candidates=64)
    wanted = run_reference(YOLO_DETECTIONS, attrs, [x])
    with using([YOLO_DETECTIONS]):
        region, bindings = plugin_region(detector(2, 200, 1, **attrs))
        assert_same(tuple(on_host(region, variants(region, bindings)[0], [x], bindings)), tuple(wanted))


def test_what_kernels_cannot_hold_runs_on_the_host_with_the_reason() -> None:
    with using([YOLO_DETECTIONS]):
        engine = build_hollow(detector(2, 50, candidates=100), BuildOptions("sm_90"))
    (step,) = engine.plan.steps
    assert (step.kind, step.backend) == ("host", "plugin")
    assert "power of two" in engine.plan.reasons[0]


# -- a real detector and a real photo


def photo() -> np.ndarray:
    """The portrait as the detector takes it: 320 x 320, between 0 and 1."""
    from PIL import Image

    try:
        path: Path = portrait()
    except DownloadFailed as error:
        pytest.skip(str(error))
    image = Image.open(path).convert("RGB").resize((320, 320), Image.Resampling.BILINEAR)
    return (np.asarray(image, np.float32) / 255).transpose(2, 0, 1)[None]


_ATTRS = dict(score=0.2, iou=0.45, detections=32, candidates=1024)


def real_detector() -> tuple[onnx.ModelProto, np.ndarray, Found]:
    """The detector with its post-processing, the photo, and what ONNX Runtime makes of it."""
    model, x = onnx.load(real_model("yolov8n")), photo()
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = by_onnx(session.run(None, {"images": x})[0], 0.2, 0.45, 32)
    assert wanted[3][0] >= 1, "nothing is found in the photo"
    return with_detections(model, **_ATTRS), x, wanted


def outputs(made: dict[str, np.ndarray]) -> Found:
    return made["boxes"], made["scores"], made["classes"], made["count"]


def assert_close(made: Found, wanted: Found, pixels: float, scores: float) -> None:
    np.testing.assert_array_equal(made[3], wanted[3])
    np.testing.assert_array_equal(made[2], wanted[2])
    np.testing.assert_allclose(made[1], wanted[1], atol=scores)
    np.testing.assert_allclose(made[0], wanted[0], atol=pixels)


@pytest.mark.models
def test_real_detector_on_the_cpu_and_in_the_simulator() -> None:
    model, x, wanted = real_detector()
    engine = ingot.build(model, target="cpu", shapes={"images": "1x3x320x320"}, plugins=[YOLO_DETECTIONS])
    assert_close(outputs(engine.context().run({"images": x})), wanted, 1e-2, 1e-4)
    with using([YOLO_DETECTIONS]):
        hollow = build_hollow(model, BuildOptions("sm_90", shapes=parse_shapes(["images=1x3x320x320"])))
        assert not [step for step in hollow.plan.steps if step.kind != "kernel"]
        assert_close(outputs(Simulator(hollow).run({"images": x})), wanted, 1e-2, 1e-4)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", CASES)
def test_on_the_device(name: str) -> None:
    target = device_target()
    assert target is not None
    classes, anchors, attrs = _split(name)
    x = head(classes, anchors, seed=1)
    wanted = run_reference(YOLO_DETECTIONS, attrs, [x])
    with using([YOLO_DETECTIONS]):
        region, bindings = plugin_region(detector(classes, anchors, **attrs))
        for variant in TACTIC.variants(region, target, bindings):
            assert_same(
                tuple(run_program(region, TACTIC.compile(region, variant, target), [x], bindings)), tuple(wanted)
            )


@pytest.mark.gpu
@pytest.mark.models
@needs_gpu
@pytest.mark.parametrize("fp16", [False, True])
def test_real_detector_on_the_device_without_the_plugin(fp16: bool, tmp_path: Path) -> None:
    """Measured and gated like any kernel; the engine holds machine code and loads without the plugin."""
    model, x, wanted = real_detector()
    options = BuildOptions("cuda", fp16=fp16, shapes=parse_shapes(["images=1x3x320x320"]), opt_level=3 if fp16 else 2)
    with using([YOLO_DETECTIONS]):
        build_engine(model, options).write(tmp_path / "detector.ingot")
    engine = ingot.load(tmp_path / "detector.ingot")
    assert all(step.kind == "kernel" for step in engine.plan.steps)
    context = engine.context()
    for _ in range(3):
        made = outputs(context.run({"images": x}))
    assert_close(made, wanted, 2.0 if fp16 else 0.1, 2e-2 if fp16 else 1e-3)
