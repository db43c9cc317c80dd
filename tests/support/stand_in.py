"""Runs test files in a process of their own, on the driver written for tests (``fake_cuda.c``)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def pass_on_stand_in(folder: Path, *files: str) -> None:
    """Asserts that the tests in ``files`` (below ``tests``) run and pass there; ``folder`` is scratch.

    Skips the calling test where there is no C compiler, no Linux or no cuda-bindings.
    """
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("the stand-in driver is a Linux library and needs a C compiler")
    pytest.importorskip("cuda.bindings.driver")
    source = TESTS / "support" / "fake_cuda.c"
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["cc", *flags, "-o", str(folder / "libcuda.so.1"), str(source), "-ldl"], check=True)
    env = os.environ | {
        "LD_LIBRARY_PATH": str(folder),
        "INGOT_TEST_FAKE_CUDA": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
    }
    paths = [str(TESTS / file) for file in files]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--import-mode=importlib", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no GPU" not in done.stdout, "every test was skipped"
