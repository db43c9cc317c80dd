"""benchmarks/batch8.py: a model beside ONNX Runtime, and what the table says of slow and failed ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
from support.real_models import real_model
from support.snippets import ROOT

from ingot.errors import IngotError
from ingot.measure.environment import environment

SCRIPT = ROOT / "benchmarks" / "batch8.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import batch8

    return batch8


@pytest.mark.models
def test_a_model_beside_onnx_runtime(script: ModuleType, tmp_path: Path) -> None:
    real_model("onet")
    page, json = tmp_path / "page.md", tmp_path / "batch8.json"
    page.write_text("before\n<!-- batch8 -->\nold\n<!-- /batch8 -->\nafter\n")
    command = [sys.executable, str(SCRIPT), "--only", "onet", "--json", str(json), "--into", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = msgspec.json.decode(json.read_bytes(), type=script.Results).rows
    assert (row.name, row.batch, row.problem) == ("onet", 8, "")
    assert row.ingot > 0 and row.onnxruntime > 0 and row.relative <= row.tolerance
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "| onet | 8 |" in text and "old" not in text


class Picky:
    """An oracle that takes one batch only."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if any(array.shape[0] != self.batch for array in feeds.values()):
            raise IngotError("it wants another batch")
        return {"y": np.zeros(self.batch)}


@pytest.mark.parametrize("batch", [1, 8])
def test_a_model_of_one_batch_runs_at_that(script: ModuleType, batch: int) -> None:
    feeds, found, wanted = script._feeds("open_nsfw", Picky(batch))
    assert found == batch and feeds["input:0"].shape == (batch, 224, 224, 3) and wanted["y"].shape == (batch,)


def test_the_table_says_what_is_slow_wrong_or_failed(script: ModuleType) -> None:
    rows = [
        script.Row("quick", 8, False, 1.0, 0.5, 20.0, 1e-6, 1e-3, "sm_90"),
        script.Row("island", 8, False, 4.0, 3.0, 2.0, 1e-6, 1e-3, "sm_90", ["loop: Loop | has no kernel"]),
        script.Row("copies", 8, False, 4.0, 1.0, 2.0, 0.5, 1e-3, "sm_90"),
        script.Row("broken", problem="it ended"),
    ]
    text = script.markdown(script.Results(environment(None), 16, rows))
    assert "16 cores" in text and "1 of 3 models are faster" in text
    assert "| quick | 8 | 1.000 | 0.500 | 20.000 | 20.0 | 1.0e-06 | 0 |" in text
    assert "- **island**: parts on the host: loop: Loop \\| has no kernel" in text
    assert "- **copies**: on the device it takes 1.000 ms: the rest is copies" in text and "**wrong**" in text
    assert "- **broken**: it ended" in text


def test_whole_rows_of_the_same_machine_are_kept(script: ModuleType, tmp_path: Path) -> None:
    here, file = environment(None), tmp_path / "batch8.json"
    rows = [script.Row("whole", 8, ingot=1.0), script.Row("broken", problem="it ended")]
    now = script.Results(here, 16, [])
    file.write_bytes(msgspec.json.encode(script.Results(here, 16, rows)))
    assert [row.name for row in script._kept(file, now).rows] == ["whole"]
    file.write_bytes(msgspec.json.encode(script.Results(here, 8, rows)))
    with pytest.raises(SystemExit, match="another machine"):
        script._kept(file, now)
