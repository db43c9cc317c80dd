"""One variant of a layer compiled, as the benchmarks of single layers do in their helper processes."""

from __future__ import annotations

from ingot.graph.region import Region
from ingot.kernels.api import Program, Target, Variant
from ingot.kernels.table import TACTICS


def compiled(region: Region, text: str, target: Target) -> Program | str:
    """Machine code of one variant, or why there is none."""
    variant = Variant.parse(text)
    tactic = next(t for t in TACTICS if t.name == variant.tactic)
    try:
        return tactic.compile(region, variant, target)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
