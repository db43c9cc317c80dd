"""Whole engines in turns. Runs on a GPU, and on the driver written for tests (see ``test_judge``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import tiny
from support.branches import branches

from ingot.builder.race import race

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]


def test_engines_that_share_weights_are_timed_in_turns(tmp_path: Path) -> None:
    file = branches().file
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(file.weights))
    timings = race(str(weights), [(file.plan, bytes(file.cubins))] * 2, 0)
    assert len(timings) == 2 and all(t.seconds >= 0 and np.isfinite(t.noise) for t in timings)
