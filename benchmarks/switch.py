"""How long a Context takes to switch shapes: to new ones, and back to ones it has seen.

    python benchmarks/switch.py --json benchmarks/results/h200/switch.json          # on a GPU
    python benchmarks/switch.py --model zoo:yolov8n --shapes images=1x3x256x256:1x3x320x320:8x3x640x640

*New* is ``bind`` to a shape that was never bound: numbers evaluated and checked, arguments laid out, a graph made or
updated and sent to the device; nothing is compiled. *First run* is the run after it, beside the median of later
ones. *Seen* is ``bind`` to one of the last shapes. Results at the three smallest shapes, whose graphs were given to
other shapes in between, are compared with ONNX Runtime's.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ingot.builder.api import build_engine
from ingot.builder.targets import choose_target
from ingot.cli.source import open_source
from ingot.errors import IngotError
from ingot.graph.dims import evaluate
from ingot.measure.accuracy import differences
from ingot.measure.environment import Environment, environment
from ingot.measure.reference import Reference
from ingot.measure.timing import quiet
from ingot.measure.tolerance import tolerance_of
from ingot.options import BuildOptions, parse_shapes
from ingot.plan.spec import Plan
from ingot.runtime.context import Context
from ingot.runtime.engine import Engine
from ingot.runtime.shapes import shape_at

Shapes = dict[str, tuple[int, ...]]
MODELS = (
    ("zoo:yolov8n", ("images=1x3x256x256:1x3x320x320:8x3x640x640",)),
    ("zoo:ocr_det", ("x=1x3x320x320:1x3x640x640:4x3x960x960",)),
    ("zoo:csmask_4b_l1c", ("input=1x4x256x256:4x4x256x256:64x4x256x256",)),
)
_STEP = 32
"""Sizes above a few dozen grow in steps of this, which every detector takes."""
_KEPT = 8
"""Shapes that are switched between, fewer than a Context keeps."""
_SEEN = 4000
_CHECKED = 3
_NEW_MS, _SEEN_US = 2.0, 20.0


class Spread(msgspec.Struct, frozen=True):
    """Of samples, in the unit of the field that holds it."""

    samples: int
    median: float
    p99: float
    max: float


class Row(msgspec.Struct, frozen=True):
    """One model."""

    model: str
    shapes: list[str]
    steps: int
    new_ms: Spread
    first_ms: Spread
    run_ms: Spread
    seen_us: Spread
    first_bind_ms: float
    """The very first ``bind``, which also loads machine code."""
    relative: float
    tolerance: float
    fp16: bool


class Results(msgspec.Struct, frozen=True):
    """All models, and the machine."""

    environment: Environment
    rows: list[Row]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", help="one model; without it three of the zoo")
    parser.add_argument("--shapes", action="append", default=[], help="x=MIN:OPT:MAX of --model, for each input")
    parser.add_argument("--count", type=int, default=60, help="new shapes")
    parser.add_argument("--fp32", action="store_true", help="build in FP32")
    parser.add_argument("--opt-level", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    chosen = ((arguments.model, tuple(arguments.shapes)),) if arguments.model else MODELS
    device = choose_target("auto").device
    results = Results(environment(device.info if device else None), [])
    try:
        for model, shapes in chosen:
            row = measured(model, shapes, arguments.count, fp16=not arguments.fp32, opt_level=arguments.opt_level)
            results.rows.append(row)
            print(_line(row), flush=True)
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    except IngotError as error:
        sys.exit(f"error: {error}")


def measured(model: str, shapes: Sequence[str], count: int, *, fp16: bool, opt_level: int) -> Row:
    """Builds the model and switches. Raises IngotError for a model, shapes or device that are wrong."""
    source = open_source(model)
    options = BuildOptions(fp16=fp16, opt_level=opt_level, shapes=source.build_shapes(parse_shapes(shapes)))
    file = build_engine(source.model, options)
    engine = Engine(file)
    context = engine.context()
    points = list(itertools.islice(_points(file.plan), count + 1))
    if len(points) <= _KEPT:
        raise IngotError("its profile holds too few shapes to switch between", node=model, fix="give a wider range")
    begin = time.perf_counter()
    context.bind(points[0])
    first_bind = time.perf_counter() - begin
    new, first, runs = _new(context, points[1:])
    seen = _seen(context, points[-_KEPT:])
    reference = Reference(source.model)
    small = sorted(points, key=lambda shapes: sum(map(math.prod, shapes.values())))[:_CHECKED]
    relative = max(_error(context, source.feeds(_declared(file.plan, shapes), 0), reference) for shapes in small)
    return Row(
        model, list(shapes), len(file.plan.steps), _spread(new, 1e3), _spread(first, 1e3), _spread(runs, 1e3),
        _spread(seen, 1e6), 1e3 * first_bind, relative, tolerance_of(file), fp16,
    )  # fmt: skip


def _points(plan: Plan) -> Iterator[Shapes]:
    """Input shapes all over the profile, each once, neighbours different in several symbols."""
    axes = []
    for p in plan.profiles:
        step = _STEP if p.max > _STEP * 4 and p.min % _STEP == 0 else 1
        axes.append([(p.symbol, size) for size in range(p.min, p.max + 1, step)])
    every = list(itertools.product(*axes))
    order = np.random.default_rng(0).permutation(len(every))
    for index in order:
        bindings = dict(every[index])
        yield {b.name: shape_at(b, bindings) for b in plan.inputs}


def _declared(plan: Plan, shapes: Shapes) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    return {b.name: (b.dtype, tuple(evaluate(d, {}) for d in shapes[b.name])) for b in plan.inputs}


def _new(context: Context, points: Sequence[Shapes]) -> tuple[list[float], list[float], list[float]]:
    """Seconds of binding each shape, of the first run at it, and of the next."""
    clock, new, first, later = time.perf_counter, list[float](), list[float](), list[float]()
    with quiet():
        for shapes in points:
            start = clock()
            context.bind(shapes)
            bound = clock()
            context.enqueue()
            context.synchronize()
            ran = clock()
            context.enqueue()
            context.synchronize()
            later.append(clock() - ran)
            new.append(bound - start)
            first.append(ran - bound)
    return new, first, later


def _seen(context: Context, points: Sequence[Shapes]) -> list[float]:
    """Seconds of binding shapes in turn that were all bound before."""
    clock, samples = time.perf_counter, list[float]()
    for shapes in points:
        context.bind(shapes)
    with quiet():
        for number in range(_SEEN):
            shapes = points[number % len(points)]
            start = clock()
            context.bind(shapes)
            samples.append(clock() - start)
            if number % 64 == 0:
                context.enqueue()
                context.synchronize()
    return samples


def _error(context: Context, feeds: Mapping[str, np.ndarray[Any, Any]], reference: Reference) -> float:
    """Relative error of the worst output at a shape that was bound long ago."""
    rows = differences(reference.run(feeds), context.run(feeds))
    problem = next((f"{row.name}: {row.problem}" for row in rows if row.problem), "")
    if problem:
        raise IngotError(f"the results are wrong: {problem}")
    return max(row.relative for row in rows)


def _spread(seconds: Sequence[float], scale: float) -> Spread:
    array = scale * np.asarray(seconds)
    return Spread(len(array), float(np.median(array)), float(np.percentile(array, 99)), float(array.max()))


def _line(row: Row) -> str:
    right = "" if row.relative <= row.tolerance else " WRONG"
    fast = row.new_ms.median <= _NEW_MS and row.seen_us.median <= _SEEN_US
    new, seen = row.new_ms, row.seen_us
    return (
        f"{row.model}: {row.steps} steps; new shape {new.median:.2f} ms (p99 {new.p99:.2f}), first run "
        f"{row.first_ms.median:.2f} ms (later {row.run_ms.median:.2f}); seen shape {seen.median:.1f} µs (p99 "
        f"{seen.p99:.1f}); first bind {row.first_bind_ms:.0f} ms; error {row.relative:.1e}{right}; "
        f"{'within' if fast else 'beyond'} {_NEW_MS:g} ms and {_SEEN_US:g} µs"
    )


if __name__ == "__main__":
    main()
