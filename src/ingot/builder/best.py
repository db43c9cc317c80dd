"""``--best``: the fastest engine within the accuracy budget, of those that layers in FP16, INT8 and FP8 can make.

On a GPU that is there, layers and whole engines are measured; for another one the recorded times and the cost model
decide. On the CPU the INT8 model runs against the original.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import onnx_ir as ir

from ingot.builder.host_only import WORTH, take_turns
from ingot.builder.layer_times import Tuned, layer_times
from ingot.builder.provenance import quantized_provenance
from ingot.builder.quantizing import proto_of, quantize, ready, settings_of
from ingot.builder.race import random_feeds
from ingot.builder.reading import Model
from ingot.builder.targets import Chosen
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.graph.lowered import Lowered
from ingot.kernels.api import Target
from ingot.options import BuildOptions, Quantization
from ingot.precision.best import Candidate, quantize_best
from ingot.precision.data import Source
from ingot.precision.mixed import FLOAT
from ingot.precision.observer import Opens
from ingot.precision.report import LayerReport, Report
from ingot.progress import Progress
from ingot.runtime.engine import Engine
from ingot.tune.choice import Choice
from ingot.tune.setting import Timing
from ingot.tune.worker import Worker

BEST = "best"
"""The precision that stands for the fastest of each layer."""
Seen = Callable[[Lowered, Sequence[Choice]], None]
"""Is told what was chosen for the Regions of a profile."""
_FP8_FROM = 89
_RACE = "ingot.builder.race:race_files"
_TIMEOUT = 120.0
_WORTH = 0.99
"""On a GPU an engine with 8-bit layers must be faster than the one without by this factor: below it is noise."""


class Build(Protocol):
    """Makes the engine of a model whose precision is settled."""

    def __call__(self, model: Model, plain: BuildOptions, seen: Seen | None = None) -> EngineFile:
        """``seen``: is told what was chosen."""


class _Entry(NamedTuple):
    """An engine that is up for choice."""

    name: str
    engine: EngineFile
    report: Report


def build_best(
    model: Model,
    options: BuildOptions,
    chosen: Chosen,
    data: Source | None,
    build: Build,
    progress: Progress,
    told: Callable[[Report], None] | None,
    elsewhere: Opens | None = None,
) -> EngineFile:
    """The engine, with ``options.quantization`` saying what accuracy may be lost; ``told`` gets the report, and
    ``elsewhere`` may calibrate in place of the CPU.

    Raises IngotError for a model, data or options that are wrong; a calibration cache without data is not enough, for
    losses have to be measured.
    """
    eight = options.quantization
    assert eight is not None
    if data is None and eight.calibration is None:
        raise IngotError("the best precision is chosen by losses, which take data", fix="give --calibration")
    plain = replace(options, quantization=None)
    if chosen.target is None:
        sha256, entries = _for_host(model, plain, eight, data, build, progress)
        seconds = _host_seconds([entry.engine for entry in entries])
        winner, why = _winner(entries, seconds, "measured as whole engines", WORTH)
    else:
        sha256, entries = _for_device(model, plain, eight, chosen.target, data, build, progress, elsewhere)
        winner, why = _contest(entries, chosen)
    report = _explained(winner, entries[0], why)
    if told is not None:
        told(report)
    plan = msgspec.structs.replace(winner.engine.plan, reasons=[*winner.engine.plan.reasons, why])
    made_by = quantized_provenance(winner.engine.provenance, sha256, report)
    return replace(winner.engine, plan=plan, provenance=made_by)


# -- on a GPU


def _for_device(
    model: Model,
    plain: BuildOptions,
    eight: Quantization,
    target: Target,
    data: Source | None,
    build: Build,
    progress: Progress,
    elsewhere: Opens | None,
) -> tuple[str, list[_Entry]]:
    """The digest of the model, and the engines: the one without 8-bit layers last."""
    work = ready(model, eight, data, plain.shapes, progress)
    assert work.data is not None
    engines: dict[str, EngineFile] = {}

    def timed(before: ir.Model, forms: Mapping[str, ir.Model]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for name, form in {FLOAT: model, **{key: proto_of(made) for key, made in forms.items()}}.items():
            tuned = _Plans()
            engines[name] = build(form, plain, tuned)
            for layer, micros in layer_times(before, tuned.found).items():
                found.setdefault(layer, {})[name] = micros
        return found

    precisions = ("int8", "fp8") if target.cc >= _FP8_FROM else ("int8",)
    settings = settings_of(replace(eight, precision="int8"))
    candidates = quantize_best(work.model, work.sha256, work.data, settings, precisions, timed, progress, elsewhere)

    def entry(candidate: Candidate) -> _Entry:
        made, report = candidate.result
        engine = engines[candidate.name] if candidate.name in engines else build(proto_of(made), plain)
        return _Entry(candidate.name, engine, msgspec.structs.replace(report, notes=[*report.notes, *work.notes]))

    return work.sha256, [entry(candidate) for candidate in candidates]


class _Plans:
    """Keeps what is told of the profiles of one build."""

    def __init__(self) -> None:
        self.found: list[Tuned] = []

    def __call__(self, lowered: Lowered, choices: Sequence[Choice]) -> None:
        self.found.append(Tuned(lowered, choices))


def _contest(entries: Sequence[_Entry], chosen: Chosen) -> tuple[_Entry, str]:
    """The fastest engine, and how that is known."""
    if chosen.device is not None and len(entries) > 1 and not any(entry.engine.others for entry in entries):
        timings = _raced([entry.engine for entry in entries], chosen.device.ordinal)
        if not isinstance(timings, No):
            return _winner(entries, [timing.seconds for timing in timings], "measured as whole engines")
        return _winner(*_summed(entries), f"sums of the layers; not measured: {timings}")
    return _winner(*_summed(entries), "sums of the layers")


def _raced(engines: Sequence[EngineFile], ordinal: int) -> list[Timing] | No:
    """Their times, in turns, in a helper process."""
    worker = Worker()
    try:
        with tempfile.TemporaryDirectory(prefix="ingot-best-") as folder:
            paths = [str(Path(folder) / f"{index}.ingot") for index in range(len(engines))]
            for engine, path in zip(engines, paths, strict=True):
                engine.write(path)
            answer: list[Timing] | No = worker.call(_RACE, paths, ordinal, timeout=_TIMEOUT)
            return answer
    finally:
        worker.close()


def _summed(entries: Sequence[_Entry]) -> tuple[list[_Entry], list[float]]:
    """Engines and what their layers take together; those with more host steps than the last one are left out.

    What a host step takes is not known.
    """
    most = _islands(entries[-1].engine)
    compared = [entry for entry in entries if _islands(entry.engine) <= most]
    return compared, [1e-6 * sum(r.micros for p in e.engine.plans for r in p.regions) for e in compared]


def _islands(engine: EngineFile) -> int:
    return sum(step.kind == "host" for plan in engine.plans for step in plan.steps)


# -- on the CPU


def _for_host(
    model: Model, plain: BuildOptions, eight: Quantization, data: Source | None, build: Build, progress: Progress
) -> tuple[str, list[_Entry]]:
    """As :func:`_for_device`: the INT8 model and the original, each with the library that runs it fastest."""
    host = replace(eight, precision="int8", host=True)
    made = quantize(model, host, data, shapes=plain.shapes, progress=progress)
    entries = [_Entry(FLOAT, build(model, plain), made.report)]
    if made.report.within_budget:
        entries.insert(0, _Entry("int8", build(made.model, plain), made.report))
    return made.sha256, entries


def _host_seconds(engines: Sequence[EngineFile]) -> list[float]:
    """Their times in turns, on random inputs."""
    contexts = [Engine(engine).context() for engine in engines]
    return take_turns([context.run for context in contexts], random_feeds(engines[-1].plan))


# -- the choice


def _winner(entries: Sequence[_Entry], seconds: Sequence[float], how: str, worth: float = _WORTH) -> tuple[_Entry, str]:
    """The fastest; the last, which is in floating point, unless another is faster by the factor ``worth``."""
    last = len(entries) - 1
    best = min(range(len(entries)), key=lambda i: seconds[i] * (worth if i == last else 1.0))
    times = ", ".join(f"{e.name} {s * 1e3:.3f} ms" for e, s in zip(entries, seconds, strict=True))
    return entries[best], f"best: {times} ({how}): {entries[best].name} is taken"


def _explained(winner: _Entry, first: _Entry, why: str) -> Report:
    """The report of the winner, with ``why``; where that is the original, what was given up for it is ``first``'s."""
    if winner.name != FLOAT:
        report = winner.report
        return msgspec.structs.replace(report, precision=BEST, notes=[*report.notes, why])
    report = first.report
    slower = "the engine is not faster with it in 8 bits" if report.within_budget else "beyond the budget"
    layers = [
        LayerReport(line.name, line.op, FLOAT, slower if line.precision != FLOAT else line.why, micros=line.micros)
        for line in report.layers
    ]
    loss = None if report.loss is None else 0.0
    return msgspec.structs.replace(
        report, precision=BEST, layers=layers, quantized=0, given_back=len(layers), loss=loss, equalised=0,
        bias_corrected=False, output_sqnr_db=None, notes=[*report.notes, why],
    )  # fmt: skip
