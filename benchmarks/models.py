"""Makes docs/models.md: every real model of the zoo through import, build, CPU, simulator and (where there is one) GPU.

    python benchmarks/models.py --target cpu|sm_90|auto --out docs/models.md
    python benchmarks/models.py --target auto --json benchmarks/results/h200/models.json    # on a GPU

Each model has a process of its own with a time limit, which writes down what it knows after every stage: a
crash or a timeout costs the rest of one row. GPU columns come from this run, else from ``--gpu-json``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from models_table import Environment, Error, Island, Plan, Results, Row, markdown

import ingot
from ingot.builder.targets import TARGETS, choose_target
from ingot.engine.describe import describe
from ingot.errors import IngotError
from ingot.importer.load import import_model
from ingot.measure.accuracy import differences
from ingot.measure.environment import environment
from ingot.measure.reference import Reference
from ingot.measure.tolerance import tolerance_of
from ingot.simulate.simulator import Simulator
from ingot.zoo.fetch import fetch, find, names
from ingot.zoo.inputs import sample_inputs

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parent.parent
GPU_JSON = ROOT / "benchmarks" / "results" / "h200" / "models.json"
_PRECISIONS = {"fp32": False, "fp16": True}
_TAIL = 6
"""Lines of a failed process that are kept."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--target", default="auto", help="cpu, sm_75 ... sm_120, or auto: the GPU, else sm_90")
    parser.add_argument("--out", type=Path, help="the Markdown file")
    parser.add_argument("--json", type=Path, help="the results as JSON")
    parser.add_argument("--results", type=Path, help="JSON of an earlier run to make the page of, without running")
    parser.add_argument("--gpu-json", type=Path, default=GPU_JSON, help="earlier results for the GPU columns")
    parser.add_argument("--only", default="", help="models whose names contain one of these; others stay in --json")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for a model")
    parser.add_argument("--opt-level", type=int, default=1, help="of the builds for a GPU")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        if arguments.worker:
            Worker(arguments.worker[0], Path(arguments.worker[1])).run(arguments.target, arguments.opt_level)
        else:
            _run(arguments)
    except IngotError as error:
        sys.exit(f"error: {error}")


def _run(arguments: argparse.Namespace) -> None:
    results = _earlier(arguments.results) if arguments.results else _measured(arguments)
    if results is None:
        raise IngotError("there is no such file", node=str(arguments.results))
    text = markdown(results, _earlier(arguments.gpu_json))
    if arguments.out:
        arguments.out.write_text(text)
    else:
        print(text)


def _measured(arguments: argparse.Namespace) -> Results:
    wanted = [part for part in arguments.only.split(",") if part]
    chosen = [name for name in names() if not wanted or any(part in name for part in wanted)]
    if not chosen:
        raise IngotError(f"no model's name contains {arguments.only!r}", fix=f"the models are {', '.join(names())}")
    device = choose_target("auto").device if arguments.target in ("auto", "cuda") else None
    about = environment(device.info if device else None)
    machine = Environment(about.device, about.arch, about.cpu, about.python, about.versions)
    kept = _earlier(arguments.json) if wanted and arguments.json else None
    found = {row.name: row for row in kept.rows} if kept else {}
    rows: list[Row] = []
    for number, name in enumerate(chosen, 1):
        twin = next((other for other in names() if find(other).sha256 == find(name).sha256), name)
        begin = time.monotonic()
        row = found[name] = _in_process(name, arguments) if twin == name else _same(name, twin)
        rows = [found[known] for known in names() if known in found]
        seconds = time.monotonic() - begin
        print(f"[{number}/{len(chosen)}] {name}: {row.summary()} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        if arguments.json:  # after each model, so that an end by force loses little
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(Results(machine, rows)), indent=1))
    return Results(machine, rows)


def _same(name: str, twin: str) -> Row:
    return msgspec.structs.replace(_start(name), twin=twin)


def _start(name: str) -> Row:
    model = find(name)
    return Row(name, f"{model.package} {model.version}", model.description, model.sha256)


def _earlier(path: Path) -> Results | None:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except msgspec.DecodeError as error:
        raise IngotError(f"these are no results of this script: {error}", node=str(path)) from None


def _in_process(name: str, arguments: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory(prefix="ingot-models-") as folder:
        file = Path(folder) / "row.json"
        options = ("--target", arguments.target, "--opt-level", str(arguments.opt_level))
        command = [sys.executable, __file__, "--worker", name, str(file), *options]
        reason = ""
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=False)
            if run.returncode:
                reason = " / ".join(run.stderr.strip().splitlines()[-_TAIL:]) or f"ended with {run.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"not finished within {arguments.timeout:g} s"
        row = msgspec.json.decode(file.read_bytes(), type=Row) if file.is_file() else _start(name)
    return row if not reason else msgspec.structs.replace(row, problem=f"{row.stage}: {reason}")


class Worker:
    """One model through every stage; the row is on disk after each."""

    def __init__(self, name: str, file: Path) -> None:
        self.name, self.file = name, file
        self.row = _start(name)

    def run(self, target: str, opt_level: int) -> None:
        """All stages; what a stage raises is kept and the next one tried."""
        path = self._stage("fetch", lambda: fetch(self.name))
        feeds = sample_inputs(self.name)
        reference = Reference(path)
        wanted = self._stage("ONNX Runtime", lambda: reference.run(feeds))
        self._import(path)
        shapes = {name: array.shape for name, array in feeds.items()}
        for precision, fp16 in _PRECISIONS.items():
            self._note(stage=f"cpu {precision}")
            error, backend = self._cpu(path, shapes, feeds, wanted, fp16)
            self._note(cpu={**self.row.cpu, precision: error}, backend=backend or self.row.backend)
        for target_name in _device_targets(target):
            for precision, fp16 in _PRECISIONS.items():
                self._note(stage=f"{target_name} {precision}")
                plan = self._device(path, shapes, feeds, wanted, target_name, fp16, opt_level)
                self._note(plans={**self.row.plans, precision: plan})
        self._note(stage="done")

    def _note(self, **changes: Any) -> None:
        self.row = msgspec.structs.replace(self.row, **changes)
        self.file.write_bytes(msgspec.json.encode(self.row))

    def _stage(self, name: str, work: Callable[[], Any]) -> Any:
        """A stage without which nothing else makes sense."""
        self._note(stage=name)
        return work()

    def _import(self, path: Path) -> None:
        self._note(stage="import")
        try:
            imported = import_model(path, any_size=True)
        except IngotError as error:
            self._note(imports=False, import_reason=str(error))
            raise
        self._note(imports=True, nodes=len(imported.model.graph), notes=list(imported.notes))

    def _cpu(
        self,
        path: Path,
        shapes: Mapping[str, Sequence[int]],
        feeds: Mapping[str, Array],
        wanted: Mapping[str, Array],
        fp16: bool,
    ) -> tuple[Error, str]:
        try:
            engine = ingot.build(path, target="cpu", fp16=fp16, shapes=shapes)
            made = engine.context().run(feeds)
        except Exception as error:
            return Error(problem=_line(error)), ""
        return _error(wanted, made), ", ".join(sorted({step.backend for step in engine.plan.steps}))

    def _device(
        self,
        path: Path,
        shapes: Mapping[str, Sequence[int]],
        feeds: Mapping[str, Array],
        wanted: Mapping[str, Array],
        target: str,
        fp16: bool,
        opt_level: int,
    ) -> Plan:
        begin = time.monotonic()
        try:
            engine = ingot.build(path, target=target, fp16=fp16, shapes=shapes, opt_level=opt_level)
        except Exception as error:
            return Plan(target, problem=_line(error))
        seconds = time.monotonic() - begin
        described = describe(engine.file)
        islands = [Island(_ops(layer.ops), layer.tactic) for layer in described.layers if layer.kind == "host"]
        summary = described.summary
        limit = tolerance_of(engine.file)
        plan = Plan(engine.target, summary.layers, summary.kernels, summary.views, islands, seconds, tolerance=limit)
        if engine.target == "cpu":
            reason = next((r for r in described.reasons if r.startswith("the whole model")), "no part has a kernel")
            return msgspec.structs.replace(plan, problem=reason)
        simulated = _tried(lambda: Simulator(engine.file).run(feeds), wanted)
        plan = msgspec.structs.replace(plan, simulated=simulated)
        if choose_target("auto").device is None:
            return plan
        return msgspec.structs.replace(plan, device=_tried(lambda: engine.context().run(feeds), wanted))


def _device_targets(target: str) -> list[str]:
    """What GPU plans are made for: none for the CPU, sm_90 where ``auto`` finds no GPU."""
    if target == "cpu":
        return []
    if target in ("auto", "cuda"):
        device = choose_target("auto").device
        return [device.info.target if device else "sm_90"]
    if target not in {t.name for t in TARGETS}:
        raise IngotError(f"there is no target {target!r}", fix="take cpu, auto, or sm_75 ... sm_120")
    return [target]


def _tried(run: Callable[[], Mapping[str, Any]], wanted: Mapping[str, Array]) -> Error:
    try:
        made = run()
    except Exception as error:
        return Error(problem=_line(error))
    return _error(wanted, made)


def _error(wanted: Mapping[str, Array], made: Mapping[str, Any]) -> Error:
    """The worst of all outputs."""
    rows = differences(wanted, {name: np.asarray(array) for name, array in made.items()})
    problem = next((f"{row.name}: {row.problem}" for row in rows if row.problem), "")
    strange = sum(row.nonfinite for row in rows)
    if not problem and strange:
        problem = f"{strange} elements are not finite"
    return Error(max(row.relative for row in rows), max(row.max_abs for row in rows), problem)


def _ops(ops: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(ops))


def _line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return first[:300] if isinstance(error, IngotError) else f"{type(error).__name__}: {first[:300]}"


if __name__ == "__main__":
    main()
