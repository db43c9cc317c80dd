"""Makes docs/accuracy.md: real networks on real data in FP32, FP16, INT8 and FP8.

    python benchmarks/accuracy.py --out docs/accuracy.md [--only ocr,rnet] [--json FILE]
    python benchmarks/accuracy.py --results FILE --out docs/accuracy.md        # the page of an earlier run

ONNX Runtime on the CPU runs every form of a network: the original, the one cast to float16 that a GPU build
lowers, and the Q/DQ models, whose 8-bit arithmetic is exact there. Without labels the score is the cosine to FP32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir

import ingot
from ingot.builder.reading import read_model
from ingot.measure.environment import Environment, environment
from ingot.passes.pipeline import canonicalise, prepare_to_quantize
from ingot.precision.autocast import autocast
from ingot.precision.host import HostRuns
from ingot.precision.metrics import cosine, decibels, noise_ratio
from ingot.precision.report import Report
from ingot.zoo.tasks import Task, names, task

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cpu" / "accuracy.json"


class Form(msgspec.Struct):
    """One precision of one network."""

    score: float | None
    cosine: float
    sqnr_db: float
    report: Report | None = None
    seconds: float = 0.0
    """What quantization took."""


class Row(msgspec.Struct):
    """One network."""

    name: str
    measure: str
    samples: int
    calibration: int
    forms: dict[str, Form]


class Results(msgspec.Struct):
    """A whole run."""

    environment: Environment
    rows: list[Row]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, help="the Markdown file")
    parser.add_argument("--json", type=Path, default=RESULTS, help="the results; rows that are not run are kept")
    parser.add_argument("--results", type=Path, help="make the page of this file, without running")
    parser.add_argument("--only", default="", help="networks whose names contain one of these")
    parser.add_argument("--most", type=int, help="samples to judge by at most")
    flags = parser.parse_args()
    if flags.results is not None:
        results = msgspec.json.decode(flags.results.read_bytes(), type=Results)
    else:
        results = _measured(flags.json, [part for part in flags.only.split(",") if part], flags.most)
    if flags.out is not None:
        flags.out.write_text(page(results))
    print(table(results))


def _measured(path: Path, only: Sequence[str], most: int | None) -> Results:
    """Runs the networks, and writes the results down after each."""
    old = msgspec.json.decode(path.read_bytes(), type=Results).rows if path.is_file() else []
    rows = {row.name: row for row in old}
    results = Results(environment(None), [])
    for name in names():
        if not only or any(part in name for part in only):
            rows[name] = measure(task(name, most))
            print(table(Results(results.environment, [rows[name]])).splitlines()[-1], flush=True)
        results.rows = [rows[n] for n in names() if n in rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(results) + b"\n")
    return results


def measure(asked: Task) -> Row:
    """All precisions of one network."""
    original = _loaded(asked.model)
    wanted = _outputs(HostRuns(original), asked)
    forms = {"fp32": _form(asked, wanted, wanted)}
    forms["fp16"] = _form(asked, _outputs(HostRuns(_half(asked.model)), asked), wanted)
    for precision in ("int8", "fp8"):
        start = time.perf_counter()
        made = ingot.quantize(asked.model, {asked.input: asked.calibration}, precision=precision)
        seconds = time.perf_counter() - start
        form = _form(asked, _outputs(HostRuns(made.model), asked), wanted)
        forms[precision] = msgspec.structs.replace(form, report=made.report, seconds=seconds)
    return Row(asked.name, asked.measure, len(asked.samples), len(asked.calibration), forms)


def _half(model: Path | onnx.ModelProto) -> ir.Model:
    """What a GPU build lowers; without fused attention, whose masks ONNX Runtime does not take in one row."""
    imported = read_model(model, (), any_size=True).model
    made = canonicalise(imported, fp16=True).model
    if any(node.op_type == "Attention" for node in made.graph):
        made = prepare_to_quantize(imported).model
        autocast(made)
    return made


def _loaded(model: Path | onnx.ModelProto) -> onnx.ModelProto:
    return onnx.load(model) if isinstance(model, Path) else model


def _outputs(runs: HostRuns, asked: Task) -> list[Mapping[str, Array]]:
    batches = range(0, len(asked.samples), asked.batch)
    return [runs.run({asked.input: np.ascontiguousarray(asked.samples[i : i + asked.batch])}) for i in batches]


def _form(asked: Task, made: list[Mapping[str, Array]], wanted: list[Mapping[str, Array]]) -> Form:
    pairs = [(a[n], b[n]) for a, b in zip(wanted, made, strict=True) for n in a if a[n].dtype.kind == "f"]
    score = None
    if asked.score is not None:
        name = asked.output or next(iter(wanted[0]))
        score = asked.score(*(np.concatenate([batch[name] for batch in run]) for run in (made, wanted)))
    likeness = float(np.mean([cosine(a, b) for a, b in pairs]))
    return Form(score, likeness, decibels(float(np.mean([noise_ratio(a, b) for a, b in pairs]))))


def table(results: Results) -> str:
    """The figures as a Markdown table."""
    columns = [
        "network",
        "score",
        "samples",
        "FP32",
        "FP16",
        "INT8",
        "FP8",
        "INT8 layers",
        "FP8 layers",
        "calibrated on",
    ]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in results.rows:
        cells = [row.name, row.measure or "cosine (SQNR)", str(row.samples)]
        cells += [_cell(row, name) for name in ("fp32", "fp16", "int8", "fp8")]
        cells += [_layers(row.forms[name].report) for name in ("int8", "fp8")]
        lines.append(f"| {' | '.join(cells)} | {row.calibration} samples |")
    return "\n".join(lines)


def _layers(report: Report | None) -> str:
    if report is None:
        return ""
    back = f", {report.given_back} given back" if report.given_back else ""
    return f"{report.quantized} of {len(report.layers)}{back}"


def _cell(row: Row, name: str) -> str:
    form = row.forms[name]
    if form.score is None:
        return "1" if name == "fp32" else f"{form.cosine:.5f} ({form.sqnr_db:.1f} dB)"
    if name == "fp32":
        return f"{100 * form.score:.2f} %"
    lost = 100 * ((row.forms["fp32"].score or 0.0) - form.score)
    return f"{100 * form.score:.2f} % ({0.0 - lost:+.2f})"


def page(results: Results) -> str:
    """docs/accuracy.md."""
    text = (Path(__file__).parent / "accuracy_page.md").read_text()
    methods = "\n".join(f"- {row.name}: {_method(row)}" for row in results.rows)
    filled = {"TABLE": table(results), "METHODS": methods, "ENVIRONMENT": results.environment.cpu}
    for key, value in filled.items():
        text = text.replace("{" + key + "}", value)
    return text


def _method(row: Row) -> str:
    told = []
    for precision in ("int8", "fp8"):
        report = row.forms[precision].report
        if report is None:
            continue
        counts: dict[str, int] = {}
        for line in report.layers:
            if line.method:
                counts[line.method] = counts.get(line.method, 0) + 1
        methods = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda c: -c[1]))
        extras = [f"{report.equalised} activations equalised"] if report.equalised else []
        extras += ["biases corrected"] if report.bias_corrected else []
        told.append(f"{precision.upper()} {methods}" + "".join(f", {extra}" for extra in extras))
    return "; ".join(told)


if __name__ == "__main__":
    main()
