"""benchmarks/table.py: records in, Markdown out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.snippets import ROOT

from ingot.measure.accuracy import Difference
from ingot.measure.environment import Environment
from ingot.measure.figures import EngineFacts, Figures, PeerFigures, Record, to_json
from ingot.measure.latency import Latency

GPU = Environment(
    device="NVIDIA H200", arch="sm_90", sms=132, memory_bytes=1, cuda="13.0", driver="580.1", cpu="cpu", cores=16,
    python="3.12.0", system="Linux", versions={"onnxruntime-gpu": "1.31.0", "torch": "2.11.0"},
)  # fmt: skip


def latency(median: float) -> Latency:
    return Latency(100, median, median, median, median, median, 1.02 * median, median)


def record(name: str, median: float, relative: float = 1e-3, peers: list[PeerFigures] | None = None) -> Record:
    return Record(
        name=name,
        model="zoo:resnet50",
        options={"fp16": True, "target": "sm_90"},
        inputs={"input": ("float32", [1, 3, 224, 224])},
        environment=GPU,
        engine=EngineFacts("sm_90", 57, 57, 0, "", 1, 1, 1, 1, []),
        figures=Figures(latency(median), 1e3, 100.0, 0, compute=latency(0.8 * median), roofline_ms=0.2 * median),
        outputs=[Difference("y", "float32", [1, 1000], 0.1, 0.1, relative, 1.0, 1.0, 0)],
        tolerance=0.03,
        peers=peers or [],
    )


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "table.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_row_has_the_fastest_peers_and_its_command(tmp_path: Path) -> None:
    peers = [
        PeerFigures("onnxruntime", "cuda fp16", latency(0.9), 3.0),
        PeerFigures("onnxruntime", "cuda fp16 graph", latency(0.6), 2.0),
        PeerFigures("torch", "fp16 nhwc graph", error="no torch"),
    ]
    (tmp_path / "resnet50-b1.json").write_bytes(to_json(record("resnet50-b1", 0.3, peers=peers)))
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| resnet50-b1")]
    assert "| **0.300** | 0.240 | 1.020 | 25 % | 1.0e-03 | 0.600 (cuda fp16 graph, 2.00×) | – |" in row
    assert "`ingot bench zoo:resnet50 --fp16 --shapes input=1x3x224x224 --against onnxruntime,torch`" in row
    assert "On NVIDIA H200 (driver 580.1, CUDA 13.0, ONNX Runtime 1.31.0, PyTorch 2.11.0):" in done.stdout


def test_rows_come_in_the_order_of_the_suite(tmp_path: Path) -> None:
    names = ["resnet50-b128", "resnet50-b1", "another"]
    (tmp_path / "all.json").write_bytes(to_json([record(name, 1.0) for name in names]))
    rows = [line.split(" | ")[0] for line in run(tmp_path / "all.json").stdout.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| resnet50-b1", "| resnet50-b128", "| another"]


def test_wrong_and_failed_rows_say_so(tmp_path: Path) -> None:
    failed = Record("bert_base-b1", "zoo:bert_base", error="exit code 1\nerror: out of memory")
    (tmp_path / "all.json").write_bytes(to_json([record("resnet50-b1", 1.0, relative=0.5), failed]))
    done = run(tmp_path)
    assert "5.0e-01 **wrong**" in done.stdout
    assert "failed: error: out of memory" in done.stdout


def test_the_table_goes_between_the_marks(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_bytes(to_json(record("resnet50-b1", 0.3)))
    (tmp_path / "models.json").write_text('{"environment": {}, "rows": []}')
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    for _ in range(2):
        done = run(tmp_path, "--into", page)
        assert done.returncode == 0 and "models.json: left out" in done.stderr
    text = page.read_text()
    assert text.startswith("before\n<!-- results -->\nOn NVIDIA H200") and text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text and text.count("| resnet50-b1 |") == 1


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_bytes(to_json(record("resnet50-b1", 0.3)))
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    done = run(tmp_path, "--into", page)
    assert done.returncode == 1 and "error:" in done.stderr and page.read_text() == "nothing here\n"


def test_the_readme_has_the_marks() -> None:
    text = (ROOT / "README.md").read_text()
    assert 0 < text.find("<!-- results -->") < text.find("<!-- /results -->")
