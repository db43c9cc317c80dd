"""The results of benchmarks/models.py, and the Markdown made of them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

PRECISIONS = ("fp32", "fp16")
_WRONG = {"fp32": 1e-3, "fp16": 0.03}
"""Relative errors above these are marked, where the engine does not say otherwise: what ``ingot bench`` applies."""


class Error(msgspec.Struct, frozen=True):
    """The worst output against ONNX Runtime."""

    relative: float = 0.0
    """Norm of the difference over norm of the reference; share of wrong elements for integers."""
    max_abs: float = 0.0
    problem: str = ""


class Island(msgspec.Struct, frozen=True):
    """A part that stays on the host."""

    ops: list[str]
    reason: str


class Plan(msgspec.Struct, frozen=True):
    """A build for a GPU."""

    target: str
    layers: int = 0
    kernels: int = 0
    views: int = 0
    islands: list[Island] = []
    build_seconds: float = 0.0
    problem: str = ""
    tolerance: float = 0.0
    """Of its errors: that of FP16 also for a model that is in FP16 by itself. 0 for that of the precision."""
    simulated: Error | None = None
    device: Error | None = None


class Row(msgspec.Struct, frozen=True):
    """One model."""

    name: str
    package: str
    description: str
    sha256: str
    imports: bool | None = None
    import_reason: str = ""
    nodes: int = 0
    notes: list[str] = []
    backend: str = ""
    cpu: dict[str, Error] = {}
    plans: dict[str, Plan] = {}
    twin: str = ""
    """An earlier model with the same file."""
    stage: str = "start"
    problem: str = ""
    """What ended the process before all stages were done."""

    def summary(self) -> str:
        """One line for the terminal."""
        if self.twin:
            return f"the same file as {self.twin}"
        if self.problem:
            return self.problem[:160]
        parts = [f"cpu {_error(self.cpu.get('fp32'), _WRONG['fp32'])}"]
        for precision, plan in self.plans.items():
            parts.append(f"{precision} {plan.problem[:80] or _figures(plan)}")
            shown = [_plan_error(plan, error, precision) for error in (plan.simulated, plan.device)]
            parts.append(f"simulated {shown[0]} device {shown[1]}")
        return "; ".join(parts)


class Environment(msgspec.Struct, frozen=True):
    """Where the results come from."""

    device: str
    arch: str
    cpu: str
    python: str
    versions: dict[str, str]


class Results(msgspec.Struct, frozen=True):
    """Everything of one run."""

    environment: Environment
    rows: list[Row]


_HEAD = """\
# Real models

Made by `python benchmarks/models.py`; do not edit. Each model is run once, on the sample inputs of `ingot.zoo.inputs`.
Errors are relative (norm of the difference over norm of ONNX Runtime's result in FP32 on the CPU; for integers
the share of elements that differ), the worst output of each model; **bold** is above the tolerance of {fp32:g} in
FP32, and of {fp16:g} in FP16 or where the model's own weights are 16-bit.

- *CPU*: the engine of `--target cpu` (ONNX Runtime or OpenVINO inside, whichever was faster). `--fp16` changes nothing
  there.
- *simulated*: the plan of `--target {target}`, each layer by its reference, in the planned memory and a
  random order that the edges allow.
- *GPU*: the same engine on {gpu}.
- *layers / kernels / views*: of the FP16 plan (FP32 where there is none). *host*: parts that have no kernel, see below.

"""


def markdown(results: Results, gpu: Results | None) -> str:
    """The whole page. ``gpu``: results of another run for the GPU columns, used where ``results`` has none."""
    plans = [plan for row in results.rows for plan in row.plans.values()]
    measured = any(plan.device for plan in plans)
    others = {} if measured or gpu is None else {row.name: row for row in gpu.rows}
    name = results.environment.device if measured else gpu.environment.device if gpu else "a GPU (none was there)"
    target = next((plan.target for plan in plans if plan.target != "cpu"), "sm_90")
    parts = [_HEAD.format(fp32=_WRONG["fp32"], fp16=_WRONG["fp16"], target=target, gpu=name)]
    columns = ["model", "imports", "nodes", "layers / kernels / views", "host", "CPU FP32", "CPU FP16"]
    columns += ["simulated FP32", "simulated FP16", "GPU FP32", "GPU FP16"]
    parts.append(_table(columns, (_cells(row, others.get(row.name)) for row in results.rows)))
    parts.append(_islands(results.rows))
    parts.append(_problems(results.rows))
    parts.append(_packages(results))
    return "\n".join(part for part in parts if part)


def _cells(row: Row, gpu: Row | None) -> list[str]:
    if row.twin:
        return [row.name, f"the same file as {row.twin}", *[""] * 9]
    imported = {None: "–", True: "yes", False: "no"}[row.imports]
    plan = _main_plan(row)
    device = [_device(row, gpu, precision) for precision in PRECISIONS]
    simulated = [_simulated(row.plans.get(precision), precision) for precision in PRECISIONS]
    cpu = [_error(row.cpu.get(precision), _WRONG[precision]) for precision in PRECISIONS]
    host = "–" if plan is None else "all" if plan.target == "cpu" else str(len(plan.islands))
    return [row.name, imported, str(row.nodes or "–"), _figures(plan), host, *cpu, *simulated, *device]


def _main_plan(row: Row) -> Plan | None:
    found = [row.plans[p] for p in reversed(PRECISIONS) if p in row.plans and row.plans[p].layers]
    return found[0] if found else None


def _figures(plan: Plan | None) -> str:
    if plan is None or plan.target == "cpu":
        return "–"
    return f"{plan.layers} / {plan.kernels} / {plan.views}"


def _simulated(plan: Plan | None, precision: str) -> str:
    if plan is None:
        return "–"
    return "failed" if plan.target != "cpu" and plan.problem else _plan_error(plan, plan.simulated, precision)


def _device(row: Row, other: Row | None, precision: str) -> str:
    for source in (row, other):
        plan = source.plans.get(precision) if source else None
        if plan is not None and plan.device is not None:
            return _plan_error(plan, plan.device, precision)
    return "–"


def _plan_error(plan: Plan, error: Error | None, precision: str) -> str:
    return _error(error, plan.tolerance or _WRONG[precision])


def _error(error: Error | None, allowed: float) -> str:
    if error is None:
        return "–"
    if error.problem:
        return "failed"
    if error.relative == 0:
        return "0"
    text = f"{error.relative:.1e}"
    return f"**{text}**" if error.relative > allowed else text


def _islands(rows: Iterable[Row]) -> str:
    lines = []
    for row in rows:
        plan = _main_plan(row)
        if plan is None:
            continue
        if plan.target == "cpu":
            lines.append(f"- **{row.name}**: all of it. {_escape(plan.problem)}")
        seen = dict.fromkeys(f"{_few(island.ops)}: {_escape(island.reason)}" for island in plan.islands)
        if plan.target != "cpu":
            lines += [f"- **{row.name}**: {text}" for text in seen]
    return "## On the host, and why\n\n" + "\n".join(lines) + "\n" if lines else ""


def _few(ops: list[str]) -> str:
    return ", ".join(ops[:8]) + (f" and {len(ops) - 8} more kinds" if len(ops) > 8 else "")


def _problems(rows: Iterable[Row]) -> str:
    lines = []
    for row in rows:
        found = {"import": row.import_reason, "process": row.problem}
        found |= {f"CPU {precision}": error.problem for precision, error in row.cpu.items()}
        for precision, plan in row.plans.items():
            found[f"build {precision}"] = "" if plan.target == "cpu" else plan.problem
            for what, error in (("simulated", plan.simulated), ("GPU", plan.device)):
                found[f"{what} {precision}"] = error.problem if error else ""
        lines += [f"- **{row.name}**, {what}: {_escape(text)}" for what, text in found.items() if text]
    return "## Failures\n\n" + "\n".join(lines) + "\n" if lines else ""


def _packages(results: Results) -> str:
    rows = ([row.name, row.package, row.description] for row in results.rows)
    about = results.environment
    wanted = ("onnxruntime", "openvino", "onnx", "triton", "nvidia-cuda-nvrtc", "cuda-bindings", "numpy")
    versions = ", ".join(f"{name} {about.versions[name]}" for name in wanted if name in about.versions)
    head = f"## Where they come from\n\nRun on {about.cpu}, Python {about.python}; {versions}.\n\n"
    return head + _table(["model", "package", "what it is"], rows)


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
