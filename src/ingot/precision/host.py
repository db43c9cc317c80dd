"""ONNX Runtime on the CPU for what quantization has to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from ingot.errors import IngotError
from ingot.precision.inputs import Array, Feeds


class Runs(Protocol):
    """What runs a model on a batch, and gives its outputs or values from inside it."""

    def run(self, feeds: Feeds) -> Mapping[str, Array]:
        """The asked values by name."""


class HostRuns:
    """A model in ONNX Runtime that gives values from inside it too."""

    def __init__(self, model: ir.Model | onnx.ModelProto, names: Sequence[str] | None = None, *, inner: bool = False):
        """``names``: values of the model, its outputs if left out, its inputs never.

        ``inner``: nothing is fused, so that every value is rounded as it is written.

        Raises IngotError when ONNX Runtime is missing or refuses the model.
        """
        try:
            import onnxruntime as ort
        except ImportError:
            raise IngotError(
                "ONNX Runtime, which runs the model, is not installed", fix="pip install onnxruntime"
            ) from None
        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        fed = {value.name for value in proto.graph.input}
        wanted = names if names is not None else [value.name for value in proto.graph.output]
        self.names = tuple(name for name in wanted if name not in fed)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if inner or _has_fp8(proto):
            # Fused kernels would round in other places, and would not make every value; and rewrites that ONNX
            # Runtime 1.32 has for 8-bit integers make wrong results of FP8, or refuse it.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            content = _with_outputs(proto, self.names).SerializeToString()
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own, undocumented types
            raise IngotError(f"ONNX Runtime refuses the model: {_line(error)}") from None

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """The values by name. Raises IngotError when ONNX Runtime fails on ``feeds``."""
        try:
            made: list[Any] = self._session.run(list(self.names), dict(feeds))
        except Exception as error:
            raise IngotError(f"ONNX Runtime fails on the calibration data: {_line(error)}") from None
        return {name: np.asarray(array) for name, array in zip(self.names, made, strict=True)}


def _has_fp8(proto: onnx.ModelProto) -> bool:
    return any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in proto.graph.initializer)


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    present = {value.name for value in proto.graph.output}
    more = [name for name in names if name not in present]
    if not more and all(name in present for name in names):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    return copy


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
