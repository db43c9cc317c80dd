"""Skips GPU tests where no device can be initialised."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROBE = """
from cuda.bindings import driver
status, = driver.cuInit(0)
assert int(status) == 0, status
status, count = driver.cuDeviceGetCount()
assert int(status) == 0 and count > 0, "no device"
"""


def _why_no_device() -> str:
    """Empty where a CUDA device works. Asked in a child, so that this process has no driver state."""
    probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    return "" if probe.returncode == 0 else (probe.stderr.strip().splitlines() or ["the probe died"])[-1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each test marked ``gpu`` the reason why it cannot run here."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _why_no_device() if marked else ""
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"no CUDA device: {reason}"))
