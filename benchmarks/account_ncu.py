"""Hardware counters of an engine's kernels for ``account.py``, read by NVIDIA's ``ncu``."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ingot.errors import IngotError

_METRICS = {
    "duration": "gpu__time_duration.sum",
    "hz": "sm__cycles_elapsed.avg.per_second",
    "busy": "sm__cycles_active.avg.pct_of_peak_sustained_elapsed",
    "sm": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "tensor": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed",
    "issue": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "warps": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "dram": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram_read": "dram__bytes_read.sum",
    "dram_written": "dram__bytes_write.sum",
    "l2": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2_hit": "lts__t_sector_hit_rate.pct",
    "l1": "l1tex__throughput.avg.pct_of_peak_sustained_elapsed",
}
"""Counters by the name that they have here: microseconds, hertz, percent, bytes."""
_STALLS = (
    "barrier", "branch_resolving", "dispatch_stall", "drain", "gmma", "imc_miss", "lg_throttle", "long_scoreboard",
    "math_pipe_throttle", "membar", "mio_throttle", "misc", "no_instruction", "not_selected", "selected",
    "short_scoreboard", "sleeping", "tex_throttle", "wait",
)  # fmt: skip
_STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
_MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3, "second": 1e6}


class Launch(msgspec.Struct, frozen=True):
    """A launch of a kernel, as the plan has it."""

    step: int
    name: str
    grid: tuple[int, ...]
    block: int

    @property
    def text(self) -> str:
        """As a message names it."""
        return _text(self.name, self.grid, self.block)


class Kernel(msgspec.Struct, frozen=True):
    """A launch of a kernel, as ``ncu`` saw it."""

    name: str
    grid: tuple[int, ...]
    block: int
    counters: dict[str, float]
    """By the names in this module; a counter that the GPU does not have is missing."""
    stalls: dict[str, float]
    """Share of the warps' time by what they did: ``selected``, or what they waited for."""


def counted(engine: Path, feeds: Path, log: Path, cache: str, seconds: float) -> list[Kernel]:
    """The kernels of one run in the order of their start.

    ``log``: where ``ncu`` writes. ``cache``: ``none`` leaves the caches as they are between passes, ``all`` empties
    them. Raises IngotError where ``ncu`` is missing, may not read counters, or needs more than ``seconds``.
    """
    program = shutil.which("ncu")
    if program is None:
        raise IngotError("there is no ncu on the PATH", fix="install NVIDIA Nsight Compute, or use --no-ncu")
    watched = [sys.executable, str(Path(__file__).with_name("account_run.py")), str(engine), str(feeds)]
    words = [*command(program, cache, log), *watched]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise IngotError(f"ncu was not finished within {seconds:g} s", fix="give --ncu-seconds") from None
    text = log.read_text() if log.is_file() else ""
    if done.returncode:
        said = [line for line in (*text.splitlines(), *done.stdout.splitlines()) if line.startswith("==ERROR==")]
        reason = said[0].removeprefix("==ERROR==").strip() if said else done.stderr.strip()[-300:]
        raise IngotError(f"ncu ended with code {done.returncode}: {reason}")
    return parse(text)


def command(program: str, cache: str, log: Path) -> list[str]:
    """``ncu`` with its options; the command that it watches comes behind."""
    metrics = [*_METRICS.values(), *(_STALL.format(name) for name in _STALLS)]
    return [
        program, "--graph-profiling", "node", "--clock-control", "none", "--cache-control", cache,
        "--print-kernel-base", "mangled", "--print-units", "base", "--csv", "--page", "raw", "--log-file", str(log),
        "--metrics", ",".join(metrics),
    ]  # fmt: skip


def parse(text: str) -> list[Kernel]:
    """The kernels of what ``ncu --csv --page raw`` wrote. Raises IngotError where there is no table in it."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    table = list(csv.reader(lines))
    if len(table) < 2 or "Kernel Name" not in table[0]:
        said = [line for line in text.splitlines() if line.startswith(("==ERROR==", "==WARNING=="))]
        raise IngotError(f"ncu wrote no table of kernels{': ' if said else ''}{' / '.join(said)[:300]}")
    header, units, *rows = table
    unit = dict(zip(header, units, strict=True))
    scale = _MICROSECONDS.get(unit.get(_METRICS["duration"], ""), 1e-3)
    return [_kernel(dict(zip(header, row, strict=True)), scale) for row in rows]


def _kernel(row: Mapping[str, str], scale: float) -> Kernel:
    counters = _numbers(row, _METRICS)
    if "duration" in counters:
        counters["duration"] *= scale
    stalls = _numbers(row, {name: _STALL.format(name) for name in _STALLS})
    total = sum(stalls.values())
    grid, block = (tuple(map(int, re.findall(r"\d+", row[name]))) for name in ("Grid Size", "Block Size"))
    shares = {name: value / total for name, value in stalls.items()} if total else {}
    return Kernel(row["Kernel Name"], grid, math.prod(block), counters, shares)


def _numbers(row: Mapping[str, str], names: Mapping[str, str]) -> dict[str, float]:
    """Those that the row has a number for, thousands separated by commas or not."""
    found = {}
    for key, name in names.items():
        try:
            value = float(row.get(name, "").replace(",", ""))
        except ValueError:  # n/a, or nothing
            continue
        if math.isfinite(value):
            found[key] = value
    return found


def joined(kernels: Sequence[Kernel], launches: Sequence[Launch]) -> dict[int, Kernel]:
    """The kernels by the step that they are.

    Both are in order, but branches that may run side by side can come in any: a kernel is the first step that is left
    with its name, grid and block. Raises IngotError where they are not the same launches.
    """
    if len(kernels) != len(launches):
        raise IngotError(
            f"ncu saw {len(kernels)} kernels where the engine has {len(launches)}",
            fix="see with --raw what it wrote",
        )
    left, found = list(launches), dict[int, Kernel]()
    for kernel in kernels:
        key = (kernel.name, kernel.grid, kernel.block)
        launch = next((one for one in left if (one.name, one.grid, one.block) == key), None)
        if launch is None:
            raise IngotError(f"ncu saw {_text(*key)}, which no step is that is left; the next one is {left[0].text}")
        left.remove(launch)
        found[launch.step] = kernel
    return found


def _text(name: str, grid: tuple[int, ...], block: int) -> str:
    return f"{name} with grid {'x'.join(map(str, grid))} and {block} threads"
