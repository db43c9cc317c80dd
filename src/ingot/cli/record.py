"""``ingot library record``: times of the standard networks' layers on the GPU that is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.errors import IngotError

if TYPE_CHECKING:
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


def record(flags: RecordFlags) -> bool:
    """Builds the networks one after another for their times; false when one failed.

    What is in the database already is not measured again. Raises IngotError without a GPU.
    """
    from ingot.builder.targets import choose_target
    from ingot.tune.compilers import compilers
    from ingot.tune.database import publish, user_path
    from ingot.zoo import standard

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
    from ingot.builder.api import build_engine
    from ingot.zoo import standard

    start = time.monotonic()
    try:
        model, shapes = standard.model_of(setup)
        options = replace(standard.options_of(setup, "cuda", shapes, flags.opt_level), timing_db=path, bodies=False)
        plan = build_engine(model, options).plan
    except IngotError as error:
        print(f"{place} {setup}: failed: {render.shorten(str(error), 200)}", file=sys.stderr, flush=True)
        return False
    micros = sum(region.micros for region in plan.regions)
    measured = sum(region.measured for region in plan.regions if region.micros)
    working = sum(1 for region in plan.regions if region.micros)
    print(
        f"{place} {setup}: {measured} of {working} layers measured, {micros / 1000:.3f} ms in sum, "
        f"{time.monotonic() - start:.1f} s",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return True
