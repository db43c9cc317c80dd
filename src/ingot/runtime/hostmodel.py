"""Host steps: an ONNX model run by ONNX Runtime, OpenVINO or ONNX's reference evaluator on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.graph.host_parts import HostPart, decode
from ingot.plan.spec import ModelDecl
from ingot.runtime.evaluator import evaluator_function, parts_function
from ingot.runtime.ortmodel import HostFunction as HostFunction
from ingot.runtime.ortmodel import ort_function

Array = np.ndarray[Any, Any]

_PRECISION = {"": "f32", "f32": "f32", "bf16": "bf16", "f16": "f16"}
_MODULES = {"reference": "onnx.reference"}
_SHOWN = {"reference": "ONNX's evaluator"}


def load_host_model(model: bytes, decl: ModelDecl, backend: str, name: str) -> HostFunction:
    """``model`` ready to run. ``backend``: see :class:`ingot.plan.spec.Step`.

    Raises IngotError when the backend is not installed or refuses the model.
    """
    if backend == "parts":
        return parts_function(decode(model), lambda part: _part(part, name))
    library, _, option = backend.partition(":")
    loaders = {"onnxruntime": _onnxruntime, "openvino": _openvino, "reference": _reference}
    if library not in loaders or (option and library != "openvino") or option not in _PRECISION:
        raise IngotError(
            f"unknown host backend {backend!r}", node=name, fix="rebuild the engine with this version of Ingot"
        )
    package = "onnx" if library == "reference" else library
    try:
        module = import_module(_MODULES.get(library, library))
    except ImportError:
        raise IngotError(
            f"this engine runs {name!r} on the host with {package}, which is not installed",
            node=name,
            fix=f"pip install {package}",
        ) from None
    try:
        return loaders[library](module, model, decl, option)
    except IngotError:
        raise
    except Exception as error:
        raise IngotError(f"{_SHOWN.get(library, library)} refuses the model: {error}", node=name) from None


def _part(part: HostPart, name: str) -> HostFunction:
    return load_host_model(part.model, ModelDecl(0, 0, part.inputs, part.outputs), part.backend, name)


def _reference(module: Any, model: bytes, decl: ModelDecl, _: str) -> HostFunction:
    return evaluator_function(module, model, decl.inputs, decl.outputs)


def _onnxruntime(ort: Any, model: bytes, decl: ModelDecl, _: str) -> HostFunction:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return ort_function(session, decl.inputs, decl.outputs)


def _openvino(ov: Any, model: bytes, decl: ModelDecl, option: str) -> HostFunction:
    # Without the hint OpenVINO computes float32 models in bfloat16 on CPUs that have AMX.
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _PRECISION[option]}
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", hints)
    request = compiled.create_infer_request()
    inputs = [compiled.input(name) for name in decl.inputs]
    outputs = [compiled.output(name) for name in decl.outputs]

    def call(arrays: Sequence[Array]) -> list[Array]:
        results = request.infer(dict(zip(inputs, arrays, strict=True)), share_inputs=True)
        return [results[output] for output in outputs]

    return call
