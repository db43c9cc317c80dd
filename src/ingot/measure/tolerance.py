"""How far an engine may be from the original model."""

from __future__ import annotations

from ingot.engine.file import EngineFile

_HALVES = frozenset({"float16", "bfloat16"})


def tolerance_of(engine: EngineFile) -> float:
    """Largest relative error (norm of the difference over norm of the reference) that its precision explains.

    A model may be in 16 bits by itself: what ONNX Runtime computes is then no more exact than what the engine does.
    """
    if engine.provenance.get("quantized"):
        return 0.15
    if engine.provenance.get("bf16"):
        return 0.05
    if engine.provenance.get("fp16") or any(value.dtype in _HALVES for value in engine.plan.values):
        return 0.03
    return 0.005 if engine.provenance.get("tf32") else 0.001
