"""The options of a build: one frozen object, whose hash is part of every cache key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Range:
    """Bounds of one dimension of one input: three equal numbers for a fixed one."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class BuildOptions:
    """Everything a build depends on beside the model, the timing database and the compilers."""

    target: str = "auto"
    """``auto``, ``cuda``, ``cpu`` or ``sm_80`` ... ``sm_120``."""
    fp16: bool = False
    tf32: bool = False
    shapes: tuple[tuple[str, tuple[Range, ...]], ...] = ()
    """Per input: one Range per dimension."""
    opt_level: int = 3
    """0: first variant of each tactic; 1: best by cost model; 2: also the recorded database;
    3: measure a shortlist; 4: measure more; 5: measure every variant."""
    timing_db: Path | None = None
    strict: bool = False
    """Refuse a build that would need a host island."""
    dump_after: tuple[str, ...] = ()
    dump_dir: Path | None = None
