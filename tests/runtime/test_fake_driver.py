"""The device tests once more, on a driver written for tests: they need no GPU, only a C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in driver is a Linux library")
def test_device_tests_pass_on_the_stand_in_driver(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.driver")
    source = _TESTS / "support" / "fake_cuda.c"
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["cc", *flags, "-o", str(tmp_path / "libcuda.so.1"), str(source), "-ldl"], check=True)
    env = os.environ | {
        "LD_LIBRARY_PATH": str(tmp_path),
        "INGOT_TEST_FAKE_CUDA": "1",
        "PYTHONPATH": os.pathsep.join([str(_TESTS.parent / "src"), str(_TESTS)]),
    }
    files = [str(_TESTS / "runtime" / "test_device_context.py"), str(_TESTS / "device" / "test_device.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--import-mode=importlib", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no GPU" not in done.stdout, "every test was skipped"
