"""How far an engine may be from the original model."""

from __future__ import annotations

from ingot.engine.file import EngineFile


def tolerance_of(engine: EngineFile) -> float:
    """Largest relative error (norm of the difference over norm of the reference) that its precision explains."""
    if engine.provenance.get("fp16"):
        return 0.03
    return 0.005 if engine.provenance.get("tf32") else 0.001
