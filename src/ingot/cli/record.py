"""``ingot library record``: times of the standard networks' layers on the GPU that is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.errors import IngotError, No

if TYPE_CHECKING:
    from onnx import ModelProto

    from ingot.options import BuildOptions
    from ingot.zoo.standard import Setup


@dataclass(frozen=True)
class RecordFlags:
    """What to measure, for how long, and where the times go."""

    names: Sequence[str] = ()
    batches: Sequence[int] = ()
    fp32: bool = False
    opt_level: int = 3
    timing_db: Path | None = None
    limit_s: float | None = None
    """No network is begun later than this many seconds after the start."""
    publish: Path | None = None
    """A database to ship: the fastest variants are merged into it."""
    keep: int = 8
    missing: bool = False
    """Only layers without a time in the database that Ingot ships."""
    whole: bool = False
    """Also the contests between whole engines, for what they decide."""


def record(flags: RecordFlags) -> bool:
    """Measures the layers of one network after another; false when one failed.

    What is in the database already is not measured again. Raises IngotError without a GPU.
    """
    from ingot.builder.targets import choose_target
    from ingot.tune.compilers import compilers
    from ingot.tune.database import publish, user_path
    from ingot.zoo import standard

    if flags.missing and flags.whole:
        raise IngotError("a whole engine needs the times of all its layers", fix="leave --missing or --whole out")
    target = choose_target("cuda").target
    assert target is not None
    path = user_path(target, flags.timing_db)
    wanted = standard.setups(flags.names, flags.batches or standard.BATCHES, flags.fp32)
    start, failures, done = time.monotonic(), 0, 0
    for done, setup in enumerate(wanted, 1):
        if flags.limit_s is not None and time.monotonic() - start > flags.limit_s:
            print(f"the limit of {flags.limit_s:g} s is reached: {len(wanted) - done + 1} networks left out")
            break
        failures += not _one(setup, flags, path, f"[{done}/{len(wanted)}]")
        if flags.publish is not None:  # after each network, so that an end by force loses little
            entries = publish(path, flags.publish, compilers(), flags.keep)
            print(f"  {flags.publish}: {entries} entries", file=sys.stderr)
    print(f"{done} networks, {failures} failed, {time.monotonic() - start:.0f} s: {path}")
    return not failures


def _one(setup: Setup, flags: RecordFlags, path: Path, place: str) -> bool:
    from ingot.zoo import standard

    start = time.monotonic()
    try:
        model, shapes = standard.model_of(setup)
        options = replace(standard.options_of(setup, "cuda", shapes, flags.opt_level), timing_db=path, bodies=False)
        fastest = _built(model, options) if flags.whole else _timed(model, options, flags.missing)
    except IngotError as error:
        print(f"{place} {setup}: failed: {render.shorten(str(error), 200)}", file=sys.stderr, flush=True)
        return False
    known = [micros for micros in fastest if micros is not None]
    print(
        f"{place} {setup}: {len(known)} of {len(fastest)} layers measured, {sum(known) / 1000:.3f} ms in sum, "
        f"{time.monotonic() - start:.1f} s",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return True


def _timed(model: ModelProto, options: BuildOptions, missing: bool) -> list[float | None]:
    """Microseconds of each distinct layer, None where it has no time; nothing is built."""
    from ingot.builder.api import lower_model
    from ingot.builder.targets import choose_target
    from ingot.kernels.table import TACTICS
    from ingot.tune.api import measurer_for, time_layers

    chosen = choose_target("cuda", tf32=options.tf32)
    assert chosen.target is not None and chosen.device is not None
    lowered = lower_model(model, chosen.target, options)
    if isinstance(lowered, No):
        raise IngotError(f"nothing of it runs on a GPU: {lowered.reason}")
    measurer = measurer_for(lowered, chosen.target, chosen.device)
    try:
        return time_layers(lowered, chosen.target, options, TACTICS, measurer=measurer, missing=missing)
    finally:
        measurer.close()


def _built(model: ModelProto, options: BuildOptions) -> list[float | None]:
    """The same of every layer, after a build with its contests."""
    from ingot.builder.api import build_engine

    regions = [region for region in build_engine(model, options).plan.regions if region.micros]
    return [region.micros if region.measured else None for region in regions]
