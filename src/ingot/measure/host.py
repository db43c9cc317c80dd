"""What the CPU could do, and what a model asks of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from ingot.builder.api import lower_model
from ingot.builder.targets import TARGETS
from ingot.errors import IngotError, No
from ingot.graph.dims import evaluate
from ingot.measure.reference import Reference, open_session
from ingot.options import BuildOptions, Range
from ingot.plan.roofline import flops

Array = np.ndarray[Any, Any]
_SIZE = 1024
_SECONDS = 0.5


@cache
def host_flops() -> float:
    """FP32 operations per second of this CPU, as ONNX Runtime's matrix product reaches them on all its cores.

    Convolutions by Winograd's method take fewer operations than are counted, so they can exceed it.
    """
    session = open_session(_product(), ["CPUExecutionProvider"])
    feeds = {"a": np.random.default_rng(0).standard_normal((_SIZE, _SIZE)).astype(np.float32)}
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feeds)
        best = min(best, time.perf_counter() - start)
    return 2.0 * _SIZE**3 / best


def _product() -> bytes:
    """A matrix product with constant weights, which ONNX Runtime lays out ahead."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(1).standard_normal((_SIZE, _SIZE)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [_SIZE, _SIZE]) for name in ("a", "c")]
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [numpy_helper.from_array(weights, "b")])
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def model_flops(reference: Reference, feeds: Mapping[str, Array]) -> int:
    """Operations of the model on inputs of these shapes; 0 where Ingot cannot take it apart."""
    shapes = tuple((name, tuple(Range(n, n, n) for n in array.shape)) for name, array in feeds.items())
    try:
        lowered = lower_model(reference.content, TARGETS[0], BuildOptions(shapes=shapes))
        if isinstance(lowered, No):
            return 0
        bindings = lowered.bindings()
        return sum(evaluate(flops(region), bindings) for region in lowered.regions)
    except IngotError:
        return 0
