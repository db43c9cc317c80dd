"""Runs the stored bodies of Regions, and islands, in ONNX Runtime on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.graph.dims import Bindings
from ingot.plan.bodies import is_region, read_region
from ingot.plugins.record import is_record, reference
from ingot.plugins.registry import active
from ingot.runtime.hostmodel import load_host_model
from ingot.runtime.island import call
from ingot.runtime.ortmodel import HostFunction, ort_function


class Bodies:
    """Bodies of one engine; sessions are made once per model."""

    def __init__(self, engine: EngineFile) -> None:
        self.engine, self._plugins = engine, active()
        self._functions: dict[int, HostFunction] = {}

    def kernel(self, model: int, inputs: Sequence[np.ndarray], bindings: Bindings) -> list[np.ndarray]:
        """Outputs of a Region's body ``plan.models[model]`` for ``inputs``, in the declared orders.

        What ONNX Runtime has no kernel for, ONNX's own evaluator computes. Raises IngotError when neither can.
        """
        from ingot.graph.reference import run_model, run_region

        content = self.engine.model(model)
        if is_record(content):
            return self.island(model, "plugin", inputs)
        if is_region(content):
            region = read_region(content)
            made = run_region(region, dict(zip(region.inputs, inputs, strict=True)), bindings)
            return [made[name] for name in region.outputs]
        try:
            return self.island(model, "onnxruntime", inputs)
        except IngotError:
            import onnx

            decl = self.engine.plan.models[model]
            feeds = dict(zip(decl.inputs, inputs, strict=True))
            return run_model(onnx.load_model_from_string(content), feeds, decl.outputs)

    def island(self, model: int, backend: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs of a host step's model, in the declared orders. Raises IngotError when ``backend`` refuses it."""
        function = self._function(model, backend)
        if backend == "plugin":
            return call(function, [np.asarray(array, order="C") for array in inputs], f"models[{model}]")
        try:
            return [_dense(a) for a in function([_dense(a) for a in inputs])]
        except Exception as error:  # onnxruntime raises its own, undocumented types
            raise IngotError(f"{backend} fails on models[{model}] of the engine: {error}") from None

    def _function(self, model: int, backend: str) -> HostFunction:
        if model not in self._functions and backend == "plugin":
            self._functions[model] = reference(self.engine.model(model), self._plugins, f"models[{model}]")
        if model not in self._functions:
            decl = self.engine.plan.models[model]
            if backend != "onnxruntime":
                self._functions[model] = load_host_model(self.engine.model(model), decl, backend, f"models[{model}]")
                return self._functions[model]
            import onnxruntime as ort

            options = ort.SessionOptions()
            options.log_severity_level = 3
            # The body must be computed as written: the oracle is not to be optimised into something else.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
            try:
                session = ort.InferenceSession(self.engine.model(model), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime raises its own, undocumented types
                raise IngotError(f"ONNX Runtime cannot load models[{model}] of the engine: {error}") from None
            self._functions[model] = ort_function(session, decl.inputs, decl.outputs)
        return self._functions[model]


def _dense(value: np.ndarray) -> np.ndarray:
    """Arrays in C order; what is no array as it is."""
    return value if value is None or isinstance(value, list | dict) else np.asarray(value, order="C")
