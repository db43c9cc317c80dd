"""PyTorch beside an engine: what is tried of it, and a model that onnx2torch converts. PyTorch itself is a stand-in."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from ingot.errors import IngotError
from ingot.measure.peers import torch as peers
from ingot.measure.peers.torch import Subject

FEEDS = {"x": np.ones((2, 3), np.float32)}


def model() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_what_is_tried() -> None:
    subject = Subject("resnet50")
    assert [offer.variant for offer in peers.offers(subject, FEEDS, gpu=False)] == ["eager fp32"]
    assert [offer.variant for offer in peers.offers(subject, FEEDS, gpu=True)] == [
        "eager fp32", "eager fp16 nhwc", "fp16 nhwc graph",
    ]  # fmt: skip
    assert [offer.variant for offer in peers.compiled(subject, FEEDS, gpu=True)] == ["compile fp16 nhwc"]


def test_a_model_is_converted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("onnx2torch")
    library.convert = lambda proto: [node.op_type for node in proto.graph.node]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnx2torch", library)
    assert peers._module(Subject(content=model()), FEEDS) == ["Neg"]


def test_why_there_is_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    for subject, reason in (
        (Subject(), "no PyTorch module for this model"),
        (Subject("gpt5"), "no module like gpt5"),
        (Subject(content=model()), "cannot be imported"),
    ):
        with pytest.raises(IngotError, match=reason):
            peers._module(subject, FEEDS)


def test_results_are_named_and_widened() -> None:
    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def is_floating_point(self) -> bool:
            return self.array.dtype.kind == "f"

        def float(self) -> Tensor:
            return Tensor(self.array.astype(np.float32))

        def cpu(self) -> Tensor:
            return self

        def numpy(self) -> np.ndarray:
            return self.array

    halves, integers = Tensor(np.ones(2, np.float16)), Tensor(np.ones(2, np.int64))
    found = peers._arrays((halves, integers), ("a", "b"))
    assert found["a"].dtype == np.float32 and found["b"].dtype == np.int64
    assert peers._arrays(halves, ("a",))["a"].dtype == np.float32


def test_a_graph_gives_what_was_captured() -> None:
    made: list[str] = []
    stream = SimpleNamespace(wait_stream=lambda _: None)
    cuda: Any = SimpleNamespace(Stream=lambda: stream, current_stream=lambda: stream)
    cuda.stream = cuda.graph = lambda _: nullcontext()
    cuda.CUDAGraph = lambda: SimpleNamespace(replay=lambda: made.append("replay"))

    def call() -> str:
        made.append("call")
        return f"result {len(made)}"

    replay = peers._captured(SimpleNamespace(cuda=cuda), call)
    assert made == ["call"] * 4  # three to get warm, one that is captured
    assert replay() == "result 4" and made[-1] == "replay"
