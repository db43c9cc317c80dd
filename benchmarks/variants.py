"""Variants of single layers compiled and timed as the tuner does, for the benchmarks beside this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ingot.errors import No
from ingot.graph.region import Region
from ingot.kernels.api import Program, Tactic, Target, Variant
from ingot.tune.compile_pool import Task
from ingot.tune.compiler import Compiler
from ingot.tune.measure import DeviceMeasurer
from ingot.tune.setting import Timing

Work = tuple[Region, Tactic, Variant]


def compiled(work: Sequence[Work], target: Target, jobs: int | None = None) -> list[Program | No]:
    """Machine code of each variant, or why there is none: out of the tuner's cache, or by ``jobs`` processes."""
    tasks = [Task(r, tactic, variant, tactic.estimate(r, variant, target, {})) for r, tactic, variant in work]
    with Compiler(target, jobs=jobs) as compiler:
        made = dict(compiler.programs(tasks))
    return [made[number] for number in range(len(work))]


def measured(
    measurer: DeviceMeasurer, region: Region, made: Mapping[str, Program | No], ages: Sequence[int] = ()
) -> dict[str, float | str]:
    """Microseconds of each variant, or why it has none. ``ages`` are those of ``DeviceMeasurer.measure``."""
    programs = {text: program for text, program in made.items() if isinstance(program, Program)}
    answer = measurer.measure(region, {}, programs, ages) if programs else {}
    results = {**made, **(dict.fromkeys(programs, answer) if isinstance(answer, No) else answer)}
    return {
        text: 1e6 * result.seconds if isinstance(result, Timing) else str(result)[:300]
        for text, result in results.items()
    }
