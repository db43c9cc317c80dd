"""The options of a build: one frozen object, whose hash is part of every cache key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ingot.errors import IngotError

Shapes = tuple[tuple[str, tuple["Range", ...]], ...]
"""Per input: its name and one Range per dimension."""
Profiles = tuple[tuple[str, Shapes], ...]
"""Optimization profiles: a name, and shapes as above."""
_FIX = "write name=1x3x224x224, or name=MIN:OPT:MAX with three such shapes"


@dataclass(frozen=True)
class Range:
    """Bounds of one dimension of one input: three equal numbers for a fixed one."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class Quantization:
    """8-bit layers: precision, calibration data and what accuracy may be lost. See ``ingot.precision.settings``."""

    precision: str = "int8"
    """``int8`` or ``fp8``; in a build also ``best``: for each layer the fastest within the budget."""
    calibration: str | None = None
    """A folder, an .npz file or ``module:function``; not needed where ``cache`` is there, or data is given beside."""
    cache: Path | None = None
    budget: float | None = 0.005
    """Largest loss by ``metric``; None takes the result as it is."""
    metric: str = "cosine"
    method: str = "auto"
    keep: tuple[str, ...] = ()
    """Nodes that are not quantized."""
    pixels: str | None = None
    """How pictures become numbers."""
    samples: int | None = None
    """Calibration samples to use at most."""
    host: bool = False
    """For ONNX Runtime on the CPU, whose kernels want activations without a sign."""
    rounding: str = "nearest"
    """Of weights: ``nearest`` or ``adaround``."""
    any_size: bool = False
    """Samples need not have the sizes that the build fixes: what they calibrate keeps its free ones."""


def one_precision(flags: Mapping[str, bool]) -> str | None:
    """The one of ``flags`` that is set, if any. Raises IngotError where several are."""
    asked = [name for name, wanted in flags.items() if wanted]
    if len(asked) > 1:
        raise IngotError(f"{' and '.join(asked)} are {len(asked)} ways to choose a precision", fix="give one")
    return asked[0] if asked else None


@dataclass(frozen=True)
class BuildOptions:
    """Everything a build depends on beside the model, the timing database and the compilers."""

    target: str = "auto"
    """``auto``, ``cuda``, ``cpu`` or ``sm_75`` ... ``sm_120``."""
    fp16: bool = False
    tf32: bool = False
    bf16: bool = False
    """For the CPU: let OpenVINO compute in bfloat16, where that is faster."""
    shapes: Shapes = ()
    profiles: Profiles = ()
    """Ranges of shapes to choose kernels for apart, all kept in one engine; ``shapes`` holds for inputs that a
    profile does not name."""
    opt_level: int = 3
    """0: first variant of each tactic; 1: best by cost model; 2: also the recorded database;
    3: measure a shortlist; 4: measure more; 5: measure every variant."""
    timing_db: Path | None = None
    unroll: int = 2000
    """Nodes that unrolled loops may make in all."""
    strict: bool = False
    """Refuse a build that would need a host island."""
    bodies: bool = True
    """Keep every Region's body in the engine, for ``ingot simulate`` and ``ingot compare``."""
    dump_after: tuple[str, ...] = ()
    dump_dir: Path | None = None
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if self.opt_level not in range(6):
            raise IngotError(f"there is no optimisation level {self.opt_level}", fix="take one from 0 to 5")
        if self.unroll < 0:
            raise IngotError(f"loops cannot be unrolled to {self.unroll} nodes", fix="give 0 or more")
        names = [name for name, _ in self.profiles]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or "" in names:
            raise IngotError("profiles need names of their own", node=f"profile {twice or ''!r}", fix="name each apart")

    def of_profile(self, shapes: Shapes) -> BuildOptions:
        """The options for one profile alone."""
        named = {name for name, _ in shapes}
        rest = tuple((name, ranges) for name, ranges in self.shapes if name not in named)
        return replace(self, shapes=(*shapes, *rest), profiles=())


def parse_shapes(texts: Sequence[str]) -> Shapes:
    """Shapes from the command line: ``x=1x3x224x224``, or ``x=MIN:OPT:MAX`` with three shapes of one rank.

    A scalar input is written ``x=``. Raises IngotError for anything else, and for an input given twice.
    """
    found: dict[str, tuple[Range, ...]] = {}
    for text in texts:
        name, equals, rest = text.rpartition("=")
        if not name or not equals:
            raise IngotError(f"{text!r} is not a shape", fix=_FIX)
        if name in found:
            raise IngotError("two shapes are given for this input", node=name, fix="give one")
        found[name] = _ranges(name, rest)
    return tuple(found.items())


def parse_profiles(texts: Sequence[str]) -> Profiles:
    """Profiles from the command line: ``NAME:x=MIN:OPT:MAX``, once for each input of each profile.

    Raises IngotError for anything else, and for an input given twice in one profile.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        if not name or not colon or "=" in name:
            fix = "write small:x=1x3x64x64:2x3x64x64:4x3x64x64, once for each input"
            raise IngotError(f"{text!r} is not a profile", fix=fix)
        found.setdefault(name, []).append(rest)
    return tuple((name, parse_shapes(rest)) for name, rest in found.items())


def _ranges(name: str, text: str) -> tuple[Range, ...]:
    shapes = [_dims(name, part) for part in text.split(":")]
    if len(shapes) not in (1, 3) or len({len(shape) for shape in shapes}) != 1:
        raise IngotError(f"{text!r} is neither one shape nor three of one rank", node=name, fix=_FIX)
    least, best, most = shapes * (3 // len(shapes))
    ranges = tuple(Range(*dims) for dims in zip(least, best, most, strict=True))
    if any(not r.min <= r.opt <= r.max for r in ranges):
        raise IngotError(f"{text!r} does not grow from minimum to maximum", node=name, fix=_FIX)
    return ranges


def _dims(name: str, text: str) -> list[int]:
    parts = re.split("[x,]", text) if text else []
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise IngotError(f"{text!r} is not a shape of positive numbers", node=name, fix=_FIX)
    return [int(part) for part in parts]
