"""What ``account.py`` writes down of an engine, and the Markdown of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec
from account_chain import Nothing
from account_times import Whole

from ingot.graph.dims import Bindings, evaluate_shape
from ingot.measure.environment import Environment
from ingot.measure.latency import Latency
from ingot.plan.spec import Plan, RegionDecl

_STALLS = 3
"""Reasons that are named, and least share of the warps' time of one."""
_LEAST_STALL = 0.1
_REASONS = {
    "barrier": "block's barrier", "gmma": "tensor cores", "long_scoreboard": "memory or a tile",
    "short_scoreboard": "shared memory", "math_pipe_throttle": "arithmetic", "no_instruction": "instructions",
    "imc_miss": "constants", "wait": "fixed latency", "not_selected": "another warp",
    "mio_throttle": "shared memory's queue", "lg_throttle": "memory's queue", "branch_resolving": "branches",
    "dispatch_stall": "dispatch", "membar": "fence", "sleeping": "sleep", "drain": "stores at the end",
}  # fmt: skip


class Step(msgspec.Struct, frozen=True):
    """One step of the engine; times in microseconds."""

    step: int
    layer: str
    """What its layer computes."""
    tactic: str
    kernel: str
    """The kernel's name; empty for steps that are none."""
    grid: list[int]
    alone: float
    """Back to back with itself, each after the end of the one before: its data is in the cache."""
    inside: float | None
    """By how much the graph is longer with it; of the first step with the graph's start."""
    floor: float
    """The longer of bytes and operations over the GPU's rates; of a layer's first step for all of them."""
    counters: dict[str, float] = {}
    stalls: dict[str, float] = {}
    """As ``account_ncu.Kernel`` has them."""


class Account(msgspec.Struct, frozen=True):
    """One engine."""

    name: str
    model: str
    options: dict[str, Any]
    inputs: dict[str, list[int]]
    environment: Environment
    relative: float
    """Of the worst output to ONNX Runtime's on the CPU: norm of the difference over norm of the reference."""
    tolerance: float
    whole: Whole
    steps: list[Step]
    cache: str = "none"
    """What ``ncu`` did to the caches between its passes."""
    uncounted: str = ""
    """Why there are no counters."""
    inside_error: float = 0.0
    """Of ``Step.inside``, in microseconds; 0 where it is not known."""
    nothing: Nothing | None = None
    """What kernels that do nothing cost; None where there are no programmatic edges."""


def label(plan: Plan, region: RegionDecl, at: Bindings) -> str:
    """What a layer computes, such as ``3x3/2 128->128 @28`` or ``gemm 768->3072 of 128 rows``."""

    def shape(index: int) -> tuple[int, ...]:
        return evaluate_shape(tuple(plan.values[index].shape), at)

    if not region.reads or not region.writes:
        return f"{region.kind} {'+'.join(region.ops)}"
    source, result = shape(region.reads[0]), shape(region.writes[0])
    weights = [shape(i) for i in region.reads if plan.values[i].memory.space == "weights"]
    kernels = [w for w in weights if len(w) == 4]
    if "Conv" in region.ops and kernels and len(source) == len(result) == 4:
        return _convolutions(region, kernels, source, result, sum(len(shape(i)) == 4 for i in region.reads[1:]))
    ops = "+".join(dict.fromkeys(region.ops))
    if any(len(w) == 2 for w in weights) and source and result:
        rows = result[-2] if len(result) > 1 else 1
        return f"{region.kind} {source[-1]}->{result[-1]} of {rows} rows" + (" +res" if "Add" in region.ops else "")
    return f"{region.kind} {ops if len(ops) <= 40 else ops[:37] + '...'} {'x'.join(map(str, result))}"


def _convolutions(
    region: RegionDecl,
    kernels: Sequence[tuple[int, ...]],
    source: tuple[int, ...],
    result: tuple[int, ...],
    wide: int,
) -> str:
    """``wide``: how many four-dimensional values the layer reads beside its first."""
    step = max(round(source[2] / result[2]), 1)
    if any("Pool" in op for op in region.ops):  # behind it, of stride 2
        step = max(step // 2, 1)
    parts = []
    for number, (out, depth, height, width) in enumerate(kernels):
        stride = f"/{step}" if step > 1 and number == 0 else ""
        channels = f"dw {out}" if depth == 1 and source[1] > 1 else f"{depth}->{out}"
        parts.append(f"{height}x{width}{stride} {channels}")
    kind = "" if region.kind == "conv" else f"{region.kind} "
    residual = " +res" if wide > len(kernels) else ""
    return f"{kind}{', '.join(parts)} @{result[2]}{residual}"


def markdown(account: Account) -> str:
    """Sentences of sums, and a row for each kind of layer."""
    counted = any(step.counters for step in account.steps)
    groups: dict[tuple[str, str], list[Step]] = {}
    for step in account.steps:
        groups.setdefault((step.layer, _family(step.tactic)), []).append(step)
    columns = ["layer", "count", "alone µs", "inside µs", "sum inside", "floor µs"]
    columns += ["SMs", "on an SM µs", "tensor cores", "issue", "warps wait for"] if counted else []
    columns.append("tactic")
    sms = account.environment.sms
    rows = [_row(name, family, steps, sms if counted else 0) for (name, family), steps in groups.items()]
    rows.append(_total(account.steps, sms, len(columns)))
    lines = ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n\n".join([_machine(account), *_sums(account), "\n".join(lines), _note(account, counted=counted)])


def _row(name: str, family: str, steps: Sequence[Step], sms: int) -> list[str]:
    """``sms``: of the GPU, 0 where there are no counters."""
    inside = [step.inside for step in steps if step.inside is not None]
    cells = [name, str(len(steps)), f"{statistics.mean(step.alone for step in steps):.1f}"]
    cells += [f"{statistics.mean(inside):.1f}", f"{sum(inside):.1f}"] if inside else ["–", "–"]
    cells.append(f"{statistics.mean(step.floor for step in steps):.1f}")
    cells += _counted(steps, sms) if sms else []
    return [*cells, f"`{family}`"]


def _counted(steps: Sequence[Step], sms: int) -> list[str]:
    counted = [step for step in steps if step.counters]
    blocks = sorted({min(math.prod(step.grid), sms) for step in counted})
    spent = [found for step in counted if (found := on_sm(step, sms)) is not None]
    rows = [step.counters for step in counted]
    tensor = [100 * row["tensor"] / row["busy"] for row in rows if row.get("busy") and "tensor" in row]
    issue = [row["issue"] for row in rows if "issue" in row]
    cells = ["/".join(map(str, blocks)) or "–", f"{statistics.mean(spent):.1f}" if spent else "–"]
    cells += [f"{statistics.mean(found):.0f} %" if found else "–" for found in (tensor, issue)]
    return [*cells, waits(steps)]


def on_sm(step: Step, sms: int) -> float | None:
    """Microseconds that an SM that gets blocks has any, on average; None where it was not counted."""
    duration, busy = (step.counters.get(name) for name in ("duration", "busy"))
    if duration is None or busy is None:
        return None
    return duration * busy / 100 * sms / min(math.prod(step.grid), sms)


def waits(steps: Sequence[Step]) -> str:
    """What the warps spend most of their time on, beside issuing, in shares of it."""
    found = [step.stalls for step in steps if step.stalls]
    names = {name for stalls in found for name in stalls} - {"selected"}
    shares = {name: statistics.mean(stalls.get(name, 0.0) for stalls in found) for name in names}
    most = sorted(shares, key=lambda name: (-shares[name], name))[:_STALLS]
    text = [f"{_REASONS.get(name, name)} {100 * shares[name]:.0f} %" for name in most if shares[name] >= _LEAST_STALL]
    return ", ".join(text) or "–"


def _total(steps: Sequence[Step], sms: int, columns: int) -> list[str]:
    inside = [step.inside for step in steps if step.inside is not None]
    spent = [found for step in steps if (found := on_sm(step, sms)) is not None]
    cells = ["all, in sum", str(len(steps)), f"{sum(step.alone for step in steps):.1f}", ""]
    cells += [f"{sum(inside):.1f}" if inside else "–", f"{sum(step.floor for step in steps):.1f}"]
    cells += ["", f"{sum(spent):.1f}"] if spent else []
    return [*cells, *[""] * (columns - len(cells))]


def _family(tactic: str) -> str:
    return tactic.partition("[")[0]


def _machine(account: Account) -> str:
    about = account.environment
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in account.inputs.items())
    wrong = "" if account.relative <= account.tolerance else ", **wrong**"
    return (
        f"{account.name} on {about.device} (driver {about.driver}, CUDA {about.cuda}): {account.model} with {shapes}; "
        f"relative error {account.relative:.1e}{wrong}. Median and 99th percentile in microseconds:"
    )


def _sums(account: Account) -> list[str]:
    whole, slow, spun = account.whole, account.whole.host.slow, account.whole.spin.slow
    rows: list[tuple[str, Latency | None]] = [
        ("one run, from the host", whole.host.run),
        ("its `enqueue`", whole.host.enqueue),
        ("its wait", whole.host.wait),
        ("one run, `synchronize(spin=True)`", whole.spin.run),
        ("its `enqueue`", whole.spin.enqueue),
        ("its wait", whole.spin.wait),
        ("between events, GPU idle before", whole.device),
        ("between events, queued behind another run", whole.queued),
        ("the same without programmatic edges", whole.ordinary),
    ]
    lines = ["| | runs | median | p99 | p99/p50 |", "| --- | --- | --- | --- | --- |"]
    for name, found in rows:
        if found is not None:
            figures = (f"{1e3 * found.median:.1f}", f"{1e3 * found.p99:.1f}", f"{found.spread:.3f}")
            lines.append(f"| {name} | {found.samples:,} | {' | '.join(figures)} |")
    said = (
        f"The slowest {slow.runs:,} runs take {slow.run:.1f} µs more than the median: {slow.enqueue:.1f} in `enqueue`, "
        f"{slow.wait:.1f} in the wait; with `spin=True` {spun.run:.1f} µs, {spun.enqueue:.1f} and {spun.wait:.1f}."
    )
    if account.nothing is not None:
        said += " " + _empty(account.nothing)
    return ["\n".join(lines), said]


def _empty(found: Nothing) -> str:
    return (
        f"Kernels that do nothing, on all SMs, follow each other every {found.ordinary:.2f} µs; by programmatic edges "
        f"every {found.programmatic:.2f}, with {found.shared // 1024} KB of shared memory a block every "
        f"{found.heavy:.2f}, and with that on half of the SMs every {found.half:.2f}."
    )


def _note(account: Account, *, counted: bool) -> str:
    text = (
        "*Alone*: back to back with itself, without overlap; *inside*: by how much the graph is longer with it (the "
        "first row has the start of a graph on top); each a mean."
    )
    text += f" A step *inside* is known to ±{account.inside_error:.1f} µs." if account.inside_error else ""
    if counted:
        text += (
            " By `ncu`, kernels one after another: *SMs* that get blocks; *on an SM*, how long such an SM has them; "
            "the share of that time in which its tensor cores work, and in which a scheduler issues an instruction; "
            "what warps do when they issue none, in shares of all their time."
        )
        text += " Caches were emptied before every pass." if account.cache == "all" else ""
    else:
        text += f" No hardware counters: {account.uncounted or 'not asked for'}."
    return text
