"""Runs the interpreted_*.py files in a process of its own: Triton decides at import whether it interprets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", ["interpreted_triton.py", "interpreted_quantized.py"])
def test_numerics_in_the_interpreter(file: str) -> None:
    pytest.importorskip("triton")
    roots = os.pathsep.join(str(HERE.parents[1] / part) for part in ("src", "tests"))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": roots}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(HERE / file),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
