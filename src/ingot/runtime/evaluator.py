"""Host models run by ONNX's reference evaluator, and host steps in several parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ingot.graph.host_parts import HostPart, HostParts
from ingot.runtime.ortmodel import HostFunction


def evaluator_function(module: Any, model: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> HostFunction:
    """``model`` as a function of values in the given orders. ``module`` is ``onnx.reference``.

    What the evaluator raises, it raises.
    """
    evaluator, names, results = module.ReferenceEvaluator(model), list(inputs), list(outputs)
    types = dict(zip(evaluator.output_names, evaluator.output_types, strict=True))
    declared = [types.get(name) for name in results]

    def call(values: Sequence[Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            made = evaluator.run(results, dict(zip(names, values, strict=True)))
        return [_plain(_content(value, kind)) for value, kind in zip(made, declared, strict=True)]

    return call


def parts_function(parts: HostParts, load: Callable[[HostPart], HostFunction]) -> HostFunction:
    """All parts in order as one function."""
    functions = [(load(part), part.inputs, part.outputs) for part in parts.parts]

    def call(values: Sequence[Any]) -> list[Any]:
        known = dict(zip(parts.inputs, values, strict=True))
        for function, inputs, outputs in functions:
            known.update(zip(outputs, function([known[name] for name in inputs]), strict=True))
        return [known[name] for name in parts.outputs]

    return call


def _content(value: Any, declared: Any) -> Any:
    """What an optional holds: the evaluator's own Optional puts it into a list."""
    if declared is None or declared.WhichOneof("value") != "optional_type" or not isinstance(value, list):
        return value
    sequence = declared.optional_type.elem_type.WhichOneof("value") == "sequence_type"
    wrapped = len(value) == 1 and (not sequence or isinstance(value[0], list))
    return value[0] if wrapped else value


def _plain(value: Any) -> Any:
    """Arrays as ONNX Runtime gives them: numbers as arrays without dimensions, strings as objects."""
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array
