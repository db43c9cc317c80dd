"""The device of kernels that are written for one architecture."""

from __future__ import annotations

import pytest
from support.gpu import device_target

from ingot.kernels.api import Target
from ingot.kernels.cuda.hopper import source


@pytest.fixture
def deadlocks_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels with barriers in shared memory give up after so many tries."""
    monkeypatch.setattr(source, "SPIN_LIMIT", 1 << 21)


@pytest.fixture
def sm90(deadlocks_trap: None) -> Target:
    """Device 0, which has to be of compute capability 9.0."""
    found = device_target()
    if found is None or found.cc != 90:
        pytest.skip("no GPU of compute capability 9.0")
    return found
