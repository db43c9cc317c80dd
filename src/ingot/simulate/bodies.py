"""Runs the stored bodies of Regions, and islands, in ONNX Runtime on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.graph.dims import Bindings
from ingot.plan.bodies import is_region, read_region


class Bodies:
    """Bodies of one engine; sessions are made once per model."""

    def __init__(self, engine: EngineFile) -> None:
        self.engine = engine
        self._sessions: dict[int, Any] = {}

    def run(self, model: int, inputs: Sequence[np.ndarray], bindings: Bindings) -> list[np.ndarray]:
        """Outputs of ``plan.models[model]`` for ``inputs``, in the declared orders."""
        decl = self.engine.plan.models[model]
        content = self.engine.model(model)
        if is_region(content):
            from ingot.graph.reference import run_region

            region = read_region(content)
            made = run_region(region, dict(zip(region.inputs, inputs, strict=True)), bindings)
            return [made[name] for name in region.outputs]
        feeds = {name: np.asarray(array, order="C") for name, array in zip(decl.inputs, inputs, strict=True)}
        return [np.asarray(a) for a in self._session(model).run(decl.outputs, feeds)]

    def _session(self, model: int) -> Any:
        if model not in self._sessions:
            import onnxruntime as ort

            options = ort.SessionOptions()
            options.log_severity_level = 3
            # The body must be computed as written: the oracle is not to be optimised into something else.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
            try:
                self._sessions[model] = ort.InferenceSession(
                    self.engine.model(model), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime raises its own, undocumented types
                raise IngotError(f"ONNX Runtime cannot load models[{model}] of the engine: {error}") from None
        return self._sessions[model]
