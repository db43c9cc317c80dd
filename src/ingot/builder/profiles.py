"""Several optimization profiles: a build for each, and one engine of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec

from ingot.engine.file import EngineFile
from ingot.engine.format import Scalar
from ingot.engine.join import join
from ingot.errors import IngotError
from ingot.options import BuildOptions, Profiles, Range, Shapes

Build = Callable[[BuildOptions], EngineFile]
"""An engine for one profile, given as options without any."""


def build_profiles(options: BuildOptions, build: Build) -> EngineFile:
    """The engine with a plan for each profile of ``options``.

    An engine for the CPU has nothing to choose by shape: it gets one plan for the range that holds all profiles. Raises
    IngotError, with the profile's name, where one does not fit the model.
    """
    parts: list[tuple[str, EngineFile]] = []
    for name, shapes in options.profiles:
        try:
            part = build(options.of_profile(shapes))
        except IngotError as error:
            raise IngotError(f"profile {name!r}: {error.reason}", node=error.node, fix=error.fix) from None
        if part.plan.target == "cpu":
            return _one_range(options, build)
        parts.append((name, part))
    shapes_of: dict[str, Scalar] = {}
    for name, part in parts:
        taken = part.provenance["shapes"]
        assert isinstance(taken, dict)
        shapes_of |= {f"{name}:{key}": value for key, value in taken.items()}
    return join(parts, {**parts[0][1].provenance, "shapes": shapes_of})


def _one_range(options: BuildOptions, build: Build) -> EngineFile:
    engine = build(options.of_profile(hull(options.profiles)))
    names = ", ".join(name for name, _ in options.profiles)
    note = f"profiles: on the CPU the ranges of {names} are one"
    plan = msgspec.structs.replace(engine.plan, reasons=[*engine.plan.reasons, note])
    return replace(engine, plan=plan)


def hull(profiles: Profiles) -> Shapes:
    """Per input the range that holds those of all profiles; the optimum is that of the first.

    Raises IngotError where two profiles give an input different ranks.
    """
    found: dict[str, tuple[Range, ...]] = {}
    for _, shapes in profiles:
        for name, ranges in shapes:
            old = found.setdefault(name, ranges)
            if len(old) != len(ranges):
                raise IngotError("profiles give it different ranks", node=f"input {name!r}", fix="give one rank")
            pairs = zip(old, ranges, strict=True)
            found[name] = tuple(Range(min(a.min, b.min), a.opt, max(a.max, b.max)) for a, b in pairs)
    return tuple(found.items())
