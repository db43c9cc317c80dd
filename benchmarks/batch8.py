"""Every real model of the zoo at batch 8, beside ONNX Runtime on this machine's CPU: is the engine faster?

    python benchmarks/batch8.py --json benchmarks/results/h200/batch8.json --into docs/performance.md

Each model has a process of its own. Both runtimes get host arrays and give host arrays, and run in turns. A model whose
file fixes its batch runs at that one. Without a GPU the engine is one for the CPU. ``--results`` makes the table of an
earlier run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from table import inserted

import ingot
from ingot.builder.targets import choose_target
from ingot.engine.describe import describe
from ingot.errors import IngotError
from ingot.measure.accuracy import differences
from ingot.measure.environment import Environment, environment
from ingot.measure.figures import Budget
from ingot.measure.reference import Reference
from ingot.measure.timing import measure_device, quiet
from ingot.measure.tolerance import tolerance_of
from ingot.runtime.device_context import DeviceContext
from ingot.zoo.fetch import fetch, find, names
from ingot.zoo.inputs import sample_inputs

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
BATCH = 8
MARK = "batch8"
_TURNS = 3
_TURN_S = 0.25
"""Seconds of each runtime in each turn, and at least one run that counts."""
_WRONG = 1e-3


class Row(msgspec.Struct, frozen=True):
    """One model; times are medians in milliseconds."""

    name: str
    batch: int = 0
    fp16: bool = False
    ingot: float = 0.0
    """One run, host arrays to host arrays."""
    device: float = 0.0
    """One run on arrays that are on the device; 0 for an engine on the CPU."""
    onnxruntime: float = 0.0
    relative: float = 0.0
    """Norm of the difference over norm of ONNX Runtime's result, worst output."""
    tolerance: float = _WRONG
    target: str = ""
    islands: list[str] = []
    """Why parts stay on the host."""
    build_seconds: float = 0.0
    seconds: float = 0.0
    problem: str = ""

    @property
    def ratio(self) -> float:
        """How many times as long ONNX Runtime takes."""
        return self.onnxruntime / self.ingot if self.ingot else 0.0


class Results(msgspec.Struct, frozen=True):
    """All rows, and the machine."""

    environment: Environment
    threads: int
    """Cores that ONNX Runtime may use."""
    rows: list[Row]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--results", type=Path, help="JSON of an earlier run to make the table of, without running")
    parser.add_argument("--into", type=Path, help=f"a file with the marks <!-- {MARK} --> and <!-- /{MARK} -->")
    parser.add_argument("--only", default="", help="models whose names contain one of these, separated by commas")
    parser.add_argument("--fp16", action="store_true", help="build in FP16; ONNX Runtime stays in FP32")
    parser.add_argument("--opt-level", type=int, default=1)
    parser.add_argument("--missing", action="store_true", help="keep the rows that --json has already")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a model")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        row = measured(arguments.worker[0], fp16=arguments.fp16, opt_level=arguments.opt_level)
        Path(arguments.worker[1]).write_bytes(msgspec.json.encode(row))
        return
    if arguments.results:
        results = msgspec.json.decode(arguments.results.read_bytes(), type=Results)
    else:
        results = _all(arguments)
    text = markdown(results)
    if arguments.into:
        arguments.into.write_text(inserted(arguments.into.read_text(), text, str(arguments.into), MARK))
    else:
        print(text)


def _all(arguments: argparse.Namespace) -> Results:
    wanted = [part for part in arguments.only.split(",") if part]
    chosen = [name for name in _distinct() if not wanted or any(part in name for part in wanted)]
    device = choose_target("auto").device
    results = Results(environment(device.info if device else None), len(os.sched_getaffinity(0)), [])
    if arguments.missing and arguments.json and arguments.json.is_file():
        results = _kept(arguments.json, results)
        chosen = [name for name in chosen if name not in {row.name for row in results.rows}]
    for name in chosen:
        row = _in_process(name, arguments)
        results.rows.append(row)
        print(f"{name}: {row.problem or _line(row)}", file=sys.stderr, flush=True)
        if arguments.json:  # after each model, so that an end by force loses little
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    return results


def _kept(file: Path, now: Results) -> Results:
    """The whole rows of an earlier run. Ends the command when its machine or versions are not those of now."""
    found = msgspec.json.decode(file.read_bytes(), type=Results)
    if (found.environment, found.threads) != (now.environment, now.threads):
        sys.exit(f"error: {file} is of another machine or other versions; leave --missing out to measure all again")
    return msgspec.structs.replace(now, rows=[row for row in found.rows if not row.problem])


def _distinct() -> list[str]:
    """The zoo's real models, each file once."""
    return list({find(name).sha256: name for name in reversed(names())}.values())[::-1]


def _in_process(name: str, arguments: argparse.Namespace) -> Row:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ingot-batch8-") as folder:
        file = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--worker", name, str(file), "--opt-level", str(arguments.opt_level)]
        command += ["--fp16"] if arguments.fp16 else []
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=False)
            reason = "" if run.returncode == 0 else " / ".join(run.stderr.strip().splitlines()[-3:])
        except subprocess.TimeoutExpired:
            reason = f"not finished within {arguments.timeout:g} s"
        if reason or not file.is_file():
            return Row(name, problem=reason or "ended without a result")
        row = msgspec.json.decode(file.read_bytes(), type=Row)
    return msgspec.structs.replace(row, seconds=time.monotonic() - begin)


def measured(name: str, *, fp16: bool, opt_level: int) -> Row:
    """The row of one model. Raises what fetching it or running it in ONNX Runtime raises."""
    path = fetch(name)
    reference = Reference(path)
    feeds, batch, wanted = _feeds(name, reference)
    begin = time.monotonic()
    shapes = {key: array.shape for key, array in feeds.items()}
    row = Row(name, batch, fp16)
    try:
        engine = ingot.build(path, fp16=fp16, shapes=shapes, opt_level=opt_level)
        built = time.monotonic() - begin
        context = engine.context()
        rows = differences(wanted, context.run(feeds))
    except IngotError as error:
        return msgspec.structs.replace(row, problem=str(error)[:300])
    problem = next((f"{found.name}: {found.problem}" for found in rows if found.problem), "")
    session = reference.session
    known = {value.name for value in session.get_inputs()}
    given = {key: array for key, array in feeds.items() if key in known}
    times = in_turns({"ingot": lambda: context.run(feeds), "onnxruntime": lambda: session.run(None, given)})
    device = 0.0
    if isinstance(context, DeviceContext):
        budget = Budget(warmup=0.05, seconds=0.3, iterations=10, transfers=False)
        device = measure_device(context, feeds, budget, 0.0).run.median
    return msgspec.structs.replace(
        row,
        ingot=times["ingot"],
        device=device,
        onnxruntime=times["onnxruntime"],
        relative=max(found.relative for found in rows),
        tolerance=tolerance_of(engine.file),
        target=engine.target,
        islands=[layer.tactic for layer in describe(engine.file).layers if layer.kind == "host"],
        build_seconds=built,
        problem=problem,
    )


def _feeds(name: str, reference: Reference) -> tuple[Feeds, int, Feeds]:
    """Inputs at batch 8 or, where the model does not take that, at its own; what ONNX Runtime makes of them."""
    feeds = sample_inputs(name, batch=BATCH)
    try:
        return feeds, BATCH, reference.run(feeds)
    except IngotError:
        feeds = sample_inputs(name)
    batch = next((array.shape[0] for array in feeds.values() if array.ndim), 1)
    return feeds, batch, reference.run(feeds)


def in_turns(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each function. The first run of a turn does not count: the others' threads still spin."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    clock = time.perf_counter
    with quiet():
        for _ in range(_TURNS):
            for name, run in runs.items():
                run()
                start = before = clock()
                while before == start or before < start + _TURN_S:
                    run()
                    now = clock()
                    samples[name].append(now - before)
                    before = now
    return {name: 1e3 * float(np.median(values)) for name, values in samples.items()}


def markdown(results: Results) -> str:
    """The table, slowest against ONNX Runtime first, and why some are slow."""
    about = results.environment
    done = [row for row in results.rows if not row.problem]
    rows = sorted(done, key=lambda row: row.ratio)
    faster = sum(row.ratio > 1 for row in rows)
    lines = [
        f"On {about.device}, against ONNX Runtime on {results.threads} cores ({about.cpu}): {faster} of {len(rows)} "
        "models are faster. Times in ms, host arrays to host arrays; *on the device*: without the copies.",
        "",
        "| model | batch | Ingot | on the device | ONNX Runtime CPU | times as fast | rel. error | on the host |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    slow = [f"- **{row.name}**: {_why(row)}" for row in rows if row.ratio <= 1]
    failed = [f"- **{row.name}**: {_plain(row.problem)}" for row in results.rows if row.problem]
    for title, found in (("Not faster, and why:", slow), ("Failed:", failed)):
        lines += ["", title, "", *found] if found else []
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    error = f"{row.relative:.1e}" + ("" if row.relative <= row.tolerance else " **wrong**")
    device = f"{row.device:.3f}" if row.device else "–"
    times = f"{row.ratio:.1f}" if row.ratio > 1 else f"**{row.ratio:.2f}**"
    host = "all" if row.target == "cpu" else str(len(row.islands))
    return [row.name, str(row.batch), f"{row.ingot:.3f}", device, f"{row.onnxruntime:.3f}", times, error, host]


def _why(row: Row) -> str:
    reasons = "; ".join(dict.fromkeys(map(_plain, row.islands)))
    if row.target == "cpu":
        return f"the whole model runs on the host: {reasons}" if reasons else "the whole model runs on the host"
    if row.islands:
        return f"parts on the host: {reasons}"
    copies = "the rest is copies" if row.device < row.onnxruntime else "its layers are too small to fill a GPU"
    return f"on the device it takes {row.device:.3f} ms: {copies}" + (
        "; its file fixes the batch at 1" if row.batch == 1 else ""
    )


def _line(row: Row) -> str:
    return (
        f"{row.ingot:.3f} ms, ONNX Runtime {row.onnxruntime:.3f} ms ({row.ratio:.1f} times), error {row.relative:.1e}, "
        f"batch {row.batch}, {row.seconds:.0f} s"
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")[:300]


if __name__ == "__main__":
    main()
