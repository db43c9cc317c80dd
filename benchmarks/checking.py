"""Times `ingot check` on the largest real model, each time in a new process, and import and passes without the command.

python benchmarks/checking.py [--model csmask_4b_l1c] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx

from ingot.builder.api import lower_model
from ingot.builder.targets import gpu_target
from ingot.measure.environment import Environment, environment
from ingot.options import BuildOptions
from ingot.zoo.fetch import fetch

RESULTS = Path(__file__).resolve().parent / "results" / "cpu" / "checking.json"


class Result(msgspec.Struct):
    """Seconds by the clock."""

    environment: Environment
    model: str
    nodes: int
    """Of the file, bodies left out."""
    command: list[float]
    """Each run of the command, from its start to its end."""
    passes: list[float]
    """Each import and lowering of the model in a process that has the libraries loaded."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="csmask_4b_l1c", help="of the zoo")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS)
    flags = parser.parse_args()
    path = fetch(flags.model)
    nodes = len(onnx.load(path).graph.node)
    command = [sys.executable, "-m", "ingot", "check", f"zoo:{flags.model}"]
    commands = [_seconds(lambda: _run(command)) for _ in range(flags.runs)]
    target, options = gpu_target("sm_90"), BuildOptions(target="sm_90")
    passes = [_seconds(lambda: lower_model(path, target, options)) for _ in range(flags.runs)]
    flags.json.write_bytes(msgspec.json.encode(Result(environment(None), flags.model, nodes, commands, passes)) + b"\n")
    print(
        f"{flags.model}, {nodes} nodes: the command {statistics.median(commands):.2f} s, "
        f"import and passes {statistics.median(passes):.2f} s (medians of {flags.runs})"
    )


def _run(command: list[str]) -> None:
    """Ends the benchmark where the command fails; with 3 it says that a part stays on the host."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()}")


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
