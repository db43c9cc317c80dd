"""Runs the device tests of the kernels under compute-sanitizer, in several processes, and says what it found.

    python benchmarks/sanitize.py [--tool memcheck|racecheck|synccheck|initcheck] [--processes 12] [FILES ...]

A test file's tests are dealt out to the processes in turn. A process that finds an error, or does not end within the
limit, makes this script end with 1; its log says which test was running.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOUND = 99
"""Exit code of compute-sanitizer when it found an error."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("files", nargs="*", default=["tests/kernels"], help="test files or folders")
    parser.add_argument("--tool", default="memcheck", choices=("memcheck", "racecheck", "synccheck", "initcheck"))
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=480.0, help="limit for all of it")
    parser.add_argument("--logs", type=Path, default=ROOT / "build" / "sanitizer", help="folder of the logs")
    arguments = parser.parse_args()
    if shutil.which("compute-sanitizer") is None:
        sys.exit("error: compute-sanitizer is not installed; it comes with the CUDA toolkit")
    tests = _collect(arguments.files)
    arguments.logs.mkdir(parents=True, exist_ok=True)
    failed = _run(tests, arguments.tool, min(arguments.processes, len(tests)), arguments.seconds, arguments.logs)
    sys.exit(1 if failed else 0)


def _collect(files: list[str]) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu and not nightly", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    tests = [line for line in listed.stdout.splitlines() if "::" in line]
    if not tests:
        sys.exit(f"error: no device tests in {' '.join(files)}: {listed.stdout[-500:]}{listed.stderr[-500:]}")
    return tests


def _run(tests: list[str], tool: str, processes: int, seconds: float, logs: Path) -> int:
    """Number of processes that found something, failed or did not end."""
    sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all"]
    pytest = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    running = []
    for number in range(processes):
        log = logs / f"{tool}_{number:02d}.log"
        with log.open("w") as out:
            command = [*sanitizer, *pytest, *tests[number::processes]]
            options = {"cwd": ROOT, "stdout": out, "stderr": subprocess.STDOUT, "start_new_session": True}
            running.append((log, subprocess.Popen(command, **options)))
    failed, passed, end = 0, 0, time.monotonic() + seconds
    for log, process in running:
        try:
            code = process.wait(max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the tests as well as the tool
            code = -1
        text = log.read_text(errors="replace")
        done = len(re.findall(r"(?<!\w)PASSED(?!\w)", text))
        errors = [int(count) for count in re.findall(r"ERROR SUMMARY: (\d+) errors?", text)]
        passed += done
        if code:
            failed += 1
            why = {FOUND: f"{sum(errors)} errors found", -1: "not ended in time"}.get(code, f"ended with {code}")
            print(f"{log.name}: {why}; {done} tests passed\n  " + "\n  ".join(text.splitlines()[-12:]))
    print(f"{tool}: {passed} of {len(tests)} tests passed in {processes} processes, {failed} of them with a finding")
    return failed


if __name__ == "__main__":
    main()
