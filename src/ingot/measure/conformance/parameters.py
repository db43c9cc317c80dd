"""The cases of the suite as exporters would write them: parameters of ops as constants instead of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from ingot.graph.op_table import PARAMETERS
from ingot.measure.conformance.cases import Case

_MORE: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "Compress": (1,),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "STFT": (1, 3),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "SplitToSequence": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
"""Inputs that say what an op does, of ops whose kernels have no such inputs."""


def with_constants(case: Case) -> Case | None:
    """The case with its parameters inside the model; None where no input is one, or they differ between data sets."""
    names = {value.name for value in case.model.graph.input}
    found = [name for name in _parameters(case.model.graph) if name in names]
    first = case.data[0][0]
    values = {name: np.asarray(first[name]) for name in found if isinstance(first.get(name), np.ndarray | np.generic)}
    if not values or any(not _same(feeds.get(name), value) for feeds, _ in case.data for name, value in values.items()):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = [value for value in model.graph.input if value.name not in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    data = tuple(({k: v for k, v in feeds.items() if k not in values}, outputs) for feeds, outputs in case.data)
    return replace(case, model=model, data=data)


def _same(a: object, b: np.ndarray) -> bool:
    return isinstance(a, np.ndarray | np.generic) and bool(np.array_equal(a, b))


def _parameters(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        for position in _MORE.get(node.op_type, PARAMETERS.get(node.op_type, ())):
            if position < len(node.input) and node.input[position]:
                yield node.input[position]
