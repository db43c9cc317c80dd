"""Makes docs/conformance.md: ONNX's backend suite on the CPU, in the simulator of a GPU's plans, and on a GPU.

    python benchmarks/conformance.py
    python benchmarks/conformance.py --target cuda --jobs 15      # on a GPU; the other targets' columns stay
    python benchmarks/conformance.py --target cuda --again        # only cases that are no plain pass in the ledger
    python benchmarks/conformance.py --only node/test_add         # prints outcomes, writes nothing

The first needs no GPU and takes a few minutes on one core. Ends with status 1 when a case is wrong.
"""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from ingot.builder.targets import choose_target
from ingot.measure.conformance.cases import case_names
from ingot.measure.conformance.ledger import Column, Ledger, column, page, renewed, total
from ingot.measure.conformance.run import TIMEOUT, run_cases
from ingot.measure.conformance.verdict import Outcome
from ingot.measure.environment import environment

ROOT = Path(__file__).parents[1]
_PACKAGES = ("onnx", "onnxruntime", "onnx-ir", "numpy")


def main() -> int:
    """Runs the suite and writes the ledger."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--target", action="append", help="cpu, cuda, or a GPU's target for the simulator; repeatable (cpu, sm_90)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="", help="run the cases with this in their name, print, and write nothing")
    parser.add_argument("--again", action="store_true", help="run the cases that are no plain pass in --json so far")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for a case")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "conformance.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "conformance.md")
    options = parser.parse_args()
    names = [name for name in case_names() if options.only in name]
    ledger = _ledger(options.json)
    before = {one.target: one for one in ledger.columns} if options.again else {}
    ran: dict[str, list[Outcome]] = {}
    for target in options.target or ("cpu", "sm_90"):
        remarks = {remark.case for remark in before[target].remarks} if target in before else set(names)
        chosen = [name for name in names if name in remarks]
        progress = _show if options.only else None
        ran[target] = list(run_cases(chosen, target, timeout=options.timeout, jobs=options.jobs, progress=progress))
    if not options.only:
        _write(options.json, options.out, ledger, ran, before)
    return int(any(outcome.kind == "wrong" for outcomes in ran.values() for outcome in outcomes))


def _ledger(json: Path) -> Ledger:
    return msgspec.json.decode(json.read_bytes(), type=Ledger) if json.exists() else Ledger({}, [])


def _write(json: Path, out: Path, old: Ledger, ran: dict[str, list[Outcome]], before: dict[str, Column]) -> None:
    """``before``: columns of which only the cases in ``ran`` are new."""
    columns = {one.target: one for one in old.columns}
    for target, made in ran.items():
        machine = _machine(target)
        if target in before:
            columns[target] = renewed(before[target], made, f"{machine}; plain passes are of an earlier run")
        else:
            columns[target] = column(target, made, machine)
    versions = old.versions
    if set(ran) != {"cuda"}:
        versions = {"Python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    ledger = Ledger(versions, [columns[target] for target in sorted(columns)])
    json.write_bytes(msgspec.json.format(msgspec.json.encode(ledger), indent=1) + b"\n")
    out.write_text(page(ledger))
    for one in ledger.columns:
        print(one.target, dict(total(one)))


def _machine(target: str) -> str:
    device = choose_target("auto").device if target == "cuda" else None
    if device is None:
        return ""
    about = environment(device.info)
    known = ("onnx", "onnxruntime", "triton", "nvidia-cuda-nvrtc")
    return f"{about.device}, " + ", ".join(f"{name} {about.versions[name]}" for name in known if name in about.versions)


def _show(outcome: Outcome) -> None:
    print(outcome.kind, outcome.case, outcome.reason)


if __name__ == "__main__":
    sys.exit(main())
